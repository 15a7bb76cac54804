"""Correlations and rankings of a metric against ratings, with clustered bootstrap intervals.

Each statistic is made once for its rows and then taken for many weightings of them, which is what
a bootstrap, a permutation test and a leave-one-out need. With all weights 1 the values are those
of `scipy.stats` and `sklearn.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from scorekit.curves import Ranking
from scorekit.pairs import Floats, Pairs, Ties
from scorekit.resampling import bootstrap
from scorekit.stats import CONFIDENCE, Estimate

Statistic = Literal[
    "pearson", "spearman", "kendall_tau_b", "kendall_tau_c", "auroc", "average_precision"
]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
BINARY = ("auroc", "average_precision")
"""Statistics whose ratings are labels, 1 for right and 0 for wrong."""
Weighted = Callable[[Floats], Floats]
"""Row weights (b, n), whole and not negative, to values (b,); NaN where they leave none."""
ALL_EQUAL = 1e-14
"""A spread below this share of the largest value is rounding."""


@dataclass(frozen=True)
class Agreement(Estimate):
    """How a metric agrees with ratings: an `Estimate` that says why where it has no value.

    Attributes
    ----------
    reason : str
        Why there is no value; empty where there is one.
    """

    reason: str = ""

    def __float__(self) -> float:
        if self.value is None:
            raise ValueError(f"{self.statistic} is undefined: {self.reason}")
        return self.value


def correlate(
    metric: npt.ArrayLike,
    ratings: npt.ArrayLike,
    statistic: Statistic = "kendall_tau_b",
    clusters: npt.ArrayLike | None = None,
    *,
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Agreement:
    """One statistic of a metric against ratings, with its interval.

    Parameters
    ----------
    metric, ratings : array_like (n,)
        A value for each row; NaN where there is none. A row counts where both have one.
    statistic : str
        One of `STATISTICS`. The sign is as found; a ranking (AUROC, average precision) takes high
        scores for right.
    clusters : array_like (n,), optional
        Rows of one cluster (an item) are resampled together.
    n_resamples, confidence, seed
        As in `scorekit.stats.summarize`; 0 resamples give no interval.

    Returns
    -------
    Agreement
        Without a value, and with a reason, where fewer than two rows count or one side is
        constant. Resamples of that kind are left out of the interval; where most are, there is
        none.

    Raises
    ------
    ValueError
        If the shapes differ, a value is infinite, or labels are not 0 and 1.

    Examples
    --------
    >>> print(correlate([1, 2, 3, 4], [1, 3, 2, float("nan")], "spearman", n_resamples=0))
    0.5000 (3/4)
    >>> correlate([1, 2, 3], [4, 4, 4]).reason
    'the ratings are constant'
    """
    x, y, kept = paired(metric, ratings)
    reason = undefined(statistic, x, y)
    if reason:
        return Agreement(None, None, None, len(x), len(kept), statistic, reason)
    values = weighted(statistic, x, y)
    if n_resamples == 0:
        value = float(values(np.ones((1, len(x))))[0])
        return Agreement(value, None, None, len(x), len(kept), statistic)
    groups = None if clusters is None else np.asarray(clusters)[kept]
    found = bootstrap(
        lambda weights: values(weights)[None],
        len(x),
        groups,
        [statistic],
        n_resamples,
        confidence,
        seed,
        n_total=len(kept),
    )
    return Agreement(**asdict(found[0]))


def paired(
    metric: npt.ArrayLike, ratings: npt.ArrayLike
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """The rows that have both values, and which they were."""
    x, y = np.asarray(metric, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"two equally long rows are needed, not {x.shape}, {y.shape}")
    if np.isinf(x).any() or np.isinf(y).any():
        raise ValueError("infinite values cannot be compared")
    kept = ~(np.isnan(x) | np.isnan(y))
    return x[kept], y[kept], kept


def undefined(statistic: Statistic, x: Floats, y: Floats) -> str:
    """Why a statistic has no value on these rows; empty where it has one."""
    if statistic not in STATISTICS:
        raise ValueError(f"{statistic!r} is none of {', '.join(STATISTICS)}")
    if statistic in BINARY and not np.isin(y, (0.0, 1.0)).all():
        raise ValueError(f"{statistic} needs labels of 0 and 1")
    if len(x) < 2:
        return "fewer than 2 rows"
    if np.ptp(y) == 0:
        return "only one class" if statistic in BINARY else "the ratings are constant"
    # A constant metric ranks by chance: AUROC 1/2, average precision the share of positives.
    return "the metric is constant" if np.ptp(x) == 0 and statistic not in BINARY else ""


def weighted(statistic: Statistic, x: Floats, y: Floats) -> Weighted:
    """A statistic of the rows x, y as a function of their weights.

    Examples
    --------
    >>> tau = weighted("kendall_tau_b", np.array([1.0, 2, 3]), np.array([1.0, 3, 2]))
    >>> tau(np.array([[1.0, 1, 1], [1, 1, 0]])).round(4)
    array([0.3333, 1.    ])
    """
    return _MAKERS[statistic](x, y)


# Each statistic by itself --------------------------------------------------------------------


def pearson(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Pearson's r.

    Here and in the functions below a ValueError says why there is no value (NaN among the rows,
    fewer than two, one side constant).

    Examples
    --------
    >>> round(pearson([1, 2, 3], [1, 2, 4]), 4)
    0.982
    """
    return _point("pearson", x, y)


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rho: Pearson's r of the ranks, ties sharing their mean rank.

    Examples
    --------
    >>> round(spearman([1, 2, 3], [1, 3, 2]), 4)
    0.5
    """
    return _point("spearman", x, y)


def kendall_tau_b(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Kendall's tau-b: (C - D) / sqrt(pairs untied in x * pairs untied in y).

    Examples
    --------
    >>> round(kendall_tau_b([1, 2, 3, 4], [1, 1, 3, 2]), 4)
    0.5477
    """
    return _point("kendall_tau_b", x, y)


def kendall_tau_c(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Stuart's tau-c: 2 (C - D) / (n^2 (m - 1) / m), m the smaller number of distinct values.

    Examples
    --------
    >>> kendall_tau_c([1, 2, 3, 4], [1, 1, 2, 2])
    1.0
    """
    return _point("kendall_tau_c", x, y)


def auroc(x: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """How often a right row (label 1) scores higher than a wrong one (0), ties half.

    Examples
    --------
    >>> auroc([1, 2, 2, 3], [0, 0, 1, 1])
    0.875
    """
    return _point("auroc", x, labels)


def average_precision(x: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Sum over the distinct thresholds of (rise in recall) * precision, as scikit-learn's.

    Equal scores share a threshold, so the order of the rows has no say.

    Examples
    --------
    >>> average_precision([1, 1, 1, 1], [1, 0, 0, 1])
    0.5
    """
    return _point("average_precision", x, labels)


def _point(statistic: Statistic, x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    one, two, kept = paired(x, y)
    if not kept.all():
        raise ValueError(f"{int((~kept).sum())} of {len(kept)} rows have no value")
    reason = undefined(statistic, one, two)
    if reason:
        raise ValueError(f"{statistic} is undefined: {reason}")
    return float(weighted(statistic, one, two)(np.ones((1, len(one))))[0])


# How each is made ----------------------------------------------------------------------------


def _pearson(x: Floats, y: Floats) -> Weighted:
    centred = [(v - v.mean()) / max(float(np.ptp(v)), 1e-300) for v in (x, y)]

    def values(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        (dx, vx), (dy, vy) = (_deviations(v, weights, total) for v in centred)
        return _over(np.einsum("bi,bi,bi->b", weights, dx, dy), np.sqrt(vx) * np.sqrt(vy))

    return values


def _deviations(v: Floats, weights: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Deviations from the weighted mean (b, n) and the sum of their squares (b,)."""
    apart = v - _over(weights @ v, total)[:, None]
    squares = np.einsum("bi,bi,bi->b", weights, apart, apart)
    flat = squares <= total * (ALL_EQUAL * np.abs(v).max()) ** 2
    return apart, np.where(flat, 0.0, squares)


def _spearman(x: Floats, y: Floats) -> Weighted:
    sides = []
    for v in (x, y):
        ranked: Any = np.unique(v, return_inverse=True)
        sides.append((Ties.of(v), ranked[1].reshape(-1)))

    def values(weights: Floats) -> Floats:
        total = weights.sum(axis=1, keepdims=True)
        ranks, spread = [], []
        for ties, code in sides:
            sizes = ties.sums(weights)
            # A group's mean rank, less the mean of all ranks.
            middle = np.cumsum(sizes, axis=1) - sizes / 2 - total / 2
            spread.append(np.einsum("bk,bk,bk->b", sizes, middle, middle))
            ranks.append(middle.take(code, axis=1))
        together = np.einsum("bi,bi->b", weights * ranks[0], ranks[1])
        return _over(together, np.sqrt(spread[0]) * np.sqrt(spread[1]))

    return values


def coarser_last(x: Floats, y: Floats) -> Pairs:
    """Pairs of rows; counting them costs as much as the second side has distinct values."""
    return Pairs(x, y) if len(np.unique(y)) <= len(np.unique(x)) else Pairs(y, x)


def _tau_b(x: Floats, y: Floats) -> Weighted:
    pairs, of_x, of_y = coarser_last(x, y), Ties.of(x), Ties.of(y)

    def values(weights: Floats) -> Floats:
        total = np.square(weights.sum(axis=1))
        untied = [np.sqrt(total - ties.squares(weights)) for ties in (of_x, of_y)]
        return _over(2 * pairs.net(weights), untied[0] * untied[1])

    return values


def _tau_c(x: Floats, y: Floats) -> Weighted:
    pairs = coarser_last(x, y)
    sides = [Ties.of(v) for v in (x, y)]

    def values(weights: Floats) -> Floats:
        drawn = [np.count_nonzero(ties.sums(weights), axis=1) for ties in sides]
        classes = np.minimum(*drawn).astype(np.float64)
        share = _over(classes - 1, classes)
        return _over(2 * pairs.net(weights), np.square(weights.sum(axis=1)) * share)

    return values


def _auroc(x: Floats, labels: Floats) -> Weighted:
    pairs = Pairs(x, labels)

    def values(weights: Floats) -> Floats:
        positive = weights @ labels
        return (_over(pairs.net(weights), positive * (weights.sum(axis=1) - positive)) + 1) / 2

    return values


def _average_precision(x: Floats, labels: Floats) -> Weighted:
    ranking = Ranking.of(x, labels == 1)

    def values(weights: Floats) -> Floats:
        true, false = ranking.counts(weights)
        precision = true / np.maximum(true + false, 1e-300)
        found = (np.diff(true, axis=1, prepend=0.0) * precision).sum(axis=1)
        return np.where(false[:, -1] > 0, _over(found, true[:, -1]), np.nan)

    return values


def _over(above: Floats, below: Floats) -> Floats:
    """Quotients, NaN where the divisor is 0."""
    quotients: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below != 0)
    return quotients


_MAKERS: dict[str, Callable[[Floats, Floats], Weighted]] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "kendall_tau_b": _tau_b,
    "kendall_tau_c": _tau_c,
    "auroc": _auroc,
    "average_precision": _average_precision,
}
