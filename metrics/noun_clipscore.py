"""F-CLIPScore of nouns (Oh and Hwang, arXiv:2502.20034): a sentence's CLIPScore and its nouns'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorekit.arrays import array_namespace, clamp_min, cosine
from scorekit.metric import BaseMetric
from scorekit.metrics._references import reference_cosines
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.types import Feature, Features, Scores, image_embedding, text_embedding


@dataclass(frozen=True)
class NounCLIPScore(BaseMetric):
    """Does the image show the sentence and each of its nouns: the mean of their CLIPScores."""

    name = "noun_clipscore"
    title = "Noun CLIPScore"
    version = 1
    range = (0.0, 2.5)

    backbone: str = DEFAULT_BACKBONE
    scale: float = 2.5
    prefix: str = ""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of the image, of the text, and of each noun by itself."""
        return {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone, prefix=self.prefix),
            "nouns": text_embedding(self.backbone, "nouns", prefix=self.prefix),
        }

    def score(self, features: Features) -> Scores:
        """Scores of n rows, with the sentence's score and the lowest noun's as components."""
        xp = array_namespace(features["image"])
        text = self.scale * clamp_min(cosine(features["image"], features["text"]))
        nouns = [
            self.scale * clamp_min(each)
            for each in reference_cosines(features["image"], features["nouns"])
        ]
        value = [(text[i] + xp.sum(each)) / (1 + each.shape[0]) for i, each in enumerate(nouns)]
        lowest = xp.stack([xp.min(each) for each in nouns])
        return Scores(xp.stack(value), components={"text": text, "lowest_noun": lowest})
