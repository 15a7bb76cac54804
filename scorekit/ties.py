"""Pairwise accuracy with tie calibration (Deutsch, Foster & Freitag, EMNLP 2023, arXiv:2305.14324).

A pair of rows is judged rightly if the metric orders it as the ratings do, or calls it a tie where
they do. The metric calls a tie what differs by at most eps, and eps is the value that makes the
accuracy largest: found exactly, without a list of all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from scorekit.correlation import paired
from scorekit.grouping import nested, split
from scorekit.pairs import Floats, Ints, Pairs
from scorekit.resampling import bootstrap
from scorekit.stats import CONFIDENCE, Estimate
from scorekit.tie_search import best_eps, rightly_judged


@dataclass(frozen=True)
class PairwiseAccuracy:
    """How many pairs a metric judges as the ratings do. Pairs are pooled over the groups.

    Attributes
    ----------
    accuracy : Estimate
        With the best eps. Its interval keeps eps as it is: it says how the accuracy at this eps
        varies with the items, not what choosing eps on the same rows adds (see `held_out`).
    eps : float or None
        The smallest value that makes the accuracy largest: 0, or a difference that occurs.
    at_zero : Estimate
        With eps = 0, where only equal scores are ties.
    held_out : float or None
        Accuracy on each half of the clusters with the eps that is best on the other half, pooled.
    held_out_eps : tuple of float
        These two.
    random : float or None
        What the metric's own values, shuffled within each group, are expected to reach with the
        better of two choices: no ties beyond equal scores, or every pair a tie.
    random_at_zero : float or None
        The same with eps = 0.
    tied_ratings : float or None
        Share of pairs with equal ratings.
    n_pairs, n_groups, n_empty : int
        Pairs; groups that have any; groups that have none.
    """

    accuracy: Estimate
    eps: float | None
    at_zero: Estimate
    held_out: float | None
    held_out_eps: tuple[float, ...]
    random: float | None
    random_at_zero: float | None
    tied_ratings: float | None
    n_pairs: int
    n_groups: int
    n_empty: int


def pairwise_accuracy(
    metric: npt.ArrayLike,
    ratings: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    clusters: npt.ArrayLike | None = None,
    *,
    held_out: bool = True,
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairwiseAccuracy:
    """Tie-calibrated pairwise accuracy of a metric, high scores for high ratings.

    Parameters
    ----------
    metric, ratings : array_like (n,)
        A value for each row; NaN where there is none. A row counts where both have one.
    groups : array_like (n,), optional
        Only rows of one group (an item, a system) make pairs; all rows if not given.
    clusters : array_like (n,), optional
        Rows of one cluster (an item) are resampled, and held out, together.
    held_out : bool
        Whether to fit eps on one half and judge the other as well.
    n_resamples, confidence, seed
        As in `scorekit.stats.summarize`; `seed` also draws the halves.

    Examples
    --------
    >>> found = pairwise_accuracy([0.1, 0.2, 0.9, 0.8], [1, 1, 2, 2], n_resamples=10)
    >>> float(found.accuracy), round(found.eps, 4), round(float(found.at_zero), 4)
    (1.0, 0.1, 0.6667)
    """
    x, y, kept = paired(metric, ratings)
    labels = np.zeros(len(x), dtype=np.intp) if groups is None else np.asarray(groups)[kept]
    units = np.arange(len(x)) if clusters is None else np.asarray(clusters)[kept]
    every = split(labels)
    parts = [rows for rows in every if len(rows) > 1]
    n_pairs = sum(_choose(len(rows)) for rows in parts)
    if not n_pairs:
        none = Estimate(None, None, None, len(x), len(kept), "pairwise_accuracy")
        return PairwiseAccuracy(
            none, None, none, None, (), None, None, None, 0, len(parts), len(every) - len(parts)
        )
    eps, _ = best_eps(x, y, parts)
    accuracy, at_zero = (
        replace(found, n=len(x), n_total=len(kept))
        for found in _intervals(x, y, parts, units, eps, n_resamples, confidence, seed)
    )
    halves = _halves(parts, units, seed) if held_out else []
    fitted = tuple(best_eps(x, y, half)[0] for half in halves)
    judged = sum(_choose(len(rows)) for half in halves for rows in half)
    right = sum(_correct(x, y, half, e) for half, e in zip(halves, reversed(fitted), strict=True))
    by_chance, always, tied = _by_chance(x, y, parts)
    return PairwiseAccuracy(
        accuracy=accuracy,
        eps=eps,
        at_zero=at_zero,
        held_out=right / judged if judged else None,
        held_out_eps=fitted,
        random=max(by_chance, always) / n_pairs,
        random_at_zero=by_chance / n_pairs,
        tied_ratings=tied / n_pairs,
        n_pairs=n_pairs,
        n_groups=len(parts),
        n_empty=len(every) - len(parts),
    )


# At a given eps ------------------------------------------------------------------------------


def _correct(x: Floats, y: Floats, parts: Sequence[Ints], eps: float) -> float:
    return float(sum(rightly_judged(x, y, parts, eps)))


def _intervals(
    x: Floats,
    y: Floats,
    parts: Sequence[Ints],
    units: npt.NDArray[np.generic],
    eps: float,
    n_resamples: int | None,
    confidence: float,
    seed: int,
) -> list[Estimate]:
    """Accuracy at eps and at 0. A row drawn twice is no pair with itself."""
    names = ["pairwise_accuracy", "pairwise_accuracy"]
    if nested(parts, units):
        # A group that is drawn twice counts twice, and makes no pairs with its copy.
        right = np.array([rightly_judged(x, y, parts, e) for e in (eps, 0.0)])
        pairs = np.array([_choose(len(rows)) for rows in parts], dtype=np.float64)

        def by_group(weights: Floats) -> Floats:
            drawn = np.maximum(weights @ pairs, 1.0)
            values: Floats = right @ weights.T / drawn
            return np.where(weights.sum(axis=1) > 0, values, np.nan)

        owners = units[[rows[0] for rows in parts]]
        return bootstrap(by_group, len(parts), owners, names, n_resamples, confidence, seed)
    made = [[Pairs(x[rows], y[rows], e) for rows in parts] for e in (eps, 0.0)]

    def by_row(weights: Floats) -> Floats:
        drawn = [weights[:, rows] for rows in parts]
        total: Floats = sum(
            (np.square(w.sum(axis=1)) - np.square(w).sum(axis=1)) / 2 for w in drawn
        )
        right = [
            sum(p.concordant(w) + p.both_tied(w) for p, w in zip(at, drawn, strict=True))
            for at in made
        ]
        return np.where(total > 0, np.stack(right) / np.maximum(total, 1.0), np.nan)

    return bootstrap(by_row, len(x), units, names, n_resamples, confidence, seed)


def _by_chance(x: Floats, y: Floats, parts: Sequence[Ints]) -> tuple[float, float, float]:
    """Pairs that a shuffled metric is expected to judge rightly at eps 0; at eps infinite; ties."""
    by_chance = tied = 0.0
    for rows in parts:
        n = _choose(len(rows))
        same, equal = (_equal_pairs(v[rows]) for v in (y, x))
        by_chance += (n - same) * (1 - equal / n) / 2 + same * equal / n
        tied += same
    return by_chance, tied, tied


def _equal_pairs(values: Floats) -> int:
    counts = np.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _halves(parts: Sequence[Ints], units: npt.NDArray[np.generic], seed: int) -> list[list[Ints]]:
    """The groups' rows of either half of the clusters; nothing where one half has no pair."""
    names = np.unique(units)
    first = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    inside = np.isin(units, first)
    halves = [
        [rows[side[rows]] for rows in parts if np.count_nonzero(side[rows]) > 1]
        for side in (inside, ~inside)
    ]
    return halves if all(halves) else []


def _choose(n: int) -> int:
    return n * (n - 1) // 2
