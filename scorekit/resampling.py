"""The bootstrap of statistics that take row weights: a ranking is made once for all resamples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scorekit.stats import CONFIDENCE, MANY, N_RESAMPLES, N_RESAMPLES_MANY, Estimate

Floats = npt.NDArray[np.float64]
_BATCH_BYTES = 8 * 2**20


def bootstrap(
    statistics: Callable[[Floats], Floats],
    n: int,
    groups: npt.ArrayLike | None,
    names: Sequence[str],
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    *,
    n_total: int | None = None,
) -> list[Estimate]:
    """Percentile intervals of statistics of weighted rows, resampled by group.

    scipy's `bootstrap` hands a statistic copies of the rows, which would be sorted anew for each
    resample; a weight per row lets a ranking be made once.

    Parameters
    ----------
    statistics : callable
        Weights (b, n) to values (s, b); NaN where a resample has none (no positives left). Such
        resamples are left out; there is no interval where most are such.
    n : int
        Rows.
    groups : array_like (n,), optional
        Rows of one group are drawn together.
    names : sequence of str
        Of the s statistics.
    n_resamples, confidence, seed, n_total
        As in `scorekit.stats.summarize`.
    """
    total = n if n_total is None else n_total
    if n == 0:
        return [Estimate(None, None, None, 0, total, name) for name in names]
    centers = statistics(np.ones((1, n)))[:, 0]
    bounds: list[tuple[float | None, float | None]] = [(None, None)] * len(names)
    drawn = [statistics(weights) for weights in _weights(n, groups, n_resamples, seed)]
    if drawn:
        tail = (1 - confidence) / 2
        for k, values in enumerate(np.concatenate(drawn, axis=1)):
            known = values[np.isfinite(values)]
            if 2 * len(known) > len(values):
                low, high = np.quantile(known, [tail, 1 - tail])
                bounds[k] = (float(low), float(high))
    return [
        Estimate(float(center), low, high, n, total, name)
        if np.isfinite(center)
        else Estimate(None, None, None, n, total, name)
        for name, center, (low, high) in zip(names, centers, bounds, strict=True)
    ]


def _weights(
    n: int, groups: npt.ArrayLike | None, n_resamples: int | None, seed: int
) -> Iterator[Floats]:
    """Batches (b, n) of how often each row was drawn; nothing below two groups."""
    labels = np.arange(n) if groups is None else np.asarray(groups)
    if labels.shape != (n,):
        raise ValueError(f"{n} rows need {n} groups, not {labels.shape}")
    codes: Any = np.unique(labels, return_inverse=True)[1].reshape(-1)
    m = int(codes.max()) + 1
    if m < 2:
        return
    left = n_resamples
    if left is None:
        left = N_RESAMPLES if m < MANY else N_RESAMPLES_MANY
    rng = np.random.default_rng(seed)
    size = max(1, _BATCH_BYTES // (8 * n))
    while left:
        b = min(left, size)
        cells = rng.integers(m, size=(b, m)) + m * np.arange(b)[:, None]
        counts = np.bincount(cells.ravel(), minlength=b * m).reshape(b, m)
        yield counts[:, codes].astype(np.float64)
        left -= b
