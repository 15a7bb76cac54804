"""DINO-I: the cosine of two images' DINO embeddings (DreamBooth, CVPR 2023, arXiv:2208.12242)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scorekit.arrays import cosine
from scorekit.metric import BaseMetric
from scorekit.metrics._edits import CHANGE, edit_scores
from scorekit.metrics.clip_i import mean_reference_cosine
from scorekit.types import Feature, Features, image_embedding


@dataclass(frozen=True)
class DINOI(BaseMetric):
    """How near is the image to its source, or to photos of a subject, in DINO's embedding."""

    name = "dino_i"
    title = "DINO-I"
    version = 1
    range = (-1.0, 1.0)

    backbone: str = "hf:facebook/dino-vits16"
    against: Literal["source", "reference"] = "source"

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of the image and of what it is compared with."""
        image = image_embedding(self.backbone)
        if self.against == "reference":
            return {
                "image": image,
                "references": image_embedding(self.backbone, "reference_images"),
            }
        source = image_embedding(self.backbone, "source_image")
        return {"image": image, "source": source, "change": CHANGE}

    def score(self, features: Features) -> Any:
        """Scores of n rows; against the source, with the components of an edit."""
        if self.against == "reference":
            return mean_reference_cosine(features["image"], features["references"])
        near = cosine(features["image"], features["source"])
        return edit_scores(near, 1 - near, near, features["change"])
