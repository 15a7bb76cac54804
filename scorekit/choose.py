"""Metrics as they are written on a command line: ``NAME[:key=value,...][@BACKBONE]``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from scorekit.metric import BaseMetric
from scorekit.registry import load_metric
from scorekit.types import UsageError

_PARAM = re.compile(r'\s*(\w+)=("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')


def parse_metric(text: str, default_backbone: str | None = None) -> BaseMetric:
    """Build a metric from its text.

    Parameters
    ----------
    text : str
        ``clipscore``, ``clipscore@scenes-clip``, ``clipscore:scale=100,prefix=@hf:NAME``. A
        value with a comma or an @ in it is put in double quotes.
    default_backbone : str, optional
        For a metric that names none.

    Raises
    ------
    UsageError
        If the metric, a parameter or a value is unknown.

    Examples
    --------
    >>> m = parse_metric('clipscore:scale=1,prefix="a, b"@scenes-clip')
    >>> m.params()
    {'scale': 1.0, 'prefix': 'a, b', 'clamp': 'sample'}
    """
    head, at, backbone = _split_backbone(text)
    name, _, rest = head.partition(":")
    if at and not backbone:
        raise UsageError(f"{text!r} names no backbone after the @")
    cls = load_metric(name)
    chosen = backbone or (default_backbone if cls.has_backbone() else None)
    metric: BaseMetric = cls.from_strings(_parse_params(name, rest), chosen)
    return metric


def parse_metrics(
    metrics: Sequence[str | BaseMetric] | str | BaseMetric, default_backbone: str | None = None
) -> dict[str, BaseMetric]:
    """Metrics by the name that each has in the table.

    A metric asked for once goes by its name alone; one asked for with several backbones or
    parameters goes by what tells them apart.

    Raises
    ------
    UsageError
        If a metric is unknown, or asked for twice in the same form.
    """
    given = [metrics] if isinstance(metrics, str | BaseMetric) else list(metrics)
    if not given:
        raise UsageError("no metric was asked for")
    parsed = [parse_metric(m, default_backbone) if isinstance(m, str) else m for m in given]
    out: dict[str, BaseMetric] = {}
    for metric in parsed:
        label = _label(metric, [m for m in parsed if m.name == metric.name])
        if label in out:
            raise UsageError(f"{label} was asked for twice")
        out[label] = metric
    return out


def with_defaults(metrics: Iterable[BaseMetric], **given: str | None) -> list[BaseMetric]:
    """Set parameters of the metrics that have them and leave them empty.

    Raises
    ------
    UsageError
        If no metric has such a parameter.
    """
    out = list(metrics)
    for key, value in given.items():
        if value is None:
            continue
        takers = [k for k, metric in enumerate(out) if metric.params().get(key) == ""]
        if not takers:
            raise UsageError(f"--{key} is of no use: no metric asked for takes a {key}")
        for k in takers:
            changed: dict[str, Any] = {key: value}
            out[k] = replace(out[k], **changed)
    return out


def _label(metric: BaseMetric, namesakes: Sequence[BaseMetric]) -> str:
    if len(namesakes) == 1:
        return metric.name
    label = metric.name
    differing = [
        key for key in metric.params() if len({repr(m.params().get(key)) for m in namesakes}) > 1
    ]
    if differing:
        label += ":" + ",".join(f"{key}={_quoted(metric.params()[key])}" for key in differing)
    if len({getattr(m, "backbone", None) for m in namesakes}) > 1:
        label += f"@{metric.backbone}"  # type: ignore[attr-defined]
    return label


def _quoted(value: Any) -> str:
    text = str(value)
    return f'"{text}"' if re.search(r'[,@"\s]', text) else text


def _split_backbone(text: str) -> tuple[str, str, str]:
    """Split at the first @ outside double quotes."""
    quoted = False
    for i, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == "@" and not quoted:
            return text[:i], "@", text[i + 1 :]
    return text, "", ""


def _parse_params(name: str, text: str) -> dict[str, str]:
    params: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PARAM.match(text, position)
        if match is None:
            raise UsageError(f"{name}: write parameters as key=value,key=value, not {text!r}")
        key, value = match.groups()
        if value.startswith('"') and value.endswith('"') and len(value) > 1:
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        params[key] = value
        position = match.end()
    return params
