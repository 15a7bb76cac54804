"""Cosines of a row with each of its references, of which every row may have another number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from scorekit.arrays import array_namespace, cosine, take


def reference_cosines(query: Any, references: Sequence[Any]) -> list[Any]:
    """cos(query of a row, each reference of that row).

    Parameters
    ----------
    query : array (n, d)
    references : sequence of n arrays (k_i, d)
        At least one reference a row.

    Returns
    -------
    list of n arrays (k_i,)

    Raises
    ------
    ValueError
        If the lengths differ, or a row has no reference.
    """
    counts = [int(r.shape[0]) for r in references]
    if len(counts) != query.shape[0] or not all(counts):
        raise ValueError("every row needs at least one reference")
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    xp = array_namespace(query)
    # One call over all references of all rows: a call a row costs more than the arithmetic.
    cosines = cosine(take(query, rows), xp.concat(list(references), axis=0))
    ends = accumulate(counts)
    return [cosines[end - count : end] for end, count in zip(ends, counts, strict=True)]
