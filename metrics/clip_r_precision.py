"""CLIP-R-Precision (Park et al., NeurIPS 2021 Datasets and Benchmarks, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal

from scorekit.arrays import array_namespace, take
from scorekit.metric import BaseMetric
from scorekit.metrics._gallery import Gallery
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.metrics.retrieval import text_ranks
from scorekit.types import (
    Feature,
    Features,
    Scores,
    UsageError,
    image_embedding,
    text_embedding,
    value_of,
)


def distractors(texts: Sequence[str], truth: int, count: int, seed: int) -> list[int]:
    """Draw other texts for a text, the same whatever else is drawn and on any machine.

    Parameters
    ----------
    texts : sequence of T distinct str, sorted
    truth : int
        The text that is not to be drawn.
    count : int
        How many to draw, at most T - 1.
    seed : int

    Returns
    -------
    list of `count` ints
        Positions in `texts`, in no particular order.

    Examples
    --------
    >>> sorted(distractors("abcd", truth=1, count=3, seed=0))
    [0, 2, 3]
    """
    # Python promises the same random() from the same seed on every version; it does not
    # promise it of sample(), nor numpy of its generators. Hence Floyd's method by hand.
    random = Random(f"{seed}:{texts[truth]}").random
    chosen: dict[int, None] = {}
    for top in range(len(texts) - 1 - count, len(texts) - 1):
        pick = int(random() * (top + 1))
        chosen[top if pick in chosen else pick] = None
    return [i + (i >= truth) for i in chosen]


@dataclass(frozen=True)
class CLIPRPrecision(BaseMetric):
    """Is the image nearer to its own text than to 99 others: 1 if so, else 0."""

    name = "clip_r_precision"
    title = "CLIP-R-Precision"
    version = 1
    range = (0.0, 1.0)
    scope = "set"
    differentiable = False
    lower_is_better_parts: ClassVar[frozenset[str]] = frozenset({"rank"})
    aggregates: ClassVar[Mapping[str, Literal["mean", "median"]]] = {"rank": "median"}

    backbone: str = DEFAULT_BACKBONE
    candidates: int = 100
    seed: int = 0
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.candidates < 2:
            raise UsageError(
                f"clip_r_precision: candidates must be at least 2, not {self.candidates}"
            )

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of image and text, and the texts themselves."""
        return {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone, prefix=self.prefix),
            "texts": value_of("text"),
        }

    def score(self, features: Features) -> Scores:
        """Scores of all rows; undefined where the run has too few distinct texts."""
        image = features["image"]
        xp = array_namespace(image)
        gallery = Gallery.of(features["texts"])
        facts = gallery.facts("gallery")
        if len(gallery.texts) < self.candidates:
            reason = (
                f"the run has {len(gallery.texts)} distinct texts, too few for "
                f"candidates={self.candidates}"
            )
            rows = range(len(gallery.positions))
            return Scores(0 * image[:, 0], undefined=dict.fromkeys(rows, reason), facts=facts)

        texts = take(features["text"], gallery.rows)
        rank = self._ranks(image, texts, gallery)
        return Scores(xp.astype(rank <= 1, rank.dtype), components={"rank": rank}, facts=facts)

    def _ranks(self, image: Any, texts: Any, gallery: Gallery) -> Any:
        """Rank of the true text among its candidates, row by row."""
        members: dict[int, list[int]] = {}
        for row, position in enumerate(gallery.positions):
            members.setdefault(position, []).append(row)
        parts = []
        for truth, rows in members.items():
            drawn = distractors(gallery.texts, truth, self.candidates - 1, self.seed)
            parts.append(
                text_ranks(take(image, rows), take(texts, [truth, *drawn]), [0] * len(rows))
            )
        order = [row for rows in members.values() for row in rows]
        back = sorted(range(len(order)), key=order.__getitem__)
        return take(array_namespace(image).concat(parts, axis=0), back)
