"""Answers that a model gave before: ``answers:FILE``. No torch, no image.

Files of DSG's release (Cho et al., ICLR 2024, arXiv:2310.18235): t2i_model, item_id, question,
answer, and for DSG's own questions question_id and dependency_id. VQ2A's questions have neither;
their text ends with the answer that is asked about. And a plain table: system, item, question,
answer, perhaps expected, id, parents, index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorekit.backbones.questions_file import KnownRecords, record_of
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.prompts import Table, read_table, require
from scorekit.question_files import QuestionForm, settle
from scorekit.questions import Question
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError

PLAIN = QuestionForm(answer="expected")
PUBLISHED = QuestionForm(
    item="item_id", answer="", id="question_id", parents="dependency_id", published=True
)

Key = tuple[str, str, int]


def load(spec: BackboneSpec, options: BackboneOptions) -> KnownAnswers:
    """Read a file of answers.

    Raises
    ------
    UsageError
        If there is no such file, or it can't be read; the message names the line.
    """
    return KnownAnswers(Path(spec.name))


@dataclass(frozen=True)
class Answered:
    """One image's questions with the answers given."""

    questions: Sequence[Question]
    answers: Sequence[str]
    notes: Sequence[str]


class KnownAnswers(KnownRecords):
    """Answers of a file, by system and item.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        table = read_table(path)
        self._has_index = "index" in table
        self._rows = _read(table)
        self.info = record_of(path, "answers")

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """The questions and answers of samples.

        Returns
        -------
        list
            ``info`` has ``questions`` (objects), ``answers`` (texts, empty where none was
            given) and ``notes``; a sample without any is ``missing_input``.
        """
        if feature.kind != "answered_questions":
            raise UsageError(f"a file of answers gives no {feature.kind}")
        return [self._of(sample) for sample in inputs]

    def _of(self, sample: Sample) -> Extracted | InputError:
        found = self._rows.get((sample.system, sample.item, sample.index))
        if found is None:
            which = f"system {sample.system!r}, item {sample.item!r}"
            if sample.index:
                which += f", index {sample.index}"
                which += "" if self._has_index else " (it has no column index)"
            return InputError("missing_input", f"{self.name} has no answers for {which}")
        info = {
            "questions": [q.as_dict() for q in found.questions],
            "answers": list(found.answers),
            "notes": list(found.notes),
        }
        return Extracted(np.zeros(0, np.float32), info)


def _read(table: Table) -> dict[Key, Answered]:
    require(table, "system", "t2i_model")
    require(table, "item", "item_id")
    require(table, "question")
    require(table, "answer")
    published = "item_id" in table and "item" not in table
    form = PUBLISHED if published else PLAIN
    systems = table.strings("system" if "system" in table else "t2i_model")
    items, answers = table.strings(form.item), table.strings("answer")
    indices = table.integers("index")
    groups: dict[Key, list[int]] = {}
    for row, (system, item) in enumerate(zip(systems, items, strict=True)):
        if item is None:
            raise table.error(row, "item is empty")
        groups.setdefault((system or "", item, indices[row] or 0), []).append(row)
    out = {}
    for key, rows in groups.items():
        questions, notes = settle(table, form, rows, _questions(table, form, rows))
        out[key] = Answered(questions, [answers[row] or "" for row in rows], notes)
    return out


def _questions(table: Table, form: QuestionForm, rows: Sequence[int]) -> list[Question]:
    """The questions of one image's rows; any expected answer will do, since it was answered."""
    columns = {
        name: table.columns[getattr(form, name)]
        for name in ("question", "answer", "id", "parents")
        if getattr(form, name) in table
    }
    questions: list[Question] = []
    texts: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        try:
            question = Question.of({k: column[row] for k, column in columns.items()}, number)
        except ValueError as error:
            raise table.error(row, str(error)) from None
        if "id" not in columns and question.text in texts:
            first = table.places[texts[question.text]]
            raise table.error(row, f"the question is there twice ({first}), and without ids")
        texts.setdefault(question.text, row)
        questions.append(question)
    return questions
