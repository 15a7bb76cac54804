"""Which rows a page of a report holds: as many as stay below its bytes, items whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorekit.reporting.cells import (
    SHORTEST,
    TEXT_BYTES,
    LeftOut,
    as_text,
    has_sources,
    json_bytes,
    page_bytes,
    plain_data,
)
from scorekit.reporting.heat import MAP_BYTES
from scorekit.reporting.isolation import isolated
from scorekit.reporting.page import is_page
from scorekit.reporting.runs import Rows
from scorekit.reporting.thumbnails import FEWEST_BYTES
from scorekit.reporting.words import WORD_BYTES
from scorekit.table import EVIDENCE
from scorekit.types import Array, UsageError

MAX_PAGES = 50
PICTURE = 60
"""Bytes of a picture's entry besides its data, with the padding of base64."""
_KEYS = 50  # bytes of a note, a list or a text of evidence besides itself
_LEAST_TEXT = 6 * (SHORTEST + len("… [cut here]") + 3)
_LEAST_WORDS = 40


@dataclass(frozen=True)
class Sheet:
    """A page to be written; of all that the report has to say (`whole`), or of rows alone.

    Attributes
    ----------
    path : Path
    rows : Rows
    notes : sequence of str
        Said above all.
    links : sequence of (str, str)
        To the other pages: address and name.
    whole : bool
    """

    path: Path
    rows: Rows
    notes: Sequence[str]
    links: Sequence[tuple[str, str]]
    whole: bool


def text_bytes(room: int) -> int:
    """Bytes of each kind of text on a page that has so many for its rows and pictures."""
    # All kinds of texts, words and maps together take eleven twelfths at most.
    return min(TEXT_BYTES, max(0, room) // 12)


def images_of(rows: Rows) -> list[str]:
    """The distinct images and source images of rows, as the table has them."""
    columns = ["image", "source_image"] if has_sources(rows) else ["image"]
    return list(dict.fromkeys(as_text(path) for c in columns for path in rows.frame[c]))


def fewest_bytes(rows: Rows, metrics: Sequence[str], texts: int) -> int:
    """The bytes of rows on a page whose pictures are as small as they get, or somewhat more.

    Parameters
    ----------
    rows : Rows
    metrics : sequence of str
    texts : int
        Of each kind of text.

    Notes
    -----
    What metrics say of rows is not parsed here, which takes most of a page's time: of its length
    and its budget the smaller is taken.
    """
    pictures = len(images_of(rows)) * (FEWEST_BYTES * 4 // 3 + PICTURE)
    known = json_bytes(plain_data(rows, metrics, texts, LeftOut()))
    cells = rows.cells[rows.cells["metric"].isin(list(metrics))]
    notes = [json_bytes(as_text(note)) for note in cells["note"]]
    proofs = cells.loc[cells[EVIDENCE] != "", ["row", EVIDENCE]].drop_duplicates()
    costs = np.array([page_bytes(as_text(proof)) for proof in proofs[EVIDENCE]], dtype=np.int64)
    judged = proofs[EVIDENCE].str.contains('"attribution"', regex=False).to_numpy(bool)
    heated = judged & proofs[EVIDENCE].str.contains('"heat"', regex=False).to_numpy(bool)
    share = texts / TEXT_BYTES
    words, maps = int(costs[judged].sum()), int(costs[heated].sum())
    n_words, n_others = int(judged.sum()), int((~judged).sum())
    others = 2 * int(costs[~judged].sum())  # written as lines, with indents
    return (
        pictures
        + known
        + min(sum(notes), max(texts, _LEAST_TEXT * len(notes)))
        + min(others, max(texts, _LEAST_TEXT * n_others))
        + min(words, max(int(WORD_BYTES * share), _LEAST_WORDS * n_words))
        + min(maps, int(MAP_BYTES * share))
        + _KEYS * 2 * len(cells)
    )


def fitting(
    choose: Callable[[int], Array], most: int, cost: Callable[[Array], int], room: int
) -> Array:
    """The rows that `choose` gives for the largest number, `most` or below, whose cost has room.

    A row is always given.

    Parameters
    ----------
    choose : callable
        The numbers of at most so many rows.
    most : int
    cost : callable
        Bytes of rows.
    room : int
        Bytes that there are.
    """
    while True:
        rows = choose(most)
        need = cost(rows)
        if need <= room or most <= 1:
            return rows
        share = 0.98 * max(0, room) / need
        most = max(1, min(most - 1, int(len(rows) * share)))


def by_item(rows: Rows) -> tuple[Array, Array]:
    """Numbers of the rows, those of an item together, and the number of each one's item.

    Items are in the order of their first rows.
    """
    import pandas as pd

    items = pd.factorize(rows.frame["item"].map(as_text))[0]
    order = np.argsort(items, kind="stable")
    return order, items[order]


def whole_items(items: Array, start: int, most: int) -> Array:
    """Places from `start` on: whole items of at most so many rows, or a part of a larger one.

    Examples
    --------
    >>> items = np.array([0, 0, 1, 1, 1, 1, 2])
    >>> [whole_items(items, at, 3).tolist() for at in (0, 2, 5)]
    [[0, 1], [2, 3, 4], [5, 6]]
    """
    end = min(len(items), start + most)
    if end < len(items) and items[end] == items[end - 1] and items[end - 1] != items[start]:
        end = start + int(np.argmax(items[start:end] == items[end - 1]))
    return np.arange(start, end)


def pages_of(rows: Rows, most: int, cost: Callable[[Rows], int], room: int) -> Iterator[Array]:
    """The rows of each page, by item; the first `MAX_PAGES` pages."""
    order, items = by_item(rows)
    start = 0
    for _ in range(MAX_PAGES):
        if start >= len(order):
            return
        places = fitting(
            lambda n, start=start: whole_items(items, start, n),  # type: ignore[misc]
            most,
            lambda places: cost(rows.take(order[places])),
            room,
        )
        yield order[places]
        start += len(places)


def sampling_notes(
    n: int, shown: int, paged: int, failures: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What the first page says of the rows that it does not show.

    Parameters
    ----------
    n, shown, paged : int
        Rows there are, on the page, and on the pages of all rows.
    failures : sequence of mapping
        What was not scored: ``status``, ``n`` in all and ``here``, on the page.
    """
    notes = [
        f"The gallery and the plots show a sample of {shown:,} of {n:,} rows: whole items, among "
        "them those that were not scored, the worst by each metric and the most changed, and "
        "the others at random. Summary, failures and comparisons are of all rows."
    ]
    if failures:
        lost = (f"{f['here']:,} of {f['n']:,} {isolated(as_text(f['status']))}" for f in failures)
        notes[0] += f" Of the rows that were not scored, it has {', '.join(lost)}."
    if paged < n:
        notes.append(f"The pages end after {paged:,} rows; report a part of the table for more.")
    return notes


def make_folder(folder: Path) -> None:
    """Make the folder of the pages."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"can't make the folder {folder}: {error.strerror}") from None


def remove_others(folder: Path, pages: Sequence[Path]) -> None:
    """Remove pages that an earlier report wrote and this one did not, and a folder of none."""
    if not folder.is_dir() or folder.is_symlink():
        return
    others = [p for p in folder.glob("[0-9][0-9][0-9].html") if p not in pages and is_page(p)]
    for path in others:
        with contextlib.suppress(OSError):
            path.unlink()
    if others and not pages:
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()
