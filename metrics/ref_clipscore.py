"""RefCLIPScore (Hessel et al., EMNLP 2021, arXiv:2104.08718, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scorekit.arrays import array_namespace, clamp_min
from scorekit.metric import BaseMetric
from scorekit.metrics._references import reference_cosines
from scorekit.metrics.clipscore import DEFAULT_BACKBONE, PREFIX, clipscore
from scorekit.types import Feature, Features, Scores, image_embedding, text_embedding


def best_reference(text: Any, references: Sequence[Any]) -> Any:
    """max(max over the references of cos(text, reference), 0).

    Parameters
    ----------
    text : array (n, d)
    references : sequence of n arrays (k_i, d)

    Returns
    -------
    array (n,)
        In 0 to 1.
    """
    xp = array_namespace(text)
    return clamp_min(xp.stack([xp.max(c) for c in reference_cosines(text, references)]))


def harmonic_mean(a: Any, b: Any) -> Any:
    """2ab / (a + b), and 0 where both are 0.

    Parameters
    ----------
    a, b : array (...)
        Not negative.

    Returns
    -------
    array (...)

    Examples
    --------
    >>> import numpy as np
    >>> harmonic_mean(np.asarray([1.5, 0.0]), np.asarray([0.5, 0.0]))
    array([0.75, 0.  ])
    """
    xp = array_namespace(a, b)
    total = a + b
    empty = total == 0
    # The division is made safe before it, not after: the gradient of 0/0 is NaN even where unused.
    return 2 * a * b / xp.where(empty, xp.ones_like(total), total)


@dataclass(frozen=True)
class RefCLIPScore(BaseMetric):
    """Does the text agree with the image and with what people wrote: their harmonic mean."""

    name = "ref_clipscore"
    title = "RefCLIPScore"
    version = 1
    range = (0.0, 10 / 7)

    backbone: str = DEFAULT_BACKBONE
    scale: float = 2.5
    prefix: str = PREFIX

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of the image, of the prefixed text and of the prefixed references."""
        return {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone, prefix=self.prefix),
            "references": text_embedding(self.backbone, "references", prefix=self.prefix),
        }

    def score(self, features: Features) -> Scores:
        """Scores of n rows, with both parts as components."""
        image_part = clipscore(features["image"], features["text"], scale=self.scale)
        text_part = best_reference(features["text"], features["references"])
        return Scores(
            harmonic_mean(image_part, text_part),
            components={"clipscore": image_part, "reference": text_part},
        )
