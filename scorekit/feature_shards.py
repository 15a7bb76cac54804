"""Features of finished rows as Parquet files, keyed by row: what a Ray run goes on from.

A file's name is the hash of its bytes, so that one that was cut short or damaged is known. Arrays
are kept as dtype, shape and bytes; never pickle.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import hashlib
import io
import json
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scorekit import remote
from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.spec import BackboneOptions
from scorekit.cache import EXTRACTION
from scorekit.chunks import with_options
from scorekit.entities import entities_of
from scorekit.inputs import IMAGE_FIELDS, RECORD, TEXT_FIELDS, RowResult
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError
from scorekit.within import Refused

FORMAT = 1
SUFFIX = ".parquet"
GO_ON = "what is finished is in the shards, and the same command goes on from there"
_ABOUT = b"scorekit"
_UNFINISHED = ".tmp"
_SCHEMA = pa.schema(
    [
        ("row", pa.string()),
        ("need", pa.int16()),  # its place among the run's features
        ("form", pa.string()),  # one array; one of a list of them; an empty list; an error
        ("dtype", pa.string()),
        ("shape", pa.list_(pa.int64())),
        ("info", pa.string()),  # JSON; of an error, its status and note
        ("data", pa.large_binary()),
    ]
)


class DamagedShard(Exception):
    """A shard whose bytes are not those that were written."""


@dataclass(frozen=True)
class Shard:
    """One file's rows.

    Attributes
    ----------
    rows : mapping of str to list of RowResult
        By the row's identity, the features in the order of the run's.
    about : mapping
        JSON values that were stored with it.
    """

    rows: Mapping[str, list[RowResult]]
    about: Mapping[str, Any]


class ShardFolder:
    """The shards of one run, in a folder or below a URL.

    Parameters
    ----------
    place : str
        A path or a URL that every node sees.
    key : str
        The run's, see `run_key`: shards of other runs in the same place are never read.

    Raises
    ------
    UsageError
        If nothing can be written there.
    """

    def __init__(self, place: str, key: str) -> None:
        self._root = f"{everywhere(place).rstrip('/')}/{key}"
        self._is_url = remote.is_url(self._root)
        try:
            if self._is_url:
                remote.check_writable(f"{self._root}/shard")
            else:
                Path(self._root).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"no shards can be kept in {place}: {error.strerror}") from None
        _opened.add(self._root)

    def names(self) -> list[str]:
        """The finished shards.

        Raises
        ------
        UsageError
            If they can't be listed.
        """
        try:
            found = remote.find(self._root) if self._is_url else os.listdir(self._root)
        except OSError as error:
            raise self._stopped("list", error) from None
        return sorted(name for name in found if name.endswith(SUFFIX))

    def write(
        self, rows: Iterable[tuple[str, Sequence[RowResult]]], about: Mapping[str, Any]
    ) -> str:
        """Write a shard, which is there as a whole or not at all; its name.

        Parameters
        ----------
        rows : iterable of (str, sequence of RowResult)
            A row's identity, and its features in the order of the run's.
        about : mapping
            JSON values to be kept with them.

        Raises
        ------
        UsageError
            If it can't be written.
        """
        sink = io.BytesIO()
        pq.write_table(_table_of(rows, about), sink, compression="zstd")
        data = sink.getvalue()
        name = _digest(data) + SUFFIX
        try:
            if self._is_url:
                remote.write(f"{self._root}/{name}", data)
            else:
                _write_whole(Path(self._root, name), data)
        except OSError as error:
            raise self._stopped("write to", error) from None
        return name

    def read(self, name: str) -> Shard:
        """Read a shard.

        Raises
        ------
        DamagedShard
            If its bytes are not those that were written.
        OSError
            If there is none of that name, or it can't be read.
        """
        path = f"{self._root}/{name}"
        data = remote.read(path) if self._is_url else Path(path).read_bytes()
        if name != _digest(data) + SUFFIX:
            raise DamagedShard(path)
        return _shard_of(pq.read_table(pa.BufferReader(data)))

    def remove(self, name: str) -> None:
        """Remove a shard, if it is there.

        Raises
        ------
        UsageError
            If it can't be removed.
        """
        path = f"{self._root}/{name}"
        try:
            with contextlib.suppress(FileNotFoundError):
                remote.remove(path) if self._is_url else os.unlink(path)
        except OSError as error:
            raise self._stopped("remove a shard of", error) from None

    def _stopped(self, what: str, error: OSError) -> UsageError:
        return UsageError(f"can't {what} {self._root}: {error.strerror}; {GO_ON}")


def _write_whole(path: Path, data: bytes) -> None:
    unfinished = path.with_name(uuid.uuid4().hex + _UNFINISHED)
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def everywhere(place: str | os.PathLike[str]) -> str:
    """A place's name that means the same wherever a process was started."""
    name = remote.located(place)  # type: ignore[arg-type]
    return name if remote.is_url(name) else os.path.abspath(name)


def remove_shards(place: str | os.PathLike[str]) -> None:
    """Remove the shards that this process's runs kept in a place, and folders that are empty then.

    Nothing else that lies there is touched. What can't be removed costs a warning: the table has
    been written.
    """
    root = everywhere(place)
    try:
        for folder in sorted(_opened):
            if folder.rpartition("/")[0] == root.rstrip("/"):
                with contextlib.suppress(FileNotFoundError):
                    _empty(folder)
                _opened.discard(folder)
        if not remote.is_url(root):
            _remove_if_empty(root)
    except (OSError, UsageError) as error:  # the latter of a store that can't be used at all
        why = (isinstance(error, OSError) and error.strerror) or error
        warnings.warn(f"the shards in {place} can't be removed: {why}", stacklevel=2)


_opened: set[str] = set()
"""The folders of this process's runs, by which they are told from those of other runs."""


def _empty(folder: str) -> None:
    is_url = remote.is_url(folder)
    for name in remote.find(folder) if is_url else os.listdir(folder):
        if name.endswith((SUFFIX, _UNFINISHED)) and "/" not in name:
            path = f"{folder}/{name}"
            with contextlib.suppress(FileNotFoundError):
                remote.remove(path) if is_url else os.unlink(path)
    if not is_url:
        _remove_if_empty(folder)


def _remove_if_empty(folder: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # the latter of a link
        if not os.listdir(folder):
            os.rmdir(folder)


def rows_there_are(feature: Feature) -> bool:
    """Whether each row has a result of a feature (a constant of the backbone has none)."""
    return feature.field in (*IMAGE_FIELDS, *TEXT_FIELDS, RECORD)


def run_key(
    needs: Sequence[Feature], infos: Mapping[str, BackboneInfo], options: BackboneOptions
) -> str:
    """What tells apart runs whose shards may not serve one another."""
    asked = [
        [repr(with_options(need, options)), infos[str(need.backbone)].fingerprint] for need in needs
    ]
    return hashlib.sha256(json.dumps([FORMAT, EXTRACTION, asked]).encode()).hexdigest()[:20]


def row_keys(samples: Sequence[Sample]) -> list[str]:
    """The identity of each row: its fields and the state of its files.

    So an image that has changed is not served from an old shard.

    Raises
    ------
    UsageError
        If a sample has an image in memory or another value that can't be told from others, a URL
        holds credentials, or a store can't be used at all.
    """
    paths = list(dict.fromkeys(path for sample in samples for path in paths_of(sample)))
    with ThreadPoolExecutor(remote.AT_ONCE) as pool:
        states = dict(zip(paths, pool.map(_state_of, paths, chunksize=64), strict=True))
    names = [f.name for f in fields(Sample)]
    keys = []
    for sample in samples:
        parts = [
            [getattr(sample, name) for name in names],
            [states[path] for path in paths_of(sample)],
        ]
        try:
            text = json.dumps(parts, default=_plain)
        except TypeError as error:
            raise UsageError(
                f"the engine ray can't tell whether {sample.system}/{sample.item} has changed: "
                f"{error}"
            ) from None
        keys.append(hashlib.sha256(text.encode()).hexdigest()[:32])
    return keys


def paths_of(sample: Sample) -> list[str | Path]:
    """The files and URLs of a sample's images, masks of entities included.

    Raises
    ------
    UsageError
        If it has an image in memory, save for an array as the mask of an entity.
    """
    found: list[str | Path] = []
    for what, image in _images_of(sample):
        if isinstance(image, str | Path):
            found.append(image)
        elif image is not None and not isinstance(image, Refused):
            raise UsageError(
                f"the engine ray takes paths and URLs, and the {what} of "
                f"{sample.system}/{sample.item} is a {type(image).__name__} in memory"
            )
    return found


def _images_of(sample: Sample) -> Iterator[tuple[str, Any]]:
    for name in IMAGE_FIELDS:
        value = getattr(sample, name)
        for image in value if isinstance(value, tuple) else (value,):
            yield name.replace("_", " "), image
    # Of entities that can't be read no mask is.
    with contextlib.suppress(InputError):
        for entity in entities_of(sample.entities) or ():
            # Of an array, and of what JSON may hold instead of a path, the content is in the key.
            if not isinstance(entity.mask, np.ndarray | list | dict | float | int):
                yield "mask of an entity", entity.mask


def _state_of(path: str | Path) -> Any:
    """What is known of a file without reading it; never twice the same where nothing is."""
    try:
        where = remote.located(path)
    except remote.CredentialsInURL:
        raise
    except UsageError:  # a URL of a kind that is not read: its row says so
        return None
    try:
        if remote.is_url(where):
            return [where, *remote.state(where)]
        found = os.stat(where)
    except UsageError:  # of a store as a whole
        raise
    except (OSError, ValueError):  # the latter of a NUL in a path
        return uuid.uuid4().hex
    return [os.path.abspath(where), found.st_size, found.st_mtime_ns]


def _plain(value: Any) -> Any:
    """A value that JSON has no form for, as one that it has, with all that it holds."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return value.tolist()
        return [value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, _TOLD_BY_REPR):
        return repr(value)
    raise TypeError(f"a {type(value).__name__} in memory")


# Beside paths, what the further columns of a Parquet file may hold.
_TOLD_BY_REPR = (
    *(Path, Refused, bytes, np.generic, decimal.Decimal, uuid.UUID),
    *(datetime.date, datetime.time, datetime.timedelta),
)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _table_of(rows: Iterable[tuple[str, Sequence[RowResult]]], about: Mapping[str, Any]) -> Any:
    lines = [
        {"row": row, "need": need, **line}
        for row, results in rows
        for need, result in enumerate(results)
        for line in _lines_of(result)
    ]
    # A shard that is written again is another one: the run that waits for it has seen the first.
    note = json.dumps({"format": FORMAT, "written": uuid.uuid4().hex, **about}).encode()
    return pa.Table.from_pylist(lines, schema=_SCHEMA.with_metadata({_ABOUT: note}))


def _lines_of(result: RowResult) -> list[dict[str, Any]]:
    """A result as lines of the file; what a line lacks is null there."""
    if isinstance(result, InputError):
        return [{"form": "error", "info": json.dumps([result.status, result.note])}]
    if isinstance(result, Extracted):
        return [{"form": "one", **_cells_of(result)}]
    return [{"form": "part", **_cells_of(entry)} for entry in result] or [{"form": "empty"}]


def _cells_of(entry: Extracted) -> dict[str, Any]:
    array = np.ascontiguousarray(entry.array)
    return {
        "dtype": array.dtype.str,
        "shape": entry.array.shape,  # ascontiguousarray makes a number an array of one
        "info": json.dumps(dict(entry.info)),
        "data": array.tobytes(),
    }


def _shard_of(table: Any) -> Shard:
    rows: dict[str, list[RowResult]] = {}
    columns = (table.column(name).to_pylist() for name in _SCHEMA.names)
    for row, need, form, dtype, shape, info, data in zip(*columns, strict=True):
        results = rows.setdefault(row, [])
        if form == "error":
            results.append(InputError(*json.loads(info)))
            continue
        if form == "empty":
            results.append([])
            continue
        array = np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape)
        entry = Extracted(array, json.loads(info))
        if form == "one":
            results.append(entry)
        elif need < len(results):
            last = results[need]
            assert isinstance(last, list)
            last.append(entry)
        else:
            results.append([entry])
    return Shard(rows, json.loads(table.schema.metadata[_ABOUT]))
