"""A small table of edits with awkward names, for the tests of reports in a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import Signature

LONG = "a" * 60
SYSTEMS = (LONG, "b", *"cdefgh")
ITEMS, KINDS = ("item 10", "item 9", "x \u202e y"), ("wood", "glass", "clay")
EDITS = ("directional_clip", "augclip", "clip_out", "clip_im", "ssim")
PARTS = ("augclip.modification", "augclip.preservation")
NOTE = "x" * 3000


def edits(
    folder: Path, metrics: tuple[str, ...] = EDITS, systems: int = 2, lost: tuple[int, ...] = (1,)
) -> ScoreTable:
    """Edits of red squares to blue ones; in the table's order, each metric's scores fall."""
    for name, colour in (("source", "red"), ("edited", "blue")):
        Image.new("RGB", (40, 40), colour).save(folder / f"{name}.png")
    base = pd.DataFrame(
        [
            {"system": s, "item": item, "index": 0, "text": f"{item} in {kind}", "kind": kind}
            for s in SYSTEMS[:systems]
            for item, kind in zip(ITEMS, KINDS, strict=True)
        ]
    ).assign(
        image=str(folder / "edited.png"),
        source_image=str(folder / "source.png"),
        source_text="as it was",
        status="ok",
        note="",
        evidence="",
    )
    value = -np.arange(len(base), dtype=float)
    names = (*metrics, *(PARTS if "augclip" in metrics else ()))
    table = pd.concat([base.assign(metric=name, value=value) for name in names], ignore_index=True)
    table.loc[list(lost), ["value", "status", "note"]] = [np.nan, "undefined", NOTE]
    infos = {
        name: MetricInfo(Signature.parse(f"{name}|v:1"), True, headline=name not in PARTS)
        for name in names
    }
    return ScoreTable(table, infos, {})
