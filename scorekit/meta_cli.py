"""`scorekit meta`: how far metrics agree with people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scorekit.cli_options import Json, SpreadsheetSafe
from scorekit.types import UsageError

if TYPE_CHECKING:
    from scorekit.meta import MetaOptions
    from scorekit.meta_report import MetaReport

EXTRAS = ("significance", "raters", "selection", "complementarity")


def meta(
    scores: Annotated[
        list[str] | None,
        typer.Argument(
            help="Tables of scores: scorekit's, or any with system, item, metric, value."
        ),
    ] = None,
    ratings: Annotated[
        str,
        typer.Option("-r", "--ratings", metavar="NAME|FILE", help="A set (`scorekit data list`)."),
    ] = "",
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Folder of the set's published files."),
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published", help="Take the scores that the set's own files carry."),
    ] = False,
    metric: Annotated[
        list[str] | None, typer.Option("-m", "--metric", help="Metrics (default: all).")
    ] = None,
    lower: Annotated[
        list[str] | None,
        typer.Option(
            "--lower", metavar="METRIC", help="Lower is better, of a table that doesn't say so."
        ),
    ] = None,
    dimension: Annotated[
        list[str] | None, typer.Option("-d", "--dimension", help="Dimensions (default: all).")
    ] = None,
    statistic: Annotated[
        list[str] | None,
        typer.Option(
            "-s",
            "--statistic",
            help="pearson, spearman, kendall_tau_b, kendall_tau_c, pairwise_accuracy, auroc, "
            "average_precision; the first ranks (default: by the ratings' scale).",
        ),
    ] = None,
    level: Annotated[str, typer.Option(help="sample, or system (the systems' means).")] = "sample",
    grouping: Annotated[str, typer.Option(help="global, per_item or per_system.")] = "global",
    average: Annotated[
        str,
        typer.Option(
            help="Of groups: mean, fisher (by arctanh), tanh_mean (VIEScore's published way)."
        ),
    ] = "mean",
    by: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="Break the results down by a tag.")
    ] = None,
    own_rows: Annotated[
        bool,
        typer.Option("--own-rows", help="Each metric on all rows it scored, not the common ones."),
    ] = False,
    influence: Annotated[
        bool, typer.Option("--influence", help="Show the items that drive a correlation.")
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="The table alone: no significance, raters and pairs.")
    ] = False,
    resamples: Annotated[
        int, typer.Option(help="Bootstrap resamples by item; 0 for no intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of resampling, permutation and folds.")] = 0,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="Write .csv, .tsv, .jsonl, .parquet (results), .json (all), .md, .tex; "
            "repeatable.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Write a page of plots and tables, in one file.",
        ),
    ] = None,
    spreadsheet_safe: SpreadsheetSafe = False,
    json_: Json = False,
) -> None:
    """Hold metrics against human ratings: correlations with intervals, ranks, ceilings.

    Comparisons use the rows that all metrics scored; what a metric did not score is counted. Of a
    metric of which lower is better, the sign is turned. No model is loaded.
    """
    from scorekit import console, meta_view
    from scorekit.frames import DATA_SUFFIXES, TEXT_SUFFIXES, check_frame_path
    from scorekit.grouping import Scheme
    from scorekit.joined import published_scores, read_scores
    from scorekit.manifests import load_set, open_ratings
    from scorekit.meta import MetaOptions
    from scorekit.meta_report import meta_evaluate

    if not ratings:
        raise UsageError("give --ratings NAME or FILE (`scorekit data list` shows the names)")
    if bool(scores) == published:
        raise UsageError("give tables of scores, or --published for those of the set's own files")
    if resamples < 0:
        raise UsageError(f"--resamples must be 0 or more, not {resamples}")
    for path in out or ():
        check_frame_path(path, DATA_SUFFIXES + TEXT_SUFFIXES)
    if report is not None:
        check_frame_path(report, (".html",))
    try:
        scheme = Scheme(level, grouping, average)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(str(error)) from None
    options = MetaOptions(
        statistics=tuple(statistic or ()),
        dimensions=tuple(dimension or ()),
        metrics=tuple(metric or ()),
        by=tuple(by or ()),
        scheme=scheme,
        own_rows=own_rows,
        n_resamples=resamples,
        seed=seed,
    )
    rated = load_set(ratings, source) if source is not None else open_ratings(ratings)
    given = published_scores(rated) if published else read_scores(scores or [])
    given = given.turned(lower or ())
    extras = () if fast else EXTRAS
    found = meta_evaluate(
        given, rated, options, extras=extras + (("influence",) if influence else ())
    )
    written = [*(out or ()), *([] if report is None else [report])]
    for path in written:
        _write(found, options, path, spreadsheet_safe=spreadsheet_safe)
    if json_:
        console.print_json(meta_view.as_json(found))
        return
    meta_view.print_report(found, console.stdout())
    for path in written:
        print(f"written: {path}")


def _write(report: MetaReport, options: MetaOptions, path: Path, *, spreadsheet_safe: bool) -> None:
    import json

    from scorekit import meta_view
    from scorekit.frames import save_frame, save_text
    from scorekit.reporting.meta import meta_page

    if path.suffix == ".html":
        save_text(meta_page(report, options), path)
    elif path.suffix == ".json":
        value = meta_view.as_json(report)
        save_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", path)
    elif path.suffix == ".md":
        save_text(meta_view.as_markdown(report), path)
    elif path.suffix == ".tex":
        save_text(meta_view.as_latex(report), path)
    else:
        save_frame(report.frame(), path, spreadsheet_safe=spreadsheet_safe)
