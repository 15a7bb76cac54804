"""AugCLIP (Kim et al., Preserve or Modify?, CVPR 2025, arXiv:2410.11374)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from scorekit.arrays import cosine, normalize
from scorekit.metric import BaseMetric
from scorekit.metrics._clip_edits import balance, triple_needs, unedited
from scorekit.metrics._edits import edit_scores
from scorekit.metrics._hyperplane import Classifier, fit_planes, shortest_shift
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.registry import all_backbones
from scorekit.types import Array, Feature, Features, Scores, UsageError, text_embedding

SIDES = ("source_attributes", "target_attributes")

FLAT = "source and target attributes can't be told apart: there is no direction to go"
CROSSED = (
    "the source image lies on the target side already: nothing is to be changed, and an "
    "unedited copy would get 1"
)


@dataclass(frozen=True)
class AugCLIP(BaseMetric):
    """How near is the edit to the least change of the source that its new attributes ask for."""

    name = "augclip"
    title = "AugCLIP"
    version = 1
    range = (-1.0, 1.0)
    differentiable = False

    backbone: str = DEFAULT_BACKBONE
    classifier: Classifier = "logistic"
    C: float = 1.0
    center: Literal["none", "source", "modality"] = "none"
    margin: float = 0.0
    normalize: bool = True
    attributes: str = ""
    prefix: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.C < math.inf:
            raise UsageError(f"{self.name}: C is above 0, not {self.C:g}")
        if not math.isfinite(self.margin):
            raise UsageError(f"{self.name}: margin is a number, not {self.margin:g}")
        object.__setattr__(self, "attributes", _attribute_source(self.attributes))
        if self.center == "modality":  # a mean over the run, which has to be known first
            object.__setattr__(self, "scope", "set")

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The triple, and embeddings of the attributes: the row's own, or those of a backbone."""
        given = Feature("attributes", self.attributes, "sample") if self.attributes else None
        attributes = {
            side: text_embedding(self.backbone, side, given_by=given, prefix=self.prefix)
            for side in SIDES
        }
        told = {"attributes": given} if given else {}
        return {**triple_needs(self.backbone, self.prefix), **told, **attributes}

    def recipe(self, facts: Mapping[str, str]) -> dict[str, Any]:
        """The parameters; attributes from the row's columns are named as such."""
        return {**super().recipe(facts), "attributes": self.attributes or "columns"}

    def score(self, features: Features) -> Scores:
        """Scores of n triples, with what made them as components."""
        edited, source = (self._as_points(features[key]) for key in ("image", "source"))
        old, new = ([self._as_points(rows) for rows in features[side]] for side in SIDES)
        normal, offset = fit_planes(old, new, self.classifier, self.C)
        move, facts = self._centering(source, old, new)

        source_side, edited_side = (
            np.sum(normal * (points + move), axis=1) + offset for points in (source, edited)
        )
        shift = shortest_shift(source_side, normal, self.margin)
        ideal = cosine(edited, source + shift)
        modification, preservation = balance(features)
        flat = dict.fromkeys(np.flatnonzero(~normal.any(axis=1)).tolist(), FLAT)
        crossed = dict.fromkeys(np.flatnonzero(source_side >= self.margin).tolist(), CROSSED)
        same = unedited(features)
        scores = edit_scores(
            ideal,
            modification,
            preservation,
            features["change"],
            parts={
                "source_side": source_side,
                "edited_side": edited_side,
                "shift": np.linalg.norm(shift, axis=1),
                "ideal": ideal,
                "unedited": cosine(source, source + shift),
            },
            undefined=flat,
            notes={
                row: "; ".join(note[row] for note in (crossed, same) if row in note)
                for row in {**crossed, **same}
            },
        )
        told = features.get("attributes", ())
        evidence = {
            row: {side: list(info[side]) for side in SIDES} for row, info in enumerate(told)
        }
        return replace(scores, evidence=evidence, facts=facts)

    def _as_points(self, x: Any) -> Array:
        """Embeddings as numpy float64; the fit has no gradient to keep."""
        array = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)
        return normalize(array) if self.normalize else array

    def _centering(
        self, source: Array, source_texts: Sequence[Array], target_texts: Sequence[Array]
    ) -> tuple[Any, Mapping[str, str]]:
        """What takes an image to where texts of the same meaning lie, and its facts.

        Means are taken over distinct images and texts, so that a further system with the same
        items changes nothing.
        """
        if self.center == "none":
            return 0.0, {}
        if self.center == "source":
            return np.stack([texts.mean(axis=0) for texts in source_texts]) - source, {}
        images = np.unique(source, axis=0)
        texts = np.unique(np.concatenate([*source_texts, *target_texts]), axis=0)
        digest = hashlib.sha256(images.tobytes() + texts.tobytes()).hexdigest()
        facts = {"center_n": f"{len(images)}+{len(texts)}", "center_sha": digest[:12]}
        return texts.mean(axis=0) - images.mean(axis=0), facts


def _attribute_source(attributes: str) -> str:
    """The backbone that the parameter means: empty for the row's columns, a path is a file."""
    if attributes in ("", "columns"):
        return ""
    known = attributes.partition(":")[0] in all_backbones()
    return attributes if known else f"attributes:{attributes}"
