"""Judge: a model's scores by any rubric, strictly read (the general form of VIEScore)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from scorekit.judging import judgement, rubric_of
from scorekit.metric import BaseMetric
from scorekit.types import Array, Feature, Features, Scores, UsageError

DEFAULT_BACKBONE = "openai:gpt-4o"

FREE_PARAMS = ("prompt", "scores", "low", "high", "images")
"""What a rubric of one's own has, and scorekit's own have fixed."""

Judgements = Sequence[Mapping[str, Any]]


def sub_scores(judgements: Judgements) -> Array:
    """Sub-scores of n judgements by one rubric, shape (n, k)."""
    return np.asarray([judged["scores"] for judged in judgements], np.float64)


def repaired(*judgements: Judgements) -> dict[int, str]:
    """A note on each row of which a reply was read only when asked for again."""
    return {
        row: "the judge was asked again: its first reply could not be read"
        for row, judged in enumerate(zip(*judgements, strict=True))
        if any(j.get("repaired") for j in judged)
    }


@dataclass(frozen=True)
class Judge(BaseMetric):
    """What score does a judge give the image by this rubric."""

    name = "judge"
    title = "Judge"
    version = 1
    range = (0.0, 10.0)
    differentiable = False

    backbone: str = DEFAULT_BACKBONE
    rubric: Literal["alignment", "viescore_sc_t2i", "viescore_sc_edit", "viescore_pq", "free"] = (
        "alignment"
    )
    prompt: str = ""
    scores: int = 1
    low: float = 0.0
    high: float = 10.0
    images: Literal["image", "both"] = "image"
    combine: Literal["min", "mean"] = "min"
    max_side: int = 0

    def __post_init__(self) -> None:
        defaults = {f.name: f.default for f in fields(self)}
        own = [name for name in FREE_PARAMS if getattr(self, name) != defaults[name]]
        if own and self.rubric != "free":
            raise UsageError(f"judge: {', '.join(own)} go with rubric=free, not {self.rubric}")
        rubric_of(self._params())

    @property
    def needs(self) -> Mapping[str, Feature]:
        """One judgement of the row."""
        return {"judgement": judgement(self.backbone, **self._params())}

    def score(self, features: Features) -> Scores:
        """Scores of n rows, with the sub-scores where there are several."""
        judged = features["judgement"]
        parts = rubric_of(self._params()).parts
        scores = sub_scores(judged)
        value = scores.min(axis=1) if self.combine == "min" else scores.mean(axis=1)
        several = {part: scores[:, k] for k, part in enumerate(parts)} if len(parts) > 1 else {}
        evidence = {
            row: {"scores": j["scores"], "reasoning": j["reasoning"]}
            for row, j in enumerate(judged)
        }
        return Scores(value, components=several, notes=repaired(judged), evidence=evidence)

    def _params(self) -> dict[str, Any]:
        """What the judgement depends on: no more, so that replies are shared in the cache."""
        params: dict[str, Any] = {"rubric": self.rubric, "max_side": self.max_side}
        if self.rubric == "free":
            params.update({name: getattr(self, name) for name in FREE_PARAMS})
        return params
