"""What the readers share: published files as plain records, and where each record stands."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scorekit.types import UsageError


def text_of(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises
    ------
    UsageError
        If it is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8") from None


def json_of(path: Path, kind: type[Any]) -> Any:
    """A JSON file's value, a list or an object.

    Raises
    ------
    UsageError
        If it is not JSON, holds a name twice in one object, or is of another kind.
    """
    return _parsed(text_of(path), str(path), kind)


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of each line of a JSON-lines file."""
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _parsed(line, where, dict)


def table_of(path: Path, *wanted: str, sep: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """(place, record) of each row of a table with a header.

    Raises
    ------
    UsageError
        If a column is missing, or a row has more or fewer cells than the header.
    """
    rows = csv.reader(text_of(path).splitlines(keepends=True), delimiter=sep)
    header = next(rows, [])
    for name in wanted:
        if name not in header:
            raise UsageError(f"{path}: no column {name}")
    for row in rows:
        if row:
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                raise UsageError(f"{where}: {len(row)} cells, the header has {len(header)}")
            yield where, dict(zip(header, row, strict=True))


def columns_of(path: Path, count: int) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of each row of a tab-separated file without a header."""
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if line.strip():
            cells = line.split("\t")
            where = f"{path}, line {number}"
            if len(cells) != count:
                raise UsageError(f"{where}: {len(cells)} cells where {count} belong")
            yield where, [cell.strip() for cell in cells]


def get(record: Mapping[str, Any], name: str, where: str, kind: type[Any] = str) -> Any:
    """A field of a record.

    Raises
    ------
    UsageError
        If it is missing or of another kind.
    """
    found = record.get(name)
    if not isinstance(found, kind):
        what = "missing" if found is None else f"not a {kind.__name__}: {str(found)[:40]!r}"
        raise UsageError(f"{where}: {name} is {what}")
    return found


def _parsed(text: str, where: str, kind: type[Any]) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"{where}: the key {twice!r} is there twice")
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error})") from None
    if not isinstance(value, kind):
        raise UsageError(f"{where}: not a JSON {'object' if kind is dict else 'list'}")
    return value
