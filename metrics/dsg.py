"""DSG: Davidsonian scene graph (Cho et al., ICLR 2024, arXiv:2310.18235)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorekit.metric import BaseMetric
from scorekit.metrics._dependencies import question_needs, question_source, score_questions
from scorekit.types import Feature, Features, Scores


@dataclass(frozen=True)
class DSG(BaseMetric):
    """Share of an item's atomic questions answered as expected, each only if its parents were."""

    name = "dsg"
    title = "DSG"
    version = 1
    range = (0.0, 1.0)
    differentiable = False

    backbone: str = "hf:Salesforce/instructblip-flan-t5-xl"
    questions: str = ""
    dependency: bool = True

    def __post_init__(self) -> None:
        source = question_source(self.questions, self.backbone, self.name)
        object.__setattr__(self, "questions", source)

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Questions and the image's answers, or both from a file."""
        return question_needs(self.questions, self.backbone, "dsg")

    def score(self, features: Features) -> Scores:
        """Scores of n rows."""
        return score_questions(features, dependency=self.dependency)
