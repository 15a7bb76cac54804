"""A folder of images to score: several systems draw the same prompts, some carelessly."""

from __future__ import annotations

import csv
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scorekit.scenes.captions import sample_caption
from scorekit.scenes.draw import render
from scorekit.scenes.faults import FAULTS, Fault, sample_fault
from scorekit.scenes.language import Caption, is_true, statement_to_dict
from scorekit.scenes.world import (
    Scene,
    arrange,
    sample_background,
    sample_scene,
    scene_to_dict,
    stream,
)

PROMPTS = "prompts.csv"
TRUTH = "truth.jsonl"
COLUMNS = ("image", "text", "item", "system")


@dataclass(frozen=True)
class System:
    """A make-believe generator.

    Attributes
    ----------
    broken
        The probability that an image breaks its prompt.
    twice
        The probability that a broken image has a second fault.
    """

    broken: float
    twice: float = 0.0


SYSTEMS = {
    "faithful": System(0.03),
    "sloppy": System(0.35, 0.1),
    "careless": System(0.75, 0.4),
}


@dataclass(frozen=True)
class Made:
    """What `make` wrote.

    Attributes
    ----------
    prompts, truth
        The two files.
    images
        How many images there are.
    broken
        For each system, how many of its images break their prompt.
    """

    prompts: Path
    truth: Path
    images: int
    broken: dict[str, int]


def sample_item(seed: int | str) -> tuple[Scene, Caption]:
    """The scene and the prompt of one item."""
    scene = sample_scene(f"item:{seed}")
    return scene, sample_caption(scene, f"item:{seed}")


def _redrawn(rng: random.Random, scene: Scene, caption: Caption) -> Scene:
    """The same objects at other places on another background, with the caption still true."""
    background = sample_background(rng)
    for _ in range(200):
        placed = arrange(rng, scene.objects)
        if placed is not None:
            there = Scene(placed, background)
            if is_true(there, caption):
                return there
    return replace(scene, background=background)


def answer(
    scene: Scene, caption: Caption, system: str, seed: int | str
) -> tuple[Scene, list[Fault]]:
    """What a system draws for a prompt.

    Parameters
    ----------
    scene, caption
        What was meant, and the prompt that says so.
    system
        A name from `SYSTEMS`.
    seed
        The answer depends on this and the arguments above, and on nothing else.

    Returns
    -------
    Scene, list of Fault
        The drawn scene, and the faults in it in the order in which they were made.
    """
    habits = SYSTEMS[system]
    rng = stream("answer", system, seed)
    drawn = _redrawn(rng, scene, caption)
    if rng.random() >= habits.broken:
        return drawn, []
    wanted = 2 if rng.random() < habits.twice else 1
    kinds = list(FAULTS)
    rng.shuffle(kinds)
    faults: list[Fault] = []
    standing = caption
    for kind, sub_kind in kinds:
        fault = sample_fault(drawn, standing, kind, sub_kind, f"{system}:{seed}")
        if fault is None:
            continue
        faults.append(fault)
        drawn = fault.after
        # A second fault goes to another statement, and cannot mend the first.
        left = tuple(each for each in caption.statements if is_true(drawn, each))
        if len(faults) == wanted or not left:
            break
        standing = replace(caption, statements=left)
    return drawn, faults


def _check_systems(systems: Sequence[str]) -> None:
    unknown = [name for name in systems if name not in SYSTEMS]
    if unknown:
        raise ValueError(f"unknown system {unknown[0]!r}; one of {', '.join(SYSTEMS)}")
    if not systems:
        raise ValueError(f"no system was given; one or more of {', '.join(SYSTEMS)}")
    if len(set(systems)) < len(systems):
        raise ValueError(f"a system was given twice: {', '.join(systems)}")


def prepare_folder(out: Path, table: str, n: int, size: int, overwrite: bool) -> None:
    """Check what is to be written, and remove what an earlier run wrote, and nothing else."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, not {size}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, not a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{out} is not empty; give another folder, or --overwrite")
    if not (out / TRUTH).is_file():
        raise ValueError(f"{out} has files but no {TRUTH}: nothing made here before, so it stays")
    for line in (out / TRUTH).read_text(encoding="utf-8").splitlines():
        image = (out / json.loads(line)["image"]).resolve()
        if image.suffix == ".png" and image.is_relative_to(out.resolve()):
            image.unlink(missing_ok=True)
    (out / TRUTH).unlink()
    (out / table).unlink(missing_ok=True)


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write records, one a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")


def make(
    out_dir: str | os.PathLike[str],
    n: int,
    systems: Sequence[str] = tuple(SYSTEMS),
    seed: int = 0,
    size: int = 224,
    overwrite: bool = False,
) -> Made:
    """Write images of several systems for the same prompts, the prompts, and the truth.

    The folder gets ``<system>/<item>.png``, ``prompts.csv`` (columns image, text, item, system;
    image paths relative to it) and ``truth.jsonl`` (a line an image: its scene, whether each
    statement of the prompt holds, and the faults that were put in).

    Parameters
    ----------
    out_dir
        A folder that is new or empty, unless `overwrite`.
    n
        Number of items: each system gets one image an item.
    systems
        Names from `SYSTEMS`: they differ in how often they break the prompt.
    seed
        An item depends on the seed and its number: a larger `n` adds items and changes none,
        and a system's images do not depend on which others are drawn.
    size
        Width and height of the images in pixels.
    overwrite
        Replace what an earlier call made in the folder; other files there are left alone.

    Returns
    -------
    Made

    Raises
    ------
    ValueError
        If a system is unknown, given twice or none is; if `n` or `size` is too small; if the
        folder is not empty and not `overwrite`, or holds files that are not this function's.
    """
    out = Path(out_dir)
    _check_systems(systems)
    prepare_folder(out, PROMPTS, n, size, overwrite)
    rows: list[tuple[str, str, str, str]] = []
    records: list[dict[str, Any]] = []
    broken = dict.fromkeys(systems, 0)
    for index in range(n):
        item = f"scene-{index:04d}"
        scene, caption = sample_item(f"{seed}:{index}")
        for system in systems:
            drawn, faults = answer(scene, caption, system, f"{seed}:{index}")
            image = f"{system}/{item}.png"
            (out / system).mkdir(parents=True, exist_ok=True)
            render(drawn, size).save(out / image, optimize=True)
            rows.append((image, caption.text, item, system))
            records.append(_record(image, item, system, drawn, caption, faults))
            broken[system] += not is_true(drawn, caption)
    with (out / PROMPTS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    write_jsonl(out / TRUTH, records)
    return Made(out / PROMPTS, out / TRUTH, len(rows), broken)


def _record(
    image: str, item: str, system: str, drawn: Scene, caption: Caption, faults: list[Fault]
) -> dict[str, Any]:
    held = [is_true(drawn, each) for each in caption.statements]
    return {
        "image": image,
        "item": item,
        "system": system,
        "text": caption.text,
        "holds": all(held),
        "statements": [
            {**statement_to_dict(each), "holds": holds}
            for each, holds in zip(caption.statements, held, strict=True)
        ],
        "faults": [{"kind": each.kind, "sub_kind": each.sub_kind} for each in faults],
        "scene": scene_to_dict(drawn),
    }
