"""Options that several commands share, and what is checked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
Dtype = Annotated[str, typer.Option(help="fp32, fp16 or bf16, for the model.")]
Resize = Annotated[
    str,
    typer.Option(
        help="exact (PIL) or fast (torch on uint8: a level of 255 off in 0.4% of values)."
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no features.")]


def cache_choice(folder: Path | None, off: bool) -> Path | bool | None:
    """What --cache and --no-cache ask for, as `RunOptions` takes it."""
    if off and folder is not None:
        raise UsageError("--cache and --no-cache exclude each other")
    return False if off else folder


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
