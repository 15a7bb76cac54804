"""SSIM: structural similarity (Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorekit.metric import BaseMetric
from scorekit.metrics._edits import CHANGE
from scorekit.metrics._regions import Region, Sizes, distance, regional_scores
from scorekit.types import Feature, Features, Scores, UsageError


@dataclass(frozen=True)
class SSIM(BaseMetric):
    """How near is the edited image to its source in local mean, contrast and structure."""

    name = "ssim"
    title = "SSIM"
    version = 1
    higher_is_better = True
    range = (-1.0, 1.0)
    differentiable = False
    lower_is_better_parts = frozenset({"modification"})

    region: Region = "whole"
    sizes: Sizes = "equal"
    pie_compat: bool = False
    sigma: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise UsageError(f"ssim: sigma must be positive, not {self.sigma:g}")

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The distance of the row's images, and where they differ."""
        return {
            "found": distance(
                "ssim",
                "pixels:rgb",
                sizes=self.sizes,
                pie_compat=self.pie_compat,
                sigma=self.sigma,
            ),
            "change": CHANGE,
        }

    def score(self, features: Features) -> Scores:
        """Scores of n edits, with the distances inside and outside the mask."""
        return regional_scores(features["found"], "ssim", self.region, features["change"])
