"""TIFA (Hu et al., ICCV 2023, arXiv:2303.11897, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorekit.metric import BaseMetric
from scorekit.metrics._dependencies import question_needs, question_source, score_questions
from scorekit.types import Feature, Features, Scores


@dataclass(frozen=True)
class TIFA(BaseMetric):
    """Share of an item's questions that the image answers as its text says."""

    name = "tifa"
    title = "TIFA"
    version = 1
    range = (0.0, 1.0)
    differentiable = False

    backbone: str = "hf:Salesforce/instructblip-flan-t5-xl"
    questions: str = ""

    def __post_init__(self) -> None:
        source = question_source(self.questions, self.backbone, self.name)
        object.__setattr__(self, "questions", source)

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Questions and the image's answers, or both from a file."""
        return question_needs(self.questions, self.backbone, "tifa")

    def score(self, features: Features) -> Scores:
        """Scores of n rows."""
        return score_questions(features, dependency=False)
