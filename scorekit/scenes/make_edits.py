"""A folder of edits to score: each source with right and wrong edits of it, and masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorekit.scenes.draw import render
from scorekit.scenes.edits import KINDS, Edit, sample_edit
from scorekit.scenes.language import is_true
from scorekit.scenes.make import TRUTH, prepare_folder, write_jsonl
from scorekit.scenes.world import scene_to_dict

TABLE = "edits.jsonl"
DRAWN = ("source", "ideal", "over", "under", "unrelated")
SYSTEMS = ("ideal", "over", "under", "unedited", "unrelated")


@dataclass(frozen=True)
class MadeEdits:
    """What `make_edits` wrote.

    Attributes
    ----------
    table, truth : Path
        The two files.
    edits : int
        How many sources there are; the table has a row for each of them and of `SYSTEMS`.
    """

    table: Path
    truth: Path
    edits: int


def make_edits(
    out_dir: str | os.PathLike[str],
    n: int,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    size: int = 224,
    overwrite: bool = False,
) -> MadeEdits:
    """Write edits with known truth, the table of them, and the truth.

    The folder gets ``source``, ``ideal``, ``over``, ``under``, ``unrelated`` and ``mask``, each
    with ``<item>.png``; ``edits.jsonl`` (columns image, source_image, source_text, text, mask,
    source_attributes, target_attributes, item, system, kind, lost; paths relative to it; the
    system ``unedited`` shows the source); and ``truth.jsonl`` (a line an image: its scene, and
    whether source text and target text hold).

    Parameters
    ----------
    out_dir
        A folder that is new or empty, unless `overwrite`.
    n
        Number of edits.
    kinds
        From `scorekit.scenes.edits.KINDS`, taken in turn.
    seed
        An edit depends on the seed, its number and its kind: a larger `n` adds edits and
        changes none.
    size
        Width and height of the images in pixels.
    overwrite
        Replace what an earlier call made in the folder; other files there are left alone.

    Raises
    ------
    ValueError
        If a kind is unknown or none is given; if `n` or `size` is too small; if the folder is
        not empty and not `overwrite`, or holds files that are not this function's.
    """
    out = Path(out_dir)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        wrong = f"unknown kind {unknown[0]!r}" if unknown else "no kind was given"
        raise ValueError(f"{wrong}; one or more of {', '.join(KINDS)}")
    prepare_folder(out, TABLE, n, size, overwrite)
    for name in (*DRAWN, "mask"):
        (out / name).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for index in range(n):
        item = f"edit-{index:04d}"
        edit = sample_edit(kinds[index % len(kinds)], f"{seed}:{index}")
        for name in DRAWN:
            render(getattr(edit, name), size).save(out / name / f"{item}.png", optimize=True)
        edit.mask(size).save(out / "mask" / f"{item}.png", optimize=True)
        rows += _rows(item, edit)
        truth += _truth(item, edit)
    write_jsonl(out / TABLE, rows)
    write_jsonl(out / TRUTH, truth)
    return MadeEdits(out / TABLE, out / TRUTH, n)


def _rows(item: str, edit: Edit) -> list[dict[str, Any]]:
    source = f"source/{item}.png"
    shared = {
        "source_image": source,
        "source_text": edit.source_caption.text,
        "text": edit.target.text,
        "mask": f"mask/{item}.png",
        "source_attributes": list(edit.source_attributes),
        "target_attributes": list(edit.target_attributes),
        "item": item,
    }
    return [
        {
            "image": source if system == "unedited" else f"{system}/{item}.png",
            **shared,
            "system": system,
            "kind": edit.kind,
            "lost": edit.lost,
        }
        for system in SYSTEMS
    ]


def _truth(item: str, edit: Edit) -> list[dict[str, Any]]:
    drawn = [
        {
            "image": f"{name}/{item}.png",
            "item": item,
            "source_text_holds": is_true(scene, edit.source_caption),
            "text_holds": is_true(scene, edit.target),
            "scene": scene_to_dict(scene),
        }
        for name, scene in ((name, getattr(edit, name)) for name in DRAWN)
    ]
    return [*drawn, {"image": f"mask/{item}.png", "item": item}]
