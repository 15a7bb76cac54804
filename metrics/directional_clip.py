"""Directional CLIP similarity (Gal et al., StyleGAN-NADA, SIGGRAPH 2022, arXiv:2108.00946)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scorekit.arrays import array_namespace, cosine, normalize
from scorekit.metrics._clip_edits import SAME, TripleMetric, balance
from scorekit.metrics._edits import edit_scores
from scorekit.types import Feature, Features, Scores, text_embedding

SAME_TEXT = "source text and target text have the same embedding: they ask for no change"


def directional_similarity(image: Any, source: Any, text: Any, source_text: Any) -> Any:
    """cos(image - source, text - source_text) of normalised embeddings.

    Parameters
    ----------
    image, source, text, source_text : array (n, d)

    Returns
    -------
    array (n,)
        In -1 to 1; 0 where a difference is zero.

    Examples
    --------
    >>> import numpy as np
    >>> new, old = np.asarray([[0.0, 2.0]]), np.asarray([[1.0, 0.0]])
    >>> directional_similarity(new, old, 3 * new, old).round(6)
    array([1.])
    """
    return cosine(normalize(image) - normalize(source), normalize(text) - normalize(source_text))


@dataclass(frozen=True)
class DirectionalCLIP(TripleMetric):
    """Has the image changed in the direction in which its text has changed."""

    name = "directional_clip"
    title = "Directional CLIP similarity"
    version = 1

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The triple's embeddings, the source text's, and the change of pixels."""
        return {
            **super().needs,
            "source_text": text_embedding(self.backbone, "source_text", prefix=self.prefix),
        }

    def score(self, features: Features) -> Scores:
        """Scores of n triples; undefined where image or text has not changed at all."""
        image, source = features["image"], features["source"]
        text, source_text = features["text"], features["source_text"]
        modification, preservation = balance(features)
        return edit_scores(
            directional_similarity(image, source, text, source_text),
            modification,
            preservation,
            features["change"],
            undefined={**_equal(text, source_text, SAME_TEXT), **_equal(image, source, SAME)},
        )


def _equal(a: Any, b: Any, reason: str) -> dict[int, str]:
    """The rows on which the directions of a and b are one and the same."""
    same = array_namespace(a).all(normalize(a) == normalize(b), axis=-1)
    return {row: reason for row, equal in enumerate(same.tolist()) if equal}
