"""The threshold below which a word counts as misaligned, fitted for one backbone.

The published eps of -5e-5 (Nam et al., AAAI 2025, arXiv:2412.18404) carries the number of heads
and layers, the length of the captions and half precision with it, and holds for no other model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from scorekit import __version__
from scorekit.curves import Ranking
from scorekit.misalignment import Detection, Floats, Span, separation, word_detection
from scorekit.misalignment_sets import places_of
from scorekit.prompts import read_table, require
from scorekit.resampling import bootstrap
from scorekit.stats import CONFIDENCE, Estimate
from scorekit.types import ImageLike, PathLike, UsageError

Unit = Literal["raw", "scaled", "z"]
FORMAT = "scorekit-calibration/1"
_CURVE_POINTS = 200


@dataclass(frozen=True)
class Fit:
    """A fitted threshold, and how well it separates.

    Attributes
    ----------
    eps : Estimate
        A word is misaligned where its value is below it. The interval is of the fit: what eps
        other items of the same kind would have given.
    goal : str
        ``f1``, or the least precision that was asked for: ``precision>=0.9``.
    fitted : mapping of str to Estimate
        Precision, recall and F1 at eps on the data that it was fitted on, which flatters;
        ``average_precision``, which no threshold enters.
    held_out : mapping of str to Estimate, or None
        Precision, recall and F1 where each half of the items is judged by the eps of the other
        half; None where a half has nothing to fit on.
    held_out_eps : tuple of float, or None
        Of the two halves.
    curve : mapping of str to tuple of float
        ``eps``, ``precision``, ``recall``: some 200 points of the precision-recall curve.
    n_items, n_words, n_misaligned : int
        Items, words and misaligned words that it was fitted on.
    """

    eps: Estimate
    goal: str
    fitted: Mapping[str, Estimate]
    held_out: Mapping[str, Estimate] | None
    held_out_eps: tuple[float, float] | None
    curve: Mapping[str, tuple[float, ...]]
    n_items: int
    n_words: int
    n_misaligned: int


def calibrate(
    values: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    min_precision: float | None = None,
    upper: float | None = None,
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Fit:
    """Fit the threshold of word attributions to labelled words.

    Of all thresholds between two distinct values, it takes the one with the highest F1, or with
    the highest recall among those of the least precision asked for; of equally good ones the
    lowest, which flags the fewest words. It lies half way to the next value.

    Parameters
    ----------
    values : array_like (n,)
        One a word, the lower the more misaligned. A NaN (a word behind the cut) is left out.
    labels : array_like of bool (n,)
        Which words are misaligned.
    groups : array_like (n,)
        The item of each word; items are resampled, and split into halves, whole.
    min_precision : float, optional
    upper : float, optional
        Eps is not above this: with 0, no word that speaks for the text is flagged.
    n_resamples, confidence, seed
        Of the bootstrap; `seed` also draws the halves.

    Raises
    ------
    UsageError
        If there is nothing to tell apart, or no threshold reaches the precision.

    Examples
    --------
    >>> fit = calibrate([-4.0, -3.0, -1.0, 2.0], [True, True, False, False], list("abcd"))
    >>> float(fit.eps), float(fit.fitted["f1"])
    (-2.0, 1.0)
    """
    x, wrong = np.asarray(values, dtype=np.float64), np.asarray(labels).astype(bool)
    items = np.asarray(groups)
    if x.ndim != 1 or not x.shape == wrong.shape == items.shape:
        raise ValueError(
            f"three equally long rows are needed, not {x.shape}, {wrong.shape}, {items.shape}"
        )
    if min_precision is not None and not 0 < min_precision <= 1:
        raise UsageError(f"a precision lies between 0 and 1, which {min_precision:g} does not")
    total, known = len(x), np.isfinite(x)
    x, wrong, items = x[known], wrong[known], items[known]
    if wrong.all() or not wrong.any():
        missing = "aligned" if wrong.any() else "misaligned"
        raise UsageError(f"nothing to calibrate on: no word is {missing}")
    fitter = _Fitter.of(x, wrong, min_precision, upper)
    options: dict[str, Any] = {"n_resamples": n_resamples, "confidence": confidence, "seed": seed}
    (eps,) = bootstrap(
        lambda weights: fitter.eps(weights)[None], len(x), items, ("eps",), n_total=total, **options
    )
    if eps.value is None:
        raise UsageError(fitter.unreachable(upper))
    parts = separation(x, wrong, items, positive="foil", **options)
    fitted = _measures(word_detection(x < eps.value, wrong, items, **options))
    half = _half(items, seed)
    crossed, held_out = None, None
    if all(wrong[h].any() and not wrong[h].all() for h in (half, ~half)):
        first, second = (
            float(_Fitter.of(x[h], wrong[h], min_precision, upper).eps(np.ones((1, h.sum())))[0])
            for h in (half, ~half)
        )
        if np.isfinite([first, second]).all():
            crossed = first, second
            flagged = np.where(half, x < second, x < first)
            held_out = _measures(word_detection(flagged, wrong, items, **options))
    return Fit(
        eps=eps,
        goal="f1" if min_precision is None else f"precision>={min_precision:g}",
        fitted={**fitted, "average_precision": parts.average_precision},
        held_out=held_out,
        held_out_eps=crossed,
        curve=fitter.curve(),
        n_items=len(np.unique(items)),
        n_words=len(x),
        n_misaligned=int(wrong.sum()),
    )


def _measures(found: Detection) -> dict[str, Estimate]:
    return {"precision": found.precision, "recall": found.recall, "f1": found.f1}


def _half(items: npt.NDArray[Any], seed: int) -> npt.NDArray[np.bool_]:
    """Which rows belong to a random half of the items."""
    names = np.unique(items)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.isin(items, names[order[: len(names) // 2]])


@dataclass(frozen=True)
class _Fitter:
    """The thresholds that words allow, and the best of them for weighted words."""

    ranking: Ranking
    cuts: Floats
    min_precision: float | None

    @classmethod
    def of(
        cls,
        values: Floats,
        wrong: npt.NDArray[np.bool_],
        min_precision: float | None,
        upper: float | None,
    ) -> _Fitter:
        ranking = Ranking.of(-values, wrong)
        at = -ranking.thresholds
        after = np.append(at[1:], np.nextafter(at[-1:], np.inf))
        cuts = at + (after - at) / 2
        # Rounding may leave no number between two values; below the next one is what counts.
        cuts = np.where(cuts > at, cuts, after)
        if upper is not None:
            cuts = np.where(at < upper, np.minimum(cuts, upper), np.nan)
        return cls(ranking, cuts, min_precision)

    def measures(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Precision, recall and F1 (b, k); NaN where a threshold is not allowed, or 0/0."""
        true, false = self.ranking.counts(weights)
        all_true = true[:, -1:]
        allowed = np.isfinite(self.cuts)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = true / (true + false), true / all_true
            f1 = 2 * true / (true + false + all_true)
        found = (np.where(allowed, each, np.nan) for each in (precision, recall, f1))
        return cast("tuple[Floats, Floats, Floats]", tuple(found))

    def eps(self, weights: Floats) -> Floats:
        """The best threshold (b,) for each row of weights; NaN where there is none."""
        precision, recall, f1 = self.measures(weights)
        good = f1
        if self.min_precision is not None:
            good = np.where((precision >= self.min_precision) & (recall > 0), recall, np.nan)
        gain = np.where(good > 0, good, -1.0)
        best = gain.argmax(1)
        return np.where(gain.max(1) > 0, self.cuts[best], np.nan)

    def curve(self) -> dict[str, tuple[float, ...]]:
        ones = np.ones((1, len(self.ranking.order)))
        precision, recall, _ = (each[0] for each in self.measures(ones))
        allowed = np.flatnonzero(np.isfinite(self.cuts))
        if len(allowed) > _CURVE_POINTS:
            allowed = allowed[np.linspace(0, len(allowed) - 1, _CURVE_POINTS).round().astype(int)]
        columns = {"eps": self.cuts, "precision": precision, "recall": recall}
        return {name: tuple(map(float, column[allowed])) for name, column in columns.items()}

    def unreachable(self, upper: float | None) -> str:
        limit = "" if upper is None else f" at or below {upper:g}"
        if self.min_precision is None:
            return f"no threshold{limit} flags a misaligned word"
        precision = self.measures(np.ones((1, len(self.ranking.order))))[0]
        best = np.nanmax(precision, initial=0.0)
        return f"no threshold{limit} has precision {self.min_precision:g}; the best has {best:.3f}"


# Files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """A fit, and what it holds for.

    Attributes
    ----------
    backbone, fingerprint : str
        The backbone's label, and the hash of its weights, preprocessing and dtype.
    prefix, last
        Of `scorekit.types.token_attribution`.
    unit : {"raw", "scaled", "z"}
        What was fitted: the attribution, times heads and layers, or its z-score in the caption.
    fit : Fit
    date : str
        In UTC, to the second.
    scorekit : str
        The version that fitted it.
    """

    backbone: str
    fingerprint: str
    prefix: str
    last: int
    unit: Unit
    fit: Fit
    date: str = ""
    scorekit: str = __version__

    @property
    def eps(self) -> float:
        """The threshold."""
        return float(self.fit.eps)


def save_calibration(path: PathLike, calibration: Calibration) -> Calibration:
    """Write a calibration as JSON; returns it with its date.

    Raises
    ------
    UsageError
        If the file can't be written.
    """
    if not calibration.date:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        calibration = replace(calibration, date=now)
    text = json.dumps({"format": FORMAT, **asdict(calibration)}, indent=2, allow_nan=False)
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from None
    return calibration


def load_calibration(
    path: PathLike,
    *,
    backbone: str | None = None,
    fingerprint: str | None = None,
    prefix: str | None = None,
    last: int | None = None,
) -> Calibration:
    """Read a calibration, for use with a backbone.

    Parameters
    ----------
    path
        What `save_calibration` wrote.
    backbone : str, optional
        Its label, for the message.
    fingerprint, prefix, last
        What it will be used with; each is checked where it is given.

    Raises
    ------
    UsageError
        If the file is not a calibration, or was fitted for something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not a calibration: not JSON") from None
    kind = found.pop("format", None) if isinstance(found, dict) else None
    if kind != FORMAT:
        raise UsageError(f"{path} is not a calibration of this format ({FORMAT}): {kind!r}")
    try:
        calibration = Calibration(**{**found, "fit": _fit_of(found["fit"])})
        known = np.isfinite(calibration.eps) and calibration.unit in get_args(Unit)
    except (KeyError, TypeError, ValueError, AttributeError):
        known = False
    if not known:
        raise UsageError(f"{path} is a damaged calibration: fit it again")
    if fingerprint is not None and fingerprint != calibration.fingerprint:
        why = (
            "other weights, resize or dtype"
            if backbone == calibration.backbone
            else "a model of its own"
        )
        raise UsageError(
            f"{path} was fitted for {calibration.backbone} ({calibration.fingerprint}), but "
            f"{backbone or 'the backbone'} is {fingerprint}: {why}, so its eps says nothing here"
        )
    for name, wanted in (("prefix", prefix), ("last", last)):
        has = getattr(calibration, name)
        if wanted is not None and wanted != has:
            raise UsageError(f"{path} was fitted with {name}={has!r}, not {wanted!r}")
    return calibration


def _fit_of(found: Mapping[str, Any]) -> Fit:
    def estimates(name: str) -> dict[str, Estimate] | None:
        each = found[name]
        return None if each is None else {k: Estimate(**v) for k, v in each.items()}

    pair = found["held_out_eps"]
    return Fit(
        **{
            **found,
            "eps": Estimate(**found["eps"]),
            "fitted": estimates("fitted"),
            "held_out": estimates("held_out"),
            "held_out_eps": None if pair is None else tuple(pair),
            "curve": {name: tuple(column) for name, column in found["curve"].items()},
        }
    )


# Labelled data ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledText:
    """A text of an image, and its misaligned words.

    Attributes
    ----------
    item : str
        The file's ``item``, or the text itself.
    image
        A path, relative to the file's folder in the file.
    text : str
    wrong : tuple of (start, end)
        Empty where all of the text holds.
    """

    item: str
    image: ImageLike
    text: str
    wrong: tuple[Span, ...]


def read_labelled(path: PathLike) -> list[LabelledText]:
    """Read labelled data: JSONL with ``image``, ``text``, ``misaligned``, and ``item`` if wanted.

    ``misaligned`` is a list of words or phrases as they stand in the text, or of [start, end] in
    its characters; an empty list says that nothing is misaligned.

    Raises
    ------
    UsageError
        In one line that names the file and the line: for words that the text does not have, or
        has more than once.
    """
    table = read_table(path)
    for name in ("image", "text", "misaligned"):
        require(table, name)
    images = table.images("image", str(Path(path).parent))
    texts, labels = table.strings("text"), table.columns["misaligned"]
    items = table.strings("item")
    out = []
    for row, (text, given) in enumerate(zip(texts, labels, strict=True)):
        if images[row] is None or text is None:
            raise table.error(row, "no image" if text is not None else "no text")
        if not isinstance(given, list):
            raise table.error(row, f"misaligned must be a list, not {given!r:.60}")
        try:
            wrong = tuple(_span(text, each) for each in given)
        except ValueError as error:
            raise table.error(row, f"misaligned: {error}") from None
        out.append(LabelledText(items[row] or text, images[row], text, wrong))
    return out


def _span(text: str, given: Any) -> Span:
    if isinstance(given, str):
        places = places_of(text, given)
        if len(places) == 1:
            return places[0]
        times = f"stands {len(places)} times" if places else "is not"
        hint = "; give [start, end]" if places else ""
        raise ValueError(f"{given!r} {times} in {text!r}{hint}")
    if isinstance(given, list) and [type(each) for each in given] == [int, int]:
        start, end = given
        if 0 <= start < end <= len(text):
            return start, end
        raise ValueError(f"{given} is not within the text's {len(text)} characters")
    raise ValueError(f"neither a word nor [start, end]: {given!r:.60}")
