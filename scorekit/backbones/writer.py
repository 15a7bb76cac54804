"""What asks a model to write down what other features are made of: questions, attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scorekit.backbones.files import short_hash
from scorekit.backbones.handle import BackboneInfo


class Writer:
    """A model under the name of what it writes.

    Parameters
    ----------
    model : text or vision-language model
        With `info`, `device`, `batch_size`, and `usage` where its calls are counted.
    family : str
        The writer's own, in the fingerprint.
    fact : str
        Under which the signature shows `version`.
    version : int
        Of the prompts and of the reading of replies.
    """

    info: BackboneInfo

    def __init__(self, model: Any, family: str, fact: str, version: int) -> None:
        self.device = model.device
        self.batch_size = model.batch_size
        if hasattr(model, "usage"):
            self.usage = model.usage
        self.info = replace(
            model.info,
            fingerprint=short_hash([family, model.info.fingerprint]),
            facts={**model.info.facts, fact: str(version)},
        )

    @property
    def fingerprint(self) -> str:
        """That of the model."""
        return self.info.fingerprint
