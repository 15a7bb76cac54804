"""Files of questions about images.

The forms read: DSG-1k's CSV (Cho et al., ICLR 2024, arXiv:2310.18235), TIFA's JSON (Hu et al.,
ICCV 2023, arXiv:2303.11897), and a plain table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scorekit.prompts import ALIASES, Table, read_json, read_table, require
from scorekit.questions import Question, faults_of, squeezed, without_faults, without_zero
from scorekit.types import PathLike, UsageError


@dataclass(frozen=True)
class QuestionForm:
    """How a file names its columns; an empty name is none."""

    item: str = "item"
    text: str = "text"
    question: str = "question"
    answer: str = "answer"
    choices: str = "choices"
    id: str = "id"
    parents: str = "parents"
    category: str = "category"
    published: bool = False
    """Faults of the dependencies are noted on the rows, since nobody can mend the file."""


PLAIN = QuestionForm()
DSG = QuestionForm(
    item="item_id",
    question="question_natural_language",
    answer="",
    choices="",
    id="proposition_id",
    parents="dependency",
    category="category_broad",
    published=True,
)
TIFA = QuestionForm(item="id", id="", parents="", category="element_type")


@dataclass
class QuestionSet:
    """The questions of one item.

    Attributes
    ----------
    item, text : str or None
        What the file says of the item.
    questions : sequence of Question
    notes : list of str
        What a reader of the item's rows should know.
    """

    item: str | None
    text: str | None
    questions: Sequence[Question] = ()
    notes: list[str] = field(default_factory=list)


class QuestionFile:
    """A file's questions, by item and by text.

    Parameters
    ----------
    sets : sequence of QuestionSet
    """

    def __init__(self, sets: Sequence[QuestionSet]) -> None:
        self.sets = list(sets)
        self._by_item = {s.item: s for s in sets if s.item is not None}
        self._by_text: dict[str, QuestionSet] = {}
        for each in sets:
            if each.text is not None:
                self._by_text.setdefault(squeezed(each.text), each)

    def find(self, item: str, text: str | None) -> QuestionSet | None:
        """The questions of an item: by its id, else by its text; None where there are none."""
        found = self._by_item.get(item)
        if found is None:
            return None if text is None else self._by_text.get(squeezed(text))
        if text is None or found.text is None or squeezed(text) == squeezed(found.text):
            return found
        note = "the questions are those of the item, whose text is another in the questions file"
        return replace(found, notes=[*found.notes, note])


def read_questions(path: PathLike) -> QuestionFile:
    """Read a file of questions: DSG-1k's CSV, TIFA's JSON, or a plain table.

    A plain table (CSV, TSV, JSONL, Parquet, JSON) has ``question`` and ``item`` or ``text``, and
    perhaps ``answer`` (else yes), ``choices`` (a list, in CSV a JSON list or ``a|b|c``), ``id``
    and ``parents`` (ids, in CSV with commas).

    Raises
    ------
    UsageError
        If it can't be read, with the line where a question makes no sense.
    """
    table = _read(Path(path))
    form = _form_of(table)
    if form is PLAIN:
        require(table, "item", "text")
    else:
        require(table, form.item)
    require(table, form.question)
    items, texts = table.strings(form.item), table.strings(form.text)
    groups: dict[tuple[str | None, str | None], list[int]] = {}
    for row, (item, text) in enumerate(zip(items, texts, strict=True)):
        if item is None and text is None:
            raise table.error(row, "neither an item nor a text")
        key = (item, None) if item is not None else (None, squeezed(text or ""))
        rows = groups.setdefault(key, [])
        if item is not None and rows and texts[rows[0]] != text:
            raise table.error(row, f"item {item} has another text before")
        rows.append(row)
    sets = []
    for rows in groups.values():
        asked, notes = settle(table, form, rows, question_rows(table, form, rows))
        sets.append(QuestionSet(items[rows[0]], texts[rows[0]], asked, notes))
    return QuestionFile(sets)


def question_rows(table: Table, form: QuestionForm, rows: Sequence[int]) -> list[Question]:
    """The questions of an item's rows, numbered from 1 where they have no ids."""
    names = ("question", "answer", "choices", "id", "parents", "category")
    columns = {name: table.columns.get(getattr(form, name)) for name in names}
    questions = []
    for number, row in enumerate(rows, 1):
        given = {name: column[row] for name, column in columns.items() if column is not None}
        try:
            question = Question.of(given, number)
            question.check()
        except ValueError as error:
            raise table.error(row, str(error)) from None
        questions.append(question)
    return questions


def settle(
    table: Table, form: QuestionForm, rows: Sequence[int], questions: Sequence[Question]
) -> tuple[Sequence[Question], list[str]]:
    """See to the dependencies of an item's questions: as they are, or mended with notes.

    Raises
    ------
    UsageError
        If two ids are equal, or, in a file that is not published, a dependency is on no
        question or in a circle.
    """
    seen: dict[str, str] = {}
    for row, question in zip(rows, questions, strict=True):
        if question.id in seen:
            raise table.error(row, f"question {question.id} is there twice ({seen[question.id]})")
        seen[question.id] = table.places[row]
    questions = without_zero(questions)
    if form.published:
        return without_faults(questions)
    for ident, message in faults_of(questions):
        at = next(row for row, q in zip(rows, questions, strict=True) if q.id == ident)
        raise table.error(at, message)
    return questions, []


def _form_of(table: Table) -> QuestionForm:
    if DSG.question in table:
        return DSG
    if "item" in table:
        return PLAIN
    for name in ("text_id", "id"):
        marks = ("text_id", "element_type", "answer_type")
        if name in table and (Path(table.path).suffix == ".json" or any(m in table for m in marks)):
            kind = "element_type" if "element_type" in table else "answer_type"
            return replace(TIFA, item=name, category=kind)
    return PLAIN


def _read(path: Path) -> Table:
    if path.suffix.lower() != ".json":
        return read_table(path)
    found = read_json(path)
    if not isinstance(found, list) or not found:
        raise UsageError(f"{path} is no JSON list of questions")
    for number, each in enumerate(found, 1):
        if not isinstance(each, dict):
            raise UsageError(f"{path}, entry {number}: not an object")
    names = dict.fromkeys(name for each in found for name in each)
    columns = {name: [each.get(name) for each in found] for name in names}
    for alias in ALIASES["text"]:
        if alias in columns and "text" not in columns:
            columns["text"] = columns.pop(alias)
    return Table(path, columns, [f"entry {n}" for n in range(1, len(found) + 1)])
