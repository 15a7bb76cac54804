"""What every edit metric gives beside its headline: modification, preservation and locality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scorekit.types import Array, Feature, Scores

CHANGE = Feature("pixel_change", "pixels:rgb", "sample", optional=True)
"""Where the pixels of the edited image differ from the source's; its ``info`` has ``locality``,
or ``error`` where there is no mask, or none that fits."""

LOCALITY_FACTS: Mapping[str, str] = {"locality": "share of squared RGB change inside the mask"}


def locality(changes: Sequence[Mapping[str, Any]]) -> tuple[Array, dict[int, str]]:
    """Which share of the change lies where the edit may change the image.

    Parameters
    ----------
    changes : sequence of n mappings
        What `CHANGE` gives.

    Returns
    -------
    array (n,), mapping of row to str
        In 0 to 1: sum over the mask of (edited - source)^2, over that of the whole image. The
        rows without a value, and why: no mask, no change at all, images of different sizes.
    """
    missing = {i: change["error"] for i, change in enumerate(changes) if "error" in change}
    return np.array([change.get("locality", 0.0) for change in changes], float), missing


def edit_scores(
    value: Any,
    modification: Any,
    preservation: Any,
    changes: Sequence[Mapping[str, Any]],
    *,
    parts: Mapping[str, Any] | None = None,
    undefined: Mapping[int, str] | None = None,
    notes: Mapping[int, str] | None = None,
    part_undefined: Mapping[str, Mapping[int, str]] | None = None,
) -> Scores:
    """An edit metric's headline with the components that all of them have.

    Parameters
    ----------
    value, modification, preservation : array (n,)
        The headline; how well the image has become what was asked for; how well it has stayed
        what it was.
    changes : sequence of n mappings
        What `CHANGE` gives.
    parts, undefined, notes, part_undefined
        Further components and what `Scores` says of rows.
    """
    local, missing = locality(changes)
    return Scores(
        value,
        {
            "modification": modification,
            "preservation": preservation,
            "locality": local,
            **(parts or {}),
        },
        undefined=undefined or {},
        notes=notes or {},
        part_facts={"locality": LOCALITY_FACTS},
        part_undefined={**(part_undefined or {}), "locality": missing},
    )
