"""Rows on their way to samples: findings about them, and keys that are unique."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scorekit import remote
from scorekit.folders import Folder, Layout, clean, same_name
from scorekit.interrupts import partial_of
from scorekit.types import ImageLike, PathLike, Sample, UsageError
from scorekit.within import Fence, outside

EXAMPLES = 3
OUTSIDE = "outside_folder"
"""The finding that rows of a table name images outside its folder; nothing is amiss with it."""
_SIDECAR_BYTES = 1 << 20  # of a text file in a store: no prompt is as long


@dataclass(frozen=True)
class Finding:
    """Something odd about the input, which does not stop the run.

    Attributes
    ----------
    kind : str
        One word: ``missing_text``, ``missing_image``, ``duplicate_row``, ...
    message : str
        One line for people, with the count.
    count : int
    examples : tuple of str
        The first few names concerned.

    Examples
    --------
    >>> print(Finding("missing_text", "4 images have no prompt", 4, ("a.png", "b.png", "c.png")))
    4 images have no prompt: a.png, b.png, c.png, ...
    """

    kind: str
    message: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.message}: {', '.join(self.examples)}{more}"


@dataclass(frozen=True)
class Listing:
    """The samples of a folder or table.

    Attributes
    ----------
    samples : list of Sample
        With unique keys (system, item, index).
    findings : list of Finding
    source : str
        Where images and prompts came from, for the run record.
    ignored : int
        Files of a folder that are neither images nor prompts.
    tables : tuple of str
        The files of rows that were read.
    """

    samples: list[Sample]
    findings: list[Finding]
    source: str
    ignored: int = 0
    tables: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The findings as plain lines."""
        return [str(finding) for finding in self.findings]

    def check_apart(self, out: PathLike) -> None:
        """Refuse a table of scores that would be written over what was read.

        Raises
        ------
        UsageError
        """
        written = [_real(path) for path in (out, partial_of(out)) if path is not None]
        if not set(map(_real, self.tables)).isdisjoint(written):
            raise UsageError(f"{out} is what is scored; write the scores to another file")


def _real(path: PathLike) -> str:
    place = remote.located(path)
    return place if remote.is_url(place) else os.path.realpath(place)


@dataclass(slots=True)
class Row:
    """A sample in the making; its name is for messages and for finding duplicates."""

    name: str
    item: str
    system: str
    text: str | None
    image: ImageLike
    index: int | None = None
    more: dict[str, Any] = field(default_factory=dict)


class Findings(list[Finding]):
    def report(self, kind: str, one: str, many: str, names: Iterable[str]) -> None:
        """Add a finding about names, unless there are none; ``{n}`` stands for their count."""
        found = [clean(name) for name in names]
        if found:
            message = (one if len(found) == 1 else many).format(n=len(found))
            self.append(Finding(kind, message, len(found), tuple(found[:EXAMPLES])))


def finish(
    rows: Sequence[Row],
    found: Findings,
    source: str,
    ignored: int = 0,
    texts_expected: bool = True,
    hint: str = "",
    tables: Sequence[str] = (),
) -> Listing:
    """Drop duplicates, number the images of one system for one item, report the rest."""
    kept: list[Row] = []
    duplicates = []
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        # Images in memory have no name that could tell whether they are the same.
        if not isinstance(row.image, str):
            kept.append(row)
            continue
        more = repr(sorted(row.more.items(), key=lambda pair: pair[0]))
        key = (row.system, row.item, same_name(row.name), row.text, row.index, more)
        if key in seen:
            duplicates.append(row.name)
        else:
            seen.add(key)
            kept.append(row)
    found.report("duplicate_row", "1 row is a duplicate", "{n} rows are duplicates", duplicates)
    texts: dict[str, str | None] = {}
    different: dict[str, None] = {}
    for row in kept:
        if row.text is not None and texts.setdefault(row.item, row.text) != row.text:
            different[row.item] = None
    found.report(
        "conflicting_prompts",
        "1 item has rows with different texts",
        "{n} items have rows with different texts",
        different,
    )
    if texts_expected:
        found.report(
            "missing_text",
            f"1 image has no prompt{hint}",
            f"{{n}} images have no prompt{hint}",
            [row.name for row in kept if row.text is None],
        )
    samples = [
        Sample(row.item, row.system, row.text, row.image, index=index, **row.more)
        for row, index in zip(kept, _indices(kept, found), strict=True)
    ]
    return Listing(samples, list(found), source, ignored, tuple(tables))


def _indices(rows: Sequence[Row], found: Findings) -> list[int]:
    """An index for each row, unique within (system, item); those given are kept if free."""
    taken: dict[tuple[str, str], set[int]] = {}
    moved = []
    for row in rows:
        used = taken.setdefault((row.system, row.item), set())
        if row.index in used:
            moved.append(row.name)
            row.index = None
        elif row.index is not None:
            used.add(row.index)
    following: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.index is None:
            key = (row.system, row.item)
            index = following.get(key, 0)
            while index in taken[key]:
                index += 1
            taken[key].add(index)
            row.index, following[key] = index, index + 1
    found.report(
        "duplicate_index",
        "1 image got another index, since its own was taken",
        "{n} images got another index, since their own was taken",
        moved,
    )
    return [row.index or 0 for row in rows]


def with_outside(listing: Listing, folder: str) -> Listing:
    """The listing of a table, with a finding where its rows leave its folder."""
    found = Findings(listing.findings)
    found.report(
        OUTSIDE,
        f"1 row names an image outside {folder or '.'}",
        f"{{n}} rows name images outside {folder or '.'}",
        outside(listing.samples, folder),
    )
    return replace(listing, findings=list(found))


def without_refused(listing: Listing, fence: Fence) -> Listing:
    """The listing with `Refused` in the place of images outside, and a finding of their number."""
    samples, refused = fence.samples(listing.samples)
    found = Findings(listing.findings)
    found.report(
        "refused_image",
        f"1 image lies outside {fence.folder} and is not read",
        f"{{n}} images lie outside {fence.folder} and are not read",
        refused,
    )
    return replace(listing, samples=samples, findings=list(found))


# Findings about folders


def sidecar_texts(paths: Mapping[str, str], found: Findings) -> dict[str, str | None]:
    """Text beside each image; None, and a finding, where it can't be read."""
    texts: dict[str, str | None] = {}
    bad = []
    urls = list(filter(remote.is_url, paths.values()))
    fetched = dict(zip(urls, remote.read_many(urls, _SIDECAR_BYTES), strict=True))
    for name, path in paths.items():
        try:
            with _opened(fetched[path]) if path in fetched else open(path, "rb") as file:
                texts[name] = io.TextIOWrapper(file, encoding="utf-8-sig").read().strip()
        except (OSError, ValueError):
            texts[name] = None
            bad.append(os.path.splitext(name)[0] + ".txt")
    found.report(
        "unreadable_sidecar",
        "1 text file can't be read as UTF-8",
        "{n} text files can't be read as UTF-8",
        bad,
    )
    return texts


def _opened(found: bytes | OSError) -> io.BytesIO:
    if isinstance(found, OSError):
        raise found
    return io.BytesIO(found)


def compare_sidecars(
    folder: Folder, sidecars: Mapping[str, str], rows: Sequence[Row], found: Findings
) -> None:
    """Report the text files that disagree with the texts that are used."""
    texts = sidecar_texts({k: folder.path(v) for k, v in sidecars.items()}, found)
    found.report(
        "sidecar_disagrees",
        "1 text file beside an image says something else than the prompts file",
        "{n} text files beside images say something else than the prompts file",
        [
            sidecars[row.name]
            for row in rows
            if row.name in sidecars and texts[row.name] != (row.text or "").strip()
        ],
    )


def report_several(folder: Folder, sidecars: Mapping[str, str], found: Findings) -> None:
    """Report that a folder holds several sources of prompts."""
    sources = list(folder.prompts)
    if not sources:
        # Metadata in different folders belong together, not those in one.
        beside = Counter(map(os.path.dirname, folder.metadata))
        sources = [name for name in folder.metadata if beside[os.path.dirname(name)] > 1]
        sources = sources or folder.metadata[:1]
    else:
        sources += folder.metadata
    if sidecars:
        sources.append(f"{len(sidecars)} text files beside images")
    if len(sources) > 1:
        found.report(
            "several_prompt_sources",
            "",
            f"the folder has {{n}} sources of prompts, only {sources[0]} is used",
            sources,
        )


def report_mixed(layout: Layout, folder: Folder, found: Findings) -> None:
    """Report images that lie beside the folders of systems."""
    top = [name for name in folder.images if "/" not in name]
    if not layout.flat and 0 < len(top) < len(folder.images):
        found.report(
            "mixed_layout",
            f"1 image lies beside the folders of systems, as system {layout.own}",
            f"{{n}} images lie beside the folders of systems, as system {layout.own}",
            top,
        )


def report_folder(folder: Folder, found: Findings) -> None:
    """Report what was met while the folder was read."""
    found.report(
        "unsupported_format",
        "1 image has a format that is not read",
        "{n} images have a format that is not read",
        folder.unsupported,
    )
    found.report(
        "unreadable_folder",
        "1 folder can't be read",
        "{n} folders can't be read",
        folder.unreadable,
    )
    found.report(
        "linked_folder",
        "1 link leads to a folder that was read already",
        "{n} links lead to folders that were read already",
        folder.linked,
    )


def leave_out(folder: Folder, fence: Fence, found: Findings) -> None:
    """Forget a folder's texts and tables that links lead to from outside."""
    names = [*folder.prompts, *folder.metadata, *folder.texts]
    left_out = {name for name in names if not fence.holds(folder.path(name))}
    folder.prompts = [name for name in folder.prompts if name not in left_out]
    folder.metadata = [name for name in folder.metadata if name not in left_out]
    folder.texts -= left_out
    found.report(
        "refused_file",
        f"1 text file or table lies outside {fence.folder} and is not read",
        f"{{n}} text files and tables lie outside {fence.folder} and are not read",
        sorted(left_out),
    )


def report_coverage(
    keyed: Mapping[tuple[str | None, str], int],
    items: Sequence[str | None],
    matched: Sequence[tuple[str, str, str, int | None, int | None]],
    found: Findings,
    by_system: bool,
) -> None:
    """Report prompts without images, and items that lack an image of some systems."""
    used: dict[int, set[str]] = {}
    for _, system, _, _, row in matched:
        if row is not None:
            used.setdefault(row, set()).add(system)
    found.report(
        "unused_prompt",
        "1 prompt has no image",
        "{n} prompts have no image",
        [str(items[row]) for row in keyed.values() if row not in used],
    )
    systems = {system for names in used.values() for system in names}
    if by_system:
        return
    found.report(
        "incomplete_item",
        "1 item lacks an image of some systems",
        "{n} items lack an image of some systems",
        [
            f"{items[row]} (no {', '.join(sorted(systems - names))})"
            for row, names in sorted(used.items())
            if names != systems
        ],
    )
