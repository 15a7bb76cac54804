"""How far people agree with each other: the ceiling that a metric is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scorekit.correlation import Statistic, Weighted, undefined
from scorekit.grouping import Scheme, agreement, averaged
from scorekit.pairs import Floats
from scorekit.resampling import bootstrap
from scorekit.stats import CONFIDENCE, Estimate

Scale = Literal["ordinal", "interval", "nominal"]
N_ALPHA = 300
"""Resamples of alpha, which is computed anew for each."""


def krippendorff_alpha(
    ratings: npt.ArrayLike,
    scale: Scale = "ordinal",
    clusters: npt.ArrayLike | None = None,
    *,
    n_resamples: int = N_ALPHA,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Krippendorff's alpha, by the `krippendorff` package, with an interval over the cells.

    Parameters
    ----------
    ratings : array_like (raters, cells)
        NaN where a rater gave none.
    scale : {"ordinal", "interval", "nominal"}
    clusters : array_like (cells,), optional
        Cells of one cluster (an item) are resampled together.
    n_resamples, confidence, seed
        0 resamples give no interval.

    Returns
    -------
    Estimate
        `n` counts the cells with at least two ratings. There is no value where there are none, or
        where all ratings are equal.

    Examples
    --------
    >>> print(krippendorff_alpha([[1, 2, 3, 3], [1, 2, 3, 4]], "nominal", n_resamples=0))
    0.6957 (4/4)
    """
    values = _matrix(ratings)
    rated = np.isfinite(values).sum(axis=0) > 1
    n, total = int(rated.sum()), values.shape[1]
    used = values[:, rated]
    known = used[np.isfinite(used)]
    if not n or np.ptp(known) == 0:
        return Estimate(None, None, None, n, total, "krippendorff_alpha")
    domain = np.unique(known)
    counts = np.stack([(used == value).sum(axis=0) for value in domain], axis=1)

    def alphas(weights: Floats) -> Floats:
        return np.array([_alpha(counts, domain, scale, row) for row in weights])[None]

    if n_resamples == 0:
        value = float(alphas(np.ones((1, n)))[0, 0])
        return Estimate(value, None, None, n, total, "krippendorff_alpha")
    units = None if clusters is None else np.asarray(clusters)[rated]
    return bootstrap(
        alphas, n, units, ["krippendorff_alpha"], n_resamples, confidence, seed, n_total=total
    )[0]


def _alpha(counts: npt.NDArray[np.int_], domain: Floats, scale: Scale, times: Floats) -> float:
    from krippendorff import alpha

    drawn = np.repeat(counts, times.astype(np.intp), axis=0)
    there = drawn.sum(axis=0) > 0
    if np.count_nonzero(there) < 2:
        return float("nan")
    return float(
        alpha(value_counts=drawn[:, there], value_domain=domain[there], level_of_measurement=scale)
    )


@dataclass(frozen=True)
class Ceiling:
    """How one rater agrees with the mean of the others.

    Attributes
    ----------
    mean : Estimate
        Over the raters with a value; `n` counts cells that at least two raters rated.
    raters : tuple of float or None
        Each rater's own value.
    n_undefined : int
        Raters without one: fewer than two shared cells, or a constant side.
    """

    mean: Estimate
    raters: tuple[float | None, ...]
    n_undefined: int


def leave_one_rater_out(
    ratings: npt.ArrayLike,
    statistic: Statistic = "kendall_tau_b",
    *,
    items: npt.ArrayLike | None = None,
    systems: npt.ArrayLike | None = None,
    scheme: Scheme = Scheme(),  # noqa: B008
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Ceiling:
    """Correlate each rater with the mean of the others, as a metric is with the mean of all.

    A metric may exceed it: the mean of all raters is less noisy than that of all but one.

    Parameters
    ----------
    ratings : array_like (raters, cells)
        NaN where a rater gave none.
    statistic, items, systems, scheme, n_resamples, confidence, seed
        As in `scorekit.grouping.correlate_grouped`; items and systems are those of the cells.

    Examples
    --------
    >>> found = leave_one_rater_out([[1, 2, 3], [1, 2, 3], [3, 1, 2]], "spearman", n_resamples=9)
    >>> [round(value, 3) for value in found.raters], found.n_undefined
    ([0.5, 0.5, -0.5], 0)
    """
    values = _matrix(ratings)
    given = np.isfinite(values)
    number, sums = given.sum(axis=0), np.where(given, values, 0.0).sum(axis=0)
    cells = number > 1
    of_item, of_system = (None if v is None else np.asarray(v) for v in (items, systems))
    functions: list[tuple[npt.NDArray[np.bool_], Weighted] | None] = []
    for one, known in zip(values, given, strict=True):
        shared = known & cells
        others = (sums[shared] - one[shared]) / (number[shared] - 1)
        if undefined(statistic, one[shared], others):
            functions.append(None)
            continue
        item, system = (None if v is None else v[shared] for v in (of_item, of_system))
        function = agreement(statistic, one[shared], others, item, system, scheme)
        functions.append((shared[cells], function))
    n, total = int(cells.sum()), values.shape[1]

    def each(weights: Floats) -> Floats:
        found = np.full((len(functions), len(weights)), np.nan)
        for r, entry in enumerate(functions):
            if entry is not None:
                found[r] = entry[1](weights[:, entry[0]])
        return found

    def mean(weights: Floats) -> Floats:
        return averaged(each(weights).T)[None]

    point = each(np.ones((1, n)))[:, 0]
    own = tuple(float(value) if np.isfinite(value) else None for value in point)
    if n_resamples == 0 or not n:
        center = [value for value in own if value is not None]
        estimate = Estimate(
            float(np.mean(center)) if center else None, None, None, n, total, statistic
        )
    else:
        units = None if of_item is None else of_item[cells]
        estimate = bootstrap(
            mean, n, units, [statistic], n_resamples, confidence, seed, n_total=total
        )[0]
    return Ceiling(estimate, own, own.count(None))


@dataclass(frozen=True)
class RaterSummary:
    """What the raters of one dimension did.

    Attributes
    ----------
    n_raters, n_cells, n_ratings : int
        Raters with a rating, cells with one, ratings.
    fewest, most : int
        Ratings of a cell.
    exact : float or None
        Share of pairs of ratings of a cell that are equal, pooled over cells.
    alpha : Estimate
        Krippendorff's.
    ceiling : Ceiling
    """

    n_raters: int
    n_cells: int
    n_ratings: int
    fewest: int
    most: int
    exact: float | None
    alpha: Estimate
    ceiling: Ceiling


def summarize_raters(
    ratings: npt.ArrayLike,
    scale: Scale = "ordinal",
    statistic: Statistic = "kendall_tau_b",
    *,
    items: npt.ArrayLike | None = None,
    systems: npt.ArrayLike | None = None,
    scheme: Scheme = Scheme(),  # noqa: B008
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> RaterSummary:
    """Count ratings, and measure how the raters agree.

    Parameters
    ----------
    ratings : array_like (raters, cells)
    scale, statistic, items, systems, scheme, n_resamples, confidence, seed
        As in `krippendorff_alpha` and `leave_one_rater_out`.

    Examples
    --------
    >>> found = summarize_raters([[1, 2, 3], [1, 2, 2]], n_resamples=9)
    >>> found.n_ratings, found.fewest, round(found.exact, 4), round(float(found.alpha), 4)
    (6, 2, 0.6667, 0.7778)
    """
    values = _matrix(ratings)
    given = np.isfinite(values)
    number = given.sum(axis=0)
    rated = number[number > 0]
    pairs = int((number * (number - 1) // 2).sum())
    equal = sum(
        int((again * (again - 1) // 2).sum())
        for again in ((values == value).sum(axis=0) for value in np.unique(values[given]))
    )
    resamples = N_ALPHA if n_resamples is None else n_resamples
    alpha = krippendorff_alpha(
        values, scale, items, n_resamples=resamples, confidence=confidence, seed=seed
    )
    ceiling = leave_one_rater_out(
        values, statistic, items=items, systems=systems, scheme=scheme,
        n_resamples=n_resamples, confidence=confidence, seed=seed,
    )  # fmt: skip
    return RaterSummary(
        n_raters=int(given.any(axis=1).sum()),
        n_cells=len(rated),
        n_ratings=int(number.sum()),
        fewest=int(rated.min()) if len(rated) else 0,
        most=int(rated.max(initial=0)),
        exact=equal / pairs if pairs else None,
        alpha=alpha,
        ceiling=ceiling,
    )


def _matrix(ratings: npt.ArrayLike) -> Floats:
    values = np.asarray(ratings, dtype=np.float64)
    if values.ndim != 2 or np.isinf(values).any():
        raise ValueError(
            f"ratings are finite, or NaN, of shape (raters, cells), not {values.shape}"
        )
    return values
