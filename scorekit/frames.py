"""Result tables in files: CSV, TSV, JSON lines, Parquet, LaTeX, Markdown; whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorekit.delimited import write_delimited
from scorekit.table import check_folder
from scorekit.types import UsageError
from scorekit.whole_files import replace_file

if TYPE_CHECKING:
    import pandas as pd

DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
TEXT_SUFFIXES = (".json", ".md", ".tex")


def check_frame_path(path: Path, suffixes: tuple[str, ...] = DATA_SUFFIXES) -> None:
    """Refuse a target before the work begins.

    Raises
    ------
    UsageError
        If the suffix is unknown, or the folder is missing or not writable.
    """
    if path.suffix not in suffixes:
        raise UsageError(f"{path.name} must end in {', '.join(suffixes)}")
    check_folder(path)


def save_frame(frame: pd.DataFrame, path: Path, *, spreadsheet_safe: bool = False) -> None:
    """Write rows by the suffix of the file.

    Parameters
    ----------
    frame : pandas.DataFrame
    path : Path
    spreadsheet_safe : bool
        See `scorekit.delimited.write_delimited`; of no other formats.

    Raises
    ------
    UsageError
        If the file can't be written.
    """
    delimited = partial(write_delimited, frame, spreadsheet_safe=spreadsheet_safe)
    writers: Mapping[str, Callable[[Path], Any]] = {
        ".csv": lambda p: delimited(p, ","),
        ".tsv": lambda p: delimited(p, "\t"),
        ".jsonl": lambda p: frame.to_json(p, orient="records", lines=True, force_ascii=False),
        ".parquet": lambda p: frame.to_parquet(p, index=False),
    }
    _replace(path, writers[path.suffix])


def save_text(text: str, path: Path) -> None:
    """Write a text.

    Raises
    ------
    UsageError
        If the file can't be written.
    """
    _replace(path, lambda p: p.write_text(text, "utf-8"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    try:
        replace_file(path, write)
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror or error}") from error
