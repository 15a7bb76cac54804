"""The report of scores: one page, or a page of a sample and a folder of pages with all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from scorekit.frames import save_text
from scorekit.reporting.cells import as_text, cut, has_sources, json_bytes, picture_data, row_data
from scorekit.reporting.heat import colours
from scorekit.reporting.page import render, rounded
from scorekit.reporting.paging import (
    PICTURE,
    Sheet,
    fewest_bytes,
    fitting,
    images_of,
    make_folder,
    pages_of,
    remove_others,
    sampling_notes,
    text_bytes,
)
from scorekit.reporting.record import facts_of, number, signed, warnings_of
from scorekit.reporting.runs import (
    MOST_CHANGED,
    Change,
    Rows,
    Run,
    changes_of,
    metrics_of,
    most_changed,
    rows_of,
    runs_of,
    sample_of,
)
from scorekit.reporting.thumbnails import Thumbnail, thumbnails
from scorekit.stats import Estimate
from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import STATUSES, Array, PathLike
from scorekit.within import Fence

MAX_ROWS = 10_000
MAX_BYTES = 57_000_000
"""Of a page, so that it stays below 60 MB."""
MANY_SYSTEMS = 200
_SYSTEM = 300  # letters of a system's name in the summary
_NOTES_BYTES = 20_000  # of what a page says of itself, and its links
_PAIR_BYTES = 40
_SCRIPTS = ("scores_model.js", "scores_heat.js", "scores_row.js", "scores_plots.js", "scores.js")
_REASONS = 5

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """What `write_report` wrote.

    Attributes
    ----------
    path : Path
        The page.
    pages : tuple of Path
        The pages of all rows, where there are too many for one.
    rows, shown : int
        Images there are, and those on the page.
    """

    path: Path
    pages: tuple[Path, ...]
    rows: int
    shown: int


@dataclass(frozen=True)
class Summed:
    """A metric of a system: the estimate, and whether no system of the run has a better one.

    Systems of different items are not held against each other.
    """

    estimate: Estimate
    best: bool


def write_report(
    tables: Mapping[str, ScoreTable],
    path: str | Path,
    *,
    roots: Sequence[PathLike] = (),
    images_within: PathLike | None = None,
    max_rows: int = MAX_ROWS,
    progress: Progress | None = None,
) -> Written:
    """Write tables of scores as an HTML page that holds all it shows.

    Parameters
    ----------
    tables : mapping of str to ScoreTable
        By the names that the page shows. Tables of the same images and other metrics are one
        run; of several runs, each is compared with the first.
    path : path
        An .html file. Above `max_rows` images it shows a sample, and the folder ``NAME.pages``
        beside it has pages of all of them; those of an earlier report go.
    roots : sequence of Path or URL
        Where the tables' relative image paths are looked for besides the current folder.
    images_within : path, optional
        A folder: images that lie elsewhere, links followed, are not shown.
    max_rows : int
        Images a page.
    progress : callable, optional
        Called with (images read, images in all).

    Returns
    -------
    Written

    Raises
    ------
    UsageError
        If there is no table, one is empty, or the page can't be written.

    Examples
    --------
    >>> from scorekit.table import ScoreTable
    >>> table = ScoreTable.load("scores.parquet")  # doctest: +SKIP
    >>> write_report({"scores": table}, "scores.html").shown  # doctest: +SKIP
    60
    """
    target = Path(path)
    fence = None if images_within is None else Fence(images_within)
    runs = runs_of(tables)
    rows = rows_of(runs)
    report = _Report(runs, rows)
    rooms = {whole: report.room(whole) for whole in (True, False)}

    def chosen(most: int) -> Array:
        if len(rows) <= most:
            return np.arange(len(rows))
        return sample_of(rows, report.metrics, report.changes, most)

    def cost(part: Rows, whole: bool) -> int:
        return fewest_bytes(part, list(report.metrics), text_bytes(rooms[whole]))

    sample = fitting(chosen, max_rows, lambda part: cost(rows.take(part), True), rooms[True])
    shown, parts, notes = rows.take(sample), [], []
    folder = target.with_name(f"{target.stem}.pages")
    if len(sample) < len(rows):
        parts = list(pages_of(rows, max_rows, lambda part: cost(part, False), rooms[False]))
        paged = sum(map(len, parts))
        notes = sampling_notes(len(rows), len(shown), paged, report.failures_on(shown))
    pages = [folder / f"{i + 1:03}.html" for i in range(len(parts))]
    links = [(f"{folder.name}/{page.name}", page.stem) for page in pages]
    sheets = [Sheet(target, shown, notes, links, whole=True)]
    before = 0
    for i, (page, part) in enumerate(zip(pages, parts, strict=True)):
        at = (
            f"Page {i + 1} of {len(pages)}: images {before + 1:,} to {before + len(part):,} of "
            f"{len(rows):,}, by item; the items in the table's order."
        )
        before += len(part)
        others = [(f"../{target.name}", "Report"), *((other.name, other.stem) for other in pages)]
        sheets.append(Sheet(page, rows.take(part), [at], others, whole=False))
    if pages:
        make_folder(folder)
    read, total = 0, sum(len(images_of(sheet.rows)) for sheet in sheets)
    for sheet in sheets:
        ticked = None if progress is None else partial(_advance, progress, read, total)
        pictures = partial(thumbnails, roots=roots, fence=fence, progress=ticked)
        save_text(report.page(sheet, rooms[sheet.whole], pictures), sheet.path)
        read += len(images_of(sheet.rows))
    remove_others(folder, pages)
    return Written(target, tuple(pages), len(rows), len(shown))


class _Report:
    """What all pages of a report have in common."""

    def __init__(self, runs: Sequence[Run], rows: Rows) -> None:
        self._runs = runs
        self.metrics = metrics_of(runs)
        self.changes = changes_of(runs)
        self._failures = _failures(rows, runs)
        self._warnings = warnings_of(runs)
        summaries = [_summary(run, self.metrics) for run in runs]
        self._summary = _summary_data(summaries)
        self._context: dict[str, Any] = {
            "heading": f"Scores: {' and '.join(run.name for run in runs)}",
            "metrics": self.metrics,
            "runs": [facts_of(run) for run in runs],
            "summaries": summaries,
            "changes": [(each, runs[each.a].name, runs[each.b].name) for each in self.changes],
            "counts": _counts(rows, runs, self.metrics),
            "number": number,
            "signed": signed,
        }

    def room(self, whole: bool) -> int:
        """Bytes that a page has for its rows and their pictures."""
        empty = self._html(self._head(whole), whole, failures=_here(self._failures, []), n=0)
        pairs = MOST_CHANGED * len(self.changes) * _PAIR_BYTES if whole else 0
        return MAX_BYTES - len(empty.encode()) - pairs - _NOTES_BYTES

    def failures_on(self, rows: Rows) -> list[dict[str, Any]]:
        """What was not scored, with the numbers of a page's rows beside those of all."""
        return _here(self._failures, _failures(rows, self._runs))

    def page(
        self, sheet: Sheet, room: int, pictures: Callable[[Sequence[str], int], list[Thumbnail]]
    ) -> str:
        """A page; `pictures` makes thumbnails of images within so many bytes."""
        rows, whole = sheet.rows, sheet.whole
        found, left_out = row_data(rows, list(self.metrics), text_bytes(room))
        images = images_of(rows)
        left = room - json_bytes(found) - PICTURE * len(images)
        # Base64 makes four bytes of three.
        made = pictures(images, max(0, left) * 3 // 4)
        data = self._head(whole) | found
        data["pictures"], places = picture_data(rows, dict(zip(images, made, strict=True)))
        data["rows"] |= places
        data["changes"] = [
            {"metric": change.metric, "b": change.b, "pairs": _pairs(rows, change)}
            for change in self.changes
            if whole and change.comparison is not None
        ]
        return self._html(
            data,
            whole,
            notes=[*self._warnings, *sheet.notes, *left_out.sentences()],
            links=sheet.links,
            failures=self.failures_on(rows) if whole else [],
            here="" if whole else sheet.path.stem,
            edits=has_sources(rows),
            n=len(rows),
        )

    def _head(self, whole: bool) -> dict[str, Any]:
        """The page's data besides its rows."""
        return {
            "runs": [run.name for run in self._runs],
            "metrics": [
                {"name": name, "up": info.higher_is_better, "headline": info.headline}
                for name, info in self.metrics.items()
            ],
            "statuses": dict(STATUSES),
            "colours": colours(),
            "summary": self._summary if whole else [],
            "changes": [],
        }

    def _html(self, data: Mapping[str, Any], whole: bool, **more: Any) -> str:
        given = {"notes": self._warnings, "links": [], "here": "", "edits": False, **more}
        return render(
            "scores.html",
            title=f"{self._context['heading']} - scorekit",
            data=data,
            scripts=_SCRIPTS,
            plots=whole,
            whole=whole,
            **self._context,
            **given,
        )


def _advance(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _pairs(rows: Rows, change: Change) -> list[list[Any]]:
    return [[a, b, rounded(d)] for a, b, d in most_changed(rows, change)]


def _summary(run: Run, metrics: Mapping[str, MetricInfo]) -> dict[str, Any]:
    """Estimates by system and metric; of very many systems, the first."""
    table = run.table
    systems = table.systems[:MANY_SYSTEMS]
    items = table.frame.groupby("system", dropna=False)["item"].agg(frozenset)
    fair = items.nunique() == 1
    # A name that is cut may be another one's.
    shown = {s: cut(s, _SYSTEM) + f" ({i})" * (len(s) > _SYSTEM) for i, s in enumerate(systems)}
    cells: dict[str, dict[str, Summed]] = {shown[system]: {} for system in systems}
    for name, info in table.metrics.items():
        found = {system: table.mean(name, system) for system in systems}
        values = [e.value for e in found.values() if e.value is not None]
        best = (max if info.higher_is_better else min)(values) if fair and len(values) > 1 else None
        for system, estimate in found.items():
            cells[shown[system]][name] = Summed(
                estimate, best is not None and estimate.value == best
            )
    return {
        "run": run.name,
        "fair": fair,
        "systems": cells,
        "left_out": len(table.systems) - len(systems),
        "headlines": [n for n, i in metrics.items() if i.headline and n in table.metrics],
        "parts": [n for n, i in metrics.items() if not i.headline and n in table.metrics],
    }


def _summary_data(summaries: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [
        [run, system, name, rounded(e.value), rounded(e.low), rounded(e.high), e.n, e.n_total]
        for run, summary in enumerate(summaries)
        for system, cells in summary["systems"].items()
        for name, e in ((name, cell.estimate) for name, cell in cells.items())
    ]


def _failures(rows: Rows, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What was not scored, by run and status; a component has its metric's reasons."""
    cells = rows.cells
    headlines = {n for run in runs for n, info in run.table.metrics.items() if info.headline}
    lost = cells[(cells["status"] != "ok") & cells["metric"].isin(headlines)]
    lost = lost.assign(run=rows.frame["run"].to_numpy()[lost["row"].to_numpy(int)])
    out = []
    for key, group in lost.groupby(["run", "status"], sort=False):
        run, status = cast(tuple[int, str], key)
        # A reason of several metrics is one reason.
        notes = group.drop_duplicates(["row", "note"])["note"].value_counts()
        out.append(
            {
                "run": runs[run].name,
                "status": status,
                "meaning": STATUSES.get(status, ""),
                "metrics": list(dict.fromkeys(group["metric"])),
                "n": group["row"].nunique(),
                "reasons": [(as_text(n)[:300], int(c)) for n, c in notes.head(_REASONS).items()],
                "more": max(0, len(notes) - _REASONS),
            }
        )
    return out


def _here(
    failures: Sequence[Mapping[str, Any]], on_page: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Failures with ``here``, how many of their rows are on the page."""
    here = {(failure["run"], failure["status"]): failure["n"] for failure in on_page}
    return [{**each, "here": here.get((each["run"], each["status"]), 0)} for each in failures]


def _counts(rows: Rows, runs: Sequence[Run], metrics: Mapping[str, MetricInfo]) -> str:
    systems, items = (rows.frame[c].nunique(dropna=False) for c in ("system", "item"))
    headlines = sum(info.headline for info in metrics.values())
    parts = [(len(rows), "image"), (systems, "system"), (items, "item"), (headlines, "metric")]
    if len(runs) > 1:
        parts.insert(0, (len(runs), "run"))
    return ", ".join(f"{n:,} {word}{'' if n == 1 else 's'}" for n, word in parts)
