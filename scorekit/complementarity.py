"""Which second metric adds something: correlation between metrics, combinations, influence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scorekit.correlation import Statistic, correlate, paired, undefined, weighted
from scorekit.grouping import Labels, averaged
from scorekit.pairs import Floats
from scorekit.resampling import bootstrap
from scorekit.stats import CONFIDENCE

Combination = Literal["linear", "rank_mean"]
N_FOLDS = 5
_BATCH_BYTES = 16 * 2**20


def metric_correlations(
    metrics: Mapping[str, npt.ArrayLike], statistic: Statistic = "kendall_tau_b"
) -> dict[tuple[str, str], float | None]:
    """Correlation of each two metrics over the rows that both have; None where undefined.

    Examples
    --------
    >>> found = metric_correlations({"a": [1, 2, 3], "b": [3, 2, 1], "c": [1, 1, 1]})
    >>> round(found["a", "b"], 4), found["a", "c"]
    (-1.0, None)
    """
    return {
        (a, b): correlate(metrics[a], metrics[b], statistic, n_resamples=0).value
        for a, b in combinations(metrics, 2)
    }


# Two metrics combined ------------------------------------------------------------------------


@dataclass(frozen=True)
class PairGain:
    """Two metrics combined, against the better of the two alone, on the same held-out rows.

    Attributes
    ----------
    a, b : str
    value_a, value_b, combined : float
        Mean of the folds' values.
    gain : float
        `combined` less the larger of `value_a` and `value_b`.
    low, high : float or None
        Its interval over the items, the fitted combinations kept as they are.
    over_best : float
        `combined` less the best single metric's value.
    """

    a: str
    b: str
    value_a: float
    value_b: float
    combined: float
    gain: float
    low: float | None
    high: float | None
    over_best: float


@dataclass(frozen=True)
class Complementarity:
    """What pairs of metrics reach together.

    Attributes
    ----------
    singles : dict of str to float
        Mean of the folds' values of each metric by itself.
    pairs : tuple of PairGain
        The best combination first.
    method : {"linear", "rank_mean"}
    n, n_items, n_folds : int
        Rows that all metrics and the ratings have, their items, folds with a value.
    undefined : tuple of str
        Metrics that are constant on these rows, or on those of each fold.
    """

    singles: dict[str, float]
    pairs: tuple[PairGain, ...]
    method: str
    n: int
    n_items: int
    n_folds: int
    undefined: tuple[str, ...]


def complementarity(
    metrics: Mapping[str, npt.ArrayLike],
    ratings: npt.ArrayLike,
    items: npt.ArrayLike,
    statistic: Statistic = "kendall_tau_b",
    *,
    method: Combination = "linear",
    n_folds: int = N_FOLDS,
    n_resamples: int = 300,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Complementarity:
    """Cross-validated agreement of each two metrics combined.

    Folds are made of whole items. ``linear`` fits the ratings by both z-scored metrics (least
    squares with a ridge of 1) on the other folds; ``rank_mean`` fits nothing and averages both
    metrics' ranks within the fold. All are judged fold by fold, so that folds whose fits differ
    are not compared with each other.

    Parameters
    ----------
    metrics : mapping of str to array_like (n,)
        Higher for better if the method is ``rank_mean``.
    ratings, items : array_like (n,)
    statistic, method, n_folds, n_resamples, confidence, seed
        0 resamples give no intervals. `seed` draws folds and resamples.

    Raises
    ------
    ValueError
        If there are fewer items than folds.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.normal(size=(2, 200))
    >>> found = complementarity({"a": a, "b": b}, a + b, np.arange(200), "pearson")
    >>> round(found.pairs[0].combined, 2), found.pairs[0].gain > 0.2
    (1.0, True)
    """
    from sklearn.model_selection import GroupKFold

    table = {name: np.asarray(v, dtype=np.float64) for name, v in metrics.items()}
    y, labels = np.asarray(ratings, dtype=np.float64), np.asarray(items)
    kept = np.isfinite(np.array([*table.values(), y])).all(axis=0)
    y, labels = y[kept], labels[kept]
    n_items = len(np.unique(labels))
    if n_items < n_folds:
        raise ValueError(f"{n_folds} folds need as many items, not {n_items}")
    splitter = GroupKFold(n_folds, shuffle=True, random_state=seed)
    folds = [test for _, test in splitter.split(y, groups=labels)]
    single = {name: _Judged.of(statistic, v[kept], y, folds) for name, v in table.items()}
    usable = [name for name, judged in single.items() if judged.value is not None]
    best = max((_known(single[name].value) for name in usable), default=0.0)
    pairs = []
    for a, b in combinations(usable, 2):
        both = np.stack([table[a][kept], table[b][kept]], axis=1)
        together = _Judged.of(statistic, _combined(both, y, folds, method), y, folds)
        if together.value is None:
            continue
        alone = max((single[a], single[b]), key=lambda judged: _known(judged.value))
        low, high = _interval(together, alone, labels, n_resamples, confidence, seed)
        pairs.append(
            PairGain(
                a, b, _known(single[a].value), _known(single[b].value), together.value,
                together.value - _known(alone.value), low, high, together.value - best,
            )
        )  # fmt: skip
    return Complementarity(
        singles={name: _known(single[name].value) for name in usable},
        pairs=tuple(sorted(pairs, key=lambda pair: -pair.combined)),
        method=method,
        n=len(y),
        n_items=n_items,
        n_folds=max((len(single[name].parts) for name in usable), default=0),
        undefined=tuple(name for name in table if name not in usable),
    )


@dataclass(frozen=True)
class _Judged:
    """A score's statistic in each fold that has one, and their mean."""

    parts: list[tuple[npt.NDArray[np.intp], Any]]
    value: float | None

    @classmethod
    def of(
        cls, statistic: Statistic, x: Floats, y: Floats, folds: list[npt.NDArray[np.intp]]
    ) -> _Judged:
        parts = [
            (rows, weighted(statistic, x[rows], y[rows]))
            for rows in folds
            if not undefined(statistic, x[rows], y[rows])
        ]
        judged = cls(parts, None)
        return cls(parts, float(judged(np.ones((1, len(x))))[0])) if parts else judged

    def __call__(self, weights: Floats) -> Floats:
        found = [function(weights[:, rows]) for rows, function in self.parts]
        return averaged(np.stack(found, axis=1))


def _known(value: float | None) -> float:
    return float("-inf") if value is None else value


def _interval(
    one: _Judged, two: _Judged, items: Labels, n_resamples: int, confidence: float, seed: int
) -> tuple[float | None, float | None]:
    if n_resamples == 0:
        return None, None
    found = bootstrap(
        lambda weights: (one(weights) - two(weights))[None],
        len(items), items, ["gain"], n_resamples, confidence, seed,
    )[0]  # fmt: skip
    return found.low, found.high


def _combined(
    both: Floats, y: Floats, folds: list[npt.NDArray[np.intp]], method: Combination
) -> Floats:
    """Held-out combined score of each row."""
    from scipy.stats import rankdata

    out = np.empty(len(y))
    for test in folds:
        if method == "rank_mean":
            out[test] = rankdata(both[test], axis=0).mean(axis=1)
            continue
        train = np.setdiff1d(np.arange(len(y)), test)
        out[test] = _ridge(both[train], y[train], both[test])
    return out


def _ridge(x: Floats, y: Floats, new: Floats) -> Floats:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted: Floats = make_pipeline(StandardScaler(), Ridge()).fit(x, y).predict(new)
    return predicted


# Influence -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Influence:
    """What a statistic becomes without each item.

    Attributes
    ----------
    value : float
        With all.
    items : ndarray (k,)
    without : ndarray (k,)
        Without each item; NaN where the rest has no value.
    change : ndarray (k,)
        `value` less `without`: positive for an item that raises the agreement.
    """

    value: float
    items: Labels
    without: Floats
    change: Floats

    def strongest(self, k: int = 10) -> list[tuple[str, float]]:
        """The k items that change the statistic most, either way."""
        size = np.nan_to_num(np.abs(self.change), nan=-1.0)
        order = np.argsort(-size, kind="stable")[:k]
        return [(str(self.items[i]), float(self.change[i])) for i in order]


def influence(
    metric: npt.ArrayLike,
    ratings: npt.ArrayLike,
    items: npt.ArrayLike,
    statistic: Statistic = "kendall_tau_b",
) -> Influence:
    """Leave each item out of a statistic over all rows.

    Raises
    ------
    ValueError
        If the statistic has no value on all rows.

    Examples
    --------
    >>> found = influence([1, 2, 3, 9], [1, 2, 3, 0], ["a", "b", "c", "d"], "pearson")
    >>> found.strongest(1)[0][0], round(float(found.without[3]), 4)
    ('d', 1.0)
    """
    x, y, kept = paired(metric, ratings)
    reason = undefined(statistic, x, y)
    if reason:
        raise ValueError(f"{statistic} is undefined: {reason}")
    names, found = np.unique(np.asarray(items)[kept], return_inverse=True)
    codes = found.reshape(-1)
    function = weighted(statistic, x, y)
    value = float(function(np.ones((1, len(x))))[0])
    without = np.empty(len(names))
    size = max(1, _BATCH_BYTES // (8 * len(x)))
    for start in range(0, len(names), size):
        left_out = np.arange(start, min(start + size, len(names)))
        without[left_out] = function((codes != left_out[:, None]).astype(np.float64))
    return Influence(value, names, without, value - without)
