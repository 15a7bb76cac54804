"""PickScore (Kirstain et al., NeurIPS 2023, arXiv:2305.01569, section 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scorekit.arrays import array_namespace, cosine, softmax, take
from scorekit.metric import BaseMetric
from scorekit.types import (
    Feature,
    Features,
    Scores,
    image_embedding,
    model_constant,
    text_embedding,
    value_of,
)


def preference(logits: Any, items: Sequence[Hashable]) -> Any:
    """Softmax of the logits over the rows of one item: the probability of being preferred.

    Parameters
    ----------
    logits : array (n,)
    items : sequence of n hashables
        Rows with equal items are candidates for one prompt.

    Returns
    -------
    array (n,)
        Sums to 1 over the rows of an item; 1 where a row is alone.

    Examples
    --------
    >>> import numpy as np
    >>> preference(np.log(np.asarray([1.0, 5.0, 3.0])), ["a", "b", "a"])
    array([0.25, 1.  , 0.75])
    """
    groups: dict[Hashable, list[int]] = {}
    for row, item in enumerate(items):
        groups.setdefault(item, []).append(row)
    if not groups:
        return logits
    parts = [softmax(take(logits, rows)) for rows in groups.values()]
    order = [row for rows in groups.values() for row in rows]
    back = sorted(range(len(order)), key=order.__getitem__)
    return take(array_namespace(logits).concat(parts), back)


@dataclass(frozen=True)
class PickScore(BaseMetric):
    """Which image would people pick for this prompt, by a CLIP trained on their choices."""

    name = "pickscore"
    title = "PickScore"
    version = 1
    range = (-100.0, 100.0)
    scope = "set"

    backbone: str = "hf:yuvalkirstain/PickScore_v1"

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of image and text, the learned scale, and which rows compete."""
        return {
            "image": image_embedding(self.backbone),
            "text": text_embedding(self.backbone),
            "logit_scale": model_constant(self.backbone, "logit_scale"),
            "item": value_of("item"),
            "system": value_of("system"),
        }

    def score(self, features: Features) -> Scores:
        """Scores of all rows, with the preference among the candidates of their item."""
        logits = features["logit_scale"] * cosine(features["image"], features["text"])
        # A preference depends on its rivals: another set of systems is another question.
        rivals = hashlib.sha256("\n".join(sorted(set(features["system"]))).encode()).hexdigest()
        return Scores(
            logits,
            components={"preference": preference(logits, features["item"])},
            part_facts={"preference": {"rivals": rivals[:8]}},
        )
