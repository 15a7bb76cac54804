"""VIEScore (Ku et al., ACL 2024, arXiv:2312.14867)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scorekit.judging import PRESETS, judgement
from scorekit.metric import BaseMetric
from scorekit.metrics.judge import DEFAULT_BACKBONE, repaired, sub_scores
from scorekit.types import Array, Feature, Features, Scores


def viescore(sc: Any, pq: Any) -> Array:
    """O = sqrt(min(SC) * min(PQ)).

    Parameters
    ----------
    sc, pq : array (n, k)
        Sub-scores of semantic consistency and of perceptual quality, 0 to 10.

    Returns
    -------
    array (n,)
        In 0 to 10.

    Examples
    --------
    >>> viescore([[9.0, 4.0]], [[9.0, 10.0]])
    array([6.])
    """
    overall: Array = np.sqrt(np.min(sc, axis=1) * np.min(pq, axis=1))
    return overall


@dataclass(frozen=True)
class VIEScore(BaseMetric):
    """How well does the image follow the prompt or edit, and how well is it made."""

    name = "viescore"
    title = "VIEScore"
    version = 1
    range = (0.0, 10.0)
    differentiable = False

    backbone: str = DEFAULT_BACKBONE
    task: Literal["t2i", "edit"] = "t2i"
    max_side: int = 0

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Two judgements: of semantic consistency, and of perceptual quality."""
        return {
            name: judgement(self.backbone, rubric=rubric, max_side=self.max_side)
            for name, rubric in self._rubrics().items()
        }

    def score(self, features: Features) -> Scores:
        """Scores of n rows, with SC, PQ and their sub-scores."""
        sc, pq = sub_scores(features["sc"]), sub_scores(features["pq"])
        components = {"sc": sc.min(axis=1), "pq": pq.min(axis=1)}
        for name, scores in (("sc", sc), ("pq", pq)):
            parts = PRESETS[self._rubrics()[name]].parts
            components.update({part: scores[:, k] for k, part in enumerate(parts)})
        evidence = {
            row: {name: {"scores": j["scores"], "reasoning": j["reasoning"]} for name, j in pair}
            for row, pair in enumerate(
                (("sc", a), ("pq", b)) for a, b in zip(features["sc"], features["pq"], strict=True)
            )
        }
        notes = repaired(features["sc"], features["pq"])
        return Scores(viescore(sc, pq), components=components, notes=notes, evidence=evidence)

    def _rubrics(self) -> dict[str, str]:
        return {"sc": f"viescore_sc_{self.task}", "pq": "viescore_pq"}
