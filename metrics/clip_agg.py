"""CLIP-agg, the reward of CgT-GAN (Yu et al., ACM MM 2023, arXiv:2308.12045)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scorekit.arrays import array_namespace, cosine, normalize, softmax, take
from scorekit.metric import BaseMetric
from scorekit.metrics._gallery import BLOCK, Gallery
from scorekit.types import (
    Feature,
    Features,
    Scores,
    image_embedding,
    text_embedding,
    value_of,
)


def aggregate(image: Any, corpus: Any, inverse_temperature: float = 100.0) -> Any:
    """Mean of a corpus's embeddings, each weighted by how well it fits the image.

    sum_c a_c * c with a = softmax over the corpus of inverse_temperature * cos(image, c). As in
    the authors' code the weights come from normalised embeddings, the mean is of the
    unnormalised.

    Parameters
    ----------
    image : array (n, d)
    corpus : array (T, d)
    inverse_temperature : float
        0 weighs all alike; infinity takes the nearest text.

    Returns
    -------
    array (n, d)
    """
    xp = array_namespace(image, corpus)
    queries, keys = normalize(image), xp.matrix_transpose(normalize(corpus))
    step = max(1, BLOCK // corpus.shape[0])
    return xp.concat(
        [
            softmax(inverse_temperature * (queries[i : i + step] @ keys)) @ corpus
            for i in range(0, image.shape[0], step)
        ],
        axis=0,
    )


@dataclass(frozen=True)
class CLIPAgg(BaseMetric):
    """Does the text say what the texts that fit the image say: cos(text, their mean)."""

    name = "clip_agg"
    title = "CLIP-agg"
    version = 1
    range = (-1.0, 1.0)
    scope = "set"

    backbone: str = "open_clip:ViT-L-14/openai"
    inverse_temperature: float = 100.0
    corpus: Literal["text", "references"] = "text"
    prefix: str = ""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of image, text and corpus, and the corpus's texts to tell them apart."""
        needs = {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone, prefix=self.prefix),
            "corpus_texts": value_of(self.corpus),
        }
        if self.corpus == "references":
            needs["references"] = text_embedding(self.backbone, "references", prefix=self.prefix)
        return needs

    def score(self, features: Features) -> Scores:
        """Scores of all rows; undefined where the corpus is a single text."""
        text = features["text"]
        if self.corpus == "text":
            gallery, embeddings = Gallery.of(features["corpus_texts"]), text
        else:
            gallery = Gallery.of([t for texts in features["corpus_texts"] for t in texts])
            embeddings = array_namespace(text).concat(list(features["references"]), axis=0)
        corpus = take(embeddings, gallery.rows)
        value = cosine(text, aggregate(features["image"], corpus, self.inverse_temperature))
        undefined = {}
        if len(gallery.texts) < 2:
            undefined = dict.fromkeys(
                range(text.shape[0]), "the corpus is a single text: every image gets its mean"
            )
        return Scores(value, undefined=undefined, facts=gallery.facts("gallery"))
