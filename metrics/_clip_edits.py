"""What the edit metrics in CLIP's space share: the features of a triple, and its two cosines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scorekit.arrays import array_namespace, cosine
from scorekit.metric import BaseMetric
from scorekit.metrics._edits import CHANGE
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.types import Feature, Features, image_embedding, text_embedding

SAME = "the edited image's embedding is the source's: nothing was edited"


@dataclass(frozen=True)
class TripleMetric(BaseMetric):
    """What metrics of an edit in CLIP's space share: the features of its triple."""

    range = (-1.0, 1.0)

    backbone: str = DEFAULT_BACKBONE
    prefix: str = ""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The triple's embeddings, and the change of its pixels."""
        return triple_needs(self.backbone, self.prefix)


def triple_needs(backbone: str, prefix: str = "") -> dict[str, Feature]:
    """Embeddings of edited image, source image and target text, and the change of pixels."""
    return {
        "image": image_embedding(backbone),
        "source": image_embedding(backbone, "source_image"),
        "text": text_embedding(backbone, prefix=prefix),
        "change": CHANGE,
    }


def balance(features: Features) -> tuple[Any, Any]:
    """Modification cos(edited, text) and preservation cos(edited, source) of n triples.

    Parameters
    ----------
    features : Features
        ``image``, ``source`` and ``text``, arrays (n, d).

    Returns
    -------
    array (n,), array (n,)
        Each in -1 to 1.
    """
    image = features["image"]
    return cosine(image, features["text"]), cosine(image, features["source"])


def unedited(features: Features) -> Mapping[int, str]:
    """Notes on the rows whose edited image and source have one and the same embedding.

    One and the same file has, since embeddings go by content; so has an edit that the
    backbone's resize loses.
    """
    image, source = features["image"], features["source"]
    same = array_namespace(image).all(image == source, axis=-1)
    return {row: SAME for row, equal in enumerate(same.tolist()) if equal}
