"""CLIP-Image-Score (Ge et al., Visual Fact Checker, CVPR 2024, arXiv:2404.19752)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scorekit.arrays import cosine
from scorekit.metric import BaseMetric
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.types import Feature, Features, image_embedding


@dataclass(frozen=True)
class CLIPImageScore(BaseMetric):
    """Does a caption hold what its image shows: cos(original, image generated from it)."""

    name = "clip_image_score"
    title = "CLIP-Image-Score"
    version = 1
    range = (-1.0, 1.0)

    backbone: str = DEFAULT_BACKBONE

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of the regenerated image and of the original."""
        return {
            "image": image_embedding(self.backbone),
            "original": image_embedding(self.backbone, "source_image"),
        }

    def score(self, features: Features) -> Any:
        """Scores of n pairs."""
        return cosine(features["image"], features["original"])
