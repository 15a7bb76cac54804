"""Thresholds of misaligned words: fitted to labelled rows by a run, and set in later runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scorekit.backbones.handle import BackboneInfo, get_handle
from scorekit.backbones.spec import BackboneSpec
from scorekit.calibration import (
    Calibration,
    LabelledText,
    Unit,
    calibrate,
    load_calibration,
)
from scorekit.metric import BaseMetric
from scorekit.metrics._words import words_of
from scorekit.metrics.clip4dm import CLIP4DM, COLUMN_OF_UNIT, EPS, WordMetric
from scorekit.misalignment import word_labels
from scorekit.run import RunOptions, score_samples
from scorekit.table import EVIDENCE
from scorekit.types import PathLike, Sample, UsageError

if TYPE_CHECKING:
    from scorekit.table import ScoreTable


@dataclass(frozen=True)
class Fitted:
    """A calibration, and the run that it was fitted on.

    Attributes
    ----------
    calibration : Calibration
    table : ScoreTable
        Of `clip4dm`; a row that was not scored, for want of its image say, was left out.
    """

    calibration: Calibration
    table: ScoreTable


def calibrate_rows(
    rows: Sequence[LabelledText],
    backbone: str | None = None,
    *,
    unit: Unit = "raw",
    min_precision: float | None = None,
    options: RunOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit eps for a backbone to labelled texts.

    Parameters
    ----------
    rows : sequence of LabelledText
        As `scorekit.calibration.read_labelled` gives them.
    backbone : str, optional
        None takes clip4dm's default.
    unit : {"raw", "scaled", "z"}
        The value that eps is fitted to.
    min_precision : float, optional
        See `scorekit.calibration.calibrate`. Eps is 0 at most: a word above it speaks for the
        text.
    options : RunOptions, optional
    progress : callable, optional
        Called with (rows done, rows in all).

    Raises
    ------
    UsageError
        If there is nothing to fit.
    """
    if unit not in COLUMN_OF_UNIT:
        raise UsageError(f"unit is one of {', '.join(COLUMN_OF_UNIT)}, not {unit!r}")
    options = options or RunOptions()
    backbone = backbone or CLIP4DM.backbone
    if not rows:
        raise UsageError("there is nothing to calibrate on: no rows")
    samples = [
        Sample(row.item, "labelled", row.text, row.image, index=k) for k, row in enumerate(rows)
    ]
    # Every word is in the evidence, whatever eps.
    metric = CLIP4DM(backbone, mode="most_negative")
    table = score_samples(samples, [metric], options=options, progress=progress)
    scored = table.frame[table.frame["metric"] == metric.name]
    found = scored[EVIDENCE] if EVIDENCE in scored else [""] * len(rows)  # none has any
    values: list[float] = []
    labels: list[bool] = []
    items: list[str] = []
    for row, words in zip(rows, found, strict=True):
        if not words:
            continue
        known = {(w["start"], w["end"]): w[COLUMN_OF_UNIT[unit]] for w in json.loads(words)}
        spans = [(word.start, word.end) for word in words_of(row.text)]
        values += [known.get(span, np.nan) for span in spans]  # NaN: behind the cut
        labels += word_labels(spans, row.wrong).tolist()
        items += [row.item] * len(spans)
    if not values:
        note = table.failures()["note"].iloc[0]
        raise UsageError(f"no row could be scored; the first: {note}")
    return Fitted(
        Calibration(
            backbone=BackboneSpec.parse(backbone).label,
            fingerprint=_info(backbone, options).fingerprint,
            prefix=metric.prefix,
            last=metric.last,
            unit=unit,
            fit=calibrate(values, labels, items, min_precision=min_precision, upper=0.0),
        ),
        table,
    )


def with_calibration(
    metrics: Iterable[BaseMetric], path: PathLike, options: RunOptions
) -> tuple[list[BaseMetric], Calibration]:
    """Set eps and unit of the metrics that have a threshold of words.

    Parameters
    ----------
    metrics : iterable of metric
    path : path
        What ``scorekit calibrate`` wrote.
    options : RunOptions
        Of the run to come: dtype and resize are part of a backbone's fingerprint.

    Raises
    ------
    UsageError
        If no metric has such a threshold, one was given its own, or its backbone is not the
        one that the file was fitted for.
    """
    out = list(metrics)
    calibration = load_calibration(path)
    taken = False
    for k, metric in enumerate(out):
        if not isinstance(metric, WordMetric) or metric.mode != "threshold":
            continue
        if metric.eps != EPS or metric.unit != "raw":
            raise UsageError(f"{metric.name} has its own eps or unit; leave out one of the two")
        load_calibration(
            path,
            backbone=BackboneSpec.parse(metric.backbone).label,
            fingerprint=_info(metric.backbone, options).fingerprint,
            prefix=metric.prefix,
            last=metric.last,
        )
        changed: dict[str, Any] = {"eps": calibration.eps, "unit": calibration.unit}
        out[k] = replace(metric, **changed)
        taken = True
    if not taken:
        raise UsageError("--calibration is of no use: no metric asked for has a threshold of words")
    return out, calibration


def origin_of(path: PathLike, calibration: Calibration) -> str:
    """The line that says where eps is from."""
    n = calibration.fit.n_words
    return (
        f"eps from {path}: {calibration.eps:.4g} ({calibration.unit}), fitted for "
        f"{calibration.backbone} on {n:,} words"
    )


def _info(backbone: str, options: RunOptions) -> BackboneInfo:
    with options.open_cache() as cache:
        return get_handle(backbone, options.on_one_device()).info(cache)
