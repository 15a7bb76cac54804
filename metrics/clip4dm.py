"""CLIP4DM: which words of its text an image does not show (Nam et al., arXiv:2412.18404)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorekit.metric import BaseMetric
from scorekit.metrics._words import Judged, Mode, Unit, judge_words, phrases_of
from scorekit.metrics.clipscore import DEFAULT_BACKBONE, PREFIX
from scorekit.types import Feature, Features, Scores, UsageError, token_attribution, value_of

EPS = -5e-5
"""The authors' threshold of raw attributions, for ViT-B/32 in float16."""
COLUMN_OF_UNIT: Mapping[Unit, str] = {"raw": "attribution", "scaled": "scaled", "z": "z"}


@dataclass(frozen=True)
class WordMetric(BaseMetric):
    """What the metrics of misaligned words share: their parameters, and each row's words."""

    differentiable = False

    backbone: str = DEFAULT_BACKBONE
    eps: float = EPS
    mode: Mode = "threshold"
    unit: Unit = "raw"
    prefix: str = PREFIX
    last: int = 3

    def __post_init__(self) -> None:
        if self.mode == "threshold" and self.unit != "raw" and self.eps == EPS:
            raise UsageError(
                f"{self.name}: eps={EPS:g} is a threshold of raw attributions; give eps= with "
                f"unit={self.unit}"
            )

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Attributions of the text's tokens, the text, and the row's own phrases."""
        return {
            "tokens": token_attribution(self.backbone, prefix=self.prefix, last=self.last),
            "text": value_of("text"),
            "meta": value_of("meta"),
        }

    def judge(self, features: Features) -> tuple[list[Judged], dict[int, str], dict[int, str]]:
        """Each row's words, the rows without any and why, and the rows' notes."""
        rows: list[Judged] = []
        undefined: dict[int, str] = {}
        columns = (features["tokens"], features["text"], features["meta"])
        for i, (tokens, text, meta) in enumerate(zip(*columns, strict=True)):
            try:
                phrases = phrases_of(meta.get("phrases"))
            except ValueError as error:
                undefined[i] = f"the column phrases: {error}"
                rows.append(Judged([], []))
                continue
            row = judge_words(text, tokens, phrases, eps=self.eps, mode=self.mode, unit=self.unit)
            if not row.words:
                undefined[i] = "the text has no words that the model reads"
            rows.append(row)
        notes = {i: "; ".join(row.notes) for i, row in enumerate(rows) if row.words and row.notes}
        return rows, undefined, notes


@dataclass(frozen=True)
class CLIP4DM(WordMetric):
    """Which words does the image not show: the lowest word's attribution, and all words."""

    name = "clip4dm"
    title = "CLIP4DM"
    version = 1
    lower_is_better_parts = frozenset({"misaligned", "share"})

    def score(self, features: Features) -> Scores:
        """Scores of n rows, with their words as evidence."""
        rows, undefined, notes = self.judge(features)
        n = len(rows)
        value, count, share, cosine = (np.zeros(n) for _ in range(4))
        evidence: dict[int, Any] = {}
        for i, row in enumerate(rows):
            cosine[i] = features["tokens"][i].info["cosine"]
            if row.words:
                value[i] = row.column(COLUMN_OF_UNIT[self.unit]).min()
                count[i] = row.column("misaligned").sum()
                share[i] = count[i] / len(row.words)
                evidence[i] = row.words
        parts = {"misaligned": count, "share": share, "cosine": cosine}
        return Scores(value, parts, undefined, notes, evidence)
