"""BLIP-2's contrastive match, ITC (Li et al., ICML 2023, arXiv:2301.12597, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scorekit.arrays import array_namespace, cosine
from scorekit.metric import BaseMetric
from scorekit.types import Feature, Features, image_embedding, text_embedding

DEFAULT_BACKBONE = "hf:Salesforce/blip2-itm-vit-g"


def blip2_itc(image: Any, text: Any) -> Any:
    """The largest cosine of a text with one of an image's queries.

    Parameters
    ----------
    image : array (..., queries, d)
        One embedding a query, of any length.
    text : array (..., d)

    Returns
    -------
    array (...)
        In -1 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> blip2_itc(np.asarray([[[3.0, 4.0], [4.0, 3.0]]]), np.asarray([[1.0, 0.0]]))
    array([0.8])
    """
    xp = array_namespace(image, text)
    return xp.max(cosine(image, text[..., None, :]), axis=-1)


@dataclass(frozen=True)
class BLIP2ITC(BaseMetric):
    """Does the image show what the text says: BLIP-2's best query against the text."""

    name = "blip2_itc"
    title = "BLIP-2 ITC"
    version = 1
    range = (-1.0, 1.0)

    backbone: str = DEFAULT_BACKBONE

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of the image's queries, and of the text."""
        return {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone),
        }

    def score(self, features: Features) -> Any:
        """Scores of n pairs."""
        return blip2_itc(features["image"], features["text"])
