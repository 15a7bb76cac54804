"""Choices instead of ratings: two alternatives, Winoground's four scores, the best of n."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scorekit.correlation import paired
from scorekit.grouping import split
from scorekit.pairs import Floats
from scorekit.stats import CONFIDENCE, Estimate, summarize

# Two alternatives ----------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoAFC:
    """How often a metric prefers what people prefer.

    Attributes
    ----------
    accuracy : Estimate
        Chance is 1/2.
    n_human_ties, n_metric_ties : int
        Scored rows on which people, or the metric, have no preference.
    human_ties : {"exclude", "split"}
        What was done with the former.
    """

    accuracy: Estimate
    n_human_ties: int
    n_metric_ties: int
    human_ties: str


def two_afc(
    score_a: npt.ArrayLike,
    score_b: npt.ArrayLike,
    share_a: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    *,
    human_ties: Literal["exclude", "split"] = "exclude",
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> TwoAFC:
    """Accuracy of two-alternative forced choice (Zhang et al., CVPR 2018, section 2).

    A row earns the share of people who agree with the metric, and 1/2 where the metric has a tie.

    Parameters
    ----------
    score_a, score_b : array_like (n,)
        The metric on both alternatives, higher for better; a NaN was not scored.
    share_a : array_like (n,)
        The share of people, 0 to 1, who prefer a: 1 or 0 where there is one answer, 1/2 for a tie.
    clusters : array_like (n,), optional
        Rows of one cluster (an item) are resampled together.
    human_ties : {"exclude", "split"}
        Leave rows with a share of 1/2 out, or count them as half right.

    Examples
    --------
    >>> found = two_afc([2, 2, 1, 5], [1, 3, 1, 4], [1, 1, 1, 0.5])
    >>> float(found.accuracy), found.n_human_ties, found.n_metric_ties
    (0.5, 1, 1)
    """
    if human_ties not in ("exclude", "split"):
        raise ValueError(f"human_ties is exclude or split, not {human_ties!r}")
    a, b, scored = paired(score_a, score_b)
    given = np.asarray(share_a, dtype=np.float64)
    if given.shape != scored.shape or not ((given >= 0) & (given <= 1)).all():
        raise ValueError("share_a needs a number from 0 to 1 for each row")
    share = given[scored]
    tied = share == 0.5
    credit = np.where(a > b, share, np.where(a < b, 1 - share, 0.5))
    used = np.ones(len(tied), dtype=bool) if human_ties == "split" else ~tied
    units = None if clusters is None else np.asarray(clusters)[scored][used]
    accuracy = summarize(
        credit[used], units, n_total=len(scored),
        n_resamples=n_resamples, confidence=confidence, seed=seed,
    )  # fmt: skip
    return TwoAFC(accuracy, int(tied.sum()), int((a == b)[used].sum()), human_ties)


# Two captions and two images -----------------------------------------------------------------


@dataclass(frozen=True)
class Winoground:
    """Text, image and group score; a score without information reaches 1/4, 1/4 and 1/6.

    Attributes
    ----------
    text, image, group : Estimate
        The right caption is preferred for both images; the right image for both captions; both.
    """

    text: Estimate
    image: Estimate
    group: Estimate


def winoground(
    scores: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    *,
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Winoground:
    """The three scores of Thrush et al. (CVPR 2022); each comparison is strict, so a tie is wrong.

    Parameters
    ----------
    scores : array_like (n, 2, 2)
        ``scores[i, c, k]`` of caption c with image k, where c and k belong together if equal. An
        example with a NaN was not scored.
    clusters : array_like (n,), optional

    Examples
    --------
    >>> found = winoground([[[0.9, 0.2], [0.4, 0.3]], [[0.9, 0.2], [0.4, 0.6]]])
    >>> float(found.text), float(found.image), float(found.group)
    (1.0, 0.5, 0.5)
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 3 or s.shape[1:] != (2, 2):
        raise ValueError(f"scores of two captions with two images are (n, 2, 2), not {s.shape}")
    scored = ~np.isnan(s).any(axis=(1, 2))
    s, n = s[scored], len(s)
    right = [s[:, 0, 0], s[:, 1, 1]]
    text = (right[0] > s[:, 1, 0]) & (right[1] > s[:, 0, 1])
    image = (right[0] > s[:, 0, 1]) & (right[1] > s[:, 1, 0])
    units = None if clusters is None else np.asarray(clusters)[scored]

    def share(hits: npt.NDArray[np.bool_]) -> Estimate:
        return summarize(
            hits, units, n_total=n, n_resamples=n_resamples, confidence=confidence, seed=seed
        )

    return Winoground(share(text), share(image), share(text & image))


# The best of n -------------------------------------------------------------------------------


@dataclass(frozen=True)
class BestOfN:
    """Mean rating of the candidates that a metric would pick.

    Attributes
    ----------
    metric, random, oracle : Estimate
        Picked by the metric, by chance, and by the ratings themselves. `n` counts items.
    gain : Estimate
        `metric` less `random`, item by item.
    share : float or None
        The gain as a share of the oracle's; None where the oracle gains nothing.
    n : int or None
        Candidates to pick from; None is all that an item has.
    n_too_few : int
        Items with fewer than n (or than 2) scored candidates, which are left out.
    """

    metric: Estimate
    random: Estimate
    oracle: Estimate
    gain: Estimate
    share: float | None
    n: int | None
    n_too_few: int


def best_of_n(
    metric: npt.ArrayLike,
    ratings: npt.ArrayLike,
    items: npt.ArrayLike,
    *,
    n: int | None = None,
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> BestOfN:
    """What picking the best of n candidates by a metric gains in ratings.

    The expectation over all choices of n of an item's candidates is exact: the r-th lowest of k is
    the best of n with probability C(r - 1, n - 1) / C(k, n). Candidates of equal score share.

    Parameters
    ----------
    metric, ratings : array_like (k,)
        Of each candidate, higher for better; NaN where there is none.
    items : array_like (k,)
        The item of each; items are resampled.
    n : int, optional
        At least 2; all candidates of an item if not given.

    Examples
    --------
    >>> found = best_of_n([3, 1, 2, 5, 5, 1], [4, 2, 5, 3, 1, 1], [0, 0, 0, 1, 1, 1])
    >>> float(found.metric), round(float(found.random), 4), float(found.oracle)
    (3.0, 2.6667, 4.0)
    """
    if n is not None and n < 2:
        raise ValueError(f"the best of {n} is no choice")
    x, y, kept = paired(metric, ratings)
    labels = np.asarray(items)
    total = len(np.unique(labels))
    parts = [rows for rows in split(labels[kept]) if len(rows) >= (n or 2)]
    picked = np.array(
        [
            (_expected(x[rows], y[rows], n), y[rows].mean(), _expected(y[rows], y[rows], n))
            for rows in parts
        ]
    ).reshape(-1, 3)

    def mean(values: Floats) -> Estimate:
        return summarize(
            values, n_total=total, n_resamples=n_resamples, confidence=confidence, seed=seed
        )

    gain = picked[:, 0] - picked[:, 1]
    most = float((picked[:, 2] - picked[:, 1]).sum())
    return BestOfN(
        metric=mean(picked[:, 0]),
        random=mean(picked[:, 1]),
        oracle=mean(picked[:, 2]),
        gain=mean(gain),
        share=float(gain.sum()) / most if most > 0 else None,
        n=n,
        n_too_few=total - len(parts),
    )


def _expected(score: Floats, ratings: Floats, n: int | None) -> float:
    """Expected rating of the candidate with the highest score among n drawn ones."""
    order = np.argsort(score, kind="stable")
    chance = _chances(len(score), n or len(score))
    code = np.unique(score, return_inverse=True)[1].reshape(-1)
    shared = np.bincount(code[order], weights=chance) / np.bincount(code)
    return float(shared[code] @ ratings)


def _chances(k: int, n: int) -> Floats:
    """How probable it is that the r-th lowest of k is the highest of n drawn ones, r = 1..k."""
    from scipy.special import comb

    choose: Callable[..., Floats] = comb
    return choose(np.arange(k), n - 1) / float(choose(k, n))
