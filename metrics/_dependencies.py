"""What TIFA and DSG share: questions, answers, and which of them count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scorekit.questions import Question
from scorekit.registry import all_backbones
from scorekit.types import Feature, Features, Scores, UsageError

OWN_QUESTIONS = "questions:meta"
"""The questions of the row's own column."""


def counted(right: Mapping[str, bool], parents: Mapping[str, Sequence[str]]) -> dict[str, bool]:
    """Whether each question counts: all its parents were answered as expected.

    A parent's own answer decides, not whether the parent counts: so do DSG's authors.

    Parameters
    ----------
    right : mapping of id to bool
        Whether each question was answered as expected.
    parents : mapping of id to ids
        An id that is no question is no condition.

    Examples
    --------
    >>> right = {"dog": False, "red": True, "collar": True}
    >>> counted(right, {"red": ["dog"], "collar": ["red"]})
    {'dog': True, 'red': False, 'collar': True}
    """
    return {
        ident: all(right.get(parent, True) for parent in parents.get(ident, ())) for ident in right
    }


def question_source(questions: str, backbone: str, metric: str) -> str:
    """The backbone that a parameter `questions` means: a plain path is a file of questions.

    Raises
    ------
    UsageError
        If the backbone has questions of its own.
    """
    if questions and backbone.startswith("answers:"):
        raise UsageError(f"{metric}: {backbone} has its own questions; leave out questions=")
    if not questions or questions.partition(":")[0] in all_backbones():
        return questions
    return f"questions:{questions}"


def question_needs(questions: str, backbone: str, form: str) -> dict[str, Feature]:
    """The features of a metric of questions: those answered before, or questions and answers.

    Parameters
    ----------
    questions, backbone : str
    form : {"dsg", "tifa"}
        Which kind of questions a model is to write.
    """
    if backbone.startswith("answers:"):
        return {"answered": Feature("answered_questions", backbone, "sample")}
    source = questions or OWN_QUESTIONS
    params = (("form", form),) if source.startswith("ask:") else ()
    asked = Feature("questions", source, "sample", params)
    return {"questions": asked, "answers": Feature("answer", backbone, "image", second=asked)}


def score_questions(features: Features, *, dependency: bool) -> Scores:
    """The share of questions answered as expected, and each row's evidence.

    Parameters
    ----------
    features : Features
        ``answered``, or ``questions`` and ``answers``: log-probabilities of the choices.
    dependency : bool
        A question counts 0 where one of its parents was not answered as expected.
    """
    if "answered" in features:
        infos = features["answered"]
        rows = [_known(info) for info in infos]
    else:
        infos = features["questions"]
        rows = [_asked(i, a) for i, a in zip(infos, features["answers"], strict=True)]
    value = np.zeros(len(rows))
    undefined: dict[int, str] = {}
    evidence: dict[int, Any] = {}
    for i, row in enumerate(rows):
        if not row:
            undefined[i] = "there are no questions"
            continue
        if dependency:
            right = {each["id"]: each["correct"] for each in row}
            counts = counted(right, {each["id"]: each["parents"] for each in row})
            for each in row:
                each["counted"] = counts[each["id"]]
        value[i] = sum(each["correct"] and each["counted"] for each in row) / len(row)
        evidence[i] = row
    notes = {i: "; ".join(info["notes"]) for i, info in enumerate(infos) if info.get("notes")}
    numbers = np.array([len(row) for row in rows], dtype=np.float64)
    return Scores(value, {"n_questions": numbers}, undefined, notes, evidence)


def _known(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    questions = [Question.of(each) for each in info["questions"]]
    return [_entry(q, a, None) for q, a in zip(questions, info["answers"], strict=True)]


def _asked(info: Mapping[str, Any], answers: Sequence[Any]) -> list[dict[str, Any]]:
    out = []
    for each, given in zip(info["questions"], answers, strict=True):
        question = Question.of(each)
        logs = np.array([float(x) for x in given], dtype=np.float64)
        best = int(logs.argmax())
        # Of the choices alone: what else a model might say is no answer.
        share = 1 / float(np.exp(logs - logs[best]).sum())
        out.append(_entry(question, question.options[best], round(share, 6)))
    return out


def _entry(question: Question, answer: str, probability: float | None) -> dict[str, Any]:
    return {
        "id": question.id,
        "question": question.text,
        "expected": question.answer,
        "answer": answer,
        "probability": probability,
        "correct": question.is_right(answer),
        "counted": True,
        "parents": list(question.parents),
    }
