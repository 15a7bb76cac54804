"""The report of scores: one page, or a page of a sample and a folder of pages with all rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from scorekit.frames import save_text
from scorekit.reporting.cells import (
    as_text,
    has_sources,
    page_bytes,
    picture_data,
    plain,
    row_data,
)
from scorekit.reporting.heat import colours
from scorekit.reporting.page import is_page, render, rounded
from scorekit.reporting.runs import (
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
from scorekit.types import STATUSES, PathLike, UsageError
from scorekit.within import Fence

MAX_ROWS = 10_000
MAX_BYTES = 57_000_000
"""Of a page, so that it stays below 60 MB."""
MAX_PAGES = 50
MANY_SYSTEMS = 200
_CODE_BYTES = 6_000_000
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
    metrics, rows, changes = metrics_of(runs), rows_of(runs), changes_of(runs)
    heading = f"Scores: {' and '.join(run.name for run in runs)}"
    context = {
        "heading": heading,
        "metrics": metrics,
        "runs": [_facts(run) for run in runs],
        "summaries": [_summary(run, metrics) for run in runs],
        "changes": [(change, runs[change.a].name, runs[change.b].name) for change in changes],
        "failures": _failures(rows, runs),
        "counts": _counts(rows, runs, metrics),
        "number": number,
    }
    shown, pages, notes = rows, [], []
    folder = target.with_name(f"{target.stem}.pages")
    if len(rows) > max_rows:
        shown = rows.take(sample_of(rows, metrics, changes, max_rows))
        pages = [folder / f"{i + 1:03}.html" for i in range(_n_pages(len(rows), max_rows))]
        notes = _sampling_notes(len(rows), len(shown), len(pages), max_rows)
    links = [(f"{folder.name}/{page.name}", page.stem) for page in pages]
    jobs = [_Job(target, shown, notes, links, whole=True)]
    for i, page in enumerate(pages):
        part = rows.take(np.arange(i * max_rows, min((i + 1) * max_rows, len(rows))))
        at = (
            f"Page {i + 1} of {len(pages)}: rows {i * max_rows + 1:,} and on, in the table's order."
        )
        others = [(other.name, other.stem) for other in pages]
        jobs.append(_Job(page, part, [at], [(f"../{target.name}", "Report"), *others], whole=False))
    if pages:
        _make_folder(folder)
    read, total = 0, sum(len(_images(job.rows)) for job in jobs)
    for job in jobs:
        ticked = None if progress is None else partial(_advance, progress, read, total)
        pictures = partial(thumbnails, roots=roots, fence=fence, progress=ticked)
        _write(job, runs, list(metrics), changes, context, pictures)
        read += len(_images(job.rows))
    _remove_others(folder, pages)
    return Written(target, tuple(pages), len(rows), len(shown))


@dataclass(frozen=True)
class _Job:
    """A page to be written; of all that the report has to say (`whole`), or of rows alone."""

    path: Path
    rows: Rows
    notes: Sequence[str]
    links: Sequence[tuple[str, str]]
    whole: bool


def _write(
    job: _Job,
    runs: Sequence[Run],
    metrics: Sequence[str],
    changes: Sequence[Change],
    context: Mapping[str, Any],
    pictures: Callable[[Sequence[str], int], list[Thumbnail]],
) -> None:
    infos: Mapping[str, MetricInfo] = context["metrics"]
    data = {
        "runs": [run.name for run in runs],
        "metrics": [
            {"name": n, "up": infos[n].higher_is_better, "headline": infos[n].headline}
            for n in metrics
        ],
        "statuses": dict(STATUSES),
        "colours": colours(),
        **row_data(job.rows, metrics),
        "summary": _summary_data(context["summaries"]) if job.whole else [],
        "changes": [
            {"metric": change.metric, "b": change.b, "pairs": _pairs(job.rows, change)}
            for change in changes
            if job.whole and change.comparison is not None
        ],
    }
    notes = [*job.notes, *_map_notes(data.pop("mapsLeftOut"))]
    spent = _CODE_BYTES + page_bytes(json.dumps(data, ensure_ascii=False))
    images = list(_images(job.rows))
    # Base64 makes four bytes of three.
    budget = max(0, MAX_BYTES - spent) * 3 // 4
    made = dict(zip(images, pictures(images, budget), strict=True))
    data["pictures"], places = picture_data(job.rows, made)
    data["rows"] |= places
    page = render(
        "scores.html",
        title=f"{context['heading']} - scorekit",
        data=data,
        scripts=_SCRIPTS,
        plots=job.whole,
        **{**context, "notes": notes, "links": job.links, "whole": job.whole},
        edits=has_sources(job.rows),
        n=len(job.rows),
    )
    save_text(page, job.path)


def number(value: float | None) -> str:
    """Four digits, as the page's script writes them.

    Examples
    --------
    >>> number(0.837219), number(-4.7e-5), number(None)
    ('0.8372', '-4.7e-05', '–')
    """
    return "–" if value is None else f"{value:.4g}"


def _images(rows: Rows) -> dict[str, None]:
    columns = ["image", "source_image"] if has_sources(rows) else ["image"]
    return dict.fromkeys(as_text(path) for column in columns for path in rows.frame[column])


def _advance(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _pairs(rows: Rows, change: Change) -> list[list[Any]]:
    return [[a, b, rounded(d)] for a, b, d in most_changed(rows, change)]


def _n_pages(n: int, most: int) -> int:
    return min(MAX_PAGES, -(-n // most))


def _sampling_notes(n: int, shown: int, pages: int, most: int) -> list[str]:
    notes = [
        f"The gallery and the plots show a sample of {shown:,} of {n:,} rows: whole items, among "
        "them those that were not scored, the worst by each metric and the most changed, and "
        "the others at random. Summary, failures and comparisons are of all rows."
    ]
    if pages * most < n:
        notes.append(f"The pages end at row {pages * most:,}; report a part of the table for more.")
    return notes


def _map_notes(left_out: int) -> list[str]:
    if not left_out:
        return []
    return [
        f"{left_out:,} heat maps of words are left out, so that the page stays small: those of the "
        "rows' second and third words first."
    ]


def _remove_others(folder: Path, pages: Sequence[Path]) -> None:
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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"can't make the folder {folder}: {error.strerror}") from None


def _summary(run: Run, metrics: Mapping[str, MetricInfo]) -> dict[str, Any]:
    """Estimates by system and metric; of very many systems, the first."""
    table = run.table
    systems = table.systems[:MANY_SYSTEMS]
    items = table.frame.groupby("system", dropna=False)["item"].agg(frozenset)
    fair = items.nunique() == 1
    cells: dict[str, dict[str, Summed]] = {system: {} for system in systems}
    for name, info in table.metrics.items():
        found = {system: table.mean(name, system) for system in systems}
        values = [e.value for e in found.values() if e.value is not None]
        best = (max if info.higher_is_better else min)(values) if fair and len(values) > 1 else None
        for system, estimate in found.items():
            cells[system][name] = Summed(estimate, best is not None and estimate.value == best)
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


def _counts(rows: Rows, runs: Sequence[Run], metrics: Mapping[str, MetricInfo]) -> str:
    systems, items = (rows.frame[c].nunique(dropna=False) for c in ("system", "item"))
    headlines = sum(info.headline for info in metrics.values())
    parts = [(len(rows), "image"), (systems, "system"), (items, "item"), (headlines, "metric")]
    if len(runs) > 1:
        parts.insert(0, (len(runs), "run"))
    return ", ".join(f"{n:,} {word}{'' if n == 1 else 's'}" for n, word in parts)


def _facts(run: Run) -> dict[str, Any]:
    """The run records as names and lines, and the signatures."""
    return {
        "name": run.name,
        "signatures": [
            (name, str(info.signature), info.higher_is_better)
            for name, info in run.table.metrics.items()
            if info.headline
        ],
        "records": {
            name: [
                (key.replace("_", " "), fact)
                for key, value in record.items()
                if (fact := _fact(value))
            ]
            for name, record in run.records.items()
        },
    }


def _fact(value: Any) -> str:
    """A line of short values; the rows' statuses are counted elsewhere on the page."""
    if isinstance(value, Mapping):
        shown = {k: v for k, v in value.items() if v not in (None, "", [], {}) and k != "status"}
        if not any(isinstance(v, Mapping) for v in shown.values()):
            return ", ".join(f"{as_text(str(k))} {_short(v)}" for k, v in shown.items())
        return plain(shown)
    return "" if value in (None, []) else plain(value)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(plain(entry) for entry in value)
    return plain(value)
