"""`scorekit attributes`: the attributes of edits, written to a file for people to review."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorekit.cli_options import check_place
from scorekit.types import Extracted, InputError, Sample, UsageError

if TYPE_CHECKING:
    from scorekit.run import RunOptions


@dataclass(frozen=True)
class Written:
    """The attributes of a table's items.

    Attributes
    ----------
    entries : list of dict
        One an item: what it is of, both lists, and notes.
    failed : list of (Sample, InputError)
        Rows without attributes, and why.
    made_by : str
        The backbone, its hash and its facts, as signatures have them.
    usage : dict or None
        Calls, tokens and cost of an endpoint.
    """

    entries: list[dict[str, Any]]
    failed: list[tuple[Sample, InputError]]
    made_by: str
    usage: dict[str, Any] | None


def attributes(
    table: Annotated[
        Path, typer.Argument(help="Table of edits: image, source_image, text; source_text.")
    ],
    with_: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="BACKBONE",
            help="describe:openai:MODEL, describe:hf:NAME, attributes:FILE or attributes:columns.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE.json", help="Where they are written.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FILE, and whatever was mended in it.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16, for a local model.")] = "fp32",
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="DIR", help="Feature cache (default: the user's cache folder)."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> None:
    """Write the attributes of edits to a file, once, to be reviewed and then scored with.

    `-m augclip:attributes=FILE.json` reads them. What a model wrote is cached: another call asks
    for what is missing alone. Exit code 1 where some rows have no attributes.
    """
    from scorekit import console
    from scorekit.attribute_files import write_attributes
    from scorekit.images import silence_pil
    from scorekit.io import read_samples
    from scorekit.run import RunOptions

    silence_pil()
    _check_place(out, overwrite)
    options = RunOptions(device=device, dtype=dtype, cache=cache)  # type: ignore[arg-type]
    listing = read_samples(table)
    console.print_findings(listing.findings)
    with console.progress(len(listing.samples), quiet=quiet) as advance:
        written = attributes_of(listing.samples, with_, options, table.parent, advance)
    if written.entries:
        write_attributes(out, written.entries, written.made_by)
    if json_:
        failed = [
            {"system": s.system, "item": s.item, "status": e.status, "note": e.note}
            for s, e in written.failed
        ]
        console.print_json(
            {
                "out": str(out) if written.entries else None,
                "items": len(written.entries),
                "made_by": written.made_by,
                "failed": failed,
                "usage": written.usage,
            }
        )
    else:
        where = f" in {out}" if written.entries else ": nothing was written"
        print(f"attributes of {len(written.entries)} items{where} (by {written.made_by})")
    for sample, error in written.failed[:5]:
        print(f"{sample.system}/{sample.item}: {error}", file=sys.stderr)
    if written.failed:
        total = len(listing.samples)
        print(f"{len(written.failed)} of {total} rows have no attributes", file=sys.stderr)
        raise typer.Exit(1)


def attributes_of(
    samples: Sequence[Sample],
    backbone: str,
    options: RunOptions,
    base: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """The attributes of every item.

    Parameters
    ----------
    samples : sequence of Sample
    backbone : str
    options : RunOptions
    base : Path
        The folder that paths of source images are told from.
    progress : callable, optional
        Called with (samples done, samples in all).

    Raises
    ------
    UsageError
        If the backbone can't be had or gives no attributes; or an item is two edits.
    """
    from scorekit.attributes import attributes as asked_for
    from scorekit.features import FeatureRun

    feature = asked_for(backbone)
    entries: dict[str, dict[str, Any]] = {}
    failed: list[tuple[Sample, InputError]] = []
    with options.open_cache() as cache:
        run = FeatureRun([feature], options, cache, workers=options.workers)
        for chunk in run.chunks(samples):
            for sample, result in zip(chunk.samples, chunk.features[feature], strict=True):
                if isinstance(result, InputError):
                    failed.append((sample, result))
                    continue
                assert isinstance(result, Extracted)
                entry = _entry(sample, result, base)
                first = entries.setdefault(sample.item, entry)
                # Systems may each have a copy of the source image.
                if {**first, "source_image": ""} != {**entry, "source_image": ""}:
                    raise UsageError(
                        f"item {sample.item!r} stands for two edits (another source image or "
                        "text): give each an item of its own"
                    )
            if progress is not None:
                progress(chunk.start + len(chunk.samples), len(samples))
    handle, info = run.handles[backbone], run.infos[backbone]
    facts = [f"{key}:{value}" for key, value in info.facts.items()]
    made_by = "|".join([run.labels[backbone], f"w:{info.identity}", *facts])
    usage = handle.model().usage() if hasattr(handle.model(), "usage") else None
    return Written(list(entries.values()), failed, made_by, usage)


def _entry(sample: Sample, result: Extracted, base: Path) -> dict[str, Any]:
    image = sample.source_image
    place = None
    if isinstance(image, str | Path):
        inside = os.path.relpath(image, base)
        place = Path(image).name if inside.startswith("..") else inside
    told = {
        "item": sample.item,
        "source_image": place,
        "source_text": sample.source_text,
        "text": sample.text,
        **result.info,
    }
    return {key: value for key, value in told.items() if value is not None}


def _check_place(out: Path, overwrite: bool) -> None:
    """Raise unless the file may be written: before a model is asked, not after."""
    check_place(out, (".json",))
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already: --overwrite replaces it, mended lists and all")
