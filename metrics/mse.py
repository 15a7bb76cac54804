"""MSE: the mean squared difference of an edited image from its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorekit.metric import BaseMetric
from scorekit.metrics._regions import Region, Sizes, pixel_needs, regional_scores
from scorekit.types import Feature, Features, Scores


@dataclass(frozen=True)
class MSE(BaseMetric):
    """How far is the edited image from its source: mean squared difference, values 0 to 1."""

    name = "mse"
    title = "MSE"
    version = 1
    higher_is_better = False
    range = (0.0, 1.0)
    differentiable = False
    lower_is_better_parts = frozenset({"modification", "locality"})

    region: Region = "whole"
    sizes: Sizes = "equal"
    pie_compat: bool = False

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The distance of the row's images, and where they differ."""
        return pixel_needs(self.sizes, self.pie_compat)

    def score(self, features: Features) -> Scores:
        """Scores of n edits, with the distances inside and outside the mask."""
        return regional_scores(features["found"], "mse", self.region, features["change"])
