"""CLIP-im: the edited image and its source (Brooks et al., CVPR 2023, arXiv:2211.09800)."""

from __future__ import annotations

from dataclasses import dataclass

from scorekit.metrics._clip_edits import TripleMetric, balance, unedited
from scorekit.metrics._edits import edit_scores
from scorekit.types import Features, Scores


@dataclass(frozen=True)
class CLIPIm(TripleMetric):
    """Is the edited image still its source: cos(edited, source)."""

    name = "clip_im"
    title = "CLIP-im"
    version = 1

    def score(self, features: Features) -> Scores:
        """Scores of n triples: the headline is their preservation."""
        modification, preservation = balance(features)
        return edit_scores(
            preservation, modification, preservation, features["change"], notes=unedited(features)
        )
