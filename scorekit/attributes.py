"""Attributes of an edit: what its source image shows, and what the edited image should show.

AugCLIP (Kim et al., CVPR 2025, arXiv:2410.11374) has a multi-modal language model describe the
source image and the target in short phrases, and takes as the ideal edit the least change that
crosses from the ones to the others. The prompt here is scorekit's own. Pure: no I/O, no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scorekit.inputs import missing_field, text_error
from scorekit.judging import Prompt, fill
from scorekit.replies import Info, ReplyError, object_with
from scorekit.types import Feature, InputError, Sample

VERSION = 1
"""Raised whenever the prompt or the reading of replies changes: it is in signatures and keys."""

FIELDS = ("source_attributes", "target_attributes")
MOST = 40
"""Attributes of one list that a reply may have; it is asked for 5 to 15."""
LONGEST = 120
"""Characters of an attribute in a reply: no phrase is longer, a paragraph is."""

FORM = '{"source_attributes": ["...", ...], "target_attributes": ["...", ...]}'

_SOURCE_TEXT = (
    "What is said of the image as it is, between the tags:\n<image>\n{source_text}\n</image>\n\n"
)
_EDIT = (
    "The image is about to be edited. {before}The edit, between the tags, as an instruction or as "
    "a description of the edited image:\n<edit>\n{text}\n</edit>\n\n"
)
_TASK = (
    "Write two lists of short phrases about what can be seen.\n"
    "source_attributes: what the image shows now: its things with their number, colour, material, "
    "shape and state, what they do, where they are, the background, the light, the style.\n"
    "target_attributes: what the image should show when the edit has been made and nothing else "
    "has changed. What stays is repeated in the same words; what the edit changes is replaced by "
    "what it becomes; what the edit removes is left out.\n"
    "Each list has from 5 to 15 phrases, the most important first, each of at most 8 words and "
    'clear by itself: "a black dog", not "it is black". No phrase says what is not there.\n\n'
    'For an image of a black dog asleep on a green sofa, and the edit "Let it be a white cat":\n'
    '{"source_attributes": ["a dog", "black fur", "an animal asleep on a sofa", "a green sofa", '
    '"a living room"], "target_attributes": ["a cat", "white fur", "an animal asleep on a sofa", '
    '"a green sofa", "a living room"]}\n\n'
    f"Answer for this image with one JSON object and nothing else: {FORM}."
)


def attributes(backbone: str) -> Feature:
    """Request a row's attributes; ``info`` has both lists under their names, and ``notes``.

    Parameters
    ----------
    backbone : str
        ``attributes:columns``, ``attributes:FILE``, or a model that writes them:
        ``describe:openai:MODEL``, ``describe:hf:NAME``.
    """
    return Feature("attributes", backbone, "sample")


def attributes_prompt(sample: Sample) -> Prompt:
    """What a model is sent for a row: the source image, the edit, the source text if there is one.

    Raises
    ------
    InputError
        If the row has no source image or no text, or a text that can't be sent.
    """
    if sample.source_image is None:
        raise missing_field("source_image")
    before = _SOURCE_TEXT if sample.source_text is not None else ""
    text = fill(_EDIT.replace("{before}", before) + _TASK, sample)
    return Prompt(text, (sample.source_image,), FORM, read_reply, "the model")


def read_reply(reply: str) -> Info:
    """Both lists of a reply, settled. Nothing is guessed.

    Parameters
    ----------
    reply : str
        Its one JSON object with both lists, perhaps in a code fence or among words.

    Raises
    ------
    ReplyError
        If there is no such object or more than one; a list is missing, empty or longer than
        `MOST`; or an attribute is no text, or longer than `LONGEST`.

    Examples
    --------
    >>> read_reply('{"source_attributes": ["a dog", "A dog"], "target_attributes": ["a cat"]}')
    ... # doctest: +NORMALIZE_WHITESPACE
    {'source_attributes': ['a dog'], 'target_attributes': ['a cat'],
     'notes': ['1 double left out of the source attributes']}
    """
    found = object_with(FIELDS[0], reply)
    return settled(*(_list_of(found, name) for name in FIELDS))


def settled(source: Sequence[Any], target: Sequence[Any]) -> Info:
    """Two lists as a record feature has them: white space made single, doubles left out.

    Returns
    -------
    dict
        ``source_attributes`` and ``target_attributes``, lists of str, and ``notes``: how many
        doubles there were, and how many attributes are in both lists. What is in both says
        nothing of the edit, and much of what should stay.

    Raises
    ------
    InputError
        ``missing_input`` if a list is empty; what `text_error` says of an attribute.

    Examples
    --------
    >>> settled(["a dog", "a sofa"], ["a cat", "a  sofa"])["notes"]
    ['1 attribute is in both lists']
    """
    notes = []
    lists = []
    for name, given in zip(FIELDS, (source, target), strict=True):
        words = name.replace("_", " ")
        if not given:
            raise missing_field(name)
        for each in given:
            if error := text_error(each):
                raise InputError(error.status, f"{words}: {error.note}")
        kept: dict[str, str] = {}
        for each in given:
            phrase = " ".join(each.split())
            kept.setdefault(phrase.casefold(), phrase)
        if doubles := len(given) - len(kept):
            notes.append(f"{doubles} double{'s' * (doubles > 1)} left out of the {words}")
        lists.append(kept)
    both = len(lists[0].keys() & lists[1].keys())
    if lists[0].keys() == lists[1].keys():
        notes.append("both lists are the same: nothing tells the target from the source")
    elif both:
        notes.append(f"{both} attribute{'s are' if both > 1 else ' is'} in both lists")
    first, second = (list(kept.values()) for kept in lists)
    return {FIELDS[0]: first, FIELDS[1]: second, "notes": notes}


def _list_of(found: Mapping[str, Any], name: str) -> list[str]:
    given = found.get(name)
    if not isinstance(given, list):
        raise ReplyError(f'there is no list "{name}"')
    if not 1 <= len(given) <= MOST:
        raise ReplyError(f'"{name}" has from 1 to {MOST} entries, not {len(given)}')
    for each in given:
        if error := text_error(each):
            raise ReplyError(f'an entry of "{name}": {error.note}')
        if len(each) > LONGEST:
            raise ReplyError(f'{json.dumps(each[:40])}... in "{name}" is no short phrase')
    return given
