"""`scorekit explain` and `scorekit calibrate`: which words an image does not show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scorekit.cli_options import (
    EXIT_FAILED_ROWS,
    CacheDir,
    CalibrationFile,
    Device,
    Dtype,
    Json,
    NoCache,
    Resize,
    cache_choice,
    check_place,
    one_of,
)
from scorekit.types import UsageError

if TYPE_CHECKING:
    from scorekit.run import RunOptions


def explain(
    image: Annotated[str, typer.Argument(help="An image.")],
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

    silence_pil()
    for path, suffixes in ((heatmap, (".png",)), (html, (".html", ".htm"))):
        check_place(path, suffixes)
    if calibration is not None and (eps is not None or unit != "raw"):
        raise UsageError("--calibration brings eps and unit: leave out --eps and --unit")
    options = _options(device, dtype, resize, cache_choice(cache, no_cache))
    found = explain_pair(
        image,
        text,
        backbone=backbone,
        word=word,
        relevance=heatmap is not None,
        mode=one_of("--mode", mode, "threshold", "most_negative"),  # type: ignore[arg-type]
        eps=eps,
        unit=one_of("--unit", unit, "raw", "scaled", "z"),  # type: ignore[arg-type]
        calibration=calibration,
        options=options,
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

    silence_pil()
    check_place(out)
    options = _options(device, dtype, resize, cache_choice(cache, no_cache))
    rows = read_labelled(data)
    with console.progress(len(rows), quiet=quiet) as advance:
        fitted = calibrate_rows(
            rows,
            backbone=backbone,
            unit=one_of("--unit", unit, "raw", "scaled", "z"),  # type: ignore[arg-type]
            min_precision=min_precision,
            options=options,
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


def _options(device: str, dtype: str, resize: str, cache: Path | bool | None) -> RunOptions:
    from scorekit.run import RunOptions

    return RunOptions(
        device=device,
        dtype=dtype,  # type: ignore[arg-type]
        resize=resize,  # type: ignore[arg-type]
        cache=cache,
    )
