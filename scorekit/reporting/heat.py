"""Heat maps of words as a report's page has them: patches as bytes, within a budget."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorekit.explain_view import DOWN, UP
from scorekit.heat_maps import HEAT, LEVELS

MAP_BYTES = 8_000_000
"""Of all heat maps of a page: the lowest word's of each row go first, then the next ones'."""
MOST_PATCHES = 10_000
_SHARES = 1000

Map = list[Any]


@dataclass(frozen=True)
class Mapped:
    """A word that has a heat map.

    Attributes
    ----------
    entry : list
        The word in the page's data, to which the number of its map is appended.
    row : int
    nth : int
        0 for the row's lowest word.
    heat : list
        See `map_of`.
    """

    entry: list[Any]
    row: int
    nth: int
    heat: Map


def colours() -> dict[str, Any]:
    """The colours of `scorekit explain`, from nought to the largest value."""
    return {"levels": LEVELS, "down": DOWN, "up": UP}


def map_of(word: Any) -> Map | None:
    """A word's heat map as [rows, columns, what is seen in 1/1000, patches in base64].

    None where the word has none, or one that can't be drawn.

    Examples
    --------
    >>> heat = {"rows": 1, "columns": 2, "patches": [99, -50], "seen": [0, 0.25, 1, 0.75]}
    >>> map_of({"heat": heat})
    [1, 2, [0, 250, 1000, 750], 'Y84=']
    >>> map_of({"heat": {**heat, "rows": 7}}) is None, map_of({}) is None
    (True, True)
    """
    heat = word.get(HEAT) if isinstance(word, Mapping) else None
    try:
        rows, columns = int(heat["rows"]), int(heat["columns"])  # type: ignore[index]
        patches = np.asarray(heat["patches"], dtype=np.float64)  # type: ignore[index]
        seen = [round(_SHARES * float(x)) for x in heat["seen"]]  # type: ignore[index]
        left, top, right, bottom = seen
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    sized = min(rows, columns) > 0 and rows * columns <= MOST_PATCHES
    shaped = sized and patches.shape == (rows * columns,)
    if not shaped or not np.isfinite(patches).all() or right <= left or bottom <= top:
        return None
    levels = np.clip(np.rint(patches), -LEVELS, LEVELS).astype(np.int8)
    return [rows, columns, seen, base64.b64encode(levels.tobytes()).decode()]


def fitting(words: Sequence[Mapped], budget: int = MAP_BYTES) -> tuple[list[Map], int]:
    """The maps that the page has room for, each once a row; and how many are left out.

    Parameters
    ----------
    words : sequence of Mapped
        The entry of each that is kept gets the number of its map.
    budget : int
        Bytes of all maps.
    """
    kept: list[Map] = []
    # Metrics that share a word share its map.
    places: dict[tuple[int, str], int | None] = {}
    for word in sorted(words, key=lambda each: each.nth):
        key = word.row, str(word.heat)
        if key not in places:
            places[key] = len(kept) if len(key[1]) <= budget else None
            if places[key] is not None:
                budget -= len(key[1])
                kept.append(word.heat)
        if (place := places[key]) is not None:
            word.entry.append(place)
    return kept, len(places) - len(kept)
