"""Manifests of the rating sets: where a set comes from, and how it is read."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorekit.types import PathLike, UsageError

if TYPE_CHECKING:
    from scorekit.ratings import RatingSet

UNVERIFIED = "unverified"


@dataclass(frozen=True)
class DataFile:
    """A published file of a set.

    Attributes
    ----------
    name : str
        Its path in the set's folder.
    url : str
        Empty where it has to be fetched by hand (a form, a drive that asks questions).
    sha256 : str
        ``unverified`` where nobody has checked it yet.
    optional : bool
        The reader does without it.
    members : tuple of str
        Of an archive: the files in it that are unpacked, found by their names.
    """

    name: str
    url: str = ""
    sha256: str = UNVERIFIED
    optional: bool = False
    members: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """What a reader wants to find in the folder."""
        return self.members or (self.name,)


@dataclass(frozen=True)
class Published:
    """A number that a paper, or a recomputation of its files, gives for the set.

    Attributes
    ----------
    metric, dimension, statistic, grouping : str
    value : float
    source : str
    recomputed : bool
        It comes back from the files as scorekit reads them.
    """

    metric: str
    dimension: str
    statistic: str
    value: float
    source: str
    grouping: str = "global"
    recomputed: bool = False


@dataclass(frozen=True)
class Manifest:
    """What is known of a rating set without having it.

    Attributes
    ----------
    name, title, kind : str
    reader : str
        ``module:function`` of the reader, which takes the set's folder and `options`.
    dimensions : mapping of str to mapping
        ``low``, ``high`` and ``kind`` of each dimension's scale; empty where there are no
        published ratings.
    licence, citation, homepage : str
    layout : str
        Where the published layout was seen.
    folder : str
        Sets that are made of the same files share one.
    by_hand : str
        How to get what has no URL.
    """

    name: str
    title: str
    kind: str
    reader: str
    licence: str
    citation: str
    homepage: str
    layout: str
    folder: str
    files: tuple[DataFile, ...]
    dimensions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    by_hand: str = ""

    @property
    def is_verified(self) -> bool:
        """Whether every file's hash is known."""
        return all(file.sha256 != UNVERIFIED for file in self.files)

    def missing(self, folder: Path) -> list[str]:
        """Needed files that are not in a folder."""
        needed = [n for file in self.files if not file.optional for n in file.needed]
        return [name for name in needed if not (folder / name).is_file()]


def data_dir() -> Path:
    """Where rating sets lie: ``$SCOREKIT_DATA``, else ``data`` in the user's cache folder."""
    from scorekit.cache import default_cache_dir

    given = os.environ.get("SCOREKIT_DATA")
    return Path(given) if given else default_cache_dir() / "data"


@cache
def manifests() -> Mapping[str, Manifest]:
    """All manifests by name, in alphabetical order."""
    folder = files("scorekit.data") / "ratings"
    texts = {f.name: f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".toml")}
    found = [parse(text, name) for name, text in texts.items()]
    return {manifest.name: manifest for manifest in sorted(found, key=lambda m: m.name)}


def manifest_of(name: str) -> Manifest:
    """The manifest of a set.

    Raises
    ------
    UsageError
        If there is none of this name.
    """
    from difflib import get_close_matches

    known = manifests()
    if name not in known:
        near = get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"no rating set {name!r}{hint} (`scorekit data list` shows all)")
    return known[name]


def parse(text: str, where: str) -> Manifest:
    """Read a manifest's TOML.

    Raises
    ------
    UsageError
        If it is not TOML, or a field is missing, unknown or of the wrong form.
    """
    try:
        given = tomllib.loads(text)
        listed = [{**each, "members": tuple(each.get("members", ()))} for each in given["files"]]
        own = {
            "folder": given["name"],
            **given,
            "files": tuple(DataFile(**each) for each in listed),
            "published": tuple(Published(**each) for each in given.get("published", ())),
        }
        found = Manifest(**own)
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"the manifest {where}: {error}") from None
    for file in found.files:
        for name in (file.name, *file.members):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UsageError(f"the manifest {where}: {name} leaves the folder")
    return found


def load_set(name: str, folder: PathLike | None = None) -> RatingSet:
    """Read a rating set.

    Parameters
    ----------
    name : str
        As in `scorekit data list`.
    folder : path, optional
        Where its files are; by default where `scorekit data fetch` puts them.

    Returns
    -------
    RatingSet

    Raises
    ------
    UsageError
        If there is no such set, files of it are missing, or they are not as published.
    """
    from scorekit.ratings import Scale

    manifest = manifest_of(name)
    root = data_dir() / manifest.folder if folder is None else Path(folder)
    if missing := manifest.missing(root):
        raise UsageError(
            f"{name}: no {', '.join(missing[:3])} in {root}; `scorekit data fetch {name}`"
            + (" says how to get it" if manifest.by_hand else " gets it")
        )
    module, _, function = manifest.reader.partition(":")
    found: RatingSet = getattr(import_module(module), function)(root, **manifest.options)
    scales = {dimension: Scale(**scale) for dimension, scale in manifest.dimensions.items()}
    if scales and set(found.dimensions) != set(scales):
        raise UsageError(f"{name}: the files have the dimensions {', '.join(found.dimensions)}")
    return replace(
        found,
        name=name,
        scales=scales or found.scales,
        source=manifest.homepage,
        licence=manifest.licence,
        citation=manifest.citation,
    )


def open_ratings(name_or_file: PathLike) -> RatingSet:
    """A rating set by its name, or from a file of ratings.

    Raises
    ------
    UsageError
        If it is neither.
    """
    from scorekit.ratings import RatingSet

    text = str(name_or_file)
    if text in manifests():
        return load_set(text)
    if Path(text).suffix or Path(text).exists():
        return RatingSet.load(text)
    manifest_of(text)  # says which names are near
    raise AssertionError


__all__ = [
    "UNVERIFIED",
    "DataFile",
    "Manifest",
    "Published",
    "data_dir",
    "load_set",
    "manifest_of",
    "manifests",
    "open_ratings",
    "parse",
]
