"""Precision-recall and ROC areas of ranked rows, for many weightings of the rows at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Scores in falling order, cut where they change.

    Equal scores share one threshold, so that nothing depends on the order they came in.

    Attributes
    ----------
    order, positive
        (n,) rows by falling score; 1.0 where the row there is positive.
    ends, thresholds
        (k,) where in `order` each distinct score ends; these scores.
    """

    order: npt.NDArray[np.intp]
    ends: npt.NDArray[np.intp]
    thresholds: Floats
    positive: Floats

    @classmethod
    def of(cls, scores: Floats, positive: npt.NDArray[np.bool_]) -> Ranking:
        """Rank rows by their scores."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], [True] * bool(len(ranked))))
        return cls(order, ends, ranked[ends], positive[order].astype(np.float64))

    def counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """True and false positives (b, k) at each threshold, for row weights (b, n)."""
        ranked = weights[:, self.order]
        true = np.cumsum(ranked * self.positive, axis=1)[:, self.ends]
        return true, np.cumsum(ranked, axis=1)[:, self.ends] - true


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Sum over the distinct thresholds of (rise in recall) * precision; NaN without positives.

    The definition of scikit-learn's `average_precision_score`, without interpolation.

    Examples
    --------
    >>> average_precision([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 1])
    0.5
    """
    ranking = Ranking.of(np.asarray(scores, dtype=np.float64), np.asarray(positive).astype(bool))
    return float(areas(*ranking.counts(np.ones((1, len(ranking.order)))))[0][0])


def areas(true: Floats, false: Floats) -> tuple[Floats, Floats]:
    """Average precision and area under the ROC curve (b,) from counts (b, k)."""
    if not true.shape[1]:
        return np.full(len(true), np.nan), np.full(len(true), np.nan)
    rise = np.diff(true, axis=1, prepend=0.0)
    # A resample may hold none of the topmost rows; their precision has no weight then.
    precision = true / np.maximum(true + false, 1e-300)
    ap = ratio((rise * precision).sum(1), true[:, -1])
    middle = true - rise / 2
    width = np.diff(false, axis=1, prepend=0.0)
    return ap, ratio((width * middle).sum(1), true[:, -1] * false[:, -1])


def ratio(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.full_like(under, np.nan), where=under > 0)
