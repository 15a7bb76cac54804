"""LPIPS: learned perceptual distance (Zhang et al., CVPR 2018, arXiv:1801.03924)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scorekit.metric import BaseMetric
from scorekit.metrics._edits import CHANGE
from scorekit.metrics._regions import Region, Sizes, distance, regional_scores
from scorekit.types import Feature, Features, Scores, UsageError


@dataclass(frozen=True)
class LPIPS(BaseMetric):
    """How far is the edited image from its source, in a network's features."""

    name = "lpips"
    title = "LPIPS"
    version = 1
    higher_is_better = False
    range = (0.0, float("inf"))
    differentiable = False
    lower_is_better_parts = frozenset({"modification", "locality"})

    net: Literal["alex", "vgg", "squeeze"] = "alex"
    region: Region = "whole"
    sizes: Sizes = "equal"
    pie_compat: bool = False
    weights: str = ""

    def __post_init__(self) -> None:
        if self.pie_compat and self.net != "squeeze":
            raise UsageError("lpips: PIE-Bench's network is SqueezeNet: add net=squeeze")

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The distance of the row's images, and where they differ."""
        return {
            "found": distance(
                "lpips", self._backbone, sizes=self.sizes, pie_compat=self.pie_compat
            ),
            "change": CHANGE,
        }

    def score(self, features: Features) -> Scores:
        """Scores of n edits, with the distances inside and outside the mask."""
        return regional_scores(features["found"], "lpips", self.region, features["change"])

    def recipe(self, facts: Mapping[str, str]) -> dict[str, Any]:
        """The parameters as the signature shows them: of the weights, it has the hash."""
        return {k: v for k, v in super().recipe(facts).items() if k != "weights"}

    @property
    def _backbone(self) -> str:
        return f"pixels:lpips-{self.net}" + (f"/{self.weights}" if self.weights else "")
