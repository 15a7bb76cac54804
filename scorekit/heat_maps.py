"""Heat maps of a table's misaligned words: where in the image each word's attribution lies.

A pass of its own after scoring, since it goes back through the vision tower. No score changes;
the maps are small integers in the table's evidence, so that a report draws them without a model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from scorekit.backbones.handle import get_handle
from scorekit.backbones.spec import BackboneSpec
from scorekit.cache import Cache, feature_key
from scorekit.choose import parse_metrics
from scorekit.explain import seen_box
from scorekit.images import as_uint8, content_key, read_bytes
from scorekit.metric import BaseMetric
from scorekit.metrics.clip4dm import WordMetric
from scorekit.run import RunOptions
from scorekit.table import EVIDENCE, ScoreTable
from scorekit.types import Array, Extracted, ImageLike, InputError, Sample, UsageError

MOST_WORDS = 3
"""Heat maps a row and metric: of its lowest misaligned words, or of the lowest word."""
LEVELS = 99
"""Of a map: its patch of the largest magnitude has this or its negative."""
HEAT = "heat"
"""A word's heat map among its evidence: ``rows``, ``columns``, ``patches`` (row by row, shares of
`LEVELS`), ``largest`` (the relevance that `LEVELS` stands for) and ``seen`` (left, top, right and
bottom of what the patches cover, as shares of the image's width and height; below 0 or above 1
where the model's input is padded)."""
KIND = "patch_relevance"

Span = tuple[int, int]


@dataclass
class Counts:
    """Heat maps that were computed, those found in the cache, and rows left without."""

    computed: int = 0
    cached: int = 0
    failed: int = 0


@dataclass
class _Wanted:
    """A sample's heat maps by one tower: which words, and where each of their maps goes."""

    metric: WordMetric
    places: dict[Span, list[tuple[int, int]]] = field(default_factory=dict)


def check_heat_maps(
    metrics: Sequence[str | BaseMetric] | str | BaseMetric,
    *,
    backbone: str | None = None,
    options: RunOptions | None = None,
) -> None:
    """Refuse, before a run, metrics without words and backbones without a suitable tower.

    Parameters
    ----------
    metrics, backbone, options
        As `scorekit.run.score_samples` takes them.

    Raises
    ------
    UsageError
        If no metric attributes words, or a backbone is no CLIP with a vision transformer.
    """
    options = (options or RunOptions()).on_one_device()
    chosen = _word_metrics(parse_metrics(metrics, backbone))
    with options.open_cache() as cache:
        for metric in chosen.values():
            handle = get_handle(metric.backbone, options)
            note = f"{KIND}:{handle.info(cache).fingerprint}:{metric.last}"
            if cache.get_note(note):  # a run from the cache loads no model
                continue
            from scorekit.backbones.relevance import towers_of  # it imports torch

            try:
                towers_of(handle.model(), metric.last)
            except UsageError as error:
                raise UsageError(f"no heat maps by {metric.backbone}: {error}") from None
            cache.put_note(note, True)


def add_heat_maps(
    table: ScoreTable,
    samples: Sequence[Sample],
    metrics: Sequence[str | BaseMetric] | str | BaseMetric,
    *,
    backbone: str | None = None,
    options: RunOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScoreTable:
    """Add heat maps to the words of `clip4dm` and `f_clipscore`.

    Parameters
    ----------
    table : ScoreTable
        What `scorekit.run.score_samples` made of the next two.
    samples : sequence of Sample
    metrics, backbone : metrics, or their texts; and the backbone of those that name none
    options : RunOptions, optional
        Those of the run. Maps are kept in its cache; of several devices, the first computes them.
    progress : callable, optional
        Called with (rows done, rows in all).

    Returns
    -------
    ScoreTable
        Scores and signatures as they were; in the evidence, each row's lowest misaligned words
        (at most `MOST_WORDS`; where none is misaligned, its lowest word) have an entry `HEAT`. A
        row whose image can't be read says so in its note.

    Raises
    ------
    UsageError
        If no metric attributes words, a backbone has no suitable tower, or the table is not of
        these samples.

    Examples
    --------
    >>> from scorekit.io import read_samples
    >>> from scorekit.run import score_samples
    >>> samples = read_samples("data/demo").samples
    >>> table = score_samples(samples, "clip4dm@scenes-clip")  # doctest: +SKIP
    >>> add_heat_maps(table, samples, "clip4dm@scenes-clip").save("s.parquet")  # doctest: +SKIP
    """
    options = (options or RunOptions()).on_one_device()
    check_heat_maps(metrics, backbone=backbone, options=options)
    chosen = _word_metrics(parse_metrics(metrics, backbone))
    evidence = list(table.frame.get(EVIDENCE, [""] * len(table)))
    notes = list(table.frame["note"])
    rows_of: dict[str, list[int]] = {}
    for name in chosen:
        rows_of[name] = np.flatnonzero((table.frame["metric"] == name).to_numpy()).tolist()
        if (n := len(rows_of[name])) != len(samples):
            raise UsageError(f"the table has {n} rows of {name}, not {len(samples)}")
    counts = Counts()
    with options.open_cache() as cache:
        names = {metric.backbone for metric in chosen.values()}
        fingerprints = {name: get_handle(name, options).info(cache).fingerprint for name in names}
        for i, sample in enumerate(samples):
            # A sample at a time: as Python's lists, maps are several times as large as in JSON.
            rows = {rows_of[name][i]: metric for name, metric in chosen.items()}
            words = {row: json.loads(evidence[row]) for row in rows if evidence[row]}
            for each in _by_tower(rows, words):
                try:
                    fingerprint = fingerprints[each.metric.backbone]
                    maps = _maps(sample, each, fingerprint, options, cache, counts)
                except InputError as error:
                    counts.failed += 1
                    for row in {row for wants in each.places.values() for row, _ in wants}:
                        notes[row] = "; ".join(filter(None, [notes[row], f"no heat map: {error}"]))
                    continue
                for span, wants in each.places.items():
                    for row, k in wants:
                        words[row][k][HEAT] = maps[span]
            for row, judged in words.items():
                evidence[row] = json.dumps(judged, ensure_ascii=False)
            if progress is not None:
                progress(i + 1, len(samples))
    proven = EVIDENCE in table.frame.columns
    frame = table.frame.assign(note=notes, **({EVIDENCE: evidence} if proven else {}))
    return ScoreTable(frame, table.metrics, {**table.run, "heat_maps": vars(counts)})


def chosen_words(words: Sequence[Mapping[str, Any]]) -> list[int]:
    """Places of the words that get a heat map, the lowest first.

    Examples
    --------
    >>> chosen_words([{"rank": 2, "misaligned": True}, {"rank": 1, "misaligned": True}])
    [1, 0]
    >>> chosen_words([{"rank": 2, "misaligned": False}, {"rank": 1, "misaligned": False}])
    [1]
    """
    order = sorted(range(len(words)), key=lambda k: int(words[k]["rank"]))
    return [k for k in order if words[k]["misaligned"]][:MOST_WORDS] or order[:1]


def _by_tower(
    metrics: Mapping[int, WordMetric], words: Mapping[int, Sequence[Mapping[str, Any]]]
) -> list[_Wanted]:
    """What a sample's rows want of each tower, given every row's metric and words."""
    wanted: dict[tuple[str, str, int], _Wanted] = {}
    for row, judged in words.items():
        metric = metrics[row]
        key = (metric.backbone, metric.prefix, metric.last)
        places = wanted.setdefault(key, _Wanted(metric)).places
        for k in chosen_words(judged):
            places.setdefault((judged[k]["start"], judged[k]["end"]), []).append((row, k))
    return list(wanted.values())


def _word_metrics(metrics: Mapping[str, BaseMetric]) -> dict[str, WordMetric]:
    found = {name: metric for name, metric in metrics.items() if isinstance(metric, WordMetric)}
    if not found:
        raise UsageError("heat maps are of words: score by clip4dm or f_clipscore as well")
    return found


def _maps(
    sample: Sample,
    wanted: _Wanted,
    fingerprint: str,
    options: RunOptions,
    cache: Cache,
    counts: Counts,
) -> dict[Span, dict[str, Any]]:
    """A sample's heat maps, from the cache or computed.

    Raises
    ------
    InputError
        If the image can't be read, or the model fails on it.
    """
    assert sample.text is not None  # it has words
    metric, spans = wanted.metric, list(wanted.places)
    text = hashlib.sha256(sample.text.encode()).hexdigest()
    # Read once: a file that changes meanwhile must not give its map to the old one's key.
    image = sample.image
    if isinstance(image, str | os.PathLike):
        image = read_bytes(os.fspath(image))
    content = f"{content_key(image)}:{text}"
    keys = {
        span: feature_key(
            fingerprint,
            KIND,
            [("prefix", metric.prefix), ("last", metric.last), ("span", list(span))],
            content,
        )
        for span in spans
    }
    found = cache.get_many(keys.values())
    missing = [span for span in spans if keys[span] not in found]
    counts.cached += len(spans) - len(missing)
    if missing:
        made = _computed(
            image, sample.text, missing, metric, get_handle(metric.backbone, options).model()
        )
        entries = [(keys[span], each) for span, each in zip(missing, made, strict=True)]
        cache.put_many(BackboneSpec.parse(metric.backbone).label, KIND, entries)
        counts.computed += len(entries)
        found |= dict(entries)
    return {span: compact(found[key].array, found[key].info["seen"]) for span, key in keys.items()}


def _computed(
    image: ImageLike, text: str, spans: Sequence[Span], metric: WordMetric, model: Any
) -> list[Extracted]:
    from scorekit.backbones.relevance import relevances_of

    picture = Image.fromarray(as_uint8(image))
    try:
        maps = relevances_of(model, picture, text, spans, prefix=metric.prefix, last=metric.last)
    except (UsageError, InputError):
        raise
    except Exception as error:  # whatever one image does, it costs its row alone
        raise InputError("failed", f"{type(error).__name__}: {error}") from error
    left, top, right, bottom = seen_box(model.image_spec, picture.width, picture.height)
    seen = [left / picture.width, top / picture.height]
    seen += [right / picture.width, bottom / picture.height]
    return [Extracted(each.patches, {"seen": [round(x, 4) for x in seen]}) for each in maps]


def compact(patches: Array, seen: Sequence[float]) -> dict[str, Any]:
    """A heat map as JSON values.

    Parameters
    ----------
    patches : array (rows, columns)
    seen : (left, top, right, bottom)

    Raises
    ------
    InputError
        If a value is not finite, as half precision may have it.

    Examples
    --------
    >>> compact(np.array([[0.5, -0.25]]), (0, 0, 1, 1))["patches"]
    [99, -50]
    """
    largest = float(np.abs(patches).max())
    if not np.isfinite(largest):
        raise InputError("failed", "the patches' relevance is not finite")
    levels = np.rint(patches.astype(np.float64) * (LEVELS / (largest or 1.0))).astype(int)
    rows, columns = patches.shape
    return {
        "rows": rows,
        "columns": columns,
        "patches": levels.ravel().tolist(),
        "largest": largest,
        "seen": list(seen),
    }
