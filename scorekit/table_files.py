"""Files of score tables: written whole, and read with a check of all that later code relies on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorekit.delimited import restored, storable, whole_text, write_delimited
from scorekit.parquet_files import arrow_table

if TYPE_CHECKING:
    import pandas as pd

METADATA = b"scorekit"
SAFE = "spreadsheet_safe"
"""In the header of a text file whose cells were written so."""
_FILLED = ("system", "item", "metric", "status")
_TEXTS = (*_FILLED, "image", "text", "note", "source_image", "source_text", "evidence")


def separator(path: Path) -> str:
    """What stands between the cells of a text file, by its suffix."""
    return "\t" if path.suffix == ".tsv" else ","


def header_text(header: Mapping[str, Any], indent: int | None = None) -> str:
    """A table's header as JSON that every parser reads: null for NaN and the infinities."""
    form: dict[str, Any] = {"indent": indent, "ensure_ascii": False, "default": str}
    try:
        text = json.dumps(header, allow_nan=False, **form)
    except ValueError:
        text = json.dumps(json.loads(json.dumps(header, default=str), parse_constant=_null), **form)
    return whole_text(text)


def _null(name: str) -> None:
    """What stands for a number that JSON has not."""


def write_text(frame: pd.DataFrame, path: Path, sep: str, header: Mapping[str, Any]) -> None:
    """Write the rows as CSV or TSV, as their header says."""
    write_delimited(frame, path, sep, spreadsheet_safe=bool(header.get(SAFE)))


def write_parquet(
    frame: pd.DataFrame, path: Path, known: Sequence[str], header: Mapping[str, Any]
) -> None:
    """Write the rows as Parquet, the header in its metadata; `known` are columns of one type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for column in frame.columns.difference(list(known)):
        try:
            pa.array(frame[column], from_pandas=True)
        except (ValueError, TypeError, OverflowError):  # values of several types
            texts = [json.dumps(v, ensure_ascii=False, default=str) for v in frame[column]]
            frame = frame.assign(**{column: texts})
    table = pa.Table.from_pandas(storable(frame), preserve_index=False)
    metadata = {**(table.schema.metadata or {}), METADATA: header_text(header).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def read_rows(
    path: Path, beside: Path, columns: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and header of a table.

    Parameters
    ----------
    path : Path
    beside : Path
        The JSON file that holds the header of a text file.
    columns : sequence of str
        Which it must have.

    Raises
    ------
    ValueError
        If it is no table of scores: what it holds is of another type, or columns are missing.
    OSError
    """
    try:
        frame, header = (
            _read_parquet(path) if path.suffix == ".parquet" else _read_text(path, beside)
        )
    except RecursionError:
        raise ValueError("its signatures are nested too deeply") from None
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    _check_header(header)
    frame = _with_types(frame)
    unknown = set(frame["metric"]) - set(header["metrics"])
    if unknown:
        raise ValueError(f"it has no signature of {min(unknown)!r}")
    return frame, header


def _read_parquet(path: Path) -> tuple[pd.DataFrame, Any]:
    table = arrow_table(path)
    metadata = table.schema.metadata or {}
    if METADATA not in metadata:
        raise ValueError("it holds no signatures")
    try:
        # Without what pandas wrote for itself, which could ask for any type.
        frame = table.replace_schema_metadata(None).to_pandas()
    except Exception as error:  # pyarrow raises what it likes
        raise ValueError(str(error).split("\n")[0]) from None
    return frame, json.loads(metadata[METADATA])


def _read_text(path: Path, beside: Path) -> tuple[pd.DataFrame, Any]:
    import pandas as pd

    if not beside.is_file():
        raise ValueError(f"{beside.name}, which holds its signatures, is not beside it")
    header = json.loads(beside.read_text("utf-8"))
    frame = pd.read_csv(
        path,
        sep=separator(path),
        dtype=dict.fromkeys(_TEXTS, str),
        keep_default_na=False,
        na_values={"value": [""]},
    )
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError("it has rows with more cells than its first line")
    safe = isinstance(header, dict) and header.get(SAFE)
    return (restored(frame) if safe else frame), header


def _check_header(header: Any) -> None:
    if not isinstance(header, dict) or not isinstance(header.get("metrics"), dict):
        raise ValueError("its header has no metrics")
    if not isinstance(header.setdefault("run", {}), dict):
        raise ValueError("its run record is no JSON object")
    for name, info in header["metrics"].items():
        given = {"headline": True, "aggregate": "mean", **info} if isinstance(info, dict) else {}
        if not (
            isinstance(given.get("signature"), str)
            and isinstance(given.get("higher_is_better"), bool)
            and isinstance(given.get("headline"), bool)
            and given.get("aggregate") in ("mean", "median")
        ):
            raise ValueError(f"it says of {name!r} what is not said of a metric")


def _with_types(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with float64 values and int64 indices, every other known column of texts."""
    for name in _TEXTS:
        if name in frame.columns:
            odd = next((v for v in frame[name] if not isinstance(v, str) and not _is_none(v)), None)
            if odd is not None:
                raise ValueError(f"its column {name} holds {odd!r:.40}, no text")
    for name in _FILLED:
        if frame[name].isna().any():
            raise ValueError(f"its column {name} has an empty cell")
    kinds: Mapping[str, Any] = {"value": "float64", "index": "int64"}
    for name, kind in kinds.items():
        try:
            frame[name] = frame[name].astype(kind)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"its column {name} holds something other than numbers") from None
    return frame


def _is_none(value: Any) -> bool:
    return value is None or value != value
