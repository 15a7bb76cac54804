"""CLIPScore (Hessel et al., EMNLP 2021, arXiv:2104.08718, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scorekit.arrays import clamp_min, cosine
from scorekit.metric import BaseMetric
from scorekit.types import Feature, Features, image_embedding, text_embedding

DEFAULT_BACKBONE = "open_clip:ViT-B-32/openai"
PREFIX = "A photo depicts "


def clipscore(
    image: Any, text: Any, *, scale: float = 2.5, clamp: Literal["sample", "none"] = "sample"
) -> Any:
    """CLIP-S = w * max(cos(image, text), 0).

    Parameters
    ----------
    image, text : array (..., d)
        Embeddings, of any length; the text's prefix is already in its embedding.
    scale : float
        The paper's w.
    clamp : {"sample", "none"}
        Whether a negative cosine counts as 0.

    Returns
    -------
    array (...)
        In 0 to `scale`, or -`scale` to `scale` without the clamp.

    Examples
    --------
    >>> import numpy as np
    >>> clipscore(np.asarray([[3.0, 4.0], [-1.0, 0.0]]), np.asarray([[1.0, 0.0]]))
    array([1.5, 0. ])
    """
    cos = cosine(image, text)
    return scale * (clamp_min(cos) if clamp == "sample" else cos)


@dataclass(frozen=True)
class CLIPScore(BaseMetric):
    """Does the image show what the text says: CLIP-S = w * max(cos(image, text), 0)."""

    name = "clipscore"
    title = "CLIPScore"
    version = 1
    range = (0.0, 2.5)

    backbone: str = DEFAULT_BACKBONE
    scale: float = 2.5
    prefix: str = PREFIX
    clamp: Literal["sample", "none"] = "sample"

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of the image and of the prefixed text."""
        return {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone, prefix=self.prefix),
        }

    def score(self, features: Features) -> Any:
        """Scores of n pairs."""
        return clipscore(features["image"], features["text"], scale=self.scale, clamp=self.clamp)
