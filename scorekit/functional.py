"""Metrics called from Python on pairs in memory, the backbone staying loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scorekit.backbones.handle import get_handle
from scorekit.backbones.spec import BackboneOptions
from scorekit.cache import MemoryCache
from scorekit.chunks import with_options
from scorekit.inputs import IMAGE_FIELDS, RECORD, TEXT_FIELDS, text_error
from scorekit.io import samples_from
from scorekit.metric import BaseMetric
from scorekit.run import RunOptions
from scorekit.scoring import Scoring
from scorekit.types import SEVERAL, Feature, InputError, Sample, Scores, UsageError

_memory = MemoryCache()


def call_metric(
    metric: BaseMetric,
    images: Any,
    texts: str | Sequence[str] | None = None,
    *,
    differentiable: bool = False,
    options: BackboneOptions | None = None,
    **columns: Any,
) -> Any:
    """Score pairs; see `BaseMetric.__call__`.

    Raises
    ------
    InputError
        If a pair can't be scored.
    UsageError
        If the backbone can't be had.
    """
    samples = samples_from(images, texts, **columns)
    if not samples:
        raise UsageError("there is nothing to score")
    options = options or BackboneOptions()
    if len(options.devices) > 1:
        raise UsageError("a metric that is called on pairs takes one device")
    if differentiable:
        return _score_tensors(metric, samples, options)
    run = RunOptions(**vars(options))
    scoring = Scoring(samples, {metric.name: metric}, run, _memory, None)
    scoring.run()
    column = scoring.columns[metric.name]
    for i, status in enumerate(column.status):
        if status != "ok":
            raise InputError(status, f"pair {i}: {column.note.get(i, '')}")
    return column.value


def _score_tensors(metric: BaseMetric, samples: Sequence[Sample], options: BackboneOptions) -> Any:
    """Scores as a tensor, with gradients to the images that are tensors."""
    if not metric.differentiable:
        raise UsageError(f"{metric.name} has no gradient")
    features: dict[str, Any] = {
        key: _tensor_feature(need, samples, options) for key, need in metric.needs.items()
    }
    result = metric.score(features)
    return result.value if isinstance(result, Scores) else result


def _tensor_feature(need: Feature, samples: Sequence[Sample], options: BackboneOptions) -> Any:
    import torch

    if need.kind == "value":
        return [getattr(sample, need.field) for sample in samples]
    if need.optional and need.field == RECORD:
        return [{"error": "not computed beside a gradient"} for _ in samples]
    if need.second is not None or need.given_by is not None or need.field == RECORD:
        raise UsageError(f"{need.kind} has no gradient")
    handle = get_handle(str(need.backbone), options)
    model = handle.model()
    if need.kind == "constant":
        constants: Mapping[str, float] = model.info.constants
        if need.field not in constants:
            raise UsageError(f"{need.backbone} has no {need.field}")
        return constants[need.field]
    values = [getattr(sample, need.field) for sample in samples]
    if need.field in SEVERAL:
        return [_embed(model, need, list(v), options) if v else None for v in values]
    missing = [i for i, value in enumerate(values) if value is None]
    if missing:
        raise InputError("missing_input", f"pair {missing[0]}: no {need.field}")
    out: torch.Tensor = _embed(model, need, values, options)
    return out


def _embed(model: Any, need: Feature, values: Sequence[Any], options: BackboneOptions) -> Any:
    import torch

    if need.field in TEXT_FIELDS:
        asked = with_options(need, options)
        for i, text in enumerate(values):
            _check(text_error(text), i)
        arrays = [_check(r, i).array for i, r in enumerate(model.extract(asked, values))]
        return torch.from_numpy(np.stack(arrays)).to(model.device)
    assert need.field in IMAGE_FIELDS
    for i, value in enumerate(values):
        if not (
            torch.is_tensor(value)
            and value.is_floating_point()
            and value.ndim == 3
            and value.shape[0] == 3
        ):
            raise InputError(
                "invalid_image",
                f"pair {i}: gradients need a float tensor (3, h, w) in 0 to 1 as {need.field}",
            )
        low, high = value.detach().aminmax()
        if not (low >= 0 and high <= 1):  # false for NaN as well
            raise InputError(
                "invalid_image",
                f"pair {i}: values from {low:.3g} to {high:.3g}, a float image lies in 0 to 1",
            )
    sizes = {tuple(v.shape) for v in values}
    if len(sizes) == 1:
        return model.embed_differentiably(torch.stack(list(values))).float()
    return torch.cat([model.embed_differentiably(v[None]).float() for v in values])


def _check(result: Any, pair: int) -> Any:
    """A result that is no error."""
    if isinstance(result, InputError):
        raise InputError(result.status, f"pair {pair}: {result.note}")
    return result
