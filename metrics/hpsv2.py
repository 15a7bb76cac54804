"""Human Preference Score v2 (Wu et al., 2023, arXiv:2306.09341)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scorekit.arrays import cosine
from scorekit.metric import BaseMetric
from scorekit.types import Feature, Features, image_embedding, model_constant, text_embedding


@dataclass(frozen=True)
class HPSv2(BaseMetric):
    """How much would people like this image for its prompt, by a CLIP trained on rankings."""

    name = "hpsv2"
    title = "HPSv2"
    version = 1
    range = (-100.0, 100.0)

    backbone: str = "open_clip:ViT-H-14/hf-hub:xswu/HPSv2/HPS_v2.1_compressed.pt"
    scale: Literal["logit", "none"] = "logit"

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of image and text, and the learned scale unless it is left out."""
        needs = {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone),
        }
        if self.scale == "logit":
            needs["logit_scale"] = model_constant(self.backbone, "logit_scale")
        return needs

    def score(self, features: Features) -> Any:
        """Scores of n pairs."""
        cos = cosine(features["image"], features["text"])
        return features["logit_scale"] * cos if self.scale == "logit" else cos
