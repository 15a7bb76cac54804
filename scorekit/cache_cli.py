"""`scorekit cache`: the feature cache."""

from __future__ import annotations

from typing import Annotated

import typer

from scorekit.cli_options import CacheDir, Json
from scorekit.types import UsageError

app = typer.Typer(help="Look at or empty the feature cache.", no_args_is_help=True)


@app.command("info")
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


@app.command("clear")
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
