"""Entities that the caller has placed: ``entities:column``. No torch, no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scorekit.backbones.files import short_hash
from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.questions_file import KnownRecords
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.entities import entities_of, placed, size_of
from scorekit.inputs import missing_field
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError

COLUMN = "column"


def load(spec: BackboneSpec, options: BackboneOptions) -> EntitiesColumn:
    """The reader of the samples' own column ``entities``.

    Raises
    ------
    UsageError
        If anything else is named.
    """
    if spec.name != COLUMN:
        raise UsageError(f"{spec.given}: entities are read from entities:{COLUMN}")
    return EntitiesColumn()


class EntitiesColumn(KnownRecords):
    """Entities with their boxes or masks, as each row has them."""

    def __init__(self) -> None:
        identity = short_hash(["entities", COLUMN])
        self.info = BackboneInfo(identity, identity, 0, {}, "any", "", (), remote=True)

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """The entities of samples, as `scorekit.entities.placed` gives them."""
        if feature.kind != "entities":
            raise UsageError(f"the column entities gives no {feature.kind}")
        out: list[Extracted | InputError] = []
        for sample in inputs:
            try:
                out.append(_of(sample))
            except InputError as error:
                out.append(error)
        return out


def _of(sample: Sample) -> Extracted:
    entities = entities_of(sample.entities)
    if entities is None:
        note = "the row has no column entities; or give detector=hf:NAME, which looks for them"
        raise InputError("missing_input", note)
    for entity in entities:
        if not entity.placed:
            note = f"{entity.text!r} has neither box nor mask, and there is no detector="
            raise InputError("missing_input", note)
    if sample.image is None:
        raise missing_field("image")
    return placed(entities, size_of(sample.image))
