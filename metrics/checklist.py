"""Checklist score: WildBench's WB-Score (Lin et al., 2024, arXiv:2406.04770) for images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorekit.judging import judgement
from scorekit.metric import BaseMetric
from scorekit.metrics.judge import DEFAULT_BACKBONE, repaired
from scorekit.types import Array, Feature, Features, Scores


def wb_score(score: Any) -> Array:
    """WB-Score = (S - 5) * 2.

    Parameters
    ----------
    score : array (n,)
        The judge's scores, 1 to 10; 5 is borderline acceptable.

    Returns
    -------
    array (n,)
        In -8 to 10; 0 is borderline.

    Examples
    --------
    >>> wb_score([1, 5, 10])
    array([-8.,  0., 10.])
    """
    return (np.asarray(score, np.float64) - 5) * 2


@dataclass(frozen=True)
class Checklist(BaseMetric):
    """What score does a judge give the image, guided by the item's own checklist."""

    name = "checklist"
    title = "Checklist score"
    version = 1
    range = (-8.0, 10.0)
    differentiable = False

    backbone: str = DEFAULT_BACKBONE
    column: str = "checklist"
    max_side: int = 0

    @property
    def needs(self) -> Mapping[str, Feature]:
        """One judgement: the checklist's answers and a score."""
        params = {"rubric": "checklist", "column": self.column, "max_side": self.max_side}
        return {"judgement": judgement(self.backbone, **params)}

    def score(self, features: Features) -> Scores:
        """Scores of n rows, with the raw score and the share of items answered yes."""
        judged = features["judgement"]
        raw = np.asarray([j["score"] for j in judged], np.float64)
        passed = [j["answers"].count("yes") / len(j["answers"]) for j in judged]
        evidence = {
            row: {
                "checklist": [
                    {"item": item, "answer": answer}
                    for item, answer in zip(j["items"], j["answers"], strict=True)
                ],
                "score": j["score"],
                "reasoning": j["reasoning"],
            }
            for row, j in enumerate(judged)
        }
        return Scores(
            wb_score(raw),
            components={"score": raw, "passed": np.asarray(passed, np.float64)},
            notes=repaired(judged),
            evidence=evidence,
        )
