"""`scorekit report`: saved tables of scores as a page that opens in a browser."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scorekit.cli_options import ImagesWithin
from scorekit.types import PathLike, UsageError

if TYPE_CHECKING:
    from scorekit.table import ScoreTable

SUFFIXES = (".html", ".htm")


def report(
    tables: Annotated[list[str], typer.Argument(help="Tables that `scorekit score --out` wrote.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE.html", help="Where the page goes.")
    ],
    images: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Where relative image paths start (default: here, then the tables' folders).",
        ),
    ] = None,
    images_within: ImagesWithin = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Show scores as one HTML file: summary, plots, gallery, side by side, comparison of runs.

    It opens offline and fetches nothing. Tables of the same images with other metrics are shown
    together; of others, each is compared with the first. Above 10,000 images the page shows a
    sample, and a folder of pages beside it has them all. No model is loaded.
    """
    from scorekit import remote
    from scorekit.images import silence_pil
    from scorekit.table import ScoreTable

    silence_pil()
    check(out)
    images = None if images is None else remote.located(images)
    if images is not None and not remote.is_url(images) and not os.path.isdir(images):
        raise UsageError(f"no folder {images}")
    places = [remote.located(table) for table in tables]
    places = [place if remote.is_url(place) else str(Path(place)) for place in places]
    loaded = {name: ScoreTable.load(place) for name, place in _names(places).items()}
    roots = [os.path.dirname(place) for place in places] if images is None else [images]
    roots = list(dict.fromkeys(roots))
    write(loaded, out, roots=roots, images_within=images_within, quiet=quiet)


def check(path: Path) -> None:
    """Refuse a target before the work begins.

    Raises
    ------
    UsageError
        If it is no HTML file, or can't be written.
    """
    from scorekit.frames import check_frame_path

    check_frame_path(path, SUFFIXES)


def write(
    tables: Mapping[str, ScoreTable],
    path: Path,
    *,
    roots: Sequence[PathLike] = (),
    images_within: PathLike | None = None,
    quiet: bool,
) -> None:
    """Write the page, and say so on the error stream, since the output may be JSON."""
    from scorekit import console
    from scorekit.reporting.scores import write_report

    with console.progress(0, quiet=quiet, what="thumbnails") as advance:
        written = write_report(
            tables, path, roots=roots, images_within=images_within, progress=advance
        )
    line = f"report written: {written.path} ({os.path.getsize(written.path) / 1e6:.1f} MB)"
    if written.pages:
        line += (
            f", a sample of {written.shown:,} of {written.rows:,} rows; all of them in "
            f"{written.pages[0].parent} ({len(written.pages)} pages)"
        )
    print(line, file=sys.stderr)


def _names(tables: Sequence[str]) -> dict[str, str]:
    """The shortest names that tell the tables apart: stems, else paths."""
    if len(set(tables)) < len(tables):
        raise UsageError("the same table is given twice")
    stems = [Path(table).stem for table in tables]
    return {
        stem if stems.count(stem) == 1 else table: table
        for stem, table in zip(stems, tables, strict=True)
    }
