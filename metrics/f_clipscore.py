"""F-CLIPScore of misaligned words (Nam et al., AAAI 2025, arXiv:2412.18404)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scorekit.metrics.clip4dm import WordMetric
from scorekit.types import Array, Features, Scores


def f_clipscore(cosine: float, misaligned: Array) -> float:
    """(1 - max(s, 0)) * sum of the misaligned words' attributions.

    Parameters
    ----------
    cosine : float
        Of image and text: s.
    misaligned : array (m,)
        Attributions of the misaligned words; there may be none.

    Examples
    --------
    >>> import numpy as np
    >>> f_clipscore(0.25, np.array([-0.5, -0.25]))
    -0.5625
    """
    return (1 - max(cosine, 0.0)) * float(np.sum(misaligned)) + 0.0  # no -0.0


@dataclass(frozen=True)
class FCLIPScore(WordMetric):
    """How much of its text does the image contradict: (1 - max(s, 0)) * sum of misaligned words."""

    name = "f_clipscore"
    title = "F-CLIPScore"
    version = 1
    # Of the defaults: the lowest word of mode most_negative may speak for the text.
    range = (float("-inf"), 0.0)
    lower_is_better_parts = frozenset({"misaligned"})

    def score(self, features: Features) -> Scores:
        """Scores of n rows, with their words as evidence."""
        rows, undefined, notes = self.judge(features)
        value, count, cosine = (np.zeros(len(rows)) for _ in range(3))
        evidence: dict[int, Any] = {}
        for i, row in enumerate(rows):
            cosine[i] = features["tokens"][i].info["cosine"]
            if row.words:
                flagged = row.column("misaligned").astype(bool)
                value[i] = f_clipscore(cosine[i], row.column("attribution")[flagged])
                count[i] = flagged.sum()
                evidence[i] = row.words
        return Scores(value, {"misaligned": count, "cosine": cosine}, undefined, notes, evidence)
