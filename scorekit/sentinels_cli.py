"""`scorekit sentinels`: edit metrics against edits whose order is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scorekit.types import UsageError

if TYPE_CHECKING:
    from scorekit.sentinels import SentinelReport

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def sentinels(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="SET", help="Table of edits: image, source_image, text; mask, attributes."
        ),
    ],
    metric: Annotated[
        list[str],
        typer.Option(
            "-m",
            "--metric",
            metavar="METRIC[:key=value,...][@BACKBONE]",
            help="Metric; repeatable.",
        ),
    ],
    backbone: Annotated[
        str | None, typer.Option(help="Backbone of the metrics that name none.")
    ] = None,
    parts: Annotated[
        bool, typer.Option("--parts", help="Rank by the metrics' components too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Which unrelated image an edit gets.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Write .csv, .tsv, .json, .jsonl or .parquet."
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the scores behind it, as `scorekit score --out` does."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Inputs a forward pass.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="DIR", help="Feature cache (default: the user's cache folder)."
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Rank edits by metrics where the order is known, and say how often it comes out right.

    Each edit is scored beside the unedited copy, an unrelated image (of another edit of SET),
    and, where systems of these names or columns ideal_edit, over_edit, under_edit give them,
    the ideal edit, an over-edit and an under-edit. Exit code 1 where an image could not be
    scored; a formula without a value (directional CLIP of an unedited copy) is counted alone.
    """
    from scorekit import console
    from scorekit.frames import check_frame_path, save_frame, save_text
    from scorekit.images import silence_pil
    from scorekit.run import RunOptions
    from scorekit.sentinels import read_set
    from scorekit.sentinels import sentinels as rank_sentinels
    from scorekit.table import check_writable

    silence_pil()
    if no_cache and cache is not None:
        raise UsageError("--cache and --no-cache exclude each other")
    if out is not None:
        check_frame_path(out, SUFFIXES)
    if scores is not None:
        check_writable(scores)
    listing = read_set(path)
    console.print_findings(listing.findings)
    with console.progress(len(listing.samples), quiet=quiet) as advance:
        report = rank_sentinels(
            listing.samples,
            metric,
            backbone=backbone,
            parts=parts,
            seed=seed,
            options=RunOptions(
                device=device, batch_size=batch_size, cache=False if no_cache else cache
            ),
            progress=advance,
            record={"input": str(path)},
        )
    if scores is not None:
        report.table.save(scores)
    if out is not None and out.suffix == ".json":
        save_text(json.dumps(report.as_json(), indent=1, default=str), out)
    elif out is not None:
        save_frame(report.to_pandas(), out)
    if json_:
        console.print_json(report.as_json())
    else:
        _print(report)
        for written in filter(None, (out, scores)):
            print(f"written to {written}")
    failures = report.table.failures()
    if (failures["status"] != "undefined").any():
        raise typer.Exit(1)


def _print(report: SentinelReport) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from scorekit.console import print_failures, stdout
    from scorekit.sentinels import LEANING

    console = stdout()
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("metric")
    grid.add_column("ranked above")
    for heading in ("how often", "95% interval", "higher/equal/lower", "n", "no value"):
        grid.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for row in report.rows:
        label = "" if row.metric == previous else escape(row.metric)
        if previous is not None and label:
            grid.add_section()
        previous = row.metric
        found = row.accuracy
        neither = " (neither is right)" if (row.better, row.worse) == LEANING else ""
        grid.add_row(
            label,
            f"{row.better} > {row.worse}{neither}",
            "-" if found.value is None else f"{found.value:.3f}",
            "-" if found.low is None else f"{found.low:.3f} to {found.high:.3f}",
            f"{row.wins}/{row.ties}/{row.losses}",
            str(found.n),
            str(row.unscored or ""),
        )
    console.print(grid)
    for info in report.table.metrics.values():
        if info.headline:
            direction = "" if info.higher_is_better else " (lower is better)"
            console.print(escape(str(info.signature)) + direction, soft_wrap=True)
    told = f"{report.edits} edits; a tie counts half"
    if any((row.better, row.worse) == LEANING for row in report.rows):
        told += (
            "; over > unedited says which way a metric leans: above .5 to modification, below it "
            "to preservation"
        )
    console.print(told)
    print_failures(report.table)
