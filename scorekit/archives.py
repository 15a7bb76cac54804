"""Zip and tar archives opened within bounds: no header has a reader work or remember at will."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from scorekit.types import UsageError

MAX_MEMBERS = 100_000
MAX_DIRECTORY = 64 << 20
"""Bytes of a zip's directory, which is read at once."""
MAX_HEADER = 4 << 20
"""Bytes of a tar's header, which is read at once."""
MAX_UNPACKED = 16 << 30
"""Bytes of a tar, of which all before a member are unpacked to get at it."""

_END, _END_64 = b"PK\5\6", b"PK\6\6"
_OPENERS: Mapping[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


def check_directory(path: Path, name: str) -> None:
    """Refuse a zip whose directory is larger than any that would be read.

    Raises
    ------
    UsageError
    """
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, (64 << 10) + 100), 2)
        tail = file.read()
    at, far = tail.rfind(_END), tail.rfind(_END_64)
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    if size == 0xFFFFFFFF and far >= 0:
        size = int.from_bytes(tail[far + 40 : far + 48], "little")
    if size > MAX_DIRECTORY:
        raise UsageError(f"{name} has a directory of {size:,} bytes: not read")


@contextlib.contextmanager
def open_tar(path: Path, name: str) -> Iterator[tarfile.TarFile]:
    """Open a tar, packed or not.

    Raises
    ------
    UsageError
        If it is none; while it is read, if a header or the whole is too large.
    """
    with path.open("rb") as file:
        head = file.read(6)
    opener = next((o for magic, o in _OPENERS.items() if head.startswith(magic)), None)
    with path.open("rb") if opener is None else opener(path) as unpacked:
        try:
            tar = tarfile.TarFile(fileobj=cast(Any, _Bounded(unpacked, name)))
        except (tarfile.TarError, OSError, EOFError, lzma.LZMAError):
            raise UsageError(f"{name} is no zip or tar archive") from None
        with tar:
            yield tar


def listed(tar: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    """Members of a tar, `MAX_MEMBERS` at most.

    Raises
    ------
    UsageError
    """
    for number, member in enumerate(tar):
        if number >= MAX_MEMBERS:
            raise UsageError(f"{name} has more than {MAX_MEMBERS} members")
        # Before the next header is looked for, which unpacks all of this member.
        if member.offset_data + member.size > MAX_UNPACKED:
            raise UsageError(f"{name} unpacks to more than {MAX_UNPACKED >> 30} GiB")
        yield member


class _Bounded:
    """A file of which no part longer than `MAX_HEADER` is read at once."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise UsageError(f"{self._name} has a header of {size:,} bytes: not read")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
