"""Structure distance: how an image's parts resemble each other (Tumanyan et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorekit.metric import BaseMetric
from scorekit.metrics._edits import CHANGE
from scorekit.metrics._regions import Region, Sizes, distance, regional_scores
from scorekit.types import Feature, Features, Scores, UsageError


@dataclass(frozen=True)
class StructureDistance(BaseMetric):
    """How far is the edited image's self-similarity from its source's, in DINO's keys."""

    name = "structure_distance"
    title = "Structure distance"
    version = 1
    higher_is_better = False
    range = (0.0, 4.0)
    differentiable = False
    lower_is_better_parts = frozenset({"modification", "locality"})

    backbone: str = "hf:facebook/dino-vitb8"
    region: Region = "whole"
    layer: int = 11
    sizes: Sizes = "equal"
    pie_compat: bool = False

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise UsageError(f"structure_distance: layers count from 0, not {self.layer}")

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The distance of the row's images, and where they differ."""
        return {
            "found": distance(
                "structure_distance",
                self.backbone,
                sizes=self.sizes,
                pie_compat=self.pie_compat,
                layer=self.layer,
            ),
            "change": CHANGE,
        }

    def score(self, features: Features) -> Scores:
        """Scores of n edits, with the distances inside and outside the mask."""
        return regional_scores(
            features["found"], "structure_distance", self.region, features["change"]
        )
