"""Files that are there whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

Write = Callable[[Path], Any]


def replace_file(target: Path, write: Write) -> None:
    """Write to a temporary file beside the target, sync it, rename it."""
    replace_files({target: write})


def replace_files(writes: Mapping[Path, Write]) -> None:
    """The same for files that belong together, renamed in their order.

    Nothing is replaced before all are written, so that a full disk leaves the old ones as they
    were. What a killed process left beside a target is removed.
    """
    with contextlib.ExitStack() as stack:
        temporaries = {target: stack.enter_context(_temporary(target)) for target in writes}
        for target, temporary in temporaries.items():
            writes[target](temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())  # those of tempfile are private
        for target, temporary in temporaries.items():
            temporary.replace(target)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A temporary file beside a target, locked while its process lives."""
    _remove_abandoned(target)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    with os.fdopen(descriptor) as file:
        try:
            with contextlib.suppress(OSError):  # not every file system has locks
                _lock(file)
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def _remove_abandoned(target: Path) -> None:
    """Remove temporary files of the target that no living process has locked."""
    for left in target.parent.glob(f".{glob.escape(target.name)}-????????"):
        with contextlib.suppress(OSError), left.open("r+b") as file:
            _lock(file)
            left.unlink()


def _lock(file: IO[Any]) -> None:
    """Lock a file for as long as it is open; OSError where another process holds it."""
    if sys.platform == "win32":
        raise OSError("no such locks")
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
