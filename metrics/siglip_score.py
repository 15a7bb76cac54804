"""SigLIP's match probability (Zhai et al., ICCV 2023, arXiv:2303.15343, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scorekit.arrays import array_namespace, cosine
from scorekit.metric import BaseMetric
from scorekit.types import (
    Feature,
    Features,
    Scores,
    image_embedding,
    model_constant,
    text_embedding,
)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), exact to a relative rounding error for large negative x too.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    array (...)
        In 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.asarray([0.0, -1000.0]))
    array([0.5, 0. ])
    """
    xp = array_namespace(x)
    return xp.exp(-xp.logaddexp(xp.zeros_like(x), -x))


@dataclass(frozen=True)
class SigLIPScore(BaseMetric):
    """How probable is it that text and image belong together, by SigLIP's own calibration."""

    name = "siglip_score"
    title = "SigLIP score"
    version = 1
    range = (0.0, 1.0)

    backbone: str = "hf:google/siglip-base-patch16-224"
    prefix: str = ""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of image and text, and the backbone's learned scale and bias."""
        return {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone, prefix=self.prefix),
            "logit_scale": model_constant(self.backbone, "logit_scale"),
            "logit_bias": model_constant(self.backbone, "logit_bias"),
        }

    def score(self, features: Features) -> Scores:
        """Probabilities of n pairs, with the logit as a component."""
        cos = cosine(features["image"], features["text"])
        logit = features["logit_scale"] * cos + features["logit_bias"]
        return Scores(sigmoid(logit), components={"logit": logit})
