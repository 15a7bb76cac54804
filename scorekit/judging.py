"""Rubrics for a judge, and what it is sent for a row, with one repair. Pure: no I/O, no model.

The rubrics ask for what VIEScore (Ku et al., ACL 2024, arXiv:2312.14867) and WildBench (Lin et
al., 2024, arXiv:2406.04770) ask for, in words of scorekit's own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from scorekit.inputs import text_error
from scorekit.replies import (
    Info,
    Order,
    ReplyError,
    excerpt,
    read_checklist,
    read_choice,
    read_scores,
)
from scorekit.types import Feature, ImageLike, InputError, Sample, UsageError

Message = dict[str, Any]

_PLACEHOLDER = re.compile(r"\{(text|source_text|checklist|task)\}")
_BULLET = re.compile(r"^(?:[-*\u2022]|[0-9]+[.)])\s+")


@dataclass(frozen=True, slots=True)
class Rubric:
    """What a judge is asked, and what it may answer.

    Attributes
    ----------
    template : str
        The whole prompt, with ``{text}`` and ``{source_text}`` where the row's texts go. Other
        braces stay as they are.
    parts : tuple of str
        Names of the sub-scores, in the order asked for.
    images : tuple of str
        The sample's fields that are shown, in this order.
    low, high : float
        The scale's ends; a score outside is no score.
    """

    template: str
    parts: tuple[str, ...]
    images: tuple[str, ...] = ("image",)
    low: float = 0.0
    high: float = 10.0

    @property
    def form(self) -> str:
        """The wanted form of the reply, as the judge is told."""
        return scores_form(len(self.parts), self.low, self.high)


def scores_form(n: int, low: float, high: float) -> str:
    """How a reply of n scores is to look."""
    scale = f"{low:g} to {high:g}"
    if n == 1:
        return f'{{"score": [S], "reasoning": "one short sentence"}}, S a number from {scale}'
    names = ", ".join(f"S{i + 1}" for i in range(n))
    return (
        f'{{"score": [{names}], "reasoning": "one or two short sentences"}}, '
        f"{names} numbers from {scale}"
    )


def _preset(body: str, parts: tuple[str, ...], images: tuple[str, ...] = ("image",)) -> Rubric:
    template = (
        "You are an experienced artist who assesses images made by AI. Nobody in them is real.\n\n"
        f"{body}\n\nBe strict, and use the whole scale. Answer with one JSON object and nothing "
        f"else: {scores_form(len(parts), 0, 10)}."
    )
    return Rubric(template, parts, images)


PRESETS: Mapping[str, Rubric] = {
    "alignment": _preset(
        "The image should show what this text says, between the tags:\n<text>\n{text}\n</text>\n\n"
        "Give one score from 0 to 10 for how well it does: each thing that the text names, its "
        "number, its attributes, and how things stand to one another. 0: nothing of the text is "
        "shown; 10: all of it is, and nothing contradicts it.",
        ("alignment",),
    ),
    "viescore_sc_t2i": _preset(
        "The image was generated from this prompt, between the tags:\n"
        "<prompt>\n{text}\n</prompt>\n\n"
        "Give one score from 0 to 10 for how far the image follows the prompt. 0: it does not "
        "follow it at all; 10: it follows it perfectly.",
        ("prompt_following",),
    ),
    "viescore_sc_edit": _preset(
        "The first image is the original, the second an edited version of it. The two may be "
        "identical, where the edit failed. The edit asked for, between the tags:\n"
        "<edit>\n{text}\n</edit>\n\n"
        "Give two scores from 0 to 10. First, the success of the edit. 0: the second image shows "
        "nothing of what was asked; 10: it shows exactly that. Second, how little was changed "
        "beyond the edit. 0: the second image is another scene altogether; 10: it is the original "
        "with the smallest change that does what was asked.",
        ("edit_success", "minimal_edit"),
        ("source_image", "image"),
    ),
    "viescore_pq": _preset(
        "Give two scores from 0 to 10 for how well the image is made, whatever it shows. First, "
        "how natural it looks. 0: distances, shadows or light are wrong throughout; 10: it looks "
        "natural. Second, how free of artifacts it is. 0: much of it is distorted, blurred, "
        "scratched, watermarked, or has misshapen bodies or things that don't belong together; "
        "10: it has no artifacts.",
        ("naturalness", "artifact_free"),
    ),
}
"""Frozen: whatever is changed here changes scores, and raises the metrics' versions."""

_CHECKLIST_FORM = (
    '{"answers": ["yes" or "no", one an item, in order], "score": S, "reasoning": "one or two '
    'short sentences"}, S a number from 1 to 10'
)
_CHECKLIST = (
    "You are an expert evaluator of generated images. The image should show what this text says, "
    "between the tags:\n<text>\n{text}\n</text>\n\nA checklist for it:\n{checklist}\n\n"
    "Answer each item with yes or no, by what the image shows. Then score the image from 1 to 10. "
    "Let the checklist guide you, but don't stop at it. 1-2: very poor, it makes no sense for this "
    "text; 3-4: poor; 5-6: fair, with clear faults; 7-8: good, could be better in places; 9-10: "
    f"perfect.\n\nAnswer with one JSON object and nothing else: {_CHECKLIST_FORM}."
)
_PAIR_FORM = (
    '{"reasoning": "one or two short sentences", "choice": C}, C one of "A++", "A+", "A=B", '
    '"B+", "B++"'
)
_PAIR_RULES = (
    "Weigh both sides, whichever comes first and however long it is, and choose: A++ if A is much "
    "better, A+ if A is slightly better, A=B if they are equally good (choose it sparingly), B+ if "
    "B is slightly better, B++ if B is much better.\n\n"
    f"Answer with one JSON object and nothing else: {_PAIR_FORM}."
)
_PAIR_OF_IMAGES = (
    "You are an expert evaluator of generated images. Both images, A first and B second, should "
    "show what this text says, between the tags:\n<text>\n{text}\n</text>\n\n{checklist}"
    + _PAIR_RULES
)
_PAIR_OF_TEXTS = (
    "You are an expert evaluator. Two texts were written for the same task.\n\n{task}"
    "Text A, between the tags:\n<A>\n{text}\n</A>\n\nText B, between the tags:\n"
    "<B>\n{source_text}\n</B>\n\n{checklist}" + _PAIR_RULES
)


@dataclass(frozen=True)
class Prompt:
    """What a judge is sent for one row, and how its reply is read.

    Attributes
    ----------
    text : str
    images : tuple of images
        As the sample has them, in the order shown.
    form : str
        The wanted form of the reply, for the repair.
    read : callable
        Turns a reply into the judgement's ``info``, or raises `ReplyError`.
    who : str
        Who replies, for messages.
    """

    text: str
    images: tuple[ImageLike, ...]
    form: str
    read: Callable[[str], Info]
    who: str = "the judge"


def judgement(backbone: str, **params: Any) -> Feature:
    """Request a judgement of the whole sample; `prompt_of` says what the parameters are."""
    return Feature("judgement", backbone, "sample", tuple(sorted(params.items())))


def rubric_of(params: Mapping[str, Any]) -> Rubric:
    """The rubric that a judgement's parameters name or, for ``free``, hold.

    Raises
    ------
    UsageError
        If there is no such preset, or a free rubric makes no sense.
    """
    name = params["rubric"]
    if name != "free":
        if name not in PRESETS:
            raise UsageError(f"no rubric {name!r}; there are {', '.join(PRESETS)} and free")
        return PRESETS[name]
    n, low, high = int(params["scores"]), float(params["low"]), float(params["high"])
    if error := text_error(params["prompt"]):
        raise UsageError(f"a free rubric needs its text, prompt=...: {error.note}")
    if n < 1:
        raise UsageError(f"a rubric asks for at least 1 score, not {n}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"a scale goes from a lower to a higher number, not {low:g} to {high:g}")
    parts = ("score",) if n == 1 else tuple(f"score{i + 1}" for i in range(n))
    images = ("source_image", "image") if params["images"] == "both" else ("image",)
    return Rubric(params["prompt"], parts, images, low, high)


def prompt_of(params: Mapping[str, Any], sample: Sample) -> Prompt:
    """What a judge is sent for a sample.

    Parameters
    ----------
    params : mapping
        ``rubric``: a name of `PRESETS`; ``free`` with ``prompt``, ``scores``, ``low``, ``high``
        and ``images``; ``checklist`` with ``column``; ``pair_of_images`` or ``pair_of_texts``
        with ``order`` and ``column``.
    sample : Sample

    Raises
    ------
    InputError
        If the row lacks what the rubric shows the judge.
    UsageError
        As `rubric_of`.
    """
    name = params["rubric"]
    if name == "checklist":
        return _checklist_prompt(sample, params["column"])
    if name == "pair_of_images":
        return _pair_of_images(sample, params["column"], params["order"])
    if name == "pair_of_texts":
        return _pair_of_texts(sample, params["column"], params["order"])
    rubric = rubric_of(params)
    text = fill(rubric.template, sample)
    images = tuple(_required(sample, field) for field in rubric.images)
    return Prompt(text, images, rubric.form, partial(_read_scores, rubric))


def _read_scores(rubric: Rubric, reply: str) -> Info:
    return read_scores(reply, len(rubric.parts), rubric.low, rubric.high)


def fill(template: str, sample: Sample, **parts: str) -> str:
    """Put a row's texts into a template, each literally.

    Parameters
    ----------
    template : str
        ``{text}`` and ``{source_text}`` are the row's; all other braces are left alone.
    sample : Sample
    **parts
        Texts that stand in for the row's own.

    Raises
    ------
    InputError
        If the row has no such text, or none that can be sent.

    Examples
    --------
    >>> row = Sample("1", "a", 'say "{source_text}"', None, source_text="no")
    >>> fill('{text}, {"score": [{n}]}', row)
    'say "{source_text}", {"score": [{n}]}'
    """

    # In one pass, so that a placeholder inside a text stays a text.
    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name in parts:
            return parts[name]
        if name not in ("text", "source_text"):
            return match[0]
        return _text(sample, name)

    return _PLACEHOLDER.sub(put, template)


def converse(
    prompt: Prompt, messages: Sequence[Message], ask: Callable[[list[Message]], str]
) -> Info:
    """Ask a judge, and once more where its reply can't be read.

    Parameters
    ----------
    prompt : Prompt
    messages : sequence of messages
        What is sent first, in the form of chat completions.
    ask : callable
        Sends messages, returns the reply's text.

    Returns
    -------
    dict
        What `Prompt.read` made of the reply; ``repaired`` is True where it took two.

    Raises
    ------
    InputError
        ``failed`` if the second reply can't be read either.
    """
    reply = ask(list(messages))
    try:
        return prompt.read(reply)
    except ReplyError as error:
        wrong = f"Your reply could not be read: {error}."
    again = f"{wrong} Answer again, with nothing but a JSON object of this form: {prompt.form}."
    asked = [*messages, {"role": "assistant", "content": reply}, {"role": "user", "content": again}]
    reply = ask(asked)
    try:
        return {**prompt.read(reply), "repaired": True}
    except ReplyError as error:
        note = f"{prompt.who}'s reply could not be read: {error} (it said {excerpt(reply)})"
    raise InputError("failed", note)


# Checklists and comparisons -------------------------------------------------------------------


def checklist_items(value: Any) -> tuple[str, ...]:
    """Items of a checklist: a list, a JSON list, or one item a line, bullets and numbers cut.

    Raises
    ------
    InputError
        ``missing_input`` if there are none, ``invalid_text`` if one is no text.

    Examples
    --------
    >>> checklist_items("- is it red?\\n- is it round?")
    ('is it red?', 'is it round?')
    >>> checklist_items('["is it red?"]')
    ('is it red?',)
    """
    given = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(given, str) and given.lstrip().startswith("["):
        try:
            given = json.loads(given)
        except ValueError:
            raise InputError("invalid_text", "the checklist is no JSON list") from None
    elif isinstance(given, str):
        given = [_BULLET.sub("", line.strip()) for line in given.splitlines()]
        given = [line for line in given if line]
    if given is None or given == [] or given != given:  # NaN is what a table has for nothing
        raise InputError("missing_input", "the row has no checklist")
    if not isinstance(given, list | tuple):
        raise InputError("invalid_text", f"a {type(given).__name__} is no checklist")
    for item in given:
        if error := text_error(item):
            raise InputError(error.status, f"an item of the checklist: {error.note}")
    return tuple(given)


def _checklist_prompt(sample: Sample, column: str) -> Prompt:
    items = checklist_items(sample.meta.get(column))
    text = fill(_CHECKLIST, sample, checklist=_numbered(items))

    def read(reply: str) -> Info:
        return {**read_checklist(reply, len(items)), "items": list(items)}

    return Prompt(text, (_required(sample, "image"),), _CHECKLIST_FORM, read)


def _pair_of_images(sample: Sample, column: str, order: Order) -> Prompt:
    if not sample.reference_images:
        raise InputError("missing_input", "the row has no reference image to compare with")
    text = fill(_PAIR_OF_IMAGES, sample, checklist=_guide(sample, column))
    images = (_required(sample, "image"), sample.reference_images[0])
    shown = images if order == "row_first" else images[::-1]
    return Prompt(text, shown, _PAIR_FORM, partial(read_choice, order=order))


def _pair_of_texts(sample: Sample, column: str, order: Order) -> Prompt:
    mine, other = _text(sample, "text"), _text(sample, "source_text")
    lengths = {"length": len(mine), "baseline_length": len(other)}
    first, second = (mine, other) if order == "row_first" else (other, mine)
    task = sample.meta.get("task")
    shown = ""
    if text_error(task) is None:
        shown = f"The task, between the tags:\n<task>\n{task}\n</task>\n\n"
    images = () if sample.image is None else (sample.image,)
    if images:
        shown += "Both texts are about the image.\n\n"
    guide = _guide(sample, column)
    text = fill(_PAIR_OF_TEXTS, sample, text=first, source_text=second, task=shown, checklist=guide)

    def read(reply: str) -> Info:
        return {**read_choice(reply, order), **lengths}

    return Prompt(text, images, _PAIR_FORM, read)


def _guide(sample: Sample, column: str) -> str:
    """A comparison's checklist, where the row has one."""
    try:
        items = checklist_items(sample.meta.get(column))
    except InputError as error:
        if error.status == "missing_input":
            return ""
        raise
    return f"Let this checklist guide you, but don't stop at it:\n{_numbered(items)}\n\n"


def _numbered(items: Sequence[str]) -> str:
    return "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))


def _text(sample: Sample, name: str) -> str:
    value = getattr(sample, name)
    words = name.replace("_", " ")
    if value is None:
        raise InputError("missing_text" if name == "text" else "missing_input", f"no {words}")
    if error := text_error(value):
        raise InputError(error.status, f"{words}: {error.note}")
    return str(value)


def _required(sample: Sample, field: str) -> ImageLike:
    value = getattr(sample, field)
    if value is None:
        status = "missing_image" if field == "image" else "missing_input"
        raise InputError(status, f"the row has no {field.replace('_', ' ')}")
    return value
