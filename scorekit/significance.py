"""Which of several metrics agrees better with people: paired tests, and ranks that they support.

All p-values are two-sided. With k metrics there are k (k - 1) / 2 comparisons: `rank_metrics`
takes them as they are, as the WMT metrics task does, unless told to adjust them (Holm).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scorekit.correlation import Statistic, coarser_last, pearson
from scorekit.grouping import Labels, Scheme, agreement
from scorekit.pairs import Floats, Ties
from scorekit.stats import compare_paired

Swap = Literal["cell", "item"]
N_PERMUTATIONS = 1000
_BATCH_BYTES = 2**20


@dataclass(frozen=True)
class CorrelationTest:
    """Two metrics against the same ratings.

    Attributes
    ----------
    a, b : float or None
        Their values.
    difference : float or None
        b less a.
    p_value : float or None
        None where one has no value.
    n : int
        Rows that all three have.
    """

    a: float | None
    b: float | None
    difference: float | None
    p_value: float | None
    n: int


def permutation_test(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    ratings: npt.ArrayLike,
    statistic: Statistic = "kendall_tau_b",
    *,
    items: npt.ArrayLike | None = None,
    systems: npt.ArrayLike | None = None,
    scheme: Scheme = Scheme(),  # noqa: B008
    swap: Swap = "cell",
    n_resamples: int = N_PERMUTATIONS,
    seed: int = 0,
) -> CorrelationTest:
    """Paired permutation test of two metrics (PERM-BOTH of Deutsch et al., TACL 2021).

    The scores of both metrics are standardised. Under the hypothesis that they agree equally well
    with people, it makes no difference which of a cell's two scores belongs to which: they are
    swapped at random, and the difference of the two correlations is taken anew.

    Parameters
    ----------
    a, b, ratings : array_like (n,)
        NaN where there is no value; rows count that have all three.
    statistic, items, systems, scheme
        As in `scorekit.grouping.correlate_grouped`.
    swap : {"cell", "item"}
        Swap each row by itself (PERM-BOTH), or all rows of an item together (PERM-INPUT), which
        is the stricter test where a metric's errors go with the item.
    n_resamples, seed

    Examples
    --------
    >>> ratings = np.arange(40.0)
    >>> found = permutation_test(ratings % 7, ratings, ratings, "pearson")
    >>> round(found.a, 3), round(found.b, 3), found.p_value < 0.01
    (0.069, 1.0, True)
    """
    if swap not in ("cell", "item"):
        raise ValueError(f"{swap!r} is none of cell, item")
    one, two, y = (np.asarray(v, dtype=np.float64) for v in (a, b, ratings))
    kept = np.isfinite(one) & np.isfinite(two) & np.isfinite(y)
    one, two, y = _standard(one[kept]), _standard(two[kept]), y[kept]
    of_item, of_system = (None if v is None else np.asarray(v)[kept] for v in (items, systems))
    if swap == "item" and of_item is None:
        raise ValueError("swapping by item needs the item of each row")
    n = len(y)
    if n < 2:
        return CorrelationTest(None, None, None, None, n)

    # Each row has both scores, of which a weight of 1 says that it is the one in use. So all
    # permutations share one ranking of the 2 n scores.
    def twice(v: Labels | None) -> Labels | None:
        return None if v is None else np.concatenate([v, v])

    function = agreement(
        statistic, np.concatenate([one, two]), np.concatenate([y, y]),
        twice(of_item), twice(of_system), scheme,
    )  # fmt: skip
    units, n_units = None, n
    if swap == "item" and of_item is not None:
        names, codes = np.unique(of_item, return_inverse=True)
        units, n_units = codes.reshape(-1), len(names)

    def both(swapped: Floats) -> Floats:
        used = np.empty((len(swapped), 2 * n))
        used[:, n:] = swapped
        used[:, :n] = 1.0 - swapped
        return np.stack([function(used), function(1.0 - used)], axis=1)

    of_a, of_b = (float(v) for v in both(np.zeros((1, n)))[0])
    if not np.isfinite(of_a) or not np.isfinite(of_b):
        a_only, b_only = (v if np.isfinite(v) else None for v in (of_a, of_b))
        return CorrelationTest(a_only, b_only, None, None, n)
    bound = abs(of_b - of_a) - 1e-12

    def differences_as_far(swapped: Floats) -> int:
        values = both(swapped)
        return int((np.abs(values[:, 1] - values[:, 0]) >= bound).sum())

    is_tau = statistic == "kendall_tau_b" and scheme == Scheme()
    as_far = _taus_as_far(one, two, y, bound) if is_tau else differences_as_far
    rng, hits, left = np.random.default_rng(seed), 0, n_resamples
    while left:
        size = min(left, max(1, _BATCH_BYTES // (32 * n)))
        coins = rng.integers(2, size=(size, n_units), dtype=np.int8)
        hits += as_far((coins if units is None else coins[:, units]).astype(np.float64))
        left -= size
    return CorrelationTest(of_a, of_b, of_b - of_a, (hits + 1) / (n_resamples + 1), n)


def _taus_as_far(a: Floats, b: Floats, y: Floats, bound: float) -> Callable[[Floats], int]:
    """In how many swaps (b, n) of a and b the two tau-b are at least `bound` apart.

    Net pairs are a quadratic form of the rows' weights, and what one side does not take the other
    does: so their difference is linear in the swaps, which is cheap. Their sum matters only as far
    as the two sides differ in ties, and is counted for the swaps that this leaves open.
    """
    n, x = len(y), np.concatenate([a, b])
    pairs, ties = coarser_last(x, np.concatenate([y, y])), Ties.of(x)
    of_row = pairs.net_of_rows()
    slope, start = of_row[n:] - of_row[:n], of_row[:n].sum() - of_row.sum() / 2
    of_value = ties.sums(np.ones((1, 2 * n)))[0]
    untied = n**2 - float(Ties.of(y).squares(np.ones((1, n)))[0])

    def as_far(swapped: Floats) -> int:
        used = np.hstack([1.0 - swapped, swapped])
        apart = swapped @ slope + start
        counts = ties.sums(used)
        mine = np.einsum("bk,bk->b", counts, counts)
        other = mine - 2 * (counts @ of_value) + of_value @ of_value
        with np.errstate(divide="ignore", invalid="ignore"):
            of_a, of_b = (2 / np.sqrt((n**2 - squares) * untied) for squares in (mine, other))
            least = np.abs(apart) * (of_a + of_b) / 2
            slack = untied * np.abs(of_a - of_b) / 2 + 1e-12  # of the sum: at most all pairs twice
            hits = least - slack >= bound
            open_ = np.flatnonzero(~hits & (least + slack >= bound))
        net = pairs.net(used[open_])
        far = np.abs(net * of_a[open_] - (net - apart[open_]) * of_b[open_])
        return int(hits.sum()) + int((far >= bound).sum())

    return as_far


def _standard(scores: Floats) -> Floats:
    spread = float(scores.std()) if len(scores) else 0.0
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)


def williams_test(a: npt.ArrayLike, b: npt.ArrayLike, ratings: npt.ArrayLike) -> CorrelationTest:
    """Williams' test that two metrics' Pearson correlations with the same ratings are equal.

    ``t = (r1 - r2) sqrt((n - 1)(1 + r12) / (2 K (n - 1)/(n - 3) + (r1 + r2)^2 (1 - r12)^3 / 4))``
    with ``K = 1 - r1^2 - r2^2 - r12^2 + 2 r1 r2 r12`` and n - 3 degrees of freedom (Williams 1959;
    Graham & Baldwin, EMNLP 2014). It assumes normal, independent rows: no clusters.

    Parameters
    ----------
    a, b, ratings : array_like (n,)
        NaN where there is no value; rows count that have all three, and at least 4 must.

    Examples
    --------
    >>> found = williams_test([1, 2, 3, 5, 4], [2, 1, 5, 3, 4], [1, 2, 3, 4, 5])
    >>> round(found.a, 2), round(found.b, 2), round(found.p_value, 3)
    (0.9, 0.6, 0.426)
    """
    from scipy.stats import t as student

    rows = np.array([np.asarray(v, dtype=np.float64) for v in (a, b, ratings)])
    one, two, y = rows[:, np.isfinite(rows).all(axis=0)]
    n = len(y)
    if n < 4 or any(np.ptp(v) == 0 for v in (one, two, y)):
        return CorrelationTest(None, None, None, None, n)
    r1, r2, r12 = pearson(one, y), pearson(two, y), pearson(one, two)
    k = max(1 - r1**2 - r2**2 - r12**2 + 2 * r1 * r2 * r12, 0.0)
    spread = 2 * k * (n - 1) / (n - 3) + (r1 + r2) ** 2 * (1 - r12) ** 3 / 4
    if spread < 1e-14:  # two metrics that are one
        return CorrelationTest(r1, r2, r2 - r1, 1.0 if abs(r2 - r1) < 1e-12 else 0.0, n)
    t = (r2 - r1) * np.sqrt((n - 1) * (1 + r12) / spread)
    return CorrelationTest(r1, r2, r2 - r1, float(2 * student.sf(abs(t), n - 3)), n)


# Several metrics -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """Metrics by falling agreement, with the ranks that the tests support.

    Attributes
    ----------
    names : tuple of str
    values : tuple of float
    ranks : tuple of int
        1 is best; metrics of one rank could not be told from each other.
    p_values : ndarray (k, k)
        Of each pair in this order, adjusted where asked for; 1 on the diagonal.
    n : int
        Rows that all metrics and the ratings have.
    undefined : tuple of str
        Metrics without a value on these rows.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]
    ranks: tuple[int, ...]
    p_values: Floats
    n: int
    undefined: tuple[str, ...] = ()


def rank_metrics(
    metrics: Mapping[str, npt.ArrayLike],
    ratings: npt.ArrayLike,
    statistic: Statistic = "kendall_tau_b",
    *,
    items: npt.ArrayLike | None = None,
    systems: npt.ArrayLike | None = None,
    scheme: Scheme = Scheme(),  # noqa: B008
    swap: Swap = "cell",
    alpha: float = 0.05,
    adjust: Literal["none", "holm"] = "none",
    n_resamples: int = N_PERMUTATIONS,
    seed: int = 0,
) -> Ranked:
    """Rank metrics on the rows that all have, by `permutation_test` of each pair.

    Parameters
    ----------
    metrics : mapping of str to array_like (n,)
    ratings, statistic, items, systems, scheme, swap, n_resamples, seed
        As in `permutation_test`.
    alpha : float
        Level of `significance_ranks`.
    adjust : {"none", "holm"}
        Unadjusted, the chance of some false difference grows with the number of metrics.

    Examples
    --------
    >>> y = np.arange(30.0)
    >>> ranked = rank_metrics({"noise": (y * 7) % 30, "good": y + y % 3, "also": y - y % 3}, y)
    >>> ranked.ranks, ranked.names[-1]
    ((1, 1, 2), 'noise')
    """
    table = {name: np.asarray(v, dtype=np.float64) for name, v in metrics.items()}
    y = np.asarray(ratings, dtype=np.float64)
    kept = np.isfinite(np.array([*table.values(), y])).all(axis=0)
    y = y[kept]
    of_item, of_system = (None if v is None else np.asarray(v)[kept] for v in (items, systems))
    one = np.ones((1, len(y)))
    found = {
        name: float(agreement(statistic, v[kept], y, of_item, of_system, scheme)(one)[0])
        for name, v in table.items()
    }
    names = sorted((k for k in found if np.isfinite(found[k])), key=lambda k: -found[k])
    p = np.ones((len(names), len(names)))
    upper = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]

    tests = [
        permutation_test(
            table[names[j]][kept], table[names[i]][kept], y, statistic,
            items=of_item, systems=of_system, scheme=scheme, swap=swap,
            n_resamples=n_resamples, seed=seed,
        ).p_value
        for i, j in upper
    ]  # fmt: skip
    values = np.array([1.0 if v is None else v for v in tests])
    for (i, j), value in zip(upper, holm(values) if adjust == "holm" else values, strict=True):
        p[i, j] = p[j, i] = value
    return Ranked(
        names=tuple(names),
        values=tuple(found[name] for name in names),
        ranks=significance_ranks(p, alpha),
        p_values=p,
        n=len(y),
        undefined=tuple(name for name in found if name not in names),
    )


def rank_means(
    credits: Mapping[str, npt.ArrayLike],
    clusters: npt.ArrayLike | None = None,
    *,
    alpha: float = 0.05,
    n_resamples: int = N_PERMUTATIONS,
    seed: int = 0,
) -> Ranked:
    """Rank metrics by the mean of what each row earns them (right or wrong, 1 or 0).

    The paired permutation test of `scorekit.stats.compare_paired` swaps two metrics' credits,
    those of a cluster together.

    Parameters
    ----------
    credits : mapping of str to array_like (n,)
        Finite, of the same rows.
    clusters : array_like (n,), optional
    alpha, n_resamples, seed
        As in `rank_metrics`.

    Examples
    --------
    >>> ranked = rank_means({"bad": [0] * 8, "good": [1] * 8, "fair": [1] * 7 + [0]})
    >>> ranked.names, ranked.ranks
    (('good', 'fair', 'bad'), (1, 1, 2))
    """
    table = {name: np.asarray(v, dtype=np.float64) for name, v in credits.items()}
    means = {name: float(v.mean()) for name, v in table.items()}
    names = sorted(means, key=lambda k: -means[k])
    p = np.ones((len(names), len(names)))
    for i, a in enumerate(names):
        for j in range(i + 1, len(names)):
            found = compare_paired(
                table[a], table[names[j]], clusters, n_resamples=n_resamples, seed=seed
            )
            p[i, j] = p[j, i] = 1.0 if found.p_value is None else found.p_value
    return Ranked(
        names=tuple(names),
        values=tuple(means[name] for name in names),
        ranks=significance_ranks(p, alpha),
        p_values=p,
        n=len(next(iter(table.values()))),
    )


def significance_ranks(p_values: npt.ArrayLike, alpha: float = 0.05) -> tuple[int, ...]:
    """Ranks of metrics in falling order, from the p-values of their pairs (k, k).

    A metric has the rank of the one before it, unless it is significantly different from one
    that has this rank already: then the next rank begins (WMT metrics task, Freitag et al. 2022).

    Examples
    --------
    >>> significance_ranks([[1, 0.4, 0.01], [0.4, 1, 0.2], [0.01, 0.2, 1]])
    (1, 1, 2)
    """
    p = np.asarray(p_values, dtype=np.float64)
    ranks: list[int] = []
    start = 0
    for i in range(len(p)):
        if i and bool((p[start:i, i] < alpha).any()):
            start = i
        ranks.append(ranks[-1] + (start == i) if ranks else 1)
    return tuple(ranks)


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Holm's adjusted p-values: significant at alpha with a family-wise error of at most alpha.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    factors = np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted
