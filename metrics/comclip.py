"""ComCLIP: compositional matching by entities, without training (arXiv:2211.13854)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scorekit.arrays import array_namespace, cosine, normalize
from scorekit.metric import BaseMetric
from scorekit.metrics.clipscore import DEFAULT_BACKBONE
from scorekit.noun_phrases import RULES, parser_version
from scorekit.types import (
    Feature,
    Features,
    Scores,
    UsageError,
    image_embedding,
    text_embedding,
)

COLUMN = "entities:column"
"""What reads the entities that the caller has placed."""

Missing = Literal["whole", "drop", "error"]


def compose(image: Any, parts: Any, matches: Any) -> Any:
    """E(I) + sum_i w_i E(I_i), w_i = s_i / sum s.

    Parameters
    ----------
    image : array (d,)
    parts : array (k, d)
        Embeddings of the sub-images.
    matches : array (k,)
        s_i: each entity text's match with its sub-image. Their sum is not 0.

    Examples
    --------
    >>> import numpy as np
    >>> compose(np.array([1.0, 0.0]), np.eye(2), np.array([0.3, 0.1]))
    array([1.75, 0.25])
    """
    xp = array_namespace(image, parts)
    weights = matches / xp.sum(matches)
    return image + xp.sum(weights[:, None] * parts, axis=0)


@dataclass(frozen=True)
class ComCLIP(BaseMetric):
    """Does the image show each entity of its text: cosine with the image plus its entities."""

    name = "comclip"
    title = "ComCLIP"
    version = 1
    range = (-1.0, 1.0)

    backbone: str = DEFAULT_BACKBONE
    detector: str = ""
    parser: str = RULES
    threshold: str = "auto"
    missing: Missing = "whole"
    embeddings: Literal["unit", "raw"] = "unit"
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.threshold != "auto":
            try:
                sound = 0 <= float(self.threshold) <= 1
            except ValueError:
                sound = False
            if not sound:
                raise UsageError(f"comclip: threshold is auto or 0 to 1, not {self.threshold!r}")
        if not self.detector and (self.threshold, self.parser) != ("auto", RULES):
            raise UsageError("comclip: parser= and threshold= go with detector=hf:NAME")

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Entities and their places, and embeddings of image, sub-images, text and entities."""
        if self.detector:
            params = (("parser", self.parser), ("threshold", self.threshold))
            entities = Feature("entities", self.detector, "sample", params)
        else:
            entities = Feature("entities", COLUMN, "sample")
        return {
            "entities": entities,
            "image": image_embedding(self.backbone),
            "parts": Feature("image_embedding", self.backbone, "image", second=entities),
            "text": text_embedding(self.backbone, prefix=self.prefix),
            "names": text_embedding(self.backbone, "nouns", given_by=entities, prefix=self.prefix),
        }

    def recipe(self, facts: Mapping[str, str]) -> dict[str, Any]:
        """The parameters as the signature shows them: those of a detector only beside one."""
        recipe = {**super().recipe(facts), "parser": parser_version(self.parser)}
        unused = () if self.detector else ("detector", "parser", "threshold")
        return {key: value for key, value in recipe.items() if key not in unused}

    def score(self, features: Features) -> Scores:
        """Scores of n rows, with the weight of each entity as evidence."""
        images, texts = features["image"], features["text"]
        xp = array_namespace(images)
        plain = cosine(images, texts)
        value, lowest, share = [], [], []
        undefined: dict[int, str] = {}
        notes: dict[int, str] = {}
        evidence: dict[int, Any] = {}
        for i, told in enumerate(features["entities"]):
            entities = told["entities"]
            lost = [each["text"] for each in entities if not each["found"]]
            said = [*told["notes"], *([self._of_lost(lost)] if lost else [])]
            share.append(plain[i] * 0 + (1 - len(lost) / len(entities)))
            kept, parts, names = self._kept(entities, images[i], features, i)
            if lost and (self.missing == "error" or not kept):
                undefined[i] = f"not found: {', '.join(lost)}"
                value.append(plain[i] * 0)
                lowest.append(plain[i] * 0)
                continue
            matches = cosine(names, parts)
            lowest.append(xp.min(matches))
            if self.embeddings == "unit":
                image, parts = normalize(images[i]), normalize(parts)
            else:
                image, matches = images[i], xp.sum(names * parts, axis=-1)
            numbers = matches.tolist()
            total = sum(numbers)
            if total <= 0:
                undefined[i] = f"the entities' matches add up to {total:.3g}: they are no weights"
                value.append(plain[i] * 0)
                continue
            value.append(cosine(compose(image, parts, matches), texts[i]))
            evidence[i] = [
                {**each, "match": match, "weight": match / total}
                for each, match in zip(kept, numbers, strict=True)
            ]
            said += [
                f"a negative weight: {each['text']}" for each in evidence[i] if each["weight"] < 0
            ]
            if said:
                notes[i] = "; ".join(said)
        components = {
            "clip_t": plain,
            "found": xp.stack(share),
            "lowest_match": xp.stack(lowest),
        }
        return Scores(xp.stack(value), components, undefined, notes, evidence)

    def _of_lost(self, lost: Sequence[str]) -> str:
        instead = "; the whole image in its place" if self.missing == "whole" else ""
        return f"not found: {', '.join(lost)}{instead}"

    def _kept(
        self, entities: Sequence[Mapping[str, Any]], image: Any, features: Features, row: int
    ) -> tuple[list[Mapping[str, Any]], Any, Any]:
        """The entities that count, the embeddings of their sub-images, and of their texts."""
        xp = array_namespace(image)
        found = iter(features["parts"][row] if any(e["found"] for e in entities) else ())
        kept: list[Mapping[str, Any]] = []
        parts, names = [], []
        for each, name in zip(entities, features["names"][row], strict=True):
            part = next(found) if each["found"] else image
            if each["found"] or self.missing == "whole":
                kept.append(each)
                parts.append(part)
                names.append(name)
        return kept, xp.stack(parts) if kept else None, xp.stack(names) if kept else None
