"""Rows on their way to samples: findings about them, and keys that are unique."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scorekit.folders import clean, same_name
from scorekit.types import ImageLike, Sample

EXAMPLES = 3


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
    """

    samples: list[Sample]
    findings: list[Finding]
    source: str
    ignored: int = 0

    def lines(self) -> list[str]:
        """The findings as plain lines."""
        return [str(finding) for finding in self.findings]


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
) -> Listing:
    """Drop duplicates, number the images of one system for one item, report the rest."""
    kept: list[Row] = []
    duplicates = []
    seen: set[tuple[str, str, str, str | None, int | None]] = set()
    for row in rows:
        # Images in memory have no name that could tell whether they are the same.
        if not isinstance(row.image, str):
            kept.append(row)
            continue
        key = (row.system, row.item, same_name(row.name), row.text, row.index)
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
    return Listing(samples, list(found), source, ignored)


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
