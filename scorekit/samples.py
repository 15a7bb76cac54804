"""Samples from images and texts in memory."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from scorekit.images import is_tensor
from scorekit.types import SEVERAL, Sample, UsageError

_FIELDS = tuple(f.name for f in fields(Sample))


def samples_from(
    images: Any,
    texts: str | Sequence[str | None] | None = None,
    *,
    items: Sequence[str] | None = None,
    systems: str | Sequence[str] | None = None,
    **columns: Any,
) -> list[Sample]:
    """Make samples of images and texts in memory.

    Parameters
    ----------
    images : sequence of images, array or tensor (n, ...), or one image
        Paths, PIL images, bytes of files, arrays and tensors, mixed as you like.
    texts : str or sequence of str, optional
        One for all, or one an image.
    items : sequence of str, optional
        Identity of each image's prompt; ``"0"``, ``"1"``, ... by default. Also ``item=``.
    systems : str or sequence of str, optional
        What made the images; ``""`` by default. Also ``system=``.
    **columns
        Fields of `scorekit.Sample`, one value an image (``references`` and
        ``reference_images``: one or several). Other names are kept in ``meta``.

    Returns
    -------
    list of Sample

    Raises
    ------
    UsageError
        If lengths differ, or a name is close to a field's but is none.

    Examples
    --------
    >>> [(s.item, s.text, s.image) for s in samples_from(["a.png", "b.png"], ["a cat", "a dog"])]
    [('0', 'a cat', 'a.png'), ('1', 'a dog', 'b.png')]
    """
    items = _synonym("items", items, columns)
    systems = _synonym("systems", systems, columns)
    given = _as_list(images)
    n = len(given)
    values: dict[str, list[Any]] = {"image": given}
    values["text"] = [_text("texts", v) for v in _spread("texts", texts, n)]
    values["item"] = (
        [str(i) for i in range(n)]
        if items is None
        else [str(v) for v in _spread("items", items, n, one_for_all=False)]
    )
    systems = "" if systems is None else systems
    values["system"] = [str(v) for v in _spread("systems", systems, n)]
    meta: dict[str, list[Any]] = {}
    for name, column in columns.items():
        if name in ("source_image", "mask"):
            values[name] = _same_length(name, _as_list(column), n)
        elif name == "source_text":
            values[name] = [_text(name, v) for v in _spread(name, column, n)]
        elif name in SEVERAL:
            cells = _spread(name, column, n, one_for_all=False)
            values[name] = [_as_tuple(cell) for cell in cells]
        elif name in _FIELDS:
            values[name] = _spread(name, column, n, one_for_all=False)
        else:
            near = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.88)
            if near:
                raise UsageError(f"a sample has no {name}; did you mean {near[0]}?")
            meta[name] = _spread(name, column, n)
    if meta:
        before = values.get("meta", [{}] * n)
        values["meta"] = [
            {**before[i], **{name: column[i] for name, column in meta.items()}} for i in range(n)
        ]
    if "index" not in values:
        values["index"] = _count_up(zip(values["system"], values["item"], strict=True))
    names = list(values)
    samples = [
        Sample(**dict(zip(names, row, strict=True))) for row in zip(*values.values(), strict=True)
    ]
    _check_unique(samples)
    return samples


def _synonym(name: str, value: Any, columns: dict[str, Any]) -> Any:
    """Take the field's own name for the argument's (item for items)."""
    singular = name.removesuffix("s")
    if singular in columns:
        if value is not None:
            raise UsageError(f"give {name} or {singular}, not both")
        return columns.pop(singular)
    return value


def _as_list(images: Any) -> list[Any]:
    """One image as a list of one, an array or tensor with a batch axis as its images."""
    if hasattr(images, "ndim") and (is_tensor(images) or type(images).__module__ == "numpy"):
        if getattr(images.dtype, "kind", "") == "O":
            return list(images)
        return [images[i] for i in range(len(images))] if images.ndim == 4 else [images]
    if isinstance(images, str | bytes | os.PathLike) or hasattr(images, "getbands"):
        return [images]
    try:
        return list(images)
    except TypeError:
        return [images]


def _spread(name: str, column: Any, n: int, one_for_all: bool = True) -> list[Any]:
    if column is None:
        return [None] * n
    if isinstance(column, str):
        if not one_for_all:
            raise UsageError(f"{name} needs one value an image, not one text")
        return [column] * n
    try:
        return _same_length(name, list(column), n)
    except TypeError:
        raise UsageError(f"{name} must be a sequence of {n} values") from None


def _same_length(name: str, column: list[Any], n: int) -> list[Any]:
    if len(column) != n:
        raise UsageError(f"{n} images but {len(column)} {name}")
    return column


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise UsageError(f"{name} must be texts, not {type(value).__name__}")


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _count_up(keys: Iterable[tuple[str, str]]) -> list[int]:
    counts: dict[tuple[str, str], int] = {}
    indices = []
    for key in keys:
        indices.append(counts.get(key, 0))
        counts[key] = indices[-1] + 1
    return indices


def _check_unique(samples: Sequence[Sample]) -> None:
    seen = set()
    for sample in samples:
        key = (sample.system, sample.item, sample.index)
        if key in seen:
            raise UsageError(
                f"two images of system {key[0]!r} for item {key[1]!r} have the index {key[2]}"
            )
        seen.add(key)
