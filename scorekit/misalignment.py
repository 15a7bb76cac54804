"""How well a method finds the words that an image does not show. Records in, results out.

The measures are those of Nam et al. ("Extract Free Dense Misalignment from CLIP", AAAI 2025,
arXiv:2412.18404, section 4), who took location accuracy and average precision from ALOHa (Petryk
et al., NAACL 2024, arXiv:2404.02904). Their code credits a tie, or the first of two equal words,
by accident of order; here a tie counts what a random choice among the tied would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scorekit.curves import Ranking, areas, ratio
from scorekit.resampling import bootstrap
from scorekit.stats import CONFIDENCE, Estimate, summarize

Span = tuple[int, int]
"""Characters from start to end, the end not included."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AttributedText:
    """A text's words with what a method says of each, and where the text is wrong.

    Attributes
    ----------
    words : sequence of (start, end)
        The candidates: words, or phrases where a method scores phrases.
    values : sequence of float
        One a candidate; the lower, the more misaligned.
    wrong : sequence of (start, end)
        What the image does not show; empty for a right text.
    item : str
        Texts of one item are resampled together.
    """

    words: Sequence[Span]
    values: Sequence[float]
    wrong: Sequence[Span]
    item: str = ""

    def __post_init__(self) -> None:
        if len(self.words) != len(self.values):
            raise ValueError(f"{len(self.words)} words, but {len(self.values)} values")


def overlap(one: Span, two: Span) -> bool:
    """Whether two spans share a character."""
    return one[0] < two[1] and two[0] < one[1]


def word_labels(words: Sequence[Span], wrong: Sequence[Span]) -> npt.NDArray[np.bool_]:
    """Which words lie, even in part, where the text is wrong.

    Examples
    --------
    >>> word_labels([(0, 1), (2, 5), (6, 9)], [(4, 9)])
    array([False,  True,  True])
    """
    return np.array([any(overlap(word, span) for span in wrong) for word in words], dtype=bool)


# Location -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocationAccuracy:
    """How often the most misaligned word is the wrong one.

    `n` counts the texts that could be judged: those with a wrong span and a finite value for
    each word. `n_total` counts all that were given.

    Attributes
    ----------
    exact, head, overlap : Estimate
        It covers the same characters as a wrong span; it is the last word of one (of "golf
        ball", "ball"); it shares a character with one.
    """

    exact: Estimate
    head: Estimate
    overlap: Estimate


def location_hits(texts: Sequence[AttributedText]) -> dict[str, Floats]:
    """For each text, how probable a hit is by `LocationAccuracy`'s three criteria.

    Where several words are the lowest, each is as likely to be named; so a hit is the share of
    right words among them. NaN where the text has no words, no wrong span, or a value that is
    not finite.

    Examples
    --------
    >>> text = AttributedText([(0, 1), (2, 6), (7, 11)], [0.1, -0.2, -0.2], [(2, 11)])
    >>> {name: float(hits[0]) for name, hits in location_hits([text]).items()}
    {'exact': 0.0, 'head': 0.5, 'overlap': 1.0}
    """
    hits = np.full((len(texts), 3), np.nan)
    for row, text in enumerate(texts):
        values = np.asarray(text.values, dtype=np.float64)
        if not len(values) or not text.wrong or not np.isfinite(values).all():
            continue
        spans = {(int(start), int(end)) for start, end in text.wrong}
        lowest = values == values.min()
        named = [(w[0], w[1]) for w, low in zip(text.words, lowest, strict=True) if low]
        heads = {_head(text.words, span) for span in spans}
        hits[row] = (
            np.mean([word in spans for word in named]),
            np.mean([word in heads for word in named]),
            np.mean([any(overlap(word, span) for span in spans) for word in named]),
        )
    return {name: hits[:, k] for k, name in enumerate(("exact", "head", "overlap"))}


def _head(words: Sequence[Span], span: Span) -> Span | None:
    inside = [(word[0], word[1]) for word in words if overlap(word, span)]
    return max(inside, key=lambda word: (word[1], -word[0]), default=None)


def location_accuracy(
    texts: Sequence[AttributedText],
    *,
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> LocationAccuracy:
    """Location accuracy with bootstrap intervals, resampled by item.

    Parameters
    ----------
    texts : sequence of AttributedText
        Foils; right texts may be among them and are not judged.
    n_resamples, confidence, seed
        Of the bootstrap, here and below as in `scorekit.stats.summarize`.
    """
    items = np.array([text.item for text in texts], dtype=object).astype(str)
    estimates = {}
    for name, hits in location_hits(texts).items():
        judged = np.isfinite(hits)
        estimates[name] = summarize(
            hits[judged],
            items[judged],
            n_total=len(texts),
            n_resamples=n_resamples,
            confidence=confidence,
            seed=seed,
        )
    return LocationAccuracy(**estimates)


# Words --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detection:
    """How well flagged words agree with the misaligned ones, counted over all texts (micro).

    Attributes
    ----------
    precision, recall, f1 : Estimate
        No value where it is 0/0: nothing flagged, nothing misaligned, or neither.
    true_positives, false_positives, false_negatives : int
        Words.
    """

    precision: Estimate
    recall: Estimate
    f1: Estimate
    true_positives: int
    false_positives: int
    false_negatives: int


def word_detection(
    flagged: npt.ArrayLike,
    misaligned: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Detection:
    """Micro precision, recall and F1 of flagged words.

    Parameters
    ----------
    flagged, misaligned : array_like of bool (n,)
        One entry a word, the words of all texts one after the other.
    groups : array_like (n,), optional
        The item of each word.
    n_resamples, confidence, seed

    Examples
    --------
    >>> print(word_detection([1, 1, 0, 0], [1, 0, 1, 0]).f1.value)
    0.5
    """
    said, truth = (np.asarray(each).astype(bool) for each in (flagged, misaligned))
    if said.shape != truth.shape or said.ndim != 1:
        raise ValueError(f"two equally long rows are needed, not {said.shape}, {truth.shape}")
    counts = np.stack([said & truth, said & ~truth, ~said & truth]).astype(np.float64)

    def ratios(weights: Floats) -> Floats:
        tp, fp, fn = (weights @ each for each in counts)
        return np.stack([ratio(tp, tp + fp), ratio(tp, tp + fn), ratio(2 * tp, 2 * tp + fp + fn)])

    names = ("precision", "recall", "f1")
    precision, recall, f1 = bootstrap(
        ratios, len(said), groups, names, n_resamples, confidence, seed
    )
    return Detection(precision, recall, f1, *(int(each.sum()) for each in counts))


# Original against foil ----------------------------------------------------------------------


@dataclass(frozen=True)
class Separation:
    """How well a score tells right texts from wrong ones.

    Attributes
    ----------
    average_precision : Estimate
        The mean precision over the recalled positives, a threshold at each distinct score.
    auroc : Estimate
        How often a right text scores better than a wrong one, ties half.
    positive : {"original", "foil"}
        The class that `average_precision` retrieves.
    prevalence : float or None
        Its share: the average precision of a score that says nothing.
    n_original, n_foil : int
        Scored texts of each kind.
    """

    average_precision: Estimate
    auroc: Estimate
    positive: str
    prevalence: float | None
    n_original: int
    n_foil: int


def separation(
    scores: npt.ArrayLike,
    misaligned: npt.ArrayLike,
    groups: npt.ArrayLike | None = None,
    *,
    positive: Literal["original", "foil"] = "original",
    higher_is_better: bool = True,
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Separation:
    """Average precision and AUROC of a score per text.

    The paper's code retrieves the originals on FOIL and nocaps-FOIL, the wrong captions on HAT
    and Rich-HF. Average precision differs between the two, AUROC does not.

    Parameters
    ----------
    scores : array_like (n,)
        One a text; a NaN was not scored and only counts towards `n_total`.
    misaligned : array_like of bool (n,)
        Which texts are foils.
    groups : array_like (n,), optional
        The item of each text: an original and its foils are resampled together.
    positive : {"original", "foil"}
    higher_is_better : bool
        Whether a high score speaks for the text.
    n_resamples, confidence, seed

    Examples
    --------
    >>> found = separation([0.9, 0.4, 0.6, 0.1], [False, False, True, True])
    >>> round(float(found.average_precision), 4), float(found.auroc)
    (0.8333, 0.75)
    """
    x, foils = np.asarray(scores, dtype=np.float64), np.asarray(misaligned).astype(bool)
    if x.shape != foils.shape or x.ndim != 1:
        raise ValueError(f"two equally long rows are needed, not {x.shape}, {foils.shape}")
    scored = ~np.isnan(x)
    better = x[scored] if higher_is_better else -x[scored]
    wrong = foils[scored]
    retrieved = positive == "foil"
    ranking = Ranking.of(-better if retrieved else better, wrong == retrieved)

    def measures(weights: Floats) -> Floats:
        return np.stack(areas(*ranking.counts(weights)))

    clusters = None if groups is None else np.asarray(groups)[scored]
    names = ("average_precision", "auroc")
    n = len(wrong)
    ap, auroc = bootstrap(
        measures, n, clusters, names, n_resamples, confidence, seed, n_total=len(x)
    )
    return Separation(
        average_precision=ap,
        auroc=auroc,
        positive=positive,
        prevalence=float(np.mean(wrong == retrieved)) if n else None,
        n_original=int((~wrong).sum()),
        n_foil=int(wrong.sum()),
    )
