"""Entities of a text and where in the image they are: the column ``entities``, and sub-images."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scorekit import remote
from scorekit.images import as_uint8, read_bytes, size_of_file
from scorekit.types import Array, Extracted, ImageLike, InputError, UsageError

Box = tuple[float, float, float, float]
Size = tuple[int, int]

_KEYS = ("text", "box", "box_relative", "mask")


@dataclass(frozen=True)
class Entity:
    """Something that a text speaks of, and where the image shows it.

    Attributes
    ----------
    text : str
    boxes : tuple of (x0, y0, x1, y1)
        Several are one region together.
    relative : bool
        Whether the boxes are in shares of width and height rather than in pixels.
    mask : image or None
        White where the entity is, of the image's size.
    """

    text: str
    boxes: tuple[Box, ...] = ()
    relative: bool = False
    mask: ImageLike = None

    @property
    def placed(self) -> bool:
        """Whether it is said where the entity is."""
        return bool(self.boxes) or self.mask is not None


def entities_of(given: Any) -> list[Entity] | None:
    """Read a row's entities.

    Parameters
    ----------
    given : list of mappings, str or None
        Or the same list as JSON. Each has ``text``, and ``box`` in pixels, ``box_relative`` in
        shares of width and height, or ``mask``; a list of boxes is one region. None, "" and NaN
        are none given.

    Raises
    ------
    InputError
        ``invalid_text`` if it is anything else.

    Examples
    --------
    >>> entities_of('[{"text": "a dog", "box": [0, 0, 8, 9]}]')[0].boxes
    ((0.0, 0.0, 8.0, 9.0),)
    """
    if given is None or given == "" or (isinstance(given, float) and math.isnan(given)):
        return None
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise _malformed("not a JSON list") from None
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if not isinstance(given, list | tuple):
        raise _malformed(f"a {type(given).__name__}, not a list")
    return [_entity(number, each) for number, each in enumerate(given, 1)]


def _entity(number: int, given: Any) -> Entity:
    if not isinstance(given, Mapping):
        raise _malformed(f"entity {number} is no object with text and box")
    # A table of structs has every key in every row, empty where it was not given.
    stated = {key: value for key, value in given.items() if value is not None}
    if unknown := [key for key in stated if key not in _KEYS]:
        known = f"{', '.join(_KEYS[:-1])} and {_KEYS[-1]}"
        raise _malformed(f"entity {number} has the key {unknown[0]!r}; known are {known}")
    text = stated.get("text")
    if not isinstance(text, str) or not text.strip():
        raise _malformed(f"entity {number} has no text")
    where = [key for key in _KEYS[1:] if key in stated]
    if len(where) > 1:
        raise _malformed(f"entity {number} has both {where[0]} and {where[1]}")
    if where in ([], ["mask"]):
        return Entity(text.strip(), mask=stated.get("mask"))
    boxes = stated[where[0]]
    try:
        nested = [boxes] if not hasattr(boxes[0], "__len__") else list(boxes)
        read = tuple(_box(each) for each in nested)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise _malformed(f"entity {number}: {where[0]} is four numbers x0, y0, x1, y1") from None
    return Entity(text.strip(), read, where[0] == "box_relative")


def _box(given: Any) -> Box:
    if isinstance(given, str) or any(isinstance(v, bool | str) for v in given):
        raise TypeError
    x0, y0, x1, y1 = map(float, given)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError
    return x0, y0, x1, y1


def _malformed(what: str) -> InputError:
    return InputError("invalid_text", f"the column entities: {what}")


def with_mask_paths(given: Any, base: str) -> Any:
    """A table's cell with the paths of its masks relative to `base`.

    A cell that can't be read is left as it is: what is wrong with it is its row's affair.
    """
    try:
        listed = json.loads(given) if isinstance(given, str) else given
        return [
            {**each, "mask": _joined(base, each["mask"])}
            if isinstance(each.get("mask"), str)
            else each
            for each in listed
        ]
    except (TypeError, ValueError, AttributeError, RecursionError):
        return given


def _joined(base: str, mask: str) -> str:
    try:
        return remote.join(base, mask)
    except UsageError:  # a URL that is not read: its row says so
        return mask


# Regions ----------------------------------------------------------------------------------


def size_of(image: ImageLike) -> Size:
    """Width and height of an image as it is decoded, of a file from its header alone.

    Raises
    ------
    InputError
        If it can't be read.
    """
    if isinstance(image, Image.Image) or not isinstance(image, str | Path | bytes):
        height, width = as_uint8(image).shape[:2]
        return width, height
    return size_of_file(image if isinstance(image, bytes) else read_bytes(image))


def region_of(entity: Entity, size: Size) -> tuple[str, str]:
    """The part of an image that shows an entity, as `only` reads it, and a note on it.

    Parameters
    ----------
    entity : Entity
        One that is `placed`.
    size : (width, height)

    Returns
    -------
    region : str
        JSON that depends on the content alone: whole pixels, or a mask's bits.
    note : str
        Says so where a box was clipped to the image; else empty.

    Raises
    ------
    InputError
        ``invalid_region`` for a box without area or outside the image, or a mask of another
        size or without a white pixel; else as the mask's file says.
    """
    if entity.mask is not None:
        return _masked(entity, size), ""
    width, height = size
    scale = (width, height, width, height) if entity.relative else (1, 1, 1, 1)
    out: list[list[int]] = []
    note = ""
    for box in entity.boxes:
        x0, y0, x1, y1 = (value * side for value, side in zip(box, scale, strict=True))
        shown = f"the box {_numbers(box)} of {entity.text!r}"
        if x1 <= x0 or y1 <= y0:
            raise InputError("invalid_region", f"{shown} has no area")
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            outside = f"{shown} lies outside the image of {width} x {height}"
            raise InputError("invalid_region", outside)
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            note = f"{shown} was clipped to the image of {width} x {height}"
        # Every pixel that the box touches.
        left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
        out.append([left, top, min(width, math.ceil(x1)), min(height, math.ceil(y1))])
    return json.dumps({"boxes": out}), note


def _numbers(box: Box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _masked(entity: Entity, size: Size) -> str:
    named = f"the mask of {entity.text!r}"
    try:
        white = as_uint8(entity.mask).max(axis=2) > 127
    except InputError as error:
        raise InputError(error.status, f"{named}: {error.note}") from None
    height, width = white.shape
    if (width, height) != size:
        against = f"{width} x {height}, the image {size[0]} x {size[1]}"
        raise InputError("invalid_region", f"{named} is {against}")
    if not white.any():
        raise InputError("invalid_region", f"{named} has no white pixel")
    bits = base64.b64encode(zlib.compress(np.packbits(white).tobytes(), 6)).decode()
    return json.dumps({"mask": bits, "size": [width, height]})


def only(image: Image.Image, region: str) -> Image.Image:
    """An RGB image with all outside a region black, at its full size.

    Examples
    --------
    >>> white = Image.new("RGB", (4, 2), "white")
    >>> np.asarray(only(white, '{"boxes": [[1, 0, 3, 1]]}'))[..., 0].tolist()
    [[0, 255, 255, 0], [0, 0, 0, 0]]
    """
    known = json.loads(region)
    if "mask" in known:
        width, height = known["size"]
        bits = np.frombuffer(zlib.decompress(base64.b64decode(known["mask"])), dtype=np.uint8)
        inside: Array = np.unpackbits(bits, count=width * height).reshape(height, width, 1)
        return Image.fromarray(np.asarray(image) * inside)
    out = Image.new("RGB", image.size)
    for box in known["boxes"]:
        out.paste(image.crop(box), (box[0], box[1]))
    return out


def placed(
    entities: Sequence[Entity],
    size: Size,
    found: Mapping[int, tuple[Box, float]] | None = None,
    notes: Sequence[str] = (),
) -> Extracted:
    """The record feature of a row's entities, as metrics and dual encoders read it.

    Parameters
    ----------
    entities : sequence of Entity
    size : (width, height)
        Of the image.
    found : mapping of position to (box, score), optional
        What a detector found of those that are not placed; the others it has not found.
    notes : sequence of str
        What a reader of the row should know.

    Returns
    -------
    Extracted
        ``info`` has ``nouns`` (every entity's text), ``texts`` (the regions of those that have
        one), ``entities`` (objects with ``text``, ``found`` and where), and ``notes``.

    Raises
    ------
    InputError
        ``undefined`` if there are no entities; else as `region_of`.
    """
    if not entities:
        raise InputError("undefined", "the row has no entities")
    regions: list[str] = []
    told: list[dict[str, Any]] = []
    said = list(notes)
    for position, entity in enumerate(entities):
        extra: dict[str, Any] = {}
        where = entity
        if found and position in found:
            box, score = found[position]
            where = Entity(entity.text, (box,))
            extra = {"score": round(score, 6)}
        each: dict[str, Any] = {"text": entity.text, "found": where.placed, **extra}
        if where.placed:
            region, note = region_of(where, size)
            regions.append(region)
            said += [note] if note else []
            boxes = json.loads(region).get("boxes")
            each |= {"boxes": boxes} if boxes else {"mask": True}
        told.append(each)
    texts = [entity.text for entity in entities]
    info = {"nouns": texts, "texts": regions, "entities": told, "notes": said}
    return Extracted(np.zeros(0, np.float32), info)
