"""Files of attributes: read by item, or by source image and text; written for people to read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from scorekit.attributes import FIELDS, settled
from scorekit.inputs import text_error
from scorekit.prompts import ALIASES, Table, read_json, read_table, require
from scorekit.questions import squeezed
from scorekit.replies import Info
from scorekit.types import PathLike, Sample, UsageError

KEYS = ("item", "source_image", "text")
"""Columns that say what an entry is of: the item alone, or one of the others or both."""
ENTRIES = "attributes"
"""Key of the list of entries in a file that `write_attributes` wrote."""
SEPARATOR = "|"


class AttributeFile:
    """A file's attributes.

    Parameters
    ----------
    table : Table
        Columns `FIELDS` and some of `KEYS`.

    Raises
    ------
    UsageError
        If an entry says of nothing what it is of, or two are of the same, or an attribute is no
        text; the message names the line.
    """

    def __init__(self, table: Table) -> None:
        require(table, *KEYS)
        for name in FIELDS:
            require(table, name)
        items, images, texts = (table.strings(name) for name in KEYS)
        lists = [table.texts(name, SEPARATOR) for name in FIELDS]
        self._by_item: dict[str, int] = {}
        self._by_edit: dict[tuple[str | None, str | None], int] = {}
        self._keys: list[tuple[str | None, str | None]] = []
        self._lists = list(zip(*lists, strict=True))
        for row, (item, image, text) in enumerate(zip(items, images, texts, strict=True)):
            for name, given in zip(FIELDS, self._lists[row], strict=True):
                if error := next(filter(None, map(text_error, given)), None):
                    raise table.error(row, f"{name}: {error.note}")
            place = None if image is None else PurePath(image).as_posix()
            key = (place, None if text is None else squeezed(text))
            if item is None and key == (None, None):
                raise table.error(row, "neither an item nor a source_image nor a text")
            # An item's entry is no entry for whatever else has its image or its text.
            known: dict[Any, int] = self._by_edit if item is None else self._by_item
            first = known.setdefault(key if item is None else item, row)
            if first != row:
                raise table.error(row, f"of the same as {table.places[first]}")
            self._keys.append(key)

    def find(self, sample: Sample) -> Info | None:
        """The attributes of a row, settled: of its item, else of its source image and text.

        An image's path in the file may be any end of the row's, such as its name.

        Returns
        -------
        dict or None
            As `settled`; None where there are none.

        Raises
        ------
        InputError
            ``missing_input`` if one of the lists is empty.
        """
        text = squeezed(sample.text) if isinstance(sample.text, str) else None
        parts: tuple[str, ...] = ()
        if isinstance(sample.source_image, str | PurePath):
            parts = PurePath(sample.source_image).parts
        places = [PurePath(*parts[k:]).as_posix() for k in range(len(parts))]
        row = self._by_item.get(sample.item)
        if row is not None:
            image, said = self._keys[row]
            found = settled(*self._lists[row])
            for name, differs in (
                ("source image", bool(image and parts) and PurePath(str(image)).name != parts[-1]),
                ("text", said is not None and text is not None and said != text),
            ):
                if differs:
                    note = f"the attributes are those of the item, whose {name} is another there"
                    found["notes"].append(note)
            return found
        edits = [(place, said) for place in places for said in (text, None)]
        for edit in [*edits, (None, text)]:
            if (row := self._by_edit.get(edit)) is not None:
                return settled(*self._lists[row])
        return None


def read_attributes(path: PathLike) -> AttributeFile:
    """Read a file of attributes.

    A table (JSONL, CSV, TSV, Parquet) has ``source_attributes`` and ``target_attributes``
    (lists; in CSV a JSON list or ``a|b|c``), and ``item``, or ``source_image`` or ``text`` or
    both. A JSON file has a list of such objects, or such objects by item, or what
    `write_attributes` wrote.

    Raises
    ------
    UsageError
        If it can't be read, with the line or the entry where it makes no sense.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        return AttributeFile(read_table(path))
    found = read_json(path)
    if isinstance(found, dict) and isinstance(found.get(ENTRIES), list):
        found = found[ENTRIES]
    if isinstance(found, list):
        named = {f"entry {number}": each for number, each in enumerate(found, 1)}
        more: list[Mapping[str, Any]] = [{}] * len(found)
    elif isinstance(found, dict):
        named = {f"item {item!r}": each for item, each in found.items()}
        more = [{"item": item} for item in found]
    else:
        raise UsageError(f"{path} is neither a JSON list nor a JSON object of attributes")
    if not named:
        raise UsageError(f"{path} has no attributes")
    for place, each in named.items():
        if not isinstance(each, dict):
            raise UsageError(f"{path}, {place}: not an object with {' and '.join(FIELDS)}")
    entries = [{**each, **key} for each, key in zip(named.values(), more, strict=True)]
    names = dict.fromkeys(name for each in entries for name in each)
    columns = {name: [each.get(name) for each in entries] for name in names}
    for alias in ALIASES["text"]:
        if alias in columns:
            columns.setdefault("text", columns.pop(alias))
    return AttributeFile(Table(path, columns, list(named)))


def write_attributes(path: Path, entries: Sequence[Mapping[str, Any]], made_by: str) -> None:
    """Write attributes as a JSON file that `read_attributes` reads, laid out for people.

    Parameters
    ----------
    path : Path
    entries : sequence of mappings
        With `KEYS`, both lists, and whatever else a reader should know.
    made_by : str
        What wrote them.

    Raises
    ------
    UsageError
        If it can't be written.
    """
    document = {"made_by": made_by, ENTRIES: list(entries)}
    try:
        path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from None
