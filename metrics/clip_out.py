"""CLIP-out: the edited image and its new caption (Sheynin et al., Emu Edit, arXiv:2311.10089)."""

from __future__ import annotations

from dataclasses import dataclass

from scorekit.metrics._clip_edits import TripleMetric, balance, unedited
from scorekit.metrics._edits import edit_scores
from scorekit.types import Features, Scores


@dataclass(frozen=True)
class CLIPOut(TripleMetric):
    """Does the edited image show its target text: cos(edited, text)."""

    name = "clip_out"
    title = "CLIP-out"
    version = 1

    def score(self, features: Features) -> Scores:
        """Scores of n triples: the headline is their modification."""
        modification, preservation = balance(features)
        return edit_scores(
            modification, modification, preservation, features["change"], notes=unedited(features)
        )
