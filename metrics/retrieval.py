"""Retrieval between a run's images and its texts, both ways.

Recall and ranks as in Cho et al. (Findings of NAACL 2022, arXiv:2205.13115); AP@k as in INQUIRE
(Vendrow et al., NeurIPS 2024, arXiv:2411.02537, appendix on AP@k).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from scorekit.arrays import array_namespace, cosine, device, normalize, take
from scorekit.metric import BaseMetric
from scorekit.metrics._gallery import BLOCK, TIE, Gallery
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.types import (
    Feature,
    Features,
    Scores,
    image_embedding,
    text_embedding,
    value_of,
)

RECALLS = (1, 5, 10)


def text_ranks(image: Any, gallery: Any, truth: Sequence[int]) -> Any:
    """Rank of each image's true text in a gallery of texts, 1 being the best.

    Ties count against the row: the rank is the number of texts at least as near as the true
    one (to within `TIE`), itself included. A scorer that gives one value for all gets the
    last rank, not the first.

    Parameters
    ----------
    image : array (n, d)
    gallery : array (T, d)
        Embeddings of distinct texts.
    truth : sequence of n ints
        Where each image's own text stands in the gallery.

    Returns
    -------
    array (n,) of float32
        In 1 to T.

    Examples
    --------
    >>> import numpy as np
    >>> texts = np.asarray([[1.0, 0.0], [0.0, 1.0]])
    >>> text_ranks(np.asarray([[2.0, 1.0], [1.0, 1.0]]), texts, [0, 0])
    array([1., 2.], dtype=float32)
    """
    xp = array_namespace(image, gallery)
    own = cosine(image, take(gallery, truth)) - TIE
    queries, keys = normalize(image), xp.matrix_transpose(normalize(gallery))
    step = max(1, BLOCK // gallery.shape[0])
    ranks = [
        xp.sum(xp.astype(queries[i : i + step] @ keys >= own[i : i + step, None], xp.int64), axis=1)
        for i in range(0, image.shape[0], step)
    ]
    return _as_rank(xp.concat(ranks, axis=0))


def _as_rank(count: Any) -> Any:
    """A count as a rank: float32, at least 1.

    The true text counts itself; where rounding makes two sums of the same cosine differ by
    more than `TIE`, it still has a rank.
    """
    xp = array_namespace(count)
    ranks = xp.astype(count, xp.float32)
    return xp.where(ranks < 1, xp.ones_like(ranks), ranks)


def image_ranks(
    image: Any, gallery: Any, truth: Sequence[int], groups: Sequence[Hashable]
) -> tuple[list[int], list[int]]:
    """Ranks of each image where its own text searches the images of its group.

    Parameters
    ----------
    image : array (n, d)
    gallery : array (T, d)
    truth : sequence of n ints
        Where each image's own text stands in the gallery.
    groups : sequence of n hashables
        Images are searched within a group (a system), never across.

    Returns
    -------
    others : list of n ints
        How many images of other texts are at least as near to the text as this one.
    place : list of n ints
        This image's place among those of its own text, nearest first, from 1. The position in
        the whole ranking is the sum of both.
    """
    xp = array_namespace(image, gallery)
    others, place = [0] * len(truth), [0] * len(truth)
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    for rows in members.values():
        by_text: dict[int, list[int]] = {}
        for column, row in enumerate(rows):
            by_text.setdefault(truth[row], []).append(column)
        keys = xp.matrix_transpose(normalize(take(image, rows)))
        queries = list(by_text)
        step = max(1, BLOCK // len(rows))
        for i in range(0, len(queries), step):
            cosines = normalize(take(gallery, queries[i : i + step])) @ keys
            for line, query in enumerate(queries[i : i + step]):
                columns = by_text[query]
                own = take(cosines[line, :], columns)
                near = cosines[line, :][None, :] >= own[:, None] - TIE
                theirs = take(xp.matrix_transpose(near), columns)
                counts = xp.sum(xp.astype(near, xp.int64), axis=1) - xp.sum(
                    xp.astype(theirs, xp.int64), axis=0
                )
                values = own.tolist()
                order = sorted(range(len(columns)), key=lambda m: (-values[m], columns[m]))
                for rank, m in enumerate(order, start=1):
                    others[rows[columns[m]]] = int(counts[m])
                    place[rows[columns[m]]] = rank
    return others, place


def average_precision(positions: Sequence[int], k: int) -> float:
    """AP@k: mean precision at the relevant positions up to k, over min(k, relevant).

    Dividing by min(k, relevant), as INQUIRE does, lets a perfect ranking reach 1 also where
    more than k are relevant.

    Parameters
    ----------
    positions : sequence of int
        Where all the relevant ones stand in the ranking, from 1.
    k : int

    Returns
    -------
    float
        In 0 to 1.

    Examples
    --------
    >>> average_precision([1, 4], k=5)
    0.75
    >>> average_precision([1, 2, 3], k=2)
    1.0
    """
    ranked = sorted(positions)
    hits = [m / position for m, position in enumerate(ranked, start=1) if position <= k]
    return sum(hits) / min(k, len(ranked))


@dataclass(frozen=True)
class Retrieval(BaseMetric):
    """Can the text be found by its image, and the image by its text, among all of the run."""

    name = "retrieval"
    title = "Retrieval"
    version = 1
    range = (0.0, 1.0)
    scope = "set"
    differentiable = False
    lower_is_better_parts: ClassVar[frozenset[str]] = frozenset({"rank", "t2i_rank"})
    aggregates: ClassVar[Mapping[str, Literal["mean", "median"]]] = {
        "rank": "median",
        "t2i_rank": "median",
    }

    backbone: str = DEFAULT_BACKBONE
    k: int = 50
    prefix: str = ""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of image and text, the texts themselves, and whose image it is."""
        return {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone, prefix=self.prefix),
            "texts": value_of("text"),
            "system": value_of("system"),
        }

    def score(self, features: Features) -> Scores:
        """Scores of all rows: the value is R@1 of image to text; undefined with one text."""
        image, systems = features["image"], features["system"]
        xp = array_namespace(image)
        gallery = Gallery.of(features["texts"])
        texts = take(features["text"], gallery.rows)

        rank = text_ranks(image, texts, gallery.positions)
        others, place = image_ranks(image, texts, gallery.positions, systems)
        precision = _by_query(others, place, gallery.positions, systems, self.k)
        as_array = _like(rank)
        t2i_rank = as_array([n + 1 for n in others])

        components = {f"r{k}": xp.astype(rank <= k, rank.dtype) for k in RECALLS}
        components |= {"rank": rank, "ap": xp.where(rank <= self.k, 1 / rank, 0 * rank)}
        components |= {f"t2i_r{k}": xp.astype(t2i_rank <= k, rank.dtype) for k in RECALLS}
        components |= {"t2i_rank": t2i_rank, "t2i_ap": as_array(precision)}

        undefined = {}
        if len(gallery.texts) < 2:
            undefined = dict.fromkeys(
                range(len(systems)), "the run has one distinct text: there is nothing to rank"
            )
        return Scores(
            components["r1"],
            components=components,
            undefined=undefined,
            notes=_lonely(gallery.positions, systems),
            facts={**gallery.facts("gallery"), "images": _sizes(systems)},
        )


def _by_query(
    others: Sequence[int],
    place: Sequence[int],
    truth: Sequence[int],
    systems: Sequence[Hashable],
    k: int,
) -> list[float]:
    """AP@k of each row's text as a query among the images of its system."""
    positions: dict[tuple[Hashable, int], list[int]] = {}
    queries = list(zip(systems, truth, strict=True))
    for query, n, m in zip(queries, others, place, strict=True):
        positions.setdefault(query, []).append(n + m)
    precision = {query: average_precision(found, k) for query, found in positions.items()}
    return [precision[query] for query in queries]


def _like(array: Any) -> Any:
    """A function from a list to an array of the same kind, dtype and device."""
    xp = array_namespace(array)
    return lambda values: xp.asarray(values, dtype=array.dtype, device=device(array))


def _lonely(truth: Sequence[int], systems: Sequence[Hashable]) -> dict[int, str]:
    """Notes on rows whose system has images of one text only."""
    texts: dict[Hashable, set[int]] = {}
    for system, text in zip(systems, truth, strict=True):
        texts.setdefault(system, set()).add(text)
    note = "its system has images of one text only: the t2i parts are trivially perfect"
    return {row: note for row, system in enumerate(systems) if len(texts[system]) < 2}


def _sizes(systems: Sequence[Hashable]) -> str:
    """Images a system, smallest and largest where they differ."""
    counts: dict[Hashable, int] = {}
    for system in systems:
        counts[system] = counts.get(system, 0) + 1
    low, high = min(counts.values(), default=0), max(counts.values(), default=0)
    return str(low) if low == high else f"{low}-{high}"
