"""From features to the columns of a table: what metrics are given, and what becomes of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scorekit.backbones.handle import BackboneInfo
from scorekit.cache import Cache
from scorekit.chunks import CUT, Chunk
from scorekit.delimited import frame_of
from scorekit.engine import open_engine
from scorekit.inputs import IMAGE_FIELDS, RECORD
from scorekit.interrupts import INTERRUPTED
from scorekit.metric import BaseMetric
from scorekit.table import COLUMNS, EVIDENCE, SOURCE, MetricInfo, ScoreTable
from scorekit.types import Extracted, Feature, InputError, Sample, Scores, Signature, UsageError
from scorekit.within import Refused

if TYPE_CHECKING:
    from scorekit.run import RunOptions

STATUS_OK = "ok"


@dataclass
class Column:
    """One metric's, or component's, results while a run goes on."""

    info: MetricInfo
    value: np.ndarray[Any, Any]
    status: list[str]
    note: dict[int, str] = field(default_factory=dict)
    evidence: dict[int, Any] = field(default_factory=dict)


class Scoring:
    """The state of one run."""

    def __init__(
        self,
        samples: Sequence[Sample],
        metrics: Mapping[str, BaseMetric],
        options: RunOptions,
        cache: Cache,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.samples = samples
        self.metrics = metrics
        self.options = options
        total = len(samples)
        self.features = open_engine(
            [feature for metric in metrics.values() for feature in metric.needs.values()],
            options,
            cache,
            None if progress is None else lambda done: progress(done, total),
        )
        try:
            self._check_constants()
        except UsageError:
            self.features.close()
            raise
        self.columns: dict[str, Column] = {}
        self._kept: dict[Feature, dict[int, Any]] = {}
        self._kept_errors: dict[str, dict[int, InputError]] = {}
        self._cut: dict[str, set[int]] = {name: set() for name in metrics}
        self._facts: dict[str, Mapping[str, str]] = {}
        self._part_facts: dict[str, Mapping[str, str]] = {}
        self._off_domain: set[int] = set()

    def run(self) -> None:
        """Go through the samples once; score metrics over the whole set at the end."""
        by_set = {n: m for n, m in self.metrics.items() if m.scope == "set"}
        for chunk in self.features.chunks(self.samples):
            for name, metric in self.metrics.items():
                self._note_texts(name, metric, chunk)
                if name in by_set:
                    self._keep(name, metric, chunk)
                else:
                    good, errors = _split(metric, chunk)
                    self._score(
                        name, metric, chunk.start, chunk.samples, chunk.features, good, errors
                    )
        for name, metric in by_set.items():
            errors = self._kept_errors.get(name, {})
            good = [i for i in range(len(self.samples)) if i not in errors]
            self._score(name, metric, 0, self.samples, self._kept, good, errors)
        for text in self.warnings():
            warnings.warn(text, stacklevel=2)

    def table(self) -> ScoreTable:
        """The rows so far, as a table: each metric, then its components."""
        import pandas as pd

        samples = self.samples
        extra = list(dict.fromkeys(key for s in samples for key in s.meta))
        # A table that is scored again has columns of these names; they must not win.
        taken = (*COLUMNS, *SOURCE, EVIDENCE)
        names = {key: f"input.{key}" if key in taken else key for key in extra}
        self._finish_parts()
        columns = {
            name: column
            for metric in self.metrics
            for name, column in self.columns.items()
            if self._metric_of(name) == metric
        }
        base: dict[str, Any] = {
            "system": [s.system for s in samples],
            "item": [s.item for s in samples],
            "index": [s.index for s in samples],
            "image": [describe_image(s.image) for s in samples],
            "text": [s.text for s in samples],
        }
        source: dict[str, Any] = {}
        if any(s.source_image is not None for s in samples):
            pairs = [(describe_image(s.source_image), s.source_text) for s in samples]
            source = dict(zip(SOURCE, zip(*pairs, strict=True), strict=True))
        proven = any(column.evidence for column in columns.values())
        frames = [
            frame_of(
                {
                    **base,
                    "metric": name,
                    "value": np.where(
                        [s == STATUS_OK for s in column.status], column.value, np.nan
                    ),
                    "status": column.status,
                    "note": [column.note.get(i, "") for i in range(len(samples))],
                    **source,
                    **({EVIDENCE: _as_json(column.evidence, len(samples))} if proven else {}),
                    **{names[key]: [s.meta.get(key) for s in samples] for key in extra},
                }
            )
            for name, column in columns.items()
        ]
        frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
        infos = {
            name: MetricInfo(
                self._signature(name), c.info.higher_is_better, c.info.headline, c.info.aggregate
            )
            for name, c in columns.items()
        }
        return ScoreTable(frame, infos)

    def _score(
        self,
        name: str,
        metric: BaseMetric,
        start: int,
        samples: Sequence[Sample],
        features: Mapping[Feature, Any],
        good: Sequence[int],
        errors: Mapping[int, InputError],
    ) -> None:
        """Score some rows; `good` and `errors` count from `start`."""
        column = self._column(name, metric)
        for i, error in errors.items():
            column.status[start + i] = error.status
            column.note[start + i] = error.note
        if not good:
            return
        stacked = {
            key: self._stack(need, samples, features, good) for key, need in metric.needs.items()
        }
        try:
            result = metric.score(stacked)
        except ValueError as error:  # towers of different widths, say
            backbone = getattr(metric, "backbone", "its features")
            raise UsageError(f"{name} can't be computed from {backbone}: {error}") from error
        if not isinstance(result, Scores):
            result = Scores(np.asarray(result))
        if len(result.value) != len(good):
            raise RuntimeError(f"{name} gave {len(result.value)} scores for {len(good)} rows")
        self._facts[name] = result.facts
        self._fill(column, start, good, result.value, result)
        for part, values in result.components.items():
            self._part_facts[f"{name}.{part}"] = result.part_facts.get(part, {})
            part_column = self._column(f"{name}.{part}", metric, part)
            undefined = {**result.part_undefined.get(part, {}), **result.undefined}
            self._fill(part_column, start, good, values, Scores(values, undefined=undefined))

    def _fill(
        self, column: Column, start: int, good: Sequence[int], values: Any, result: Scores
    ) -> None:
        for position, (i, value) in enumerate(zip(good, np.asarray(values), strict=True)):
            row = start + i
            if position in result.undefined:
                column.status[row] = "undefined"
                column.note[row] = result.undefined[position]
            elif not np.isfinite(value):
                column.status[row] = "undefined"
                column.note[row] = f"the formula gave {value}"
            else:
                column.value[row] = value
                column.status[row] = STATUS_OK
                if position in result.evidence:
                    column.evidence[row] = result.evidence[position]
                note = result.notes.get(position, "")
                if row in column.note or note:
                    column.note[row] = "; ".join(filter(None, [column.note.get(row, ""), note]))

    def _stack(
        self,
        need: Feature,
        samples: Sequence[Sample],
        features: Mapping[Feature, Any],
        good: Sequence[int],
    ) -> Any:
        """A feature of the good rows in the form that `BaseMetric.score` reads."""
        if need.kind == "value":
            return [getattr(samples[i], need.field) for i in good]
        if need.kind == "constant":
            return self.features.infos[str(need.backbone)].constants[need.field]
        rows = features[need]
        if need.field == RECORD:
            return [_info_of(rows[i]) for i in good]
        if need.kind == "token_attribution":
            return [rows[i] for i in good]
        if need.several and need.ragged:
            return [[e.array for e in rows[i]] for i in good]
        if need.several:
            return [np.stack([e.array for e in rows[i]]) if rows[i] else None for i in good]
        if need.ragged:
            return [rows[i].array for i in good]
        return np.stack([rows[i].array for i in good])

    def _keep(self, name: str, metric: BaseMetric, chunk: Chunk) -> None:
        """Keep a chunk's features for a metric that scores the whole set."""
        _, errors = _split(metric, chunk)
        kept_errors = self._kept_errors.setdefault(name, {})
        kept_errors.update({chunk.start + i: error for i, error in errors.items()})
        for need in metric.needs.values():
            if need in chunk.features:
                kept = self._kept.setdefault(need, {})
                kept.update(enumerate(chunk.features[need], chunk.start))

    def _finish_parts(self) -> None:
        """A component of a row that was not scored has the status of its headline."""
        for name, column in self.columns.items():
            if name in self.metrics:
                continue
            headline = self.columns[self._metric_of(name)]
            for row, status in enumerate(headline.status):
                if status != STATUS_OK:
                    column.status[row] = status
                    column.note[row] = headline.note.get(row, "")

    def _metric_of(self, column: str) -> str:
        """The metric that a column belongs to, as headline or as component."""
        return column if column in self.metrics else column.rpartition(".")[0]

    def _column(self, name: str, metric: BaseMetric, part: str | None = None) -> Column:
        if name not in self.columns:
            better, aggregate = metric.higher_is_better, "mean"
            if part is not None:
                better = better != (part in metric.lower_is_better_parts)
                aggregate = metric.aggregates.get(part, "mean")
            info = MetricInfo(Signature(name, ()), better, part is None, aggregate)
            n = len(self.samples)
            self.columns[name] = Column(info, np.full(n, np.nan), [INTERRUPTED] * n)
        return self.columns[name]

    def _note_texts(self, name: str, metric: BaseMetric, chunk: Chunk) -> None:
        """Say on the rows which texts were cut, and which images are out of the domain."""
        column = self._column(name, metric)
        for need in metric.needs.values():
            for i, result in enumerate(chunk.features.get(need, ())):
                for entry in result if isinstance(result, list) else [result]:
                    if not isinstance(entry, Extracted) or not entry.info:
                        continue
                    row = chunk.start + i
                    if "tokens" in entry.info:
                        self._cut[name].add(row)
                        column.note[row] = _cut_note(entry.info)
                    if "off_domain" in entry.info:
                        self._off_domain.add(row)

    def warnings(self) -> list[str]:
        """What makes scores worth less than they look, for whoever reads the table."""
        if not self._off_domain:
            return []
        return [
            "a model of the scenes knows scorekit's drawn scenes and nothing else; "
            f"{len(self._off_domain)} of {len(self.samples)} images are no scenes, and "
            "their scores mean nothing"
        ]

    def _check_constants(self) -> None:
        for name, metric in self.metrics.items():
            for need in metric.needs.values():
                if need.kind == "constant":
                    info = self.features.infos[str(need.backbone)]
                    if need.field not in info.constants:
                        raise UsageError(
                            f"{name} needs a backbone with a {need.field}, and "
                            f"{need.backbone} has none"
                        )

    def _signature(self, label: str) -> Signature:
        """The recipe of a column; a component has its metric's."""
        name = self._metric_of(label)
        metric = self.metrics[name]
        part = label.removeprefix(name)
        pairs: list[tuple[str, str]] = []
        # What a row may lack gives components; they say in their facts what it is.
        needs = [n for n in metric.needs.values() if n.backbone is not None and not _spare(n)]
        infos = {str(need.backbone): self.features.infos[str(need.backbone)] for need in needs}
        for bb, info in infos.items():
            pairs += [("bb", self.features.labels[bb]), ("w", info.identity)]
        facts = {k: v for info in infos.values() for k, v in info.facts.items()}
        recipe = metric.recipe(facts)
        # A parameter that names a second backbone stands above already.
        pairs += [(k, _text_of(v)) for k, v in recipe.items() if str(v) not in infos]
        pairs += [(k, v) for k, v in facts.items() if k not in recipe]
        # A mask or a source image is read by the same steps as the image.
        seen = [need for need in needs if need.field in IMAGE_FIELDS]
        if resizers := dict.fromkeys(infos[str(need.backbone)].resize for need in seen):
            pairs.append(("resize", "+".join(resizers)))
        if any(need.kind in CUT for need in needs):
            pairs.append(self._long_text(name, needs, self.features.infos))
        if not all(info.remote for info in infos.values()):
            pairs.append(("dtype", self.options.dtype))
        pairs += list(self._facts.get(name, {}).items())
        pairs += list(self._part_facts.get(label, {}).items())
        pairs.append(("v", str(metric.version)))
        return Signature(metric.name + part, tuple(pairs))

    def _long_text(
        self, name: str, needs: Sequence[Feature], infos: Mapping[str, BackboneInfo]
    ) -> tuple[str, str]:
        bb = next(str(need.backbone) for need in needs if need.kind in CUT)
        word = {"truncate": "trunc", "window": "window", "error": "limit"}[self.options.long_text]
        return word, f"{infos[bb].text_limit}(n={len(self._cut[name])})"


def describe_image(image: Any) -> str:
    """What the table says of an image: its path, or its kind and size."""
    if isinstance(image, str | Path | Refused):
        return str(image)
    if image is None:
        return ""
    if isinstance(image, bytes):
        return f"<{len(image)} bytes>"
    shape: Any = getattr(image, "shape", None) or getattr(image, "size", "")
    return f"<{type(image).__name__} {'x'.join(map(str, shape))}>"


def _split(metric: BaseMetric, chunk: Chunk) -> tuple[list[int], dict[int, InputError]]:
    """Rows of a chunk that have all the metric needs, and what is wrong with the others."""
    errors: dict[int, InputError] = {}
    for need in metric.needs.values():
        for i, result in enumerate(chunk.features.get(need, ())):
            if isinstance(result, InputError) and not _spare(need):
                errors.setdefault(i, result)
    return [i for i in range(len(chunk.samples)) if i not in errors], errors


def _spare(need: Feature) -> bool:
    """Whether a row without this record feature lacks components alone."""
    return need.optional and need.field == RECORD


def _info_of(result: Extracted | InputError) -> Mapping[str, Any]:
    """A record feature as a metric reads it."""
    return {"error": result.note} if isinstance(result, InputError) else result.info


def _cut_note(info: Mapping[str, Any]) -> str:
    if "windows" in info:
        return f"text of {info['tokens']} tokens read in {info['windows']} windows"
    return f"text cut from {info['tokens']} to {info['limit']} tokens"


def _as_json(evidence: Mapping[int, Any], n: int) -> list[str]:
    return [json.dumps(evidence[i], ensure_ascii=False) if i in evidence else "" for i in range(n)]


def _text_of(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
