"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from scorekit import attributes_cli, data_cli, meta_cli, rank_cli, sentinels_cli
from scorekit.types import UsageError

EXIT_FAILED_ROWS = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="scorekit",
    help="How good are generated images? Exact, fast scores with signatures and intervals.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache_app = typer.Typer(help="Look at or empty the feature cache.", no_args_is_help=True)
scenes_app = typer.Typer(help="Procedural scenes with known truth.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
app.add_typer(scenes_app, name="scenes")
app.add_typer(data_cli.app, name="data")
app.command("attributes")(attributes_cli.attributes)
app.command("rank")(rank_cli.rank)
app.command("meta")(meta_cli.meta)
app.command("sentinels")(sentinels_cli.sentinels)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache", metavar="DIR", help="Feature cache (default: the user's cache folder)."
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Threshold of misaligned words that `scorekit calibrate` fitted for the backbone.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, typer.Option(help="fp32, fp16 or bf16, for the model.")]
Resize = Annotated[
    str,
    typer.Option(
        help="exact (PIL) or fast (torch on uint8: a level of 255 off in 0.4% of values)."
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no features.")]


def main() -> None:
    """Run the command line; a mistake of use is one line and exit code 2."""
    warnings.showwarning = _show_warning
    try:
        app()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except SystemExit as stop:
        if stop.code != EXIT_INTERRUPTED:
            raise
        # An interrupt inside torch's import leaves the interpreter with a mark that would turn
        # this exit code into death by the signal, though all was told and kept.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)
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
def score(
    path: Annotated[
        Path, typer.Argument(help="Folder of images, table (CSV, TSV, JSONL, Parquet) or image.")
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
        Path | None,
        typer.Option(metavar="FILE", help="Table with image,text (or item,text) columns."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="One prompt for all images.")] = None,
    system: Annotated[str | None, typer.Option(help="System name for all images.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write the table: .parquet, .csv, .tsv."),
    ] = None,
    device: Device = "auto",
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
    workers: Annotated[int | None, typer.Option(help="Threads that read images.")] = None,
    cache: CacheDir = None,
    no_cache: NoCache = False,
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
    from scorekit.io import read_samples
    from scorekit.run import RunOptions, score_samples
    from scorekit.table import check_writable

    silence_pil()
    if out is not None:
        check_writable(out)
    options = RunOptions(
        device=device,
        dtype=dtype,  # type: ignore[arg-type]
        quantize=quantize,  # type: ignore[arg-type]
        resize=resize,  # type: ignore[arg-type]
        long_text=long_text,  # type: ignore[arg-type]
        batch_size=batch_size,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
        cache=_cache(cache, no_cache),
        workers=workers,
    )
    asked = parse_metrics(metric or ["clipscore"], backbone)
    chosen = with_defaults(asked.values(), question=question, answer=answer)
    record: dict[str, Any] = {}
    if calibration is not None:
        from scorekit.calibrated import origin_of, with_calibration

        chosen, used = with_calibration(chosen, calibration, options)
        record["calibration"] = origin_of(calibration, used)
        print(f"note: {record['calibration']}", file=sys.stderr)
    listing = read_samples(path, prompts=prompts, text=text, system=system)
    console.print_findings(listing.findings)
    if strict and listing.findings:
        raise UsageError(f"{len(listing.findings)} findings above, and --strict was asked for")
    record |= {
        "input": str(path),
        "prompts": listing.source,
        "findings": [str(finding) for finding in listing.findings],
    }
    try:
        with console.progress(len(listing.samples), quiet=quiet) as advance:
            table = score_samples(
                listing.samples,
                chosen,
                options=options,
                progress=advance,
                record=record,
            )
    except KeyboardInterrupt:
        kept = (
            "nothing was kept (--no-cache)"
            if no_cache
            else ("what was computed is in the cache, and the same command goes on from there")
        )
        print(f"\ninterrupted: {kept}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if out is not None:
        table.save(out)
    if json_:
        console.print_json(console.table_as_json(table, out))
    else:
        console.print_scores(table, out)
    if not table.failures().empty:
        raise typer.Exit(EXIT_FAILED_ROWS)


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(help="An image.")],
    text: Annotated[str, typer.Argument(help="What it should show.")],
    backbone: Annotated[
        str | None, typer.Option(help="CLIP-type model (default: clip4dm's).")
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(help="Word of the heat map, or a phrase (default: the lowest word)."),
    ] = None,
    heatmap: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw where the image speaks against the word."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with all of it.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="Misaligned words: threshold, or most_negative.")
    ] = "threshold",
    eps: Annotated[
        float | None, typer.Option(help="A word below it is misaligned (default: -5e-5).")
    ] = None,
    unit: Annotated[str, typer.Option(help="What eps is of: raw, scaled or z.")] = "raw",
    calibration: CalibrationFile = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
    resize: Resize = "exact",
    cache: CacheDir = None,
    no_cache: NoCache = False,
    json_: Json = False,
) -> None:
    """Show one image and text in full: its scores, and what each word adds to them."""
    from PIL import Image

    from scorekit import console, explain_view
    from scorekit.explain import explain as explain_pair
    from scorekit.images import as_uint8, silence_pil
    from scorekit.run import RunOptions

    silence_pil()
    for path, suffixes in ((heatmap, (".png",)), (html, (".html", ".htm"))):
        _check_place(path, suffixes)
    if calibration is not None and (eps is not None or unit != "raw"):
        raise UsageError("--calibration brings eps and unit: leave out --eps and --unit")
    found = explain_pair(
        image,
        text,
        backbone=backbone,
        word=word,
        relevance=heatmap is not None,
        mode=_one_of("--mode", mode, "threshold", "most_negative"),  # type: ignore[arg-type]
        eps=eps,
        unit=_one_of("--unit", unit, "raw", "scaled", "z"),  # type: ignore[arg-type]
        calibration=calibration,
        options=RunOptions(
            device=device,
            dtype=dtype,  # type: ignore[arg-type]
            resize=resize,  # type: ignore[arg-type]
            cache=_cache(cache, no_cache),
        ),
    )
    if heatmap is not None or html is not None:
        picture = Image.fromarray(as_uint8(image))
        try:
            if heatmap is not None:
                explain_view.heat_map(found, picture).save(heatmap)
            if html is not None:
                html.write_text(explain_view.html_page(found, picture), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"can't write {error.filename}: {error.strerror}") from None
    if json_:
        console.print_json(found.as_json())
    else:
        explain_view.print_explanation(found, console.stdout())
        for path in filter(None, (heatmap, html)):
            print(f"written to {path}")


@app.command()
def calibrate(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA.jsonl", help="Rows with image, text, misaligned (a list)."),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="Where the calibration goes.")
    ],
    backbone: Annotated[
        str | None, typer.Option(help="CLIP-type model (default: clip4dm's).")
    ] = None,
    unit: Annotated[str, typer.Option(help="What eps is fitted to: raw, scaled or z.")] = "raw",
    min_precision: Annotated[
        float | None,
        typer.Option(metavar="P", help="The most recall at this precision (default: best F1)."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
    resize: Resize = "exact",
    cache: CacheDir = None,
    no_cache: NoCache = False,
    json_: Json = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Fit the threshold of misaligned words for a backbone, on labelled words.

    Later runs use it with --calibration FILE. Exit code 1 where some rows were not scored.
    """
    from scorekit import console, explain_view
    from scorekit.calibrated import calibrate_rows
    from scorekit.calibration import read_labelled, save_calibration
    from scorekit.images import silence_pil
    from scorekit.run import RunOptions

    silence_pil()
    _check_place(out)
    rows = read_labelled(data)
    with console.progress(len(rows), quiet=quiet) as advance:
        fitted = calibrate_rows(
            rows,
            backbone=backbone,
            unit=_one_of("--unit", unit, "raw", "scaled", "z"),  # type: ignore[arg-type]
            min_precision=min_precision,
            options=RunOptions(
                device=device,
                dtype=dtype,  # type: ignore[arg-type]
                resize=resize,  # type: ignore[arg-type]
                cache=_cache(cache, no_cache),
            ),
            progress=advance,
        )
    save_calibration(out, fitted.calibration)
    if json_:
        console.print_json(explain_view.fit_as_json(fitted, str(out)))
    else:
        explain_view.print_fit(fitted, str(out), console.stdout())
    lost = explain_view.unscored(fitted)
    for line in lost[:5]:
        print(f"not scored: {line}", file=sys.stderr)
    if lost:
        print(f"{len(lost)} of {len(rows)} rows were left out", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED_ROWS)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A table that `scorekit score --out` wrote.")],
    b: Annotated[Path | None, typer.Argument(help="Another one; or give --systems.")] = None,
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
    if (b is None) == (systems is None):
        raise UsageError("give a second table, or --systems X,Y of the first, not both")
    if b is not None:
        right = ScoreTable.load(b)
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
        labels = (str(a), str(b))
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


@cache_app.command("info")
def cache_info(cache: CacheDir = None, json_: Json = False) -> None:
    """Show where the cache is and what it holds."""
    from scorekit import console
    from scorekit.cache import FILE_NAME, FeatureCache, default_cache_dir

    folder = cache or default_cache_dir()
    if not (folder / FILE_NAME).exists():
        raise UsageError(f"no cache at {folder}")
    with FeatureCache(folder) as opened:
        info = opened.info()
    if json_:
        console.print_json({**vars(info), "path": str(info.path)})
    else:
        console.print_cache(info)


@cache_app.command("clear")
def cache_clear(
    cache: CacheDir = None,
    backbone: Annotated[
        str | None, typer.Option(help="Only this one's features, as `cache info` names it.")
    ] = None,
) -> None:
    """Remove all features, or one backbone's."""
    from scorekit.cache import FILE_NAME, FeatureCache, default_cache_dir

    folder = cache or default_cache_dir()
    if not (folder / FILE_NAME).exists():
        raise UsageError(f"no cache at {folder}")
    with FeatureCache(folder) as opened:
        if backbone is not None:
            known = {source[0] for source in opened.info().by_source}
            if backbone not in known:
                raise UsageError(f"no features of {backbone!r}; there are {', '.join(known)}")
        gone = opened.clear(backbone)
    print(f"removed {gone} features from {folder}")


@scenes_app.command("make")
def scenes_make(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")],
    n: Annotated[int, typer.Option("--n", help="Prompts; each system draws every one.")] = 200,
    systems: Annotated[
        str, typer.Option(help="Which systems, by how often they break the prompt.")
    ] = "faithful,sloppy,careless",
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 224,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier call made in DIR.")
    ] = False,
) -> None:
    """Draw scenes: images, prompts.csv, and the truth of each image in truth.jsonl."""
    from scorekit.scenes.make import make

    names = tuple(name.strip() for name in systems.split(",") if name.strip())
    try:
        make(folder, n, systems=names, seed=seed, size=size, overwrite=overwrite)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    print(f"{n} prompts x {len(names)} systems in {folder}; score them with")
    print(f"  scorekit score {folder} --backbone scenes-clip")


@scenes_app.command("edits")
def scenes_edits(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")],
    n: Annotated[int, typer.Option("--n", help="Edits, the kinds in turn.")] = 500,
    kinds: Annotated[
        str, typer.Option(help="What is asked for.")
    ] = "recolour,reshape,resize,add,remove,move",
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 224,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier call made in DIR.")
    ] = False,
) -> None:
    """Draw edits: sources, right and wrong edits of them, masks, and the table edits.jsonl."""
    from scorekit.scenes.make_edits import make_edits

    names = tuple(name.strip() for name in kinds.split(",") if name.strip())
    try:
        made = make_edits(folder, n, kinds=names, seed=seed, size=size, overwrite=overwrite)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    print(f"{n} edits, each with its sentinels, in {folder}; rank them with")
    print(f"  scorekit sentinels {made.table} -m clipscore -m clip_i --backbone scenes-clip")


def _cache(folder: Path | None, off: bool) -> Path | bool | None:
    if off and folder is not None:
        raise UsageError("--cache and --no-cache exclude each other")
    return False if off else folder


def _one_of(option: str, value: str, *allowed: str) -> str:
    if value not in allowed:
        raise UsageError(f"{option} is one of {', '.join(allowed)}, not {value!r}")
    return value


def _check_place(path: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Raise unless a file may be written there: before a model runs, not after."""
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise UsageError(f"{path} must end in {' or '.join(suffixes)}")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"can't write {path}: {'a folder' if path.is_dir() else 'no such folder'}")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
