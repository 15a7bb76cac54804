"""Parquet files that others wrote, read within bounds: a few kilobytes can stand for terabytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scorekit.types import UsageError

ROOM = 1 << 29
"""Bytes that a file may unpack to, besides `PER_BYTE` for each of its own."""
PER_BYTE = 20
CELLS = 20_000_000
"""Rows times columns, besides `CELLS_PER_BYTE` for each byte of the file: a run of a billion empty
cells takes none."""
CELLS_PER_BYTE = 64
_ROWS, _NESTED_ROWS = 65_536, 64
"""Rows at a time; fewer where one row may hold a list of any length."""


def arrow_table(path: Path) -> Any:
    """Read a Parquet file whole.

    Parameters
    ----------
    path : Path

    Returns
    -------
    pyarrow.Table
        With the schema's metadata, no column of it made from the names of folders.

    Raises
    ------
    UsageError
        If it can't be read as Parquet, or unpacks to far more than its size.
    """
    try:
        return _read(path)
    except UsageError:
        raise
    except Exception as error:  # pyarrow raises what it likes
        reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
        raise UsageError(f"can't read {path} as Parquet: {reason}") from None


def _read(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = os.path.getsize(path)
    most = ROOM + PER_BYTE * size
    # Not read_table, which makes columns of folders named like "a=b". And no question to the
    # metadata of a column: pyarrow aborts the process over some that are damaged.
    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        columns = [file.schema.column(i) for i in range(len(file.schema))]
    if rows * len(schema) > CELLS + CELLS_PER_BYTE * size:
        raise UsageError(f"{path} has {size:,} bytes and claims {rows:,} rows: not read")
    # Texts in a dictionary are counted before they are unpacked, where they may be too much.
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    flat = [name for name in texts if name in schema.names]
    counted = flat if flat and _most_bytes(path, flat) > most else []
    counted = [*counted, *(name for name in texts if name not in flat)]
    step = _ROWS if len(columns) == len(flat) or _is_flat(schema) else _NESTED_ROWS
    batches, unpacked = [], 0
    with pq.ParquetFile(path, read_dictionary=counted) as file:
        for batch in file.iter_batches(batch_size=step):
            unpacked += sum(map(_bytes_of, batch.columns))
            if unpacked > most:
                raise UsageError(
                    f"{path} has {size:,} bytes and unpacks to more than {most:,}: not read"
                )
            batches.append(batch.cast(schema))
    found = pa.Table.from_batches(batches) if batches else schema.empty_table()
    return found.replace_schema_metadata(schema.metadata)


def _is_flat(schema: Any) -> bool:
    return not any(field.type.num_fields for field in schema)


def _most_bytes(path: Path, texts: Sequence[str]) -> int:
    """At most so many bytes have columns of texts: each row the longest of its dictionary."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    total = os.path.getsize(path)
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for group in range(file.num_row_groups):
            first = next(file.iter_batches(1, row_groups=[group], columns=texts), None)
            for column in first.columns if first is not None else ():
                longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
                total += file.metadata.row_group(group).num_rows * longest
    return total


def _bytes_of(column: Any) -> int:
    """What a column takes when each row has a value of its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_map(kind):
        return _bytes_of(column.keys) + _bytes_of(column.items)
    if pa.types.is_struct(kind):
        return sum(map(_bytes_of, column.flatten()))
    if kind.num_fields and hasattr(column, "flatten"):
        return int(column.nbytes) + _bytes_of(column.flatten())
    if not pa.types.is_dictionary(kind):
        return int(column.nbytes)
    texts = column.dictionary
    if not (pa.types.is_string(texts.type) or pa.types.is_binary(texts.type)):
        texts = texts.cast(pa.string())
    lengths = pc.binary_length(texts).fill_null(0).cast(pa.int64())
    used = pc.sum(lengths.take(column.indices)).as_py() or 0
    return int(used) + int(column.indices.nbytes)  # the dictionary itself is not kept
