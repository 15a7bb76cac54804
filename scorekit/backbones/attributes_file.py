"""Attributes that are known before: ``attributes:FILE``, or ``attributes:columns``. No torch.

`scorekit.attribute_files.read_attributes` says what files are read; the columns are the rows'
own ``source_attributes`` and ``target_attributes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scorekit.attribute_files import read_attributes
from scorekit.attributes import FIELDS, settled
from scorekit.backbones.questions_file import KnownRecords, record_of
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.replies import Info
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError

COLUMNS = "columns"


def load(spec: BackboneSpec, options: BackboneOptions) -> KnownAttributes:
    """Read a file of attributes.

    Raises
    ------
    UsageError
        If there is no such file, or it can't be read; the message names the line.
    """
    return KnownAttributes(None if spec.name == COLUMNS else Path(spec.name))


class KnownAttributes(KnownRecords):
    """Attributes of a file, or of the samples' own columns.

    Parameters
    ----------
    path : Path or None
        None for the samples' own.
    """

    def __init__(self, path: Path | None) -> None:
        self._name = COLUMNS if path is None else path.name
        self._file = None if path is None else read_attributes(path)
        self.info = record_of(path, "attributes")

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """The attributes of samples; see `scorekit.attributes.settled`.

        Returns
        -------
        list
            A sample that lacks one of the lists is ``missing_input``; one with an attribute that
            is no text, ``invalid_text``.
        """
        if feature.kind != "attributes":
            raise UsageError(f"attributes that are known give no {feature.kind}")
        out: list[Extracted | InputError] = []
        for sample in inputs:
            try:
                out.append(Extracted(np.zeros(0, np.float32), self._of(sample)))
            except InputError as error:
                out.append(error)
        return out

    def _of(self, sample: Sample) -> Info:
        if self._file is None:
            return settled(*(_column(sample, name) for name in FIELDS))
        try:
            found = self._file.find(sample)
        except InputError as error:
            raise InputError(
                error.status, f"{self._name}, item {sample.item!r}: {error.note}"
            ) from None
        if found is None:
            note = f"{self._name} has no attributes for item {sample.item!r}, nor for its edit"
            raise InputError("missing_input", note)
        return found


def _column(sample: Sample, name: str) -> Sequence[Any]:
    given: Sequence[Any] = getattr(sample, name)
    if isinstance(given, str):  # a sequence, too, but of letters
        raise InputError("invalid_text", f"{name} is a list of texts, not one text")
    return given
