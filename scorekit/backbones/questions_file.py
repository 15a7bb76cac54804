"""Questions that are known before: ``questions:FILE``, or ``questions:meta`` for a row's own.

`scorekit.question_files.read_questions` says what files are read. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scorekit.backbones.files import sha256_of, short_hash
from scorekit.backbones.handle import BackboneInfo, states_of
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.question_files import QuestionFile, QuestionSet, read_questions
from scorekit.questions import questions_of
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError

META = "meta"


def load(spec: BackboneSpec, options: BackboneOptions) -> KnownQuestions:
    """Read a file of questions.

    Raises
    ------
    UsageError
        If there is no such file, or it can't be read; the message names the line.
    """
    return KnownQuestions(None if spec.name == META else Path(spec.name))


class KnownRecords:
    """What a file gives in a model's place; of `info` it has `record_of` the file."""

    batch_size = 1
    device = "file"
    info: BackboneInfo

    @property
    def fingerprint(self) -> str:
        """Hash of the file's content."""
        return self.info.fingerprint

    def content_of(self, feature: Feature, sample: Sample) -> None:
        """Nothing is cached: the file is at hand."""
        return


class KnownQuestions(KnownRecords):
    """Questions of a file, or of the samples' own column ``questions``.

    Parameters
    ----------
    path : Path or None
        None for the samples' own.
    """

    def __init__(self, path: Path | None) -> None:
        self.name = META if path is None else path.name
        self._file: QuestionFile | None = None if path is None else read_questions(path)
        self.info = record_of(path, "questions")

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """The questions of samples.

        Returns
        -------
        list
            ``info`` has ``questions`` (objects), ``texts`` (what of each a model is asked, as
            JSON) and ``notes``; a sample without questions is ``missing_input``.
        """
        if feature.kind != "questions":
            raise UsageError(f"a file of questions gives no {feature.kind}")
        return [self._of(sample) for sample in inputs]

    def _of(self, sample: Sample) -> Extracted | InputError:
        if self._file is None:
            return _own_questions(sample)
        found = self._file.find(sample.item, sample.text)
        if found is None:
            note = f"{self.name} has no questions for item {sample.item!r} nor for its text"
            return InputError("missing_input", note)
        return extracted(found)


def extracted(found: QuestionSet) -> Extracted:
    """Questions as the record feature that metrics and vision-language models read."""
    info = {
        "questions": [q.as_dict() for q in found.questions],
        "texts": [q.asked for q in found.questions],
        "notes": list(found.notes),
    }
    return Extracted(np.zeros(0, np.float32), info)


def record_of(path: Path | None, kind: str) -> BackboneInfo:
    """What a signature says of a file: the hash of its content."""
    identity = short_hash([kind, META if path is None else sha256_of([path])])
    files = () if path is None else states_of([path])
    return BackboneInfo(identity, identity, 0, {}, "any", "", files, remote=True)


def _own_questions(sample: Sample) -> Extracted | InputError:
    given = sample.meta.get("questions")
    if given is None or given == "" or given != given:  # NaN is what a table has for nothing
        note = "the row has no column questions; or give questions=FILE, or a model that asks"
        return InputError("missing_input", note)
    try:
        return extracted(QuestionSet(sample.item, sample.text, questions_of(given)))
    except ValueError as error:
        return InputError("invalid_text", f"the column questions: {error}")
