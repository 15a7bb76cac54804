"""Features on disk, in SQLite: key -> dtype, shape, bytes, with a checksum; never pickle.

A key is the hash of a backbone's fingerprint, the feature's kind and parameters, and the
content. So no file name and no model name can give one model's scores to another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scorekit.types import Extracted, UsageError

FORMAT = 1
FILE_NAME = f"features.v{FORMAT}.sqlite"
EXTRACTION = 1
"""Raised whenever decoding, resizing, tokenizing or a feature's `info` changes, so that no
feature of an older release is served. A change of scores needs a new version of its metric too."""

_LOOKUP = 500  # keys a query: well below SQLite's limit on variables
_LOCK_SECONDS = 60
_DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
)
"""Errors that what is in the file is to blame for, not a lock, a permission or the disk."""
_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)
"""All that SQLite's module raises; the latter where a message quotes a damaged schema."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY, backbone TEXT NOT NULL, kind TEXT NOT NULL, UNIQUE (backbone, kind));
CREATE TABLE IF NOT EXISTS features (
    key BLOB PRIMARY KEY, source INTEGER NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL,
    info TEXT NOT NULL, checksum INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds."""

    path: Path
    size_bytes: int
    entries: int
    by_source: tuple[tuple[str, str, int, int], ...]
    """(backbone, kind, entries, bytes) for each."""


class Cache(Protocol):
    """What is asked of a cache; `FeatureCache` and `MemoryCache` are both one."""

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Extracted]: ...

    def put_many(
        self, backbone: str, kind: str, entries: Iterable[tuple[bytes, Extracted]]
    ) -> None: ...

    def get_note(self, key: str) -> Any: ...

    def put_note(self, key: str, value: Any) -> None: ...


def default_cache_dir() -> Path:
    """The user's cache folder: ``$SCOREKIT_CACHE``, else the platform's place."""
    if given := os.environ.get("SCOREKIT_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "scorekit"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "scorekit" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "scorekit"


def feature_key(
    fingerprint: str, kind: str, params: Sequence[tuple[str, Any]], content: str
) -> bytes:
    """The cache key of a feature.

    Parameters
    ----------
    fingerprint : str
        The backbone's.
    kind, params
        The feature's.
    content : str
        Hash of the input's content.
    """
    parts = json.dumps([EXTRACTION, fingerprint, kind, list(params), content])
    return hashlib.sha256(parts.encode()).digest()[:20]


class FeatureCache:
    """A feature cache in one SQLite file, safe for several threads and processes.

    Parameters
    ----------
    folder : path or None
        Where the file lies; None keeps the features of this run in a temporary file, which
        is removed by `close`.

    Notes
    -----
    Each `put_many` is one transaction: a killed process loses the batch in hand at most. A
    file that is not a sound database is moved aside and begun anew; an entry or note whose
    checksum is wrong is treated as absent. Of a file that can't be written, what it holds is
    served. Where there is no place for features, or no more of it, the run goes on with what
    it has, and a warning says so.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._lock = threading.RLock()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._writable = True
        self._warned: set[str] = set()
        if folder is None:
            self._keep_to_itself()
            return
        try:
            self._open(Path(folder))
        except (OSError, *_ERRORS) as error:
            self._keep_to_itself(folder, error)

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Extracted]:
        """Those of the keys that are there, sound ones only."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, Extracted] = {}
        for start in range(0, len(wanted), _LOOKUP):
            part = wanted[start : start + _LOOKUP]
            marks = ",".join("?" * len(part))
            query = (
                "SELECT key, dtype, shape, info, checksum, data FROM features "
                f"WHERE key IN ({marks})"
            )
            for row in self._read(query, part):
                entry = _decode(*row)
                if entry is not None:
                    found[row[0]] = entry
        return found

    def put_many(
        self, backbone: str, kind: str, entries: Iterable[tuple[bytes, Extracted]]
    ) -> None:
        """Store features of one backbone and kind, in one transaction."""
        rows = [(key, *_encode(key, entry)) for key, entry in entries]
        if not rows or not self._writable:
            return
        with self._lock, self._guard_writes(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT OR IGNORE INTO sources (backbone, kind) VALUES (?, ?)", (backbone, kind)
            )
            (source,) = self._db.execute(
                "SELECT id FROM sources WHERE backbone = ? AND kind = ?", (backbone, kind)
            ).fetchone()
            self._db.executemany(
                "INSERT OR REPLACE INTO features "
                "(key, source, dtype, shape, info, checksum, data) VALUES (?,?,?,?,?,?,?)",
                [(row[0], source, *row[1:]) for row in rows],
            )

    def get_note(self, key: str) -> Any:
        """A JSON value stored under a name by `put_note`; None where there is none."""
        for (stored,) in self._read("SELECT value FROM notes WHERE key = ?", [key]):
            if isinstance(stored, str) and stored == _sealed(key, text := stored[_SEAL:]):
                return json.loads(text)
        return None

    def put_note(self, key: str, value: Any) -> None:
        """Store a JSON value under a name."""
        if not self._writable:
            return
        with self._lock, self._guard_writes(), self._db:
            sealed = _sealed(key, json.dumps(value))
            self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, sealed))

    def info(self) -> CacheInfo:
        """What the cache holds."""
        query = (
            "SELECT s.backbone, s.kind, count(*), sum(length(f.data)) "
            "FROM features f JOIN sources s ON s.id = f.source "
            "GROUP BY s.id ORDER BY s.backbone, s.kind"
        )
        rows = tuple(self._read(query, []))
        files = self.path.parent.glob(FILE_NAME + "*")
        size = sum(file.stat().st_size for file in files if "unreadable" not in file.name)
        return CacheInfo(self.path, size, sum(row[2] for row in rows), rows)

    def clear(self, backbone: str | None = None) -> int:
        """Remove all features, or those of one backbone; the number removed.

        Raises
        ------
        UsageError
            If another process holds the file, or it can't be written.
        """
        try:
            return self._clear(backbone)
        except sqlite3.OperationalError as error:
            raise UsageError(f"the cache {self.path} can't be cleared: {error}") from None

    def _clear(self, backbone: str | None) -> int:
        with self._lock:
            with self._db:
                if backbone is None:
                    gone = self._db.execute("DELETE FROM features").rowcount
                    self._db.execute("DELETE FROM notes")
                else:
                    gone = self._db.execute(
                        "DELETE FROM features WHERE source IN "
                        "(SELECT id FROM sources WHERE backbone = ?)",
                        (backbone,),
                    ).rowcount
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(gone)

    def close(self) -> None:
        """Close the file; a temporary one is removed."""
        with self._lock:
            self._db.close()
            if self._temporary is not None:
                self._temporary.cleanup()
                self._temporary = None

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        try:
            self._db = self._connect()
        except _ERRORS as error:
            if _is_damage(error):
                self._begin_anew(error)
            elif _is_lock(error) or not self.path.is_file():
                raise
            else:
                self._open_unwritable(error)

    def _connect(self) -> sqlite3.Connection:
        self._file = _identity(self.path)
        db = sqlite3.connect(
            self.path, timeout=_LOCK_SECONDS, check_same_thread=False, isolation_level=None
        )
        try:
            # Not every file system can hold the shared memory of write-ahead logging; the
            # rollback journal is slower and as safe.
            with contextlib.suppress(sqlite3.OperationalError):
                db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                db.executescript(_SCHEMA)
                db.execute(f"PRAGMA user_version = {FORMAT}")
            self._check(db)
        except BaseException:
            db.close()
            raise
        self._file = _identity(self.path)
        return db

    @staticmethod
    def _check(db: sqlite3.Connection) -> None:
        """Raise unless the file is a cache of this format that can be read."""
        # Damaged text is for the checksum of its entry: it must not fail a whole query.
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != FORMAT:
            raise _Unreadable(f"written by another release (format {version})")
        db.execute("SELECT key FROM features LIMIT 1").fetchone()

    def _open_unwritable(self, error: Exception) -> None:
        """Serve a file that can't be written, or whose folder or disk has no room for a log."""
        # Immutable: without a lock or a log. What another process writes meanwhile may be
        # misread, and the checksums find it out.
        place = f"{self.path.absolute().as_uri()}?immutable=1"
        db = sqlite3.connect(place, uri=True, check_same_thread=False, isolation_level=None)
        try:
            self._check(db)
        except _ERRORS:
            db.close()
            raise error from None
        self._db = db
        self._writable = False
        self._warn_once("written", error)

    def _keep_to_itself(
        self, folder: str | Path | None = None, error: Exception | None = None
    ) -> None:
        """Keep the features in a temporary file; a folder that was asked for is told of."""
        if folder is not None:
            warnings.warn(
                f"no cache at {folder} ({error}); this run keeps its features to itself",
                stacklevel=4,
            )
        self._writable = True
        try:
            self._temporary = tempfile.TemporaryDirectory(prefix="scorekit-")
            self.path = Path(self._temporary.name) / FILE_NAME
            self._db = self._connect()
        except (OSError, sqlite3.Error):  # no room there either
            self.path = Path(":memory:")
            self._db = self._connect()

    def _begin_anew(self, error: Exception) -> None:
        """Move a file that can't be read aside, never delete it, and start an empty one."""
        try:
            if _identity(self.path) == self._file:  # else another process has done so
                aside = self.path.with_name(f"{FILE_NAME}.unreadable-{time.time_ns()}")
                # Its log first: once the name is free, another process may begin a file with one.
                for suffix in ("-wal", "-shm"):
                    self.path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another was as quick
                    self.path.rename(aside)
                warnings.warn(
                    f"the cache {self.path} can't be read ({error}); begun anew, the old file "
                    f"is {aside.name}",
                    stacklevel=2,
                )
            self._db = self._connect()
        except (OSError, *_ERRORS) as again:
            self._keep_to_itself(self.path.parent, again)

    def _warn_once(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(
                f"the cache {self.path} can't be {what} ({error}); the run goes on without it",
                stacklevel=2,
            )

    def _read(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except _ERRORS as error:
                self._recover("read", error)
                return []

    @contextlib.contextmanager
    def _guard_writes(self) -> Any:
        """A cache that can't be written costs its features, not the run."""
        try:
            yield
        except _ERRORS as error:
            self._recover("written", error)

    def _recover(self, what: str, error: Exception) -> None:
        """Do what lets the run go on after an error of the file."""
        if _is_damage(error):
            self._db.close()
            self._begin_anew(error)
            return
        self._warn_once(what, error)
        if _is_lock(error):
            # Who has held it for so long may have stopped for good: no such wait each time.
            self._db.execute("PRAGMA busy_timeout = 1000")
        elif what == "written":
            self._writable = False  # disk full, read-only: it would fail each time


class MemoryCache:
    """The same for a process alone: the latest features, at most `limit` of them."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._entries: dict[bytes, Extracted] = {}
        self._notes: dict[str, Any] = {}
        self._lock = threading.Lock()

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Extracted]:
        """Those of the keys that are there."""
        with self._lock:
            return {key: self._entries[key] for key in keys if key in self._entries}

    def put_many(
        self, backbone: str, kind: str, entries: Iterable[tuple[bytes, Extracted]]
    ) -> None:
        """Keep features; the oldest go when there are too many."""
        with self._lock:
            self._entries.update(entries)
            while len(self._entries) > self._limit:
                del self._entries[next(iter(self._entries))]

    def get_note(self, key: str) -> Any:
        """A value stored under a name; None where there is none."""
        return self._notes.get(key)

    def put_note(self, key: str, value: Any) -> None:
        """Keep a value under a name."""
        self._notes[key] = value


def _encode(key: bytes, entry: Extracted) -> tuple[str, str, str, int, bytes]:
    array = np.ascontiguousarray(entry.array)
    dtype, shape = array.dtype.str, json.dumps(array.shape)
    info = json.dumps(dict(entry.info)) if entry.info else ""
    data = array.tobytes()
    return dtype, shape, info, _checksum(key, dtype, shape, info, data), data


def _decode(*row: Any) -> Extracted | None:
    """The entry of a row as SQLite gives it; None where anything of it is not as it was put."""
    key, dtype, shape, info, checksum, data = row
    try:
        if _checksum(key, dtype, shape, info, data) != checksum:
            return None
    except (AttributeError, TypeError):  # damage turns texts into bytes or nulls as well
        return None
    array = np.frombuffer(data, dtype=np.dtype(dtype)).reshape(json.loads(shape))
    return Extracted(array, json.loads(info) if info else {})


def _checksum(key: bytes, dtype: str, shape: str, info: str, data: bytes) -> int:
    head = b"\0".join([key, dtype.encode(), shape.encode(), info.encode()])
    return zlib.crc32(data, zlib.crc32(head))


_SEAL = 8


def _sealed(key: str, text: str) -> str:
    """A note's text behind a checksum of it and its name."""
    return f"{zlib.crc32(text.encode(), zlib.crc32(key.encode())):08x}{text}"


class _Unreadable(sqlite3.DatabaseError):
    """A sound database that is no cache of this release."""


def _is_damage(error: Exception) -> bool:
    """Whether what is in the file is to blame, and only a new file helps."""
    if isinstance(error, _Unreadable | UnicodeDecodeError):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # of the Python module: used after `close`
        return False
    if code == sqlite3.SQLITE_ERROR:  # the schema is text in the file, and our SQL is sound
        return "no such" in str(error) or "no column" in str(error)
    return code & 0xFF in _DAMAGE


def _is_lock(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
