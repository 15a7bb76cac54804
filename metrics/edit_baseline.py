"""Edit baseline: the plain weighted sum that AugCLIP (arXiv:2410.11374) is to be held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorekit.metric import BaseMetric
from scorekit.metrics._clip_edits import balance, triple_needs, unedited
from scorekit.metrics._edits import edit_scores
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.types import Feature, Features, Scores


@dataclass(frozen=True)
class EditBaseline(BaseMetric):
    """New text and old image at once: cos(edited, text) + weight * cos(edited, source)."""

    name = "edit_baseline"
    title = "Edit baseline"
    version = 1
    range = (-1.5, 1.5)

    backbone: str = DEFAULT_BACKBONE
    weight: float = 0.5
    prefix: str = ""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The triple's embeddings, and the change of its pixels."""
        return triple_needs(self.backbone, self.prefix)

    def score(self, features: Features) -> Scores:
        """Scores of n triples."""
        modification, preservation = balance(features)
        value = modification + self.weight * preservation
        return edit_scores(
            value, modification, preservation, features["change"], notes=unedited(features)
        )
