"""CLIP-I: the cosine of two images (Ruiz et al., DreamBooth, CVPR 2023, arXiv:2208.12242)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scorekit.arrays import array_namespace, cosine
from scorekit.metric import BaseMetric
from scorekit.metrics._references import reference_cosines
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.types import Feature, Features, image_embedding


def mean_reference_cosine(image: Any, references: Sequence[Any]) -> Any:
    """Mean over a row's references of cos(image, reference).

    Parameters
    ----------
    image : array (n, d)
    references : sequence of n arrays (k_i, d)

    Returns
    -------
    array (n,)
        In -1 to 1.
    """
    xp = array_namespace(image)
    return xp.stack([xp.mean(c) for c in reference_cosines(image, references)])


@dataclass(frozen=True)
class CLIPI(BaseMetric):
    """How near is the image to another one: cos(image, source), or mean over references."""

    name = "clip_i"
    title = "CLIP-I"
    version = 1
    range = (-1.0, 1.0)

    backbone: str = DEFAULT_BACKBONE
    against: Literal["source", "reference"] = "source"

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of the image and of what it is compared with."""
        image = image_embedding(self.backbone)
        if self.against == "source":
            return {"image": image, "source": image_embedding(self.backbone, "source_image")}
        return {
            "image": image,
            "references": image_embedding(self.backbone, "reference_images"),
        }

    def score(self, features: Features) -> Any:
        """Scores of n rows."""
        if self.against == "source":
            return cosine(features["image"], features["source"])
        return mean_reference_cosine(features["image"], features["references"])
