"""CSV and TSV: cells that come back as they were and, on request, are no formulas anywhere."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the start of a formula, by OWASP's list."""
MARK = "'"
"""Stands before such a cell: a spreadsheet takes what follows for a text."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def write_delimited(
    frame: pd.DataFrame, path: str | os.PathLike[str], sep: str, *, spreadsheet_safe: bool = False
) -> None:
    """Write rows as UTF-8, a line a row.

    Parameters
    ----------
    frame : pandas.DataFrame
    path : path
    sep : str
        A comma, or a tab.
    spreadsheet_safe : bool
        Put `MARK` before each text that begins as a formula does, and before each that begins
        with `MARK` itself, so that `restored` undoes it exactly. All texts are quoted then,
        since a spreadsheet may cut at semicolons. Numbers stay as they are.
    """
    frame = storable(frame)
    if spreadsheet_safe:
        frame = _each_text(frame, neutralised)
    # The csv module leaves a lone carriage return unquoted, and readers take it for a line's end.
    quoted = spreadsheet_safe or _has_return(frame)
    quoting: Any = csv.QUOTE_NONNUMERIC if quoted else csv.QUOTE_MINIMAL
    frame.to_csv(path, index=False, sep=sep, quoting=quoting)


def neutralised(text: str) -> str:
    """A text that no spreadsheet takes for a formula.

    Examples
    --------
    >>> neutralised("=1+1"), neutralised("1+1"), neutralised("'tis")
    ("'=1+1", '1+1', "''tis")
    """
    return MARK + text if text.startswith((*FORMULA, MARK)) else text


def restored(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that were written with ``spreadsheet_safe``, as they were."""
    return _each_text(frame, lambda text: text.removeprefix(MARK))


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows without halves of surrogate pairs, which no file can hold: each becomes U+FFFD.

    The name of an image that is not UTF-8 is such a text.
    """
    if not any(_SURROGATES.search(text) for text in _texts(frame) if not text.isascii()):
        return frame
    return _each_text(frame, whole_text)


def whole_text(text: str) -> str:
    """A text without halves of surrogate pairs.

    Examples
    --------
    >>> whole_text("caf\\udce9") == "caf\\ufffd"
    True
    """
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def frame_of(columns: Mapping[str, Any]) -> pd.DataFrame:
    """A DataFrame of columns, their texts without halves of surrogate pairs.

    pandas itself refuses these: the name of one image would cost a run its table.
    """
    import pandas as pd

    def cell(value: Any) -> Any:
        return whole_text(value) if isinstance(value, str) else value

    return pd.DataFrame(
        {
            cell(name): [*map(cell, column)] if isinstance(column, list | tuple) else column
            for name, column in columns.items()
        }
    )


def _texts(frame: pd.DataFrame) -> Iterator[str]:
    """Names and texts of the columns that Arrow does not hold: those that may be odd."""
    yield from (name for name in frame.columns if isinstance(name, str))
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        if not (_is_plain(column) or _is_arrow(column)):
            yield from (cell for cell in column if isinstance(cell, str))


def _has_return(frame: pd.DataFrame) -> bool:
    columns = (frame.iloc[:, place] for place in range(frame.shape[1]))
    return any("\r" in text for text in _texts(frame)) or any(
        column.str.contains("\r", regex=False).any() for column in columns if _is_arrow(column)
    )


def _each_text(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    import pandas as pd

    def changed(column: pd.Series[Any]) -> pd.Series[Any]:
        if _is_plain(column):
            return column
        cells = [change(cell) if isinstance(cell, str) else cell for cell in column]
        return pd.Series(cells, index=column.index, dtype=object)

    out = pd.DataFrame({i: changed(frame.iloc[:, i]) for i in range(frame.shape[1])})
    out.columns = pd.Index([change(c) if isinstance(c, str) else c for c in frame.columns])
    return out


def _is_plain(column: pd.Series[Any]) -> bool:
    """Whether a column holds numbers, truth values or times, and so no text."""
    return column.dtype.kind in "biufcmM"


def _is_arrow(column: pd.Series[Any]) -> bool:
    """Whether a column holds texts as Arrow does: UTF-8, and quickly searched."""
    return getattr(column.dtype, "storage", None) == "pyarrow"
