"""`scorekit scenes`: procedural scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scorekit.types import UsageError

app = typer.Typer(help="Procedural scenes with known truth.", no_args_is_help=True)


@app.command("make")
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


@app.command("edits")
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
