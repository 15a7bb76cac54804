"""What the command line shows: tables and progress by rich, JSON for machines."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from scorekit.cache import CacheInfo
    from scorekit.catalogue import BackboneRow, MetricRow
    from scorekit.io import Finding
    from scorekit.stats import PairedComparison
    from scorekit.table import ScoreTable
    from scorekit.types import PathLike

LOG_EVERY_SECONDS = 10.0
EXAMPLES = 5


def stdout() -> Console:
    """A console that does not cut its tables where the output is a pipe or a file."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, soft_wrap=False)


def print_json(value: Any) -> None:
    """Print a JSON value."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def print_findings(findings: Sequence[Finding]) -> None:
    """Say on the error stream what is odd about the input."""
    for finding in findings:
        print(f"note: {finding}", file=sys.stderr)


@contextlib.contextmanager
def progress(
    total: int, *, quiet: bool = False, what: str = "scoring"
) -> Iterator[Callable[[int, int], None] | None]:
    """Show progress on the error stream: a bar on a terminal, plain lines in a log."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(what, total=total)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _LogLines("" if what == "scoring" else f"{what}: ")


class _LogLines:
    """Progress for a log: a line every ten seconds."""

    def __init__(self, head: str) -> None:
        self._head = head
        self._start = self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._start:  # loading the model is no part of the rate
            self._start = self._last = now
        if now - self._last < LOG_EVERY_SECONDS or not done:
            return
        self._last = now
        rate = done / (now - self._start)
        left = (total - done) / rate
        print(
            f"{self._head}{done}/{total} rows, {rate:.1f} rows/s, {left:.0f} s left",
            file=sys.stderr,
        )


def _bar() -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Rate(TextColumn):
        def render(self, task: Any) -> Any:
            from rich.text import Text

            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} rows/s" if speed else "")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(""),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def print_scores(table: ScoreTable, out: PathLike | None, *, headlines: bool = False) -> None:
    """Print the summary of a run; of `headlines` alone, without the metrics' components."""
    console = stdout()
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("metric")
    grid.add_column("system")
    for heading in ("mean", "95% interval", "scored"):
        grid.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for metric, system, estimate in table.summary(headlines=headlines):
        label = "" if metric == previous else escape(metric)
        if previous is not None and label:
            grid.add_section()
        previous = metric
        value = "-" if estimate.value is None else f"{estimate.value:.4f}"
        if estimate.statistic != "mean":
            value += f" ({estimate.statistic})"
        interval = "-" if estimate.low is None else f"{estimate.low:.4f} to {estimate.high:.4f}"
        scored = f"{estimate.n}/{estimate.n_total}"
        grid.add_row(label, escape(system or "-"), value, interval, scored)
    console.print(grid)
    for info in table.metrics.values():
        if info.headline:
            console.print(escape(str(info.signature)), soft_wrap=True)
    print_failures(table)
    if out is not None:
        console.print(f"{len(table)} rows in {escape(str(out))}")


def print_failures(table: ScoreTable) -> None:
    """Say on the error stream which rows were not scored."""
    partial = table.partial_failures()
    failures = table.failures().drop(partial.index)
    if not failures.empty:
        print(f"\n{len(failures)} of {len(table)} rows were not scored:", file=sys.stderr)
    for status, count in failures["status"].value_counts(sort=False).items():
        rows = failures[failures["status"] == status]
        distinct = rows.drop_duplicates(subset=["system", "item", "index", "image", "note"])
        print(f"  {status}: {count}", file=sys.stderr)
        for row in distinct.head(EXAMPLES).to_dict("records"):
            where = row["image"] or f"{row['system']}/{row['item']}"
            print(f"    {where}: {row['note']}", file=sys.stderr)
        if len(distinct) > EXAMPLES:
            print(f"    ... and {len(distinct) - EXAMPLES} more", file=sys.stderr)
    if not partial.empty:
        print("\ncomponents without a value, of rows that were scored:", file=sys.stderr)
    for note in partial["note"].dropna().unique()[:EXAMPLES]:
        rows = partial[partial["note"] == note]
        parts = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in rows["metric"]))
        where = rows["image"].where(rows["image"] != "", rows["system"] + "/" + rows["item"])
        first, *others = where.unique()
        more = f" and {len(others)} more" if others else ""
        print(f"  {parts}: {note} ({first}{more})", file=sys.stderr)
    if (n := partial["note"].nunique() - EXAMPLES) > 0:
        print(f"  ... and for {n} more reasons", file=sys.stderr)


def table_as_json(table: ScoreTable, out: PathLike | None) -> dict[str, Any]:
    """The summary of a run as a JSON value."""
    metrics: dict[str, Any] = {}
    for metric, system, estimate in table.summary():
        info = table.metrics[metric]
        entry = metrics.setdefault(
            metric,
            {
                "signature": str(info.signature),
                "higher_is_better": info.higher_is_better,
                "systems": {},
            },
        )
        entry["systems"][system] = vars(estimate)
    failures = table.failures()
    columns = ["system", "item", "index", "image", "metric", "status", "note"]
    return {
        "metrics": metrics,
        "rows": len(table),
        "failed": len(failures),
        "failures": failures[columns].to_dict("records"),
        "out": None if out is None else str(out),
        "run": dict(table.run),
    }


def print_comparison(
    results: Mapping[str, PairedComparison], labels: tuple[str, str], table: ScoreTable
) -> None:
    """Print paired comparisons."""
    console = stdout()
    console.print(f"a = {escape(labels[0])}\nb = {escape(labels[1])}")
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("metric")
    for heading in ("a", "b", "b - a", "95% interval", "p", "b higher/equal/lower", "rows (items)"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, r in results.items():
        arrow = "" if table.metrics[name].higher_is_better else " (lower is better)"
        grid.add_row(
            escape(name) + arrow,
            f"{r.mean_a:.4f}",
            f"{r.mean_b:.4f}",
            f"{r.difference:+.4f}",
            "-" if r.low is None else f"{r.low:+.4f} to {r.high:+.4f}",
            "-" if r.p_value is None else f"{r.p_value:.4f}",
            f"{r.wins}/{r.ties}/{r.losses}",
            f"{r.n} ({r.n_clusters})",
        )
    console.print(grid)
    for name in results:
        console.print(escape(str(table.signatures[name])), soft_wrap=True)


def comparison_as_json(
    results: Mapping[str, PairedComparison], labels: tuple[str, str], signatures: Mapping[str, str]
) -> dict[str, Any]:
    """Paired comparisons as a JSON value."""
    return {
        "a": labels[0],
        "b": labels[1],
        "metrics": {
            name: {"signature": signatures[name], **vars(result)}
            for name, result in results.items()
        },
    }


def print_metrics(rows: Sequence[MetricRow]) -> None:
    """Print the table of metrics."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("metric", "what it asks", "needs", "range", "default backbone"):
        grid.add_column(heading)
    for row in rows:
        better = "" if row.higher_is_better else ", lower is better"
        grid.add_row(
            row.name, escape(row.question), row.needs, row.range + better, row.backbone or "-"
        )
    console = stdout()
    console.print(grid)
    console.print("scorekit metrics NAME shows a metric's card.")


def print_card(markdown: str) -> None:
    """Print a card, rendered on a terminal, as it is elsewhere."""
    if not sys.stdout.isatty():
        print(markdown)
        return
    from rich.markdown import Markdown

    Console().print(Markdown(markdown))


def print_backbones(rows: Sequence[BackboneRow]) -> None:
    """Print the table of backbones."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("backbone", "licence", "size", "text limit", "on disk", "remarks"):
        right = heading in ("size", "text limit")
        grid.add_column(heading, justify="right" if right else "left", no_wrap=heading != "remarks")
    for row in rows:
        size = "" if row.megabytes is None else f"{row.megabytes:,} MB"
        limit = "" if row.text_limit is None else str(row.text_limit)
        grid.add_row(
            escape(row.name),
            row.licence,
            size,
            limit,
            "yes" if row.on_disk else "no",
            escape(row.remarks),
        )
    console = stdout()
    console.print(grid)
    console.print(
        "Any open_clip:ARCH/TAG, open_clip:ARCH/FILE.safetensors, hf:NAME and hf:FOLDER works "
        "as well.",
        overflow="fold",
    )


def print_cache(info: CacheInfo) -> None:
    """Print what a cache holds."""
    console = stdout()
    console.print(
        f"{escape(str(info.path))}: {info.entries:,} features, {info.size_bytes / 1e6:,.1f} MB"
    )
    if not info.by_source:
        return
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("backbone")
    grid.add_column("feature")
    grid.add_column("entries", justify="right")
    grid.add_column("MB", justify="right")
    for backbone, kind, entries, size in info.by_source:
        grid.add_row(escape(backbone), kind, f"{entries:,}", f"{size / 1e6:,.1f}")
    console.print(grid)
