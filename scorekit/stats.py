"""Uncertainty: intervals of means, and paired comparisons. Arrays in, result objects out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

N_RESAMPLES = 2000
N_RESAMPLES_MANY = 500
MANY = 20_000
"""From so many clusters on, an interval is narrow and its bounds need fewer resamples."""
CONFIDENCE = 0.95
_BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Estimate:
    """A summary of n values with its interval; behaves as a number in `float()`.

    Attributes
    ----------
    value : float or None
        None where nothing was scored.
    low, high : float or None
        Bounds of the interval; None below two clusters.
    n : int
        Values that went in.
    n_total : int
        Rows there were, the unscored included.
    statistic : str
        ``mean`` or ``median``.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_total: int
    statistic: str = "mean"

    def __float__(self) -> float:
        if self.value is None:
            raise ValueError("nothing was scored")
        return self.value

    def __str__(self) -> str:
        if self.value is None:
            return f"- ({self.n}/{self.n_total})"
        interval = "" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.value:.4f}{interval} ({self.n}/{self.n_total})"


@dataclass(frozen=True)
class PairedComparison:
    """Two sets of scores on the same rows.

    Attributes
    ----------
    mean_a, mean_b : float
        Means over the rows that both scored.
    difference : float
        ``mean_b - mean_a``.
    low, high : float or None
        Bootstrap interval of the difference, resampled by cluster.
    p_value : float or None
        Two-sided permutation test of no difference, the labels swapped by cluster.
    n, n_clusters : int
        Rows that both scored, and the items they belong to.
    wins, ties, losses : int
        Rows on which b is higher, equal, lower.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    n: int
    n_clusters: int
    wins: int
    ties: int
    losses: int


def summarize(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    *,
    n_total: int | None = None,
    statistic: Literal["mean", "median"] = "mean",
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Mean or median with a bootstrap percentile interval, resampled by cluster.

    Parameters
    ----------
    values : array_like (n,)
        Finite numbers.
    clusters : array_like (n,), optional
        Rows of one cluster (an item) are drawn together; each row by itself if not given.
    n_total : int, optional
        Rows there were, the unscored included.
    statistic : {"mean", "median"}
    n_resamples, confidence, seed
        Of the bootstrap; 2,000 resamples by default, 500 from 20,000 clusters on; 0 gives no
        interval.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> print(summarize([1.0, 2.0, 3.0, 4.0], seed=1))
    2.5000 [1.5000, 3.5000] (4/4)
    """
    x = np.asarray(values, dtype=np.float64)
    total = len(x) if n_total is None else n_total
    if len(x) == 0:
        return Estimate(None, None, None, 0, total, statistic)
    center = float(np.mean(x) if statistic == "mean" else np.median(x))
    codes = _codes(clusters, len(x))
    if n_resamples is None:
        n_resamples = N_RESAMPLES if codes.max() < MANY else N_RESAMPLES_MANY
    if codes.max() == 0 or n_resamples == 0:
        return Estimate(center, None, None, len(x), total, statistic)
    if statistic == "mean":
        low, high = _bootstrap_ratio(
            np.bincount(codes, weights=x).astype(float),
            np.bincount(codes).astype(float),
            n_resamples,
            confidence,
            seed,
        )
    else:
        low, high = _bootstrap_median(x, codes, n_resamples, confidence, seed)
    return Estimate(center, low, high, len(x), total, statistic)


def compare_paired(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    *,
    n_resamples: int = 10_000,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedComparison:
    """Compare two sets of scores of the same rows.

    Parameters
    ----------
    a, b : array_like (n,)
        Scores of the same rows, in the same order.
    clusters : array_like (n,), optional
        Rows of one cluster are resampled and permuted together.
    n_resamples, confidence, seed
        Of bootstrap and permutation test; the test is exact where there are few clusters.

    Returns
    -------
    PairedComparison

    Raises
    ------
    ValueError
        If the lengths differ or nothing is given.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) == 0:
        raise ValueError(f"two equally long, non-empty rows are needed, not {x.shape}, {y.shape}")
    codes = _codes(clusters, len(x))
    counts = np.bincount(codes).astype(float)
    sums = np.bincount(codes, weights=y - x).astype(float)
    low = high = p_value = None
    if len(counts) > 1:
        low, high = _bootstrap_ratio(sums, counts, n_resamples, confidence, seed)
        p_value = _sign_flip_test(sums, n_resamples, seed)
    return PairedComparison(
        mean_a=float(x.mean()),
        mean_b=float(y.mean()),
        difference=float((y - x).mean()),
        low=low,
        high=high,
        p_value=p_value,
        n=len(x),
        n_clusters=len(counts),
        wins=int((y > x).sum()),
        ties=int((y == x).sum()),
        losses=int((y < x).sum()),
    )


def _sign_flip_test(sums: npt.NDArray[np.float64], n_resamples: int, seed: int) -> float:
    """Two-sided p-value of a sum under random signs; exact where there are few clusters.

    scipy's `permutation_test` gives the same value, in ten times the time at 10,000 clusters.
    """
    n, observed = len(sums), abs(sums.sum())
    # Sums of the same numbers in another order are equal only to rounding.
    bound = observed - 1e-12 * np.abs(sums).sum()
    if 2**n <= n_resamples:
        patterns = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ sums) >= bound))
    rng = np.random.default_rng(seed)
    hits, left = 0, n_resamples
    while left:
        size = min(left, max(1, _BATCH_BYTES // (8 * n)))
        signs = 2.0 * rng.integers(2, size=(size, n), dtype=np.int8) - 1.0
        hits += int((np.abs(signs @ sums) >= bound).sum())
        left -= size
    return (hits + 1) / (n_resamples + 1)


def _codes(clusters: npt.ArrayLike | None, n: int) -> npt.NDArray[np.intp]:
    if clusters is None:
        return np.arange(n)
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(f"{n} values need {n} clusters, not {labels.shape}")
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _bootstrap_ratio(
    sums: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    n_resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Interval of sum(sums) / sum(counts) under resampling of clusters."""
    from scipy.stats import bootstrap

    def ratio(s: Any, c: Any, axis: int = -1) -> Any:
        return s.sum(axis=axis) / c.sum(axis=axis)

    result = bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=n_resamples,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, _BATCH_BYTES // (24 * len(sums))),
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _bootstrap_median(
    x: npt.NDArray[np.float64],
    codes: npt.NDArray[np.intp],
    n_resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Interval of the median under resampling of clusters, by weights on sorted values."""
    rng = np.random.default_rng(seed)
    order = np.argsort(x, kind="stable")
    ranked, ranked_codes = x[order], codes[order]
    n_clusters = int(codes.max()) + 1
    medians = np.empty(n_resamples)
    for i in range(n_resamples):
        drawn = np.bincount(rng.integers(n_clusters, size=n_clusters), minlength=n_clusters)
        reached = np.cumsum(drawn[ranked_codes])
        half = reached[-1] / 2
        upper = ranked[np.searchsorted(reached, half, side="right")]
        medians[i] = (ranked[np.searchsorted(reached, half, side="left")] + upper) / 2
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)
