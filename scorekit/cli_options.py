"""Options that several commands share, and what is checked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scorekit.remote import is_url, located
from scorekit.types import UsageError

EXIT_FAILED_ROWS = 1

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
Devices = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:N or mps; cuda:0,cuda:1 for a process on each.")
]
Dtype = Annotated[
    str, typer.Option(help="fp32, fp16 or bf16, for the model; int8 for a dual encoder on a CPU.")
]
Resize = Annotated[
    str,
    typer.Option(
        help="exact (PIL) or fast (torch on uint8: a level of 255 off in 0.4% of values)."
    ),
]
ImagesWithin = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Read no image that lies elsewhere, links followed: for tables of strangers.",
    ),
]
SpreadsheetSafe = Annotated[
    bool,
    typer.Option(
        "--spreadsheet-safe",
        help="In .csv and .tsv: an apostrophe before texts that a spreadsheet would run.",
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no features.")]
Engine = Annotated[str, typer.Option(help="local, or ray: actors on a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Ray cluster to compute on, or auto (default: one is started on this machine).",
    ),
]
Shards = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Keep here what Ray's actors finish (default: beside --out until that is written).",
    ),
]


def cache_choice(folder: Path | None, off: bool) -> Path | bool | None:
    """What --cache and --no-cache ask for, as `RunOptions` takes it."""
    if folder is not None and is_url(located(folder)):
        raise UsageError(f"the cache is a folder of this machine, not {located(folder)}")
    if off and folder is not None:
        raise UsageError("--cache and --no-cache exclude each other")
    return False if off else folder


def shards_choice(engine: str, shards: str | None, out: str | None) -> str | None:
    """Where shards go that --shards did not name: beside the table.

    Examples
    --------
    >>> shards_choice("ray", None, "runs/scores.parquet")
    'runs/scores.parquet.shards'
    """
    if engine != "ray" or shards is not None or out is None:
        return shards
    return f"{out}.shards"


def one_of(option: str, value: str, *allowed: str) -> str:
    """A value that must be one of a few words."""
    if value not in allowed:
        raise UsageError(f"{option} is one of {', '.join(allowed)}, not {value!r}")
    return value


def check_place(path: Path | None, suffixes: tuple[str, ...] = ()) -> None:
    """Raise unless a file may be written there: before a model runs, not after."""
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise UsageError(f"{path} must end in {' or '.join(suffixes)}")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"can't write {path}: {'a folder' if path.is_dir() else 'no such folder'}")
