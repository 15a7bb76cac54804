"""Replies of judges and of writers of questions, read strictly: nothing is guessed. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

CHOICES: Mapping[str, float] = {
    "much better": 1.0,
    "slightly better": 0.5,
    "tie": 0.0,
    "slightly worse": -0.5,
    "much worse": -1.0,
}
"""Outcomes of a comparison from the row's side, and WB-Reward's value of each."""

Order = Literal["row_first", "baseline_first"]
Info = dict[str, Any]

_LABELS = ("A++", "A+", "A=B", "B+", "B++")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


class ReplyError(ValueError):
    """What is wrong with a model's reply, in words that the model itself is told."""


def read_scores(reply: str, n: int, low: float = 0.0, high: float = 10.0) -> Info:
    """Read the scores of a reply: its one JSON object, or a bare number where n is 1.

    Parameters
    ----------
    reply : str
        With or without a code fence or words around the object.
    n : int
        How many scores were asked for.
    low, high : float
        The scale's ends.

    Returns
    -------
    dict
        ``scores``, a list of n floats, and ``reasoning``.

    Raises
    ------
    ReplyError
        If there is no such object, or more than one; or a score is missing, no number, or off
        the scale. Nothing is guessed.

    Examples
    --------
    >>> read_scores('```json\\n{"score": [7, 9.5], "reasoning": "good"}\\n```', 2)
    {'scores': [7.0, 9.5], 'reasoning': 'good'}
    >>> read_scores("7/10", 1)
    Traceback (most recent call last):
    scorekit.replies.ReplyError: there is no JSON object with "score" in it
    """
    if n == 1 and _NUMBER.fullmatch(reply.strip()):
        return {"scores": [_on_scale(float(reply.strip()), low, high)], "reasoning": ""}
    found = object_with("score", reply)
    given = found["score"]
    if not isinstance(given, list):
        given = [given]
    if len(given) != n:
        raise ReplyError(f"{_counted(n, 'score')} wanted, {len(given)} given")
    scores = [_on_scale(value, low, high) for value in given]
    return {"scores": scores, "reasoning": _reasoning(found)}


def read_checklist(reply: str, n: int) -> Info:
    """Read a checklist's n answers and the score from 1 to 10.

    Raises
    ------
    ReplyError
        As `read_scores`; an answer is yes or no.

    Examples
    --------
    >>> read_checklist('{"answers": ["yes", "No"], "score": 6}', 2)
    {'answers': ['yes', 'no'], 'score': 6.0, 'reasoning': ''}
    """
    found = object_with("answers", reply)
    given = found["answers"]
    if not isinstance(given, list) or len(given) != n:
        number = len(given) if isinstance(given, list) else "no list"
        raise ReplyError(f"{_counted(n, 'answer')} wanted, {number} given")
    answers = [a.strip().lower() if isinstance(a, str) else a for a in given]
    for answer in answers:
        if answer not in ("yes", "no"):
            raise ReplyError(f"an answer is yes or no, not {answer!r}")
    if "score" not in found:
        raise ReplyError('there is no "score"')
    score = _on_scale(found["score"], 1.0, 10.0)
    return {"answers": answers, "score": score, "reasoning": _reasoning(found)}


def read_choice(reply: str, order: Order = "row_first") -> Info:
    """Read a comparison's choice, as seen from the row's side.

    Raises
    ------
    ReplyError
        If it is none of A++, A+, A=B, B+, B++.

    Examples
    --------
    >>> read_choice('{"choice": "A+", "reasoning": "sharper"}', "baseline_first")
    {'choice': 'slightly worse', 'reasoning': 'sharper'}
    """
    found = object_with("choice", reply)
    label = found["choice"]
    if not isinstance(label, str) or label.strip().upper() not in _LABELS:
        raise ReplyError(f'"choice" is one of {", ".join(_LABELS)}, not {label!r}')
    place = _LABELS.index(label.strip().upper())
    outcomes = list(CHOICES) if order == "row_first" else list(CHOICES)[::-1]
    return {"choice": outcomes[place], "reasoning": _reasoning(found)}


def object_with(key: str, reply: str) -> Mapping[str, Any]:
    """The one JSON object of a reply that has a key.

    Parameters
    ----------
    key : str
    reply : str
        With or without a code fence or words around the object.

    Raises
    ------
    ReplyError
        If there is no such object, or more than one; or its JSON is none that every reader reads
        the same: a key is there twice, a number is NaN or infinite.

    Examples
    --------
    >>> object_with("a", 'Sure {here}: {"a": 1}')
    {'a': 1}
    """
    decoder = json.JSONDecoder(object_pairs_hook=_no_doubles, parse_constant=_no_constant)
    found: list[Mapping[str, Any]] = []
    start = reply.find("{")
    while start >= 0:
        end = start + 1
        try:
            value, end = decoder.raw_decode(reply, start)
        except ReplyError:
            raise
        except RecursionError:
            raise ReplyError("its JSON is nested too deeply") from None
        except ValueError:  # a brace in a sentence
            pass
        else:
            if key in value:
                found.append(value)
        start = reply.find("{", end)
    if not found:
        raise ReplyError(f'there is no JSON object with "{key}" in it')
    if len(found) > 1:
        raise ReplyError(f'there are {len(found)} JSON objects with "{key}" in them')
    return found[0]


def excerpt(reply: str) -> str:
    """The beginning of a reply, for an error's one line."""
    return repr(reply if len(reply) <= 80 else reply[:80] + "...")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ReplyError("a key is there twice")
    return out


def _no_constant(name: str) -> Any:
    raise ReplyError(f"{name} is no number")


def _on_scale(value: Any, low: float, high: float) -> float:
    # bool is an int in Python, and true is no score.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReplyError(f"a score is a number, not {json.dumps(value)[:40]}")
    if not low <= value <= high:  # infinity is off every scale
        raise ReplyError(f"{str(value)[:20]} is not from {low:g} to {high:g}")
    return float(value)


def _reasoning(found: Mapping[str, Any]) -> str:
    given = found.get("reasoning", "")
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    # JSON may have half a surrogate pair, which no file can keep.
    return text.encode(errors="replace").decode()


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
