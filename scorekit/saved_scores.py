"""A table of scores as what was scored: for another metric, or on another backbone."""

from __future__ import annotations

import json
import os
from typing import Any

from scorekit import remote
from scorekit.delimited import MARK
from scorekit.images import read_bytes
from scorekit.prompts import Table
from scorekit.table import BESIDE, COLUMNS, EVIDENCE, KEY
from scorekit.table_files import SAFE
from scorekit.types import InputError, PathLike

_OF_THE_SCORE = ("metric", "value", "status", "note", EVIDENCE)


def samples_of(table: Table) -> Table | None:
    """The samples of a table of scores, each once; None if it is no such table.

    It has a row for each sample and metric: taken as they stand, every sample would count once
    for each metric. The scores themselves are left out.
    """
    if not all(name in table for name in COLUMNS):
        return None
    columns = _columns(table)
    first: dict[tuple[Any, ...], int] = {}
    for row, key in enumerate(zip(*(columns[name] for name in KEY), strict=True)):
        first.setdefault(key, row)
    rows = list(first.values())
    kept = {
        name: [column[row] for row in rows]
        for name, column in columns.items()
        if name not in _OF_THE_SCORE
    }
    return Table(table.path, kept, [table.places[row] for row in rows])


def folder_of_images(table: Table, beside: str) -> str:
    """What the paths of its images are relative to.

    The current folder, as a run writes them, or else `beside`, the folder that the table is in: the
    first path that is true of one of both decides.
    """
    for image in table.columns["image"]:
        if isinstance(image, str) and not remote.is_url(image) and not os.path.isabs(image):
            if os.path.lexists(image):
                return ""
            if os.path.lexists(os.path.join(beside, image)):
                return beside
    return beside


def _columns(table: Table) -> dict[str, list[Any]]:
    """Its cells, without what made them safe for spreadsheets."""
    if not _spreadsheet_safe(table.path):
        return dict(table.columns)
    return {
        name: [cell.removeprefix(MARK) if isinstance(cell, str) else cell for cell in column]
        for name, column in table.columns.items()
    }


def _spreadsheet_safe(path: PathLike) -> bool:
    place = remote.located(path)
    try:
        data = remote.read(place + BESIDE) if remote.is_url(place) else read_bytes(place + BESIDE)
        return json.loads(data).get(SAFE) is True
    except (OSError, InputError, ValueError, AttributeError, RecursionError):
        return False  # no table of ours, or one of Parquet
