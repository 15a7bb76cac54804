"""The column ``entities``: its JSON, its masks' paths, and the regions that it names."""

from __future__ import annotations

import contextlib

from harness import fuzz, instrumented

with instrumented():
    from PIL import Image

    from scorekit.entities import entities_of, only, placed, region_of, with_mask_paths
    from scorekit.types import InputError

PICTURE = Image.new("RGB", (16, 8), "white")


def check(data: bytes) -> None:
    """One cell of a table."""
    text = data.decode("utf-8", "replace")
    with_mask_paths(text, "folder")
    try:
        entities = entities_of(text)
    except InputError:
        return
    for entity in entities or []:
        try:
            if entity.placed:
                region, _ = region_of(entity, PICTURE.size)
                assert only(PICTURE, region).size == PICTURE.size
        except InputError:
            pass
    with contextlib.suppress(InputError):
        placed(entities or [], PICTURE.size)


SEEDS = [
    b'[{"text": "a dog", "box": [0, 0, 8, 9]}]',
    b'[{"text": "a dog", "box_relative": [[0, 0, 0.5, 1], [0.5, 0, 1, 1e-3]]}, {"text": "x"}]',
    b'[{"text": "a dog", "mask": "mask.png", "box": null}]',
    b'[{"text": "d", "box": [-1e308, -5, 1e308, 1]}]',
]

if __name__ == "__main__":
    fuzz(check, SEEDS)
