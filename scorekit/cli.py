"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from scorekit import (
    attributes_cli,
    cache_cli,
    data_cli,
    explain_cli,
    interrupts,
    meta_cli,
    rank_cli,
    report_cli,
    scenes_cli,
    sentinels_cli,
)
from scorekit.cli_options import (
    EXIT_FAILED_ROWS,
    Address,
    CacheDir,
    CalibrationFile,
    Devices,
    Dtype,
    Engine,
    ImagesWithin,
    Json,
    NoCache,
    Resize,
    Shards,
    SpreadsheetSafe,
    cache_choice,
    shards_choice,
)
from scorekit.types import UsageError

EXIT_USAGE = 2

app = typer.Typer(
    name="scorekit",
    help="How good are generated images? Exact, fast scores with signatures and intervals.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a mistake of use is one line and exit code 2."""
    warnings.showwarning = _show_warning
    _shown.clear()
    try:
        app()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except SystemExit as stop:
        if stop.code not in (interrupts.EXIT_INTERRUPTED, interrupts.EXIT_TERMINATED):
            raise
        # An interrupt inside torch's import leaves the interpreter with a mark that would turn
        # this exit code into death by the signal, though all was told and kept.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(stop.code))
    except BrokenPipeError:  # `scorekit metrics | head`
        sys.stderr.close()
        sys.exit(0)


def _version(value: bool) -> None:
    if value:
        from scorekit import __version__

        print(f"scorekit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version.")
    ] = False,
) -> None:
    pass


@app.command()
@interrupts.ends_in_order
def score(
    path: Annotated[
        str,
        typer.Argument(
            help="Folder of images, table (CSV, TSV, JSONL, Parquet) or image; or its URL (s3://)."
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--metric",
            metavar="METRIC[:key=value,...][@BACKBONE]",
            help="Metric; repeatable (default: clipscore).",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Backbone of the metrics that name none (`scorekit backbones`)."),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Question of vqascore, with {text} where the prompt goes."
        ),
    ] = None,
    answer: Annotated[
        str | None, typer.Option(metavar="WORD", help="Answer of vqascore that is scored.")
    ] = None,
    calibration: CalibrationFile = None,
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Table with image,text (or item,text) columns."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="One prompt for all images.")] = None,
    system: Annotated[str | None, typer.Option(help="System name for all images.")] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write the table: .parquet, .csv, .tsv."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page that shows it: `scorekit report`."),
    ] = None,
    heat_maps: Annotated[
        bool,
        typer.Option("--heat-maps", help="Keep heat maps of misaligned words for the report."),
    ] = False,
    headlines: Annotated[
        bool, typer.Option("--headlines", help="Print no components of metrics.")
    ] = False,
    device: Devices = "auto",
    dtype: Dtype = "fp32",
    quantize: Annotated[
        str, typer.Option(help="none or int8: a vision-language model's weights.")
    ] = "none",
    resize: Resize = "exact",
    long_text: Annotated[
        str, typer.Option(help="Texts over the model's limit: truncate, error or window.")
    ] = "truncate",
    batch_size: Annotated[
        int | None, typer.Option(help="Inputs a forward pass; scores do not depend on it.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads that read images, a process; actors of --engine ray."),
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    shards: Shards = None,
    cache: CacheDir = None,
    no_cache: NoCache = False,
    images_within: ImagesWithin = None,
    spreadsheet_safe: SpreadsheetSafe = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Duplicates, gaps and ambiguities are fatal.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load pickled weights, which can run code.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings.")
    ] = False,
    json_: Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Score images against their prompts.

    Prompts come from --text, --prompts, a prompts.csv or metadata.csv in the folder, or x.txt
    beside x.png. Exit code: 0 all rows scored, 1 some were not, 2 wrong use.
    """
    from scorekit import console
    from scorekit.choose import parse_metrics, with_defaults
    from scorekit.images import silence_pil
    from scorekit.io import OUTSIDE, read_samples
    from scorekit.run import RunOptions, score_samples
    from scorekit.table import check_delimited, check_writable

    silence_pil()
    if out is not None:
        check_writable(out)
    if spreadsheet_safe:
        check_delimited("" if out is None else out)
    if report is not None:
        report_cli.check(report)
    options = RunOptions(
        device=device,
        dtype=dtype,  # type: ignore[arg-type]
        quantize=quantize,  # type: ignore[arg-type]
        resize=resize,  # type: ignore[arg-type]
        long_text=long_text,  # type: ignore[arg-type]
        batch_size=batch_size,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        cache=cache_choice(cache, no_cache),
        workers=workers,
        engine=engine,  # type: ignore[arg-type]
        address=address,
        shards=shards_choice(engine, shards, out),
    )
    asked = parse_metrics(metric or ["clipscore"], backbone)
    chosen = with_defaults(asked.values(), question=question, answer=answer)
    record: dict[str, Any] = {}
    if calibration is not None:
        from scorekit.calibrated import origin_of, with_calibration

        chosen, used = with_calibration(chosen, calibration, options)
        record["calibration"] = origin_of(calibration, used)
        print(f"note: {record['calibration']}", file=sys.stderr)
    if heat_maps:
        from scorekit.heat_maps import check_heat_maps

        check_heat_maps(chosen, options=options)
        if out is None and report is None:
            raise UsageError("--heat-maps are for --out or --report")
    listing = read_samples(
        path, prompts=prompts, text=text, system=system, images_within=images_within
    )
    if out is not None:
        listing.check_apart(out)
    console.print_findings(listing.findings)
    if strict and (amiss := [f for f in listing.findings if f.kind != OUTSIDE]):
        raise UsageError(f"{len(amiss)} findings above, and --strict was asked for")
    record |= {
        "input": path,
        "prompts": listing.source,
        "findings": [str(finding) for finding in listing.findings],
    }
    with console.progress(len(listing.samples), quiet=quiet) as advance:
        table = score_samples(
            listing.samples,
            chosen,
            options=options,
            progress=advance,
            record=record,
        )
    if out is not None:
        table.save(out, spreadsheet_safe=spreadsheet_safe)
        interrupts.remove_partial(out)
        interrupts.saved(out, "heat maps" if heat_maps else "")
    if heat_maps:
        with console.progress(len(listing.samples), quiet=quiet, what="heat maps") as advance:
            table = _with_heat_maps(table, listing.samples, chosen, out, options, advance)
        if out is not None:
            table.save(out, spreadsheet_safe=spreadsheet_safe)
            interrupts.saved(out)
    if out is not None and shards is None and options.shards is not None:
        from scorekit.feature_shards import remove_shards

        remove_shards(str(options.shards))
    if json_:
        console.print_json(console.table_as_json(table, out))
    else:
        console.print_scores(table, out, headlines=headlines)
    if report is not None:
        name = Path(report if out is None else out).stem
        report_cli.write({name: table}, report, images_within=images_within, quiet=quiet)
    if len(table.failures()) > len(table.partial_failures()):
        raise typer.Exit(EXIT_FAILED_ROWS)


def _with_heat_maps(
    table: Any, samples: Any, metrics: Any, out: str | None, options: Any, progress: Any
) -> Any:
    from scorekit.heat_maps import add_heat_maps

    try:
        return add_heat_maps(table, samples, metrics, options=options, progress=progress)
    except Exception:
        if out is not None:
            print(f"note: the table without heat maps is in {out}", file=sys.stderr)
        raise


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A table that `scorekit score --out` wrote.")],
    b: Annotated[str | None, typer.Argument(help="Another one; or give --systems.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option("-m", "--metric", help="Metrics (default: all shared).")
    ] = None,
    systems: Annotated[
        str | None,
        typer.Option(metavar="X,Y", help="Compare two systems of table A with each other."),
    ] = None,
    json_: Json = False,
) -> None:
    """Compare two tables, or two systems of one, on the rows that both scored.

    Difference b - a with a bootstrap interval and a paired permutation test, both by item.
    Scores whose signatures differ are refused (exit code 2).
    """
    from scorekit import console
    from scorekit.table import ScoreTable

    left = ScoreTable.load(a)
    _say_if_partial(a, left)
    if (b is None) == (systems is None):
        raise UsageError("give a second table, or --systems X,Y of the first, not both")
    if b is not None:
        right = ScoreTable.load(b)
        _say_if_partial(b, right)
        names = metric or [m for m in left.metrics if m in right.metrics]
        if not names:
            raise UsageError(
                f"no metric in common: {a} has {', '.join(left.metrics)}, "
                f"{b} has {', '.join(right.metrics)}"
            )
        results = {}
        for name in names:
            try:
                results[name] = left.compare(right, name)
            except UsageError as error:
                # What was asked for must be compared; of all that there is, what can be.
                if metric or (name == names[-1] and not results):
                    raise
                print(f"note: {error}", file=sys.stderr)
        labels = (a, b)
    else:
        x, comma, y = str(systems).partition(",")
        if not comma:
            raise UsageError("--systems takes two names, separated by a comma")
        results = {
            name: left.compare_systems(x.strip(), y.strip(), name)
            for name in metric or left.metrics
        }
        labels = (x.strip(), y.strip())
    if json_:
        signatures = {name: str(left.signatures[name]) for name in results}
        console.print_json(console.comparison_as_json(results, labels, signatures))
    else:
        console.print_comparison(results, labels, left)


def _say_if_partial(name: str, table: Any) -> None:
    left = int((table.frame["status"] == interrupts.INTERRUPTED).sum())
    if left:
        print(
            f"note: {name} is what an interrupted run left: {left:,} of {len(table):,} rows are "
            "not scored",
            file=sys.stderr,
        )


@app.command()
def metrics(
    name: Annotated[str | None, typer.Argument(help="Show this metric's card.")] = None,
    json_: Json = False,
) -> None:
    """List the metrics, or show the card of one."""
    from scorekit import catalogue, console

    if name is not None:
        console.print_card(catalogue.metric_card(name))
    elif json_:
        console.print_json([vars(row) for row in catalogue.metric_rows()])
    else:
        console.print_metrics(catalogue.metric_rows())


@app.command()
def backbones(
    all_: Annotated[
        bool, typer.Option("--all", help="Every architecture and tag of OpenCLIP as well.")
    ] = False,
    json_: Json = False,
) -> None:
    """List backbones with licence, size, text limit and whether the weights are on disk."""
    from scorekit import catalogue, console

    rows = catalogue.backbone_rows(everything=all_)
    if json_:
        console.print_json([vars(row) for row in rows])
    else:
        console.print_backbones(rows)


app.command("explain")(explain_cli.explain)
app.command("calibrate")(explain_cli.calibrate)
app.command("rank")(rank_cli.rank)
app.command("meta")(meta_cli.meta)
app.add_typer(data_cli.app, name="data")
app.command("report")(report_cli.report)
app.command("sentinels")(sentinels_cli.sentinels)
app.command("attributes")(attributes_cli.attributes)
app.add_typer(scenes_cli.app, name="scenes")
app.add_typer(cache_cli.app, name="cache")


_shown: set[str] = set()


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if str(message) not in _shown:  # processes may tell of what this one has found as well
        _shown.add(str(message))
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
