"""lambda-Harmonic reward (Miao et al., RPO, NeurIPS 2024, arXiv:2407.12164)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scorekit.arrays import array_namespace, clamp_min, cosine
from scorekit.metric import BaseMetric
from scorekit.metrics._clip_edits import triple_needs, unedited
from scorekit.metrics._edits import edit_scores
from scorekit.metrics.clip_i import mean_reference_cosine
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.types import Feature, Features, Scores, UsageError, image_embedding


def weighted_harmonic(first: Any, second: Any, lam: float) -> Any:
    """1 / (lam / first + (1 - lam) / second); 0 where a part with a weight is 0.

    Parameters
    ----------
    first, second : array (n,)
        Not negative.
    lam : float
        Weight of the first, in 0 to 1.

    Returns
    -------
    array (n,)
        Between the two.

    Examples
    --------
    >>> import numpy as np
    >>> weighted_harmonic(np.asarray([0.5, 0.0]), np.asarray([1.0, 0.0]), 0.5).round(6)
    array([0.666667, 0.      ])
    """
    if lam in (0, 1):
        return first if lam else second
    xp = array_namespace(first, second)
    total = lam * second + (1 - lam) * first
    # 0/0 has no gradient: divide by 1 there.
    return first * second / xp.where(total == 0, xp.ones_like(total), total)


@dataclass(frozen=True)
class LambdaHarmonic(BaseMetric):
    """Likeness to the subject and to the text, as a weighted harmonic mean."""

    name = "lambda_harmonic"
    title = "λ-Harmonic"
    version = 1
    range = (0.0, 1.0)

    backbone: str = DEFAULT_BACKBONE
    against: Literal["reference", "source"] = "reference"
    lam: float = 0.3
    prefix: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise UsageError(f"{self.name}: lam lies in 0 to 1, not {self.lam:g}")

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of image and text, and of what the image is compared with."""
        needs = triple_needs(self.backbone, self.prefix)
        if self.against == "reference":
            needs["references"] = image_embedding(self.backbone, "reference_images")
            del needs["source"]
        return needs

    def score(self, features: Features) -> Scores:
        """Scores of n rows; the components are the raw cosines."""
        image = features["image"]
        modification = cosine(image, features["text"])
        if self.against == "source":
            preservation, notes = cosine(image, features["source"]), unedited(features)
        else:
            preservation, notes = mean_reference_cosine(image, features["references"]), {}
        # A cosine of -1 can come out a rounding below it.
        to_subject, to_text = (clamp_min((c + 1) / 2) for c in (preservation, modification))
        value = weighted_harmonic(to_subject, to_text, self.lam)
        return edit_scores(value, modification, preservation, features["change"], notes=notes)
