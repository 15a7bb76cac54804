"""PSNR: the peak signal-to-noise ratio of an edited image against its source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scorekit.metric import BaseMetric
from scorekit.metrics._regions import Region, Sizes, pixel_needs, regional_scores
from scorekit.types import Feature, Features, Scores


def decibels(mse: float) -> float:
    """PSNR of a mean squared error of values in 0 to 1: -10 log10(mse), infinite at 0.

    Examples
    --------
    >>> decibels(0.01)
    20.0
    """
    return -10 * math.log10(mse) if mse > 0 else math.inf


@dataclass(frozen=True)
class PSNR(BaseMetric):
    """How near is the edited image to its source: PSNR in dB."""

    name = "psnr"
    title = "PSNR"
    version = 1
    higher_is_better = True
    range = (0.0, float("inf"))
    differentiable = False
    lower_is_better_parts = frozenset({"modification"})

    region: Region = "whole"
    sizes: Sizes = "equal"
    pie_compat: bool = False

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The distance of the row's images, and where they differ."""
        return pixel_needs(self.sizes, self.pie_compat)

    def score(self, features: Features) -> Scores:
        """Scores of n edits, with the distances inside and outside the mask."""
        return regional_scores(
            features["found"],
            "mse",
            self.region,
            features["change"],
            unit=decibels,
            infinite="no pixel differs: the PSNR is infinite",
        )
