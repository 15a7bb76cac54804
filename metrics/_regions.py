"""Distances of an edited image from its source: whole, inside a mask and outside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from scorekit.metrics._edits import CHANGE, edit_scores
from scorekit.types import Array, Feature, Scores

Region = Literal["whole", "inside", "outside"]
Sizes = Literal["equal", "resize"]
Found = Sequence[Mapping[str, Any]]


def distance(kind: str, backbone: str, *, sizes: Sizes, pie_compat: bool, **more: Any) -> Feature:
    """Request the distance of the images of each row; only what differs from usual is said."""
    params = {**more, **({"sizes": sizes} if sizes != "equal" else {})}
    params |= {"pie_compat": True} if pie_compat else {}
    return Feature(kind, backbone, "sample", tuple(sorted(params.items())))


def pixel_needs(sizes: Sizes, pie_compat: bool = False) -> dict[str, Feature]:
    """The squared and absolute distances of the pixels, and where they differ."""
    return {
        "found": distance("pixel_distances", "pixels:rgb", sizes=sizes, pie_compat=pie_compat),
        "change": CHANGE,
    }


def regional_scores(
    found: Found,
    name: str,
    region: Region,
    changes: Found,
    *,
    unit: Callable[[float], float] = float,
    infinite: str = "",
) -> Scores:
    """The distance of a region, with those inside and outside the mask as components.

    Parameters
    ----------
    found : sequence of n mappings
        Each has under `name` the distances by region, and in ``no_region`` why there are none
        but of the whole image.
    name : str
    region : {"whole", "inside", "outside"}
        The headline's.
    changes : sequence of n mappings
        What `CHANGE` gives.
    unit : callable
        Turns a distance into the score.
    infinite : str
        Why a score that is infinite has no value.
    """

    def of(where: str) -> tuple[Array, dict[int, str]]:
        values, missing = np.zeros(len(found)), {}
        for row, info in enumerate(found):
            if where not in info[name]:
                missing[row] = info["no_region"]
                continue
            value = unit(info[name][where])
            if np.isfinite(value):
                values[row] = value
            else:
                missing[row] = infinite
        return values, missing

    parts = {"modification": of("inside"), "preservation": of("outside")}
    value, undefined = of(region)
    return edit_scores(
        value,
        parts["modification"][0],
        parts["preservation"][0],
        changes,
        undefined=undefined,
        part_undefined={part: missing for part, (_, missing) in parts.items()},
    )
