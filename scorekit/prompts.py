"""Prompt tables: CSV, TSV, JSONL and Parquet files as columns of checked values."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scorekit import remote
from scorekit.parquet_files import arrow_table
from scorekit.types import ImageLike, PathLike, UsageError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")

ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": ("file_name", "image_path", "path"),
    "text": ("prompt", "caption"),
}
"""Names that stand for a column where the table lacks its own name, the first found first."""

COLUMNS = (
    "image",
    "text",
    "item",
    "system",
    "source_image",
    "source_text",
    "references",
    "reference_images",
    "nouns",
    "source_attributes",
    "target_attributes",
    "mask",
    "entities",
    "index",
)
"""The columns with a meaning; all others are kept in `scorekit.Sample.meta`."""


@dataclass(frozen=True)
class Table:
    """A prompts file in memory: columns of equal length, None for an empty cell.

    Attributes
    ----------
    path : Path, or a URL
    columns : mapping of str to list
        Under the names of `COLUMNS` where a name or its alias was found.
    places : sequence of str
        Where each row stands, for messages: ``line 3``, ``row 3``.
    """

    path: PathLike
    columns: Mapping[str, list[Any]]
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def error(self, row: int, message: str) -> UsageError:
        """The error of one row, with the file and the line."""
        return UsageError(f"{self.path}, {self.places[row]}: {message}")

    def strings(self, name: str) -> list[str | None]:
        """A column of strings; whole numbers are written out, anything else is an error."""
        return self._each(name, lambda row, cell: self._string(row, name, cell))

    def integers(self, name: str) -> list[int | None]:
        """A column of non-negative integers."""

        def integer(row: int, cell: Any) -> int:
            text = self._string(row, name, cell)
            if not re.fullmatch(r"[0-9]{1,9}", text):
                raise self.error(row, f"{name} must be a whole number, not {_brief(cell)}")
            return int(text)

        return self._each(name, integer)

    def texts(self, name: str, separator: str | None = None) -> list[tuple[str, ...]]:
        """A column of several texts a row: a list (in CSV and TSV a JSON list), or one text.

        With a separator, a text that is no list is cut there.
        """
        cells = self._each(
            name,
            lambda row, cell: tuple(
                self._string(row, name, part) for part in self._parts(row, name, cell, separator)
            ),
        )
        return [cell or () for cell in cells]

    def images(self, name: str, base: str) -> list[ImageLike]:
        """A column of images: paths (relative to `base`), URLs, bytes, or structs of those."""
        return self._each(name, lambda row, cell: self._image(row, name, cell, base))

    def image_lists(self, name: str, base: str) -> list[tuple[ImageLike, ...]]:
        """A column of several images a row, written as `references` are."""
        cells = self._each(
            name,
            lambda row, cell: tuple(
                self._image(row, name, part, base) for part in self._parts(row, name, cell)
            ),
        )
        return [cell or () for cell in cells]

    def meta(self) -> list[dict[str, Any]]:
        """The columns without a meaning of their own, as one mapping a row."""
        names = [name for name in self.columns if name not in COLUMNS]
        if not names:
            return [{} for _ in self.places]
        rows = zip(*(self.columns[name] for name in names), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _each(self, name: str, convert: Callable[[int, Any], Any]) -> list[Any]:
        column = self.columns.get(name)
        if column is None:
            return [None] * len(self)
        return [None if cell is None else convert(row, cell) for row, cell in enumerate(column)]

    def _string(self, row: int, name: str, cell: Any) -> str:
        if isinstance(cell, str):
            return cell
        if isinstance(cell, int) and not isinstance(cell, bool):
            return str(cell)
        # What pandas makes of whole numbers in a column with gaps.
        if isinstance(cell, float) and cell.is_integer():
            return str(int(cell))
        raise self.error(row, f"{name} must be a text, not {_brief(cell)}")

    def _parts(self, row: int, name: str, cell: Any, separator: str | None = None) -> Sequence[Any]:
        if isinstance(cell, str) and cell.lstrip().startswith("["):
            try:
                cell = json.loads(cell)
            except (ValueError, RecursionError):
                raise self.error(
                    row, f"{name} starts with '[' but is not a JSON list: {_brief(cell)}"
                ) from None
        if separator and isinstance(cell, str):
            return [part.strip() for part in cell.split(separator) if part.strip()]
        return [part for part in cell if part is not None] if isinstance(cell, list) else [cell]

    def _image(self, row: int, name: str, cell: Any, base: str) -> ImageLike:
        if isinstance(cell, dict) and ("bytes" in cell or "path" in cell):
            # What Hugging Face datasets writes: the file's bytes, or where it was.
            inside = cell.get("bytes")
            cell = inside if inside is not None else cell.get("path")
            if cell is None:
                return None
        if isinstance(cell, bytes):
            return cell
        if not isinstance(cell, str):
            raise self.error(row, f"{name} must be a path, not {_brief(cell)}")
        try:
            return remote.join(base, cell)
        except UsageError as error:
            if "@" in cell:  # what may be a password gets into no table
                raise self.error(row, f"{name} is a URL that is not used: {error}") from None
            return cell  # its row says so


def read_table(path: PathLike) -> Table:
    """Read a prompts file; the suffix decides its format.

    CSV and TSV cells are strings whatever they look like ("NA", "null", "123"); an empty cell
    is None. CSV, TSV and JSONL must be UTF-8, with or without a byte-order mark.

    Raises
    ------
    UsageError
        If the file can't be read as what its suffix says, in one line that names the line.
    """
    place = remote.located(path)
    path = Path(place)
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise UsageError(f"{place} is not a table: its name must end in {_join(TABLE_SUFFIXES)}")
    if remote.is_url(place):
        return _fetched_table(place)
    if suffix == ".parquet":
        table = _read_parquet(path)
    elif suffix == ".jsonl":
        table = _read_jsonl(path, _read_text(path))
    else:
        table = _read_csv(path, _read_text(path), "\t" if suffix == ".tsv" else ",")
    if not len(table):
        raise UsageError(f"{path} has no rows")
    return Table(path, _with_standard_names(table.columns), table.places)


def _fetched_table(url: str) -> Table:
    try:
        with remote.fetched(url) as copy:
            return replace(read_table(copy), path=url)
    except OSError as error:
        raise UsageError(f"can't read {url}: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises
    ------
    UsageError
        If it can't be read, with the line where it is no JSON; or a key is there twice.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"can't read {path}: {error}") from None


def require(table: Table, *alternatives: str) -> None:
    """Raise a UsageError unless the table has one of the columns."""
    if not any(name in table for name in alternatives):
        names = [f"{n} (or {_join(ALIASES[n])})" if n in ALIASES else n for n in alternatives]
        has = list(table.columns)
        hint = ""
        if len(has) == 1 and ";" in has[0]:
            hint = "; it seems to be separated by semicolons, not commas"
        raise UsageError(
            f"{table.path} needs a column {' or '.join(names)}; it has {_join(has)}{hint}"
        )


def _with_standard_names(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    renamed = {}
    for name, aliases in ALIASES.items():
        if name not in columns:
            found = next((alias for alias in aliases if alias in columns), None)
            if found is not None:
                renamed[found] = name
    return {renamed.get(name, name): column for name, column in columns.items()}


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UsageError(f"{path} is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UsageError(f"{path}, line {line}: a NUL byte, so this is not a text file")
    if not text.strip():
        raise UsageError(f"{path} is empty")
    return text


def _read_csv(path: Path, text: str, separator: str) -> Table:
    # Strict, since a quote that is never closed would otherwise swallow the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    rows: list[list[str]] = []
    places: list[str] = []
    line = 1
    try:
        for row in reader:
            if not row:
                pass
            elif header is None:
                header = [name.strip() for name in row]
                _check_names(path, header)
            elif len(row) != len(header):
                raise UsageError(
                    f"{path}, line {line}: {len(row)} cells, but the header has {len(header)}"
                    " (a text with a separator in it needs quotes)"
                )
            else:
                rows.append(row)
                places.append(f"line {line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{path}, line {line}: {error}") from None
    columns = {
        name: [cell or None for cell in column]
        for name, column in zip(header or (), zip(*rows, strict=True), strict=False)
        if name  # an unnamed column is the row number that pandas writes
    }
    return Table(path, columns, places)


def _read_jsonl(path: Path, text: str) -> Table:
    objects: list[dict[str, Any]] = []
    places: list[str] = []
    names: dict[str, None] = {}
    # Not splitlines(): a JSON string may hold other line separators as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=_unique_keys)
            if "\\u" in line:
                json.dumps(found, ensure_ascii=False).encode()
        except RecursionError:
            raise UsageError(f"{path}, line {number}: nested too deeply") from None
        except UnicodeEncodeError:
            raise UsageError(f"{path}, line {number}: half of a surrogate pair") from None
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(found, dict):
            raise UsageError(f"{path}, line {number}: not a JSON object")
        objects.append(found)
        places.append(f"line {number}")
        names.update(dict.fromkeys(found))
    columns = {name: [_none_if_empty(each.get(name)) for each in objects] for name in names}
    return Table(path, columns, places)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"two values for {next(k for k in keys if keys.count(k) > 1)!r}")
    return found


def _read_parquet(path: Path) -> Table:
    data = arrow_table(path)
    _check_names(path, data.column_names)
    try:
        columns = {
            name: [_none_if_empty(cell) for cell in data.column(name).to_pylist()]
            for name in data.column_names
            if name and not name.startswith("__index_level_")
        }
    except Exception as error:  # a date that Python has no word for, a text that is not UTF-8
        raise UsageError(f"can't read {path} as Parquet: {_brief(error, quote=False)}") from None
    return Table(path, columns, [f"row {number}" for number in range(1, data.num_rows + 1)])


def _none_if_empty(cell: Any) -> Any:
    if isinstance(cell, float) and math.isnan(cell):
        return None
    return None if isinstance(cell, str) and not cell else cell


def _check_names(path: Path, names: Sequence[str]) -> None:
    twice = [name for name in dict.fromkeys(names) if name and list(names).count(name) > 1]
    if twice:
        raise UsageError(f"{path} has two columns named {_join(twice)}")


def _join(names: Sequence[str]) -> str:
    return ", ".join(_brief(name, quote=False) for name in names[:20])


def _brief(cell: Any, quote: bool = True) -> str:
    text = repr(cell) if quote else " ".join(str(cell).split())
    return text if len(text) <= 60 else text[:57] + "..."
