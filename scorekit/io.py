"""Samples from folders and tables, with everything odd about them as findings."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from scorekit import remote
from scorekit.entities import with_mask_paths
from scorekit.folders import (
    IMAGE_SUFFIXES,
    Folder,
    Layout,
    clean,
    relative_name,
    same_name,
    scan,
    without_suffix,
)
from scorekit.listing import (
    OUTSIDE,
    Finding,
    Findings,
    Listing,
    Row,
    compare_sidecars,
    finish,
    leave_out,
    report_coverage,
    report_folder,
    report_mixed,
    report_several,
    sidecar_texts,
    with_outside,
    without_refused,
)
from scorekit.prompts import TABLE_SUFFIXES, Table, read_table, require
from scorekit.samples import samples_from
from scorekit.saved_scores import folder_of_images, samples_of
from scorekit.types import PathLike, UsageError
from scorekit.within import Fence

__all__ = ["OUTSIDE", "Finding", "Listing", "read_samples", "samples_from"]

_WITHOUT_TEXT = ("source_image", "source_text", "references", "reference_images")
_OTHER_IMAGES = ("source_image", "reference_images", "mask")


def read_samples(
    path: PathLike,
    *,
    prompts: PathLike | None = None,
    text: str | None = None,
    system: str | None = None,
    images_within: PathLike | None = None,
) -> Listing:
    """List the samples of a folder of images, a table, or one image.

    Prompts of a folder come from the first of: `text`, `prompts`, a ``prompts.csv`` (``.tsv``,
    ``.jsonl``, ``.parquet``) in the folder, Hugging Face ``metadata.csv`` (``.jsonl``,
    ``.parquet``) in it or its sub-folders, text files beside the images. Only one source is
    used; a finding says where the folder holds several.

    A table with an ``image`` column has a row an image; in a folder, its paths are relative to
    the folder. A table of scores has one a sample and metric: each sample is listed once, without
    its scores, and its paths may be relative to the current folder, as they were in that run.

    A prompts table with ``item`` and no ``image`` is joined by item: the image
    ``<system>/<item>.png``, or where there is no such item ``<system>/<item>_0.png`` or
    ``<system>/<item>/0.png``.

    Where no column says it, the system is the first folder below `path` (of a table: below
    the table's folder), and for images in no sub-folder the name of the folder itself. The
    item is then the rest of the image's path without suffix; where the system is given and is
    not the first folder, the whole path without suffix.

    Parameters
    ----------
    path : path
        A folder (searched recursively), a table (.csv, .tsv, .jsonl, .parquet), or an image;
        or the URL of one, see `scorekit.remote`.
    prompts : path, optional
        The prompts of a folder.
    text : str, optional
        One prompt for all images.
    system : str, optional
        One system for all images; sub-folders are then part of the item.
    images_within : path, optional
        A folder. Images that lie elsewhere, links followed, are not read: their rows' status is
        ``missing_image``. Nor are a folder's text files and tables that lie elsewhere.

    Returns
    -------
    Listing

    Raises
    ------
    UsageError
        If there is nothing to score, or a table can't be read.
    """
    root = remote.located(path)
    fence = None if images_within is None else Fence(images_within)
    listing = _list(root, prompts, text, system, fence)
    if fence is None:
        return listing
    return without_refused(listing, fence)


def _list(
    root: str,
    prompts: PathLike | None,
    text: str | None,
    system: str | None,
    fence: Fence | None,
) -> Listing:
    if text is not None and prompts is not None:
        raise UsageError("give one text for all (--text) or a prompts file (--prompts), not both")
    suffix = os.path.splitext(root)[1].lower()
    # In a store only names tell a folder.
    far = remote.is_url(root)
    if os.path.isdir(root) or (far and suffix not in (*TABLE_SUFFIXES, *IMAGE_SUFFIXES)):
        return _from_folder(root, prompts, text, system, fence)
    if not far and not os.path.lexists(root):
        raise UsageError(f"{root} does not exist{_similar(root)}")
    if suffix in TABLE_SUFFIXES:
        if prompts is not None:
            raise UsageError(f"--prompts goes with a folder of images, and {root} is a table")
        return _from_table(root, text, system, fence)
    if suffix in IMAGE_SUFFIXES:
        if prompts is not None:
            raise UsageError(f"--prompts goes with a folder of images, and {root} is one image")
        return _from_file(root, text, system, fence)
    raise UsageError(
        f"{root} is neither a folder nor a table ({', '.join(TABLE_SUFFIXES)}) nor an image"
        f" ({', '.join(IMAGE_SUFFIXES)})"
    )


def _similar(path: str) -> str:
    folder, name = os.path.split(os.path.normpath(path))
    try:
        near = difflib.get_close_matches(name, os.listdir(folder or "."), n=1)
    except (OSError, ValueError):
        return ""
    return f"; did you mean {clean(os.path.join(folder, near[0]))}?" if near else ""


# One image, one table


def _from_file(path: str, text: str | None, system: str | None, fence: Fence | None) -> Listing:
    found = Findings()
    folder, name = os.path.split(path)
    sidecar = os.path.splitext(path)[0] + ".txt"
    if text is None and _there(sidecar) and (fence is None or fence.holds(sidecar)):
        text = sidecar_texts({name: sidecar}, found)[name]
    layout = Layout.of(folder, system)
    _, item = layout.place(name)
    return finish([Row(name, item, layout.own, text, path)], found, source=path)


def _there(path: str) -> bool:
    if not remote.is_url(path):
        return os.path.isfile(path)
    try:
        return remote.exists(path)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None


def _from_table(path: str, text: str | None, system: str | None, fence: Fence | None) -> Listing:
    table, base = read_table(path), os.path.dirname(path)
    if (scored := samples_of(table)) is not None:
        table, base = scored, folder_of_images(scored, base)
    # Answers that a file holds are of an item and a system: no image need be at hand.
    require(table, "image", "item")
    found = Findings()
    has_text = "text" in table
    if "image" in table or text is not None:
        has_text = _check_text_column(table, text)
    rows = _rows_by_image(table, base, Layout.of(base, system), system, found)
    if text is not None:
        for row in rows:
            row.text = text
    listing = finish(rows, found, source=path, texts_expected=has_text, tables=[path])
    return listing if fence else with_outside(listing, os.path.dirname(path))


def _check_text_column(table: Table, text: str | None = None) -> bool:
    """Whether rows should have texts; they need none where they have something else."""
    if text is not None:
        if "text" in table:
            raise UsageError(f"{table.path} has its own texts; leave out --text")
        return True
    require(table, "text", *_WITHOUT_TEXT)
    return "text" in table


def _rows_by_image(
    table: Table,
    base: str,
    layout: Layout,
    system: str | None,
    found: Findings,
    folder: Folder | None = None,
) -> list[Row]:
    """Rows of a table that names images; those of a folder need no question to the disk."""
    _check_system_column(table, system)
    images = table.images("image", base)
    items, systems, texts = (table.strings(name) for name in ("item", "system", "text"))
    indices = table.integers("index")
    more = _more_columns(table, base)
    known = {same_name(name): name for name in folder.images} if folder else {}
    rows, missing = [], []
    for i, image in enumerate(images):
        if isinstance(image, str):
            name = relative_name(image, base)
            on_disk = known.get(same_name(name))
            if folder and on_disk is not None:
                name, image = on_disk, folder.path(on_disk)
            elif remote.is_url(image):
                # Its folder was listed, if it is below it; of any other, the reading will tell.
                if folder and name != image:
                    missing.append(name)
            elif not os.path.exists(image):
                missing.append(name)
            own_system, own_item = layout.place(name)
        else:
            name, own_system, own_item = table.places[i], layout.own, str(i)
            if image is None:
                missing.append(name)
        given = systems[i]
        if given is not None and given != own_system and isinstance(image, str):
            own_item = layout.item(name, given)
        rows.append(
            Row(
                name,
                own_item if items[i] is None else str(items[i]),
                own_system if given is None else given,
                texts[i],
                image,
                indices[i],
                {key: column[i] for key, column in more.items()},
            )
        )
    where = f"{base or '.'}"
    if "image" in table:
        found.report(
            "missing_image",
            f"1 row of {table.path} has no image in {where}",
            f"{{n}} rows of {table.path} have no image in {where}",
            missing,
        )
    return rows


def _check_system_column(table: Table, system: str | None) -> None:
    if system is not None and "system" in table:
        raise UsageError(f"{table.path} has a column system; leave out --system")


def _more_columns(table: Table, base: str) -> dict[str, list[Any]]:
    """The columns besides the key, by the fields of `Sample`; only those that the table has."""
    readers: dict[str, Callable[[], list[Any]]] = {
        "source_image": lambda: table.images("source_image", base),
        "source_text": lambda: table.strings("source_text"),
        "references": lambda: table.texts("references"),
        "nouns": lambda: table.texts("nouns", "|"),
        "source_attributes": lambda: table.texts("source_attributes", "|"),
        "target_attributes": lambda: table.texts("target_attributes", "|"),
        "reference_images": lambda: table.image_lists("reference_images", base),
        "mask": lambda: table.images("mask", base),
        "entities": lambda: [with_mask_paths(c, base) for c in table.columns["entities"]],
    }
    columns = {name: read() for name, read in readers.items() if name in table}
    return {**columns, "meta": table.meta()}


# Folders


def _from_folder(
    root: str,
    prompts: PathLike | None,
    text: str | None,
    system: str | None,
    fence: Fence | None,
) -> Listing:
    folder = scan(root)
    found = Findings()
    if fence is not None:
        leave_out(folder, fence, found)
    layout = Layout.of(root, system)
    sidecars = folder.sidecars()
    has_text, hint, source = True, "", root
    tables: list[str] = []
    unused = len(folder.texts)
    if text is None and prompts is None and not (folder.prompts or folder.metadata):
        hint = "" if sidecars else " (there is no prompts file and no text file beside an image)"
        texts = sidecar_texts({k: folder.path(v) for k, v in sidecars.items()}, found)
        rows = [_row_of(folder, layout, name, texts.get(name)) for name in folder.images]
        unused -= len(sidecars)
        report_mixed(layout, folder, found)
    elif text is not None:
        rows = [_row_of(folder, layout, name, text) for name in folder.images]
        report_mixed(layout, folder, found)
    elif prompts is not None or folder.prompts:
        if prompts is None:
            report_several(folder, sidecars, found)
        file = folder.path(folder.prompts[0]) if prompts is None else remote.located(prompts)
        there = remote.is_url(file) or os.path.lexists(file)
        table = read_table(file) if there else _no_prompts(file)
        has_text = _check_text_column(table)
        rows = _rows_in_folder(table, folder, layout, system, found)
        source, tables = f"{root}, prompts from {file}", [file]
    else:
        report_several(folder, sidecars, found)
        rows = _rows_of_metadata(folder, layout, system, found)
        tables = [folder.path(name) for name in folder.metadata]
        source = f"{root}, prompts from {tables[0]}"
    if text is None and prompts is None and sidecars and (folder.prompts or folder.metadata):
        compare_sidecars(folder, sidecars, rows, found)
    report_folder(folder, found)
    if not rows:
        others = folder.ignored + len(folder.texts) + len(folder.prompts) + len(folder.metadata)
        raise UsageError(
            f"no images in {root} and its sub-folders (looked for {', '.join(IMAGE_SUFFIXES)};"
            f" {others + len(folder.unsupported)} other files)"
        )
    return finish(
        rows,
        found,
        source=source,
        ignored=folder.ignored + unused,
        texts_expected=has_text,
        hint=hint,
        tables=tables,
    )


def _no_prompts(file: str) -> Table:
    raise UsageError(f"the prompts file {file} does not exist{_similar(file)}")


def _row_of(
    folder: Folder, layout: Layout, name: str, text: str | None, item: str | None = None
) -> Row:
    system, own_item = layout.place(name)
    return Row(name, own_item if item is None else item, system, text, folder.path(name))


def _rows_in_folder(
    table: Table, folder: Folder, layout: Layout, system: str | None, found: Findings
) -> list[Row]:
    if "image" not in table:
        require(table, "image", "item")
        return _rows_by_item(table, folder, layout, system, found)
    rows = _rows_by_image(table, folder.root, layout, system, found, folder)
    rest = _rest(folder, {row.name for row in rows}, rows)
    if "system" not in table:
        report_mixed(layout, folder, found)
    return rows + [_row_of(folder, layout, name, None) for name in rest]


def _rows_of_metadata(
    folder: Folder, layout: Layout, system: str | None, found: Findings
) -> list[Row]:
    """Rows of Hugging Face metadata files: of several that name an image, the nearest counts."""
    by_name: dict[str, list[Row]] = {}
    read: set[str] = set()
    for file in sorted(folder.metadata, key=lambda name: name.count("/")):
        below = os.path.dirname(file)
        if below in read:
            continue
        read.add(below)
        table = read_table(folder.path(file))
        require(table, "image")
        _check_text_column(table)
        rows: dict[str, list[Row]] = {}
        base = folder.path(below) if below else folder.root
        for row in _rows_by_image(table, base, layout, system, found):
            if isinstance(row.image, str):
                name = relative_name(row.image, folder.root)
                # Placed by the whole folder's layout, not by the metadata file's folder.
                own_system, own_item = layout.place(name)
                row.system = row.system if "system" in table else own_system
                if "item" not in table:
                    row.item = own_item if row.system == own_system else without_suffix(name)
                row.name = name
            rows.setdefault(row.name if isinstance(row.image, str) else file, []).append(row)
        by_name.update(rows)
    rest = _rest(folder, by_name, [row for rows in by_name.values() for row in rows])
    report_mixed(layout, folder, found)
    return [row for rows in by_name.values() for row in rows] + [
        _row_of(folder, layout, name, None) for name in rest
    ]


def _rest(folder: Folder, named: Collection[str], rows: Sequence[Row]) -> list[str]:
    """Images that no row is of, nor has as its source, reference or mask."""
    others = set()
    for row in rows:
        for value in map(row.more.get, _OTHER_IMAGES):
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, str):
                    others.add(same_name(relative_name(each, folder.root)))
    return [n for n in folder.images if n not in named and same_name(n) not in others]


_NUMBERED = re.compile(r"(.+)[_/]([0-9]{1,9})", re.DOTALL)


def _rows_by_item(
    table: Table, folder: Folder, layout: Layout, system: str | None, found: Findings
) -> list[Row]:
    """Join the images of a folder with prompts by item."""
    _check_system_column(table, system)
    keyed, texts = _prompts_by_item(table, found)
    more = _more_columns(table, folder.root)

    def match(layout: Layout) -> list[tuple[str, str, str, int | None, int | None]]:
        matched = []
        for name in folder.images:
            own, stem = layout.place(name)
            scope = same_name(own) if "system" in table else None
            row, item, index = keyed.get((scope, same_name(stem))), stem, None
            numbered = _NUMBERED.fullmatch(stem) if row is None else None
            if numbered:
                row = keyed.get((scope, same_name(numbered[1])))
                if row is not None:
                    item, index = numbered[1], int(numbered[2])
            matched.append((name, own, item, index, row))
        return matched

    matched = match(layout)
    if not layout.flat and all(row is None for *_, row in matched):
        # One system in folders by item: <item>/0.png.
        flat = match(Layout(layout.own, flat=True))
        if any(row is not None for *_, row in flat):
            layout, matched = Layout(layout.own, flat=True), flat
    report_mixed(layout, folder, found)
    items = table.strings("item")
    rows = []
    for name, own, item, index, at in matched:
        if at is None:
            rows.append(Row(name, item, own, None, folder.path(name)))
        else:
            extra = {key: column[at] for key, column in more.items()}
            known = str(items[at])
            rows.append(Row(name, known, own, texts[at], folder.path(name), index, extra))
    report_coverage(keyed, items, matched, found, by_system="system" in table)
    return rows


def _prompts_by_item(
    table: Table, found: Findings
) -> tuple[dict[tuple[str | None, str], int], list[str | None]]:
    """Row of each (system, item), the system None where the table has none; and all texts."""
    items, systems, texts = (table.strings(name) for name in ("item", "system", "text"))
    keyed: dict[tuple[str | None, str], int] = {}
    conflicts: dict[str, None] = {}
    for row, item in enumerate(items):
        if item is None:
            raise table.error(row, "item is empty")
        system = systems[row]
        key = (None if system is None else same_name(system), same_name(item))
        first = keyed.setdefault(key, row)
        if texts[first] != texts[row]:
            conflicts[item] = None
    found.report(
        "conflicting_prompts",
        f"1 item has different texts in {table.path}, the first is used",
        f"{{n}} items have different texts in {table.path}, the first is used",
        conflicts,
    )
    return keyed, texts
