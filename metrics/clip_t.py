"""CLIP-T: the cosine of text and image (Ruiz et al., DreamBooth, CVPR 2023, arXiv:2208.12242)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scorekit.arrays import cosine
from scorekit.metric import BaseMetric
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.types import Feature, Features, image_embedding, text_embedding


@dataclass(frozen=True)
class CLIPT(BaseMetric):
    """How near are image and text: cos(image, text), neither scaled nor clamped."""

    name = "clip_t"
    title = "CLIP-T"
    version = 1
    range = (-1.0, 1.0)

    backbone: str = DEFAULT_BACKBONE
    prefix: str = ""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of the image and of the text."""
        return {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone, prefix=self.prefix),
        }

    def score(self, features: Features) -> Any:
        """Scores of n pairs."""
        return cosine(features["image"], features["text"])
