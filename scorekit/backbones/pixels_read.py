"""The pixels of an edit: edited image, source and mask, decoded once. No torch here."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from scorekit.images import as_uint8, content_key, decode, read_bytes
from scorekit.inputs import missing_field
from scorekit.masks import region_of
from scorekit.types import Array, ImageLike, InputError, Sample

KEPT_BYTES = 256 << 20
"""Decoded images that are kept: a chunk of edits of 512 x 512 pixels, for the next feature."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EditPixels:
    """An edit's pixels.

    Attributes
    ----------
    edited, source : uint8 array (h, w, 3)
    region : bool array (h, w), or InputError
        Where the edit may change the image, or why there is no such region.
    """

    edited: Array
    source: Array
    region: Array | InputError

    def regions(self) -> dict[str, Array]:
        """The whole image, and inside and outside the mask where there is one; bool (h, w)."""
        whole = {"whole": np.ones(self.edited.shape[:2], bool)}
        if isinstance(self.region, InputError):
            return whole
        return {**whole, "inside": self.region, "outside": ~self.region}

    def pie_regions(self) -> dict[str, Array]:
        """The same as PIE-Bench has it: the outermost pixels always belong to the inside."""
        regions = self.regions()
        if "inside" in regions:
            inside = regions["inside"].copy()
            inside[[0, -1], :] = True
            inside[:, [0, -1]] = True
            regions |= {"inside": inside, "outside": ~inside}
        return regions

    def note(self) -> dict[str, str]:
        """What an ``info`` says beside numbers of the whole image alone."""
        return {"no_region": self.region.note} if isinstance(self.region, InputError) else {}


def edit_content(sample: Sample) -> str:
    """Hash of the content of an edit's images.

    Raises
    ------
    InputError
        If the row has no image or no source image, or they can't be read; a mask is part of
        the content as it is, missing or not.
    """
    for name in ("image", "source_image"):
        if getattr(sample, name) is None:
            raise missing_field(name)
    keys: list[str | None] = [
        content_key(sample.image),
        _named("source image", lambda: content_key(sample.source_image)),
    ]
    try:
        keys.append(None if sample.mask is None else content_key(sample.mask))
    except InputError as error:
        keys.append(str(error))
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def read_edit(sample: Sample, sizes: str = "equal") -> EditPixels:
    """Decode an edit's images.

    Parameters
    ----------
    sample : Sample
    sizes : {"equal", "resize"}
        What becomes of an edited image that is not of its source's size: an error, or it is
        resized to it (PIL, bicubic, antialias).

    Raises
    ------
    InputError
        If an image can't be read, or ``invalid_image`` if the sizes differ.
    """
    edited = _pixels(sample.image)
    source = _named("source image", lambda: _pixels(sample.source_image))
    size = source.shape[:2]
    if edited.shape != source.shape:
        if sizes == "equal":
            (h, w), (y, x) = edited.shape[:2], size
            raise InputError(
                "invalid_image", f"the edited image has {w} x {h} pixels, its source {x} x {y}"
            )
        resized = Image.fromarray(edited).resize(size[::-1], Image.Resampling.BICUBIC)
        edited = np.asarray(resized)
    try:
        if sample.mask is None:
            raise missing_field("mask")
        region: Array | InputError = region_of(_named("mask", lambda: _pixels(sample.mask)), size)
    except InputError as error:
        region = error
    return EditPixels(edited, source, region)


def each_edit(
    samples: Sequence[Sample], sizes: str, measure: Callable[[EditPixels], T]
) -> list[T | InputError]:
    """Decode and measure edits on threads; what is wrong with one is its result."""

    def one(sample: Sample) -> T | InputError:
        try:
            return measure(read_edit(sample, sizes))
        except InputError as error:
            return error
        except Exception as error:
            return InputError("failed", f"{type(error).__name__}: {error}")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(one, samples))


def read_edits(samples: Sequence[Sample], sizes: str) -> list[EditPixels | InputError]:
    """Decode edits on threads."""
    return each_edit(samples, sizes, lambda edit: edit)


def _named(name: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except InputError as error:
        raise InputError(error.status, f"{name}: {error.note}") from None


class _Kept:
    """Decoded images by content, the oldest going first."""

    def __init__(self) -> None:
        self._pixels: OrderedDict[str, Array] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Array | None:
        with self._lock:
            if key in self._pixels:
                self._pixels.move_to_end(key)
            return self._pixels.get(key)

    def put(self, key: str, pixels: Array) -> None:
        with self._lock:
            if key in self._pixels:
                return
            self._pixels[key] = pixels
            self._bytes += pixels.nbytes
            while self._bytes > KEPT_BYTES:
                self._bytes -= self._pixels.popitem(last=False)[1].nbytes


_kept = _Kept()


def _pixels(image: ImageLike) -> Array:
    data: Any = read_bytes(image) if isinstance(image, str | Path) else image
    key = content_key(data)
    pixels = _kept.get(key)
    if pixels is None:
        # A caller may fill its array anew: what is kept is a copy.
        pixels = np.asarray(decode(data)) if isinstance(data, bytes) else as_uint8(data).copy()
        _kept.put(key, pixels)
    return pixels
