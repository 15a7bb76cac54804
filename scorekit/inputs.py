"""A sample's inputs of a feature: which there are, what is wrong with them, how rows are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scorekit.types import SEVERAL, Extracted, Feature, InputError, Sample

IMAGE_FIELDS = ("image", "source_image", "reference_images", "mask")
TEXT_FIELDS = (
    "text",
    "source_text",
    "references",
    "nouns",
    "source_attributes",
    "target_attributes",
)
RECORD = "sample"
_REQUIRED = {"image": "missing_image", "text": "missing_text"}

Result = Extracted | InputError
RowResult = Extracted | list[Extracted] | InputError


def text_error(text: Any) -> InputError | None:
    """What is wrong with a text before any model sees it."""
    if not isinstance(text, str):
        return InputError("invalid_text", f"a {type(text).__name__} is no text")
    if not text.strip():
        return InputError("empty_text", "the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return InputError("invalid_text", f"not valid Unicode: {error.reason} at {error.start}")
    return None


def inputs_of(sample: Sample, name: str) -> Sequence[Any]:
    """The inputs of a field: none, one or several."""
    value = getattr(sample, name)
    if name in SEVERAL:
        return tuple(value)
    return () if value is None else (value,)


def asked_of(
    feature: Feature, sample: Sample, row: int, known: Mapping[Feature, Sequence[RowResult]]
) -> Sequence[Any] | InputError:
    """A row's inputs of a feature: the sample's, or those that a record feature gives."""
    if feature.given_by is None:
        return inputs_of(sample, feature.field)
    told = known[feature.given_by][row]
    if isinstance(told, InputError):
        return told
    assert isinstance(told, Extracted)
    return tuple(told.info[feature.field])


def missing_field(name: str) -> InputError:
    """What a row's status says where it lacks a field."""
    status = _REQUIRED.get(name, "missing_input")
    return InputError(status, f"the row has no {name.replace('_', ' ')}")


def seconds_of(
    feature: Feature, sample: Sample, row: int, known: Mapping[Feature, Sequence[RowResult]]
) -> Sequence[str] | InputError:
    """The texts that go with a row's first input of a feature of a pair.

    Parameters
    ----------
    feature, sample
        The feature, and the row's sample.
    row
        Its position in the lists of `known`.
    known
        The record features that other features take their texts from.
    """
    if isinstance(feature.second, Feature):
        asked = known[feature.second][row]
        if isinstance(asked, InputError):
            return asked
        assert isinstance(asked, Extracted)
        return tuple(asked.info["texts"])
    assert feature.second is not None
    found = inputs_of(sample, feature.second)
    if not found:
        return missing_field(feature.second)
    for text in found:
        if error := text_error(text):
            return _named(feature.second, error)
    return found


def row_of(
    feature: Feature,
    inputs: Sequence[Any] | InputError,
    lookup: Callable[[Any, str | None], Result],
    seconds: Sequence[str] | InputError | None = None,
) -> RowResult:
    """A row's feature from those of its inputs; `lookup` gives that of (input, second text)."""
    if isinstance(inputs, InputError):
        return inputs
    if not inputs:
        return [] if feature.optional else missing_field(feature.field)
    if isinstance(seconds, InputError):
        return seconds
    asked = [(raw, text) for raw in inputs for text in (seconds if seconds is not None else [None])]
    results: list[Extracted] = []
    for raw, text in asked:
        result = lookup(raw, text)
        if isinstance(result, InputError):
            return _named(feature.field, result)
        results.append(result)
    return results if feature.several else results[0]


def _named(name: str, error: InputError) -> InputError:
    if name in ("image", "text"):
        return error
    return InputError(error.status, f"{name.replace('_', ' ')}: {error.note}")


def identity_of(raw: Any) -> Any:
    """What makes two inputs one and the same before their content is known."""
    if isinstance(raw, str | Path):
        return str(raw)
    return raw if isinstance(raw, bytes) else id(raw)
