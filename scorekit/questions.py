"""Questions about images, their answers and their dependencies. No file, no model here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

YES_NO = ("yes", "no")
_FIRST_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Question:
    """One question about an image, and the answer that a fitting image gets.

    Attributes
    ----------
    id : str
        Tells it from the item's other questions.
    text : str
    answer : str
        The expected one.
    choices : tuple of str
        What may be answered; empty for yes and no.
    parents : tuple of str
        Ids of the questions without which this one makes no sense.
    category : str
        What it is about (color, counting, ...), as its source says.

    Examples
    --------
    >>> q = Question("2", "What colour is the dog?", "red", ("red", "blue"), ("1",))
    >>> Question.parse(q.dumps()) == q
    True
    >>> print(q.prompt)
    What colour is the dog?
    Choices:
    - red
    - blue
    Please answer with one of the choices.
    """

    id: str
    text: str
    answer: str = "yes"
    choices: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    category: str = ""

    @classmethod
    def of(cls, given: Any, number: int = 1) -> Question:
        """A question of a JSON value: a text, or an object with ``question`` and the rest.

        Parameters
        ----------
        given : str or mapping
        number : int
            The id where there is none.

        Raises
        ------
        ValueError
            If it is no question; the message is a clause about it.
        """
        if isinstance(given, str):
            given = {"question": given}
        if not isinstance(given, Mapping):
            raise ValueError(f"a question is a text or an object, not {_brief(given)}")
        text = _word(given, "question", "")
        if not text.strip():
            raise ValueError("the question is empty")
        choices = _words(given, "choices")
        answer = _word(given, "answer", "" if choices else "yes")
        parents = tuple(p.strip() for p in _words(given, "parents") if p.strip())
        ident = _word(given, "id", str(number)).strip()
        return cls(ident, text, answer, choices, parents, _word(given, "category", ""))

    @classmethod
    def parse(cls, json_text: str) -> Question:
        """The question of a text that `dumps` or `asked` gave."""
        return cls.of(json.loads(json_text))

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of it; `of` reads it back."""
        return {
            "id": self.id,
            "question": self.text,
            "answer": self.answer,
            "choices": list(self.choices),
            "parents": list(self.parents),
            "category": self.category,
        }

    def dumps(self) -> str:
        """The whole question as JSON."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    @property
    def asked(self) -> str:
        """What of it reaches a model, as JSON: equal for questions that differ in the rest."""
        told: dict[str, Any] = {"question": self.text}
        if self.choices:
            told["choices"] = list(self.choices)
        return json.dumps(told, ensure_ascii=False)

    @property
    def options(self) -> tuple[str, ...]:
        """What may be answered."""
        return self.choices or YES_NO

    @property
    def prompt(self) -> str:
        """What a vision-language model is asked."""
        if {c.lower() for c in self.options} == set(YES_NO):
            return f"{self.text} Please answer yes or no."
        listed = "\n".join(f"- {choice}" for choice in self.choices)
        return f"{self.text}\nChoices:\n{listed}\nPlease answer with one of the choices."

    def check(self) -> None:
        """See that the expected answer is one that can be given.

        Raises
        ------
        ValueError
            If it is not, or the choices are no choice.
        """
        if len(set(self.choices)) < len(self.choices) or "" in self.choices:
            raise ValueError(f"the choices {list(self.choices)} are empty or there twice")
        if len(self.choices) == 1:
            raise ValueError(f"one choice ({self.choices[0]!r}) is no choice")
        if self.answer not in self.options:
            if not self.choices:
                raise ValueError(f"an answer other than yes and no ({self.answer!r}) needs choices")
            raise ValueError(f"the answer {self.answer!r} is none of the choices")

    def is_right(self, given: str) -> bool:
        """Whether an answer is the expected one: letter case, spaces and a final stop aside.

        Of an answer to a yes/no question, the first word counts.

        Examples
        --------
        >>> Question("1", "Is there a dog?").is_right("Yes, a brown one.")
        True
        >>> Question("1", "Is there a dog?").is_right("")
        False
        """
        mine, expected = _plain(given), _plain(self.answer)
        if expected in YES_NO and (first := _FIRST_WORD.match(mine)):
            mine = first[0]
        return bool(mine) and mine == expected


def questions_of(given: Any) -> tuple[Question, ...]:
    """An item's questions from a JSON list, all of it checked.

    Parameters
    ----------
    given : list, or str with a JSON list

    Raises
    ------
    ValueError
        If it is no such list, or a question, an id or a dependency in it makes no sense.

    Examples
    --------
    >>> [q.id for q in questions_of(["Is there a dog?", "Is it red?"])]
    ['1', '2']
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise ValueError(f"questions are a JSON list, not {_brief(given)}") from None
    if hasattr(given, "tolist"):  # what Parquet gives
        given = given.tolist()
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"questions are a JSON list of at least one, not {_brief(given)}")
    questions = []
    for number, each in enumerate(given, 1):
        try:
            question = Question.of(each, number)
            question.check()
        except ValueError as error:
            raise ValueError(f"question {number}: {error}") from None
        questions.append(question)
    questions = without_zero(questions)
    if faults := graph_faults(questions):
        raise ValueError(faults[0])
    return tuple(questions)


# Dependencies ---------------------------------------------------------------------------------


def without_zero(questions: Sequence[Question]) -> list[Question]:
    """The questions without dependencies on 0, which means none, unless one has that id.

    Examples
    --------
    >>> without_zero([Question("1", "?", parents=("0",))])[0].parents
    ()
    """
    if any(q.id == "0" for q in questions):
        return list(questions)
    return [replace(q, parents=tuple(p for p in q.parents if p != "0")) for q in questions]


def graph_faults(questions: Sequence[Question]) -> list[str]:
    """What is wrong with the dependencies of an item's questions; nothing where all is well.

    Examples
    --------
    >>> graph_faults([Question("1", "?", parents=("2",)), Question("2", "?", parents=("1", "7"))])
    ['question 2 depends on 7, which is no question', 'questions depend in a circle: 1 > 2 > 1']
    """
    return [message for _, message in faults_of(questions)]


def without_faults(questions: Sequence[Question]) -> tuple[tuple[Question, ...], list[str]]:
    """The questions without dependencies on themselves or on nothing, and what was wrong.

    Published files have both, and are scored by their authors all the same. Questions that
    depend on one another keep their dependencies: each counts if the other is right.
    """
    ids = {q.id for q in questions}
    mended = tuple(
        replace(q, parents=tuple(p for p in q.parents if p in ids and p != q.id)) for q in questions
    )
    return mended, graph_faults(questions)


def faults_of(questions: Sequence[Question]) -> list[tuple[str, str]]:
    """The faults that `graph_faults` tells, each with the id of a question that has it."""
    ids = dict.fromkeys(q.id for q in questions)
    if len(ids) < len(questions):
        all_ids = [q.id for q in questions]
        twice = next(i for i in ids if all_ids.count(i) > 1)
        return [(twice, f"two questions have the id {twice}")]
    faults: list[tuple[str, str]] = []
    waits: dict[str, set[str]] = {}
    children: dict[str, list[str]] = {}
    for q in questions:
        faults += [
            (q.id, f"question {q.id} depends on {parent}, which is no question")
            for parent in dict.fromkeys(q.parents)
            if parent not in ids
        ]
        if q.id in q.parents:
            faults.append((q.id, f"question {q.id} depends on itself"))
        waits[q.id] = {p for p in q.parents if p in ids and p != q.id}
        for parent in waits[q.id]:
            children.setdefault(parent, []).append(q.id)
    free = [ident for ident, parents in waits.items() if not parents]
    while free:
        done = free.pop()
        del waits[done]
        for child in children.get(done, ()):
            waits[child].discard(done)
            if not waits[child]:
                free.append(child)
    if waits:  # each of these has a parent among these
        path = [next(iter(waits))]
        while path[-1] not in path[:-1]:
            path.append(min(waits[path[-1]]))
        circle = path[path.index(path[-1]) :]
        faults.append((circle[0], f"questions depend in a circle: {' > '.join(circle)}"))
    return faults


# Reading values -------------------------------------------------------------------------------


def squeezed(text: str) -> str:
    """A text with its white space made single."""
    return " ".join(text.split())


def _word(given: Mapping[str, Any], name: str, default: str) -> str:
    value = given.get(name)
    return default if value is None else _text(value, name)


def _words(given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = given.get(name)
    if value is None:
        return ()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{name} is no JSON list: {_brief(value)}") from None
    if isinstance(value, str):
        value = [part.strip() for part in value.split("|" if name == "choices" else ",")]
    if not isinstance(value, list | tuple):
        value = [value]
    return tuple(_text(part, name) for part in value)


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name} is not valid Unicode") from None
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():  # whole numbers in a column with gaps
        return str(int(value))
    raise ValueError(f"{name} is a text, not {_brief(value)}")


def _plain(answer: str) -> str:
    return squeezed(answer).casefold().rstrip(".! ")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
