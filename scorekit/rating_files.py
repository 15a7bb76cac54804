"""RatingSets in files: one flat table, a row a rating, with what is known of the set beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from scorekit.delimited import restored, storable, whole_text, write_delimited
from scorekit.ratings import (
    GROUP_COLUMNS,
    Kind,
    RatingSet,
    Scale,
    ScaleKind,
    concatenated,
    number,
    rating_set,
    side_of,
)
from scorekit.table import KEY, check_delimited, check_writable, sidecar
from scorekit.table_files import SAFE, separator
from scorekit.types import UsageError
from scorekit.whole_files import replace_file, replace_files

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
_METADATA = b"scorekit-ratings"
_ABOUT = ("name", "kind", "pooling", "source", "licence", "citation")


def save(ratings: RatingSet, target: Path, *, spreadsheet_safe: bool = False) -> Path:
    """Write a set, as `RatingSet.save` says.

    Raises
    ------
    UsageError
        If the suffix is unknown, or the table can't be written there.
    """
    check_writable(target)
    if spreadsheet_safe:
        check_delimited(target)
    try:
        if target.suffix == ".parquet":
            replace_file(target, lambda p: _write_parquet(ratings, p))
        else:
            flat, sep = lists_as_json(_flat(ratings)), separator(target)
            about = _header(ratings, indent=1, **({SAFE: True} if spreadsheet_safe else {}))
            replace_files(
                {
                    sidecar(target): lambda p: p.write_text(about, "utf-8"),
                    target: lambda p: write_delimited(
                        flat, p, sep, spreadsheet_safe=spreadsheet_safe
                    ),
                }
            )
    except OSError as error:
        raise UsageError(f"can't write {target}: {error.strerror or error}") from error
    return target


def _flat(ratings: RatingSet) -> pd.DataFrame:
    if ratings.kind != "preferences":
        return ratings.frame.merge(ratings.samples, on=KEY, how="left", validate="m:1")
    flat = ratings.frame
    for side in ("a", "b"):
        names = {c: f"{c}_{side}" for c in ratings.samples.columns if c != "item"}
        key = ["item", f"system_{side}", f"index_{side}"]
        flat = flat.merge(ratings.samples.rename(columns=names), on=key, how="left")
    return flat


def _header(ratings: RatingSet, indent: int | None = None, **more: Any) -> str:
    about = {name: getattr(ratings, name) for name in (*_ABOUT, "notes")}
    scales = {name: asdict(scale) for name, scale in ratings.scales.items()}
    header = {"format": FORMAT, **about, "scales": scales, **more}
    return whole_text(json.dumps(header, indent=indent, ensure_ascii=False))


def _write_parquet(ratings: RatingSet, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(storable(_flat(ratings)), preserve_index=False)
    metadata = {**(table.schema.metadata or {}), _METADATA: _header(ratings).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def load(source: Path) -> RatingSet:
    """Read a file of ratings, as `RatingSet.load` says.

    Raises
    ------
    UsageError
        If the file is missing, or no table of ratings.
    """
    import pandas as pd

    from scorekit.prompts import read_table

    header = _read_header(source)
    safe = header.pop(SAFE, False) is True
    table = read_table(source)
    columns: dict[str, Any] = {name: _decoded(cells) for name, cells in table.columns.items()}
    if "value" in columns:
        columns["value"] = [
            number(cell, f"{source}, {place}")
            for cell, place in zip(columns["value"], table.places, strict=True)
        ]
    flat = restored(pd.DataFrame(columns)) if safe else pd.DataFrame(columns)
    is_preference = "choice" in columns
    kind = header.pop("kind", "preferences" if is_preference else "ratings")
    if "item" not in columns:
        raise UsageError(f"{source}: no column item")
    if is_preference:
        samples = concatenated(
            [
                side_of(flat.drop(columns=["choice", "rater", "dimension"], errors="ignore"), s)
                for s in "ab"
            ]
        )
        if "index" not in samples:
            samples["index"] = 0
    else:
        own = {"rater", "dimension", "value", *(GROUP_COLUMNS if kind == "groups" else ())}
        samples = flat[[c for c in flat.columns if c not in own]]
    key = [c for c in KEY if c in samples.columns]
    samples = samples.drop_duplicates(key, ignore_index=True)
    scales = header.pop("scales", {})
    about = {"name": source.stem, **header}
    found = rating_set(flat, samples, kind=kind, scales=scales, **about)
    return found if scales or is_preference else replace(found, scales=_scales_of(found))


def _scales_of(ratings: RatingSet) -> dict[str, Scale]:
    scales = {}
    for dimension in ratings.dimensions:
        values = set(ratings.ratings(dimension)["value"])
        whole = all(v == int(v) for v in values)
        kind: ScaleKind = "binary" if values <= {0, 1} else "ordinal" if whole else "interval"
        scales[dimension] = Scale(min(values, default=0.0), max(values, default=1.0), kind)
    return scales


def _read_header(source: Path) -> dict[str, Any]:
    """What `save` wrote of the set, empty for any other table."""
    text: str | bytes | None = None
    try:
        if source.suffix == ".parquet":
            import pyarrow.parquet as pq

            text = (pq.read_schema(source).metadata or {}).get(_METADATA)
        elif sidecar(source).is_file():
            text = sidecar(source).read_text("utf-8")
        if text is None:
            return {}
        header: Any = json.loads(text)
    except (OSError, ValueError, KeyError, NotImplementedError, RecursionError) as error:
        raise UsageError(f"{source} can't be read ({type(error).__name__}: {error})") from None
    try:
        return _checked(header)
    except (AttributeError, TypeError, ValueError, KeyError, OverflowError) as error:
        raise UsageError(
            f"{source} was written as something other than ratings ({error})"
        ) from None


def _checked(header: Any) -> dict[str, Any]:
    """What `save` wrote, of the types that it writes; else an error of Python's own."""
    if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
        raise ValueError("another format")
    scales = {}
    for name, given in header.pop("scales").items():
        if given["kind"] not in get_args(ScaleKind):
            raise ValueError(f"no kind of scale {given['kind']!r:.40}")
        scales[name] = Scale(float(given["low"]), float(given["high"]), given["kind"])
    known = {name: header.pop(name) for name in _ABOUT if name in header}
    notes, safe = header.pop("notes", []), header.pop(SAFE, False)
    if header or not all(isinstance(text, str) for text in [*known.values(), *notes]):
        raise ValueError(f"unknown entries {', '.join(header)}" if header else "no texts")
    if known.get("kind", "ratings") not in get_args(Kind):
        raise ValueError(f"no kind {known['kind']!r:.40}")
    if known.get("pooling", "mean") not in ("mean", "each"):
        raise ValueError(f"no pooling {known['pooling']!r:.40}")
    return {**known, "scales": scales, "notes": tuple(notes), SAFE: safe}


def lists_as_json(flat: pd.DataFrame) -> pd.DataFrame:
    """Lists as JSON texts, as a table in a text file has them."""
    flat = flat.copy()
    for name in flat.columns:
        if any(isinstance(cell, list | tuple) for cell in flat[name]):
            flat[name] = [
                json.dumps(cell, ensure_ascii=False) if isinstance(cell, list | tuple) else cell
                for cell in flat[name]
            ]
    return flat


def _decoded(cells: list[Any]) -> list[Any]:
    """JSON lists of a text file as lists, where every cell of the column is one."""
    if not cells or not all(isinstance(cell, str) and cell[:1] == "[" for cell in cells if cell):
        return cells
    try:
        return [json.loads(cell) if cell else cell for cell in cells]
    except (ValueError, RecursionError):
        return cells
