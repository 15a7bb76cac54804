"""CLIP-out: the edited image and its new caption (Sheynin et al., Emu Edit, arXiv:2311.10089)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorekit.metric import BaseMetric
from scorekit.metrics._clip_edits import balance, triple_needs, unedited
from scorekit.metrics._edits import edit_scores
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.types import Feature, Features, Scores


@dataclass(frozen=True)
class CLIPOut(BaseMetric):
    """Does the edited image show its target text: cos(edited, text)."""

    name = "clip_out"
    title = "CLIP-out"
    version = 1
    range = (-1.0, 1.0)

    backbone: str = DEFAULT_BACKBONE
    prefix: str = ""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The triple's embeddings, and the change of its pixels."""
        return triple_needs(self.backbone, self.prefix)

    def score(self, features: Features) -> Scores:
        """Scores of n triples: the headline is their modification."""
        modification, preservation = balance(features)
        return edit_scores(
            modification, modification, preservation, features["change"], notes=unedited(features)
        )
