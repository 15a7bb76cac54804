"""Files of rating sets: fetched, checked against their hashes, unpacked, verified again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from scorekit.archives import check_directory, listed, open_tar
from scorekit.manifests import UNVERIFIED, DataFile, Manifest
from scorekit.types import UsageError

MAX_BYTES = 2 << 30
"""No file, and nothing that is unpacked from one, may be larger."""
TIMEOUT = 30.0
RECORD = "fetched.json"
"""In a set's folder: what was fetched, with its hash, for files whose hash nobody knew."""
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy", ".npz", ".dill")
_CHUNK = 1 << 20

State = Literal["ok", "unverified", "differs", "missing", "absent"]


@dataclass(frozen=True)
class Check:
    """What became of a file.

    Attributes
    ----------
    name : str
    state : str
        ``ok`` (the hash is the manifest's), ``unverified`` (the manifest knows none; unchanged
        since it was fetched), ``differs``, ``missing``, ``absent`` (optional, and not there).
    sha256 : str
        Of the file as it is.
    note : str
    """

    name: str
    state: State
    sha256: str = ""
    note: str = ""


def sha256_of(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(manifest: Manifest, folder: Path, source: Path | None = None) -> list[Check]:
    """Put a set's files into a folder: each to a temporary file, checked, then renamed.

    Parameters
    ----------
    manifest : Manifest
    folder : Path
        Made where it is missing.
    source : Path, optional
        A local copy: a folder with the files (or the archive), or the file itself. Without it
        they are downloaded.

    Returns
    -------
    list of Check

    Raises
    ------
    UsageError
        If a file can't be had, is not the one that the manifest knows, or is an archive with a
        member that would leave the folder.
    """
    if source is not None and not source.exists():
        raise UsageError(f"no {source}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_fetch_file(manifest, file, folder, source) for file in manifest.files]
    except OSError as error:
        raise UsageError(f"can't write to {folder}: {error.strerror or error}") from None


def verify(manifest: Manifest, folder: Path) -> list[Check]:
    """Hash a set's files again and compare."""
    record = _record(folder)
    return [_check(file, name, folder, record) for file in manifest.files for name in file.needed]


def _check(file: DataFile, name: str, folder: Path, record: dict[str, str]) -> Check:
    path = folder / name
    if not path.is_file():
        return Check(name, "absent" if file.optional else "missing")
    found = sha256_of(path)
    known = UNVERIFIED if file.members else file.sha256
    if known != UNVERIFIED:
        return Check(name, "ok" if found == known else "differs", found, f"expected {known}")
    before = record.get(name)
    if before not in (None, found):
        return Check(name, "differs", found, f"was {before} when it was fetched")
    return Check(name, "unverified", found, "" if before else "not fetched by scorekit")


# Fetching -----------------------------------------------------------------------------------


def _fetch_file(manifest: Manifest, file: DataFile, folder: Path, source: Path | None) -> Check:
    if Path(file.name).suffix.lower() in _PICKLES:
        raise UsageError(f"{file.name} is a pickle, which can run code: not fetched")
    if source is not None:
        local = _local(manifest, file, source)
        if local is None and all(_beside(source, name) for name in file.members) and file.members:
            for name in file.members:
                _place(_beside(source, name) or source, folder, name, UNVERIFIED, name)
            return Check(file.name, "unverified", note="unpacked already")
        if local is None:
            return _nowhere(file, f"{manifest.name}: no {Path(file.name).name} in {source}")
        with _temporary(folder) as copy:
            shutil.copyfile(local, copy)
            return _accept(file, copy, folder, str(local))
    if not file.url:
        what = f"{manifest.name}: {file.name} can't be downloaded by a program"
        how = manifest.by_hand or f"get it from {manifest.homepage}"
        return _nowhere(
            file, f"{what}; {how}, then `scorekit data fetch {manifest.name} --from PATH`"
        )
    with _temporary(folder) as copy:
        _download(file.url, copy)
        return _accept(file, copy, folder, file.url)


def _nowhere(file: DataFile, message: str) -> Check:
    if file.optional:
        return Check(file.name, "absent", note="optional")
    raise UsageError(message)


def _accept(file: DataFile, copy: Path, folder: Path, origin: str) -> Check:
    found = sha256_of(copy)
    if file.sha256 not in (UNVERIFIED, found):
        raise UsageError(
            f"{origin} is not the file that the manifest knows: sha256 {found}, expected "
            f"{file.sha256}; nothing was kept"
        )
    if file.members:
        for name, member in _unpacked(copy, file, folder):
            _place(member, folder, name, UNVERIFIED, name)
    else:
        _place(copy, folder, file.name, file.sha256, file.name)
    return Check(file.name, "ok" if file.sha256 == found else "unverified", found)


def _place(copy: Path, folder: Path, name: str, known: str, key: str) -> None:
    """Rename a checked file to its place; a hash that nobody knew is written down."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy.parent != folder:  # a local file, which stays where it is
        with _temporary(folder) as own:
            shutil.copyfile(copy, own)
            return _place(own, folder, name, known, key)
    found = sha256_of(copy)
    copy.replace(target)
    if known == UNVERIFIED:
        record = {**_record(folder), key: found}
        with _temporary(folder) as own:
            own.write_text(json.dumps(record, indent=1, sort_keys=True), "utf-8")
            own.replace(folder / RECORD)
    return None


def _record(folder: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / RECORD).read_text("utf-8"))
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
    return {}


def _local(manifest: Manifest, file: DataFile, source: Path) -> Path | None:
    if source.is_file():
        needed = [f for f in manifest.files if not f.optional]
        same = source.name == Path(file.name).name
        return source if same or (needed == [file]) else None
    return _beside(source, file.name)


def _beside(source: Path, name: str) -> Path | None:
    """A file in a folder: at its place, else by its name alone."""
    if not source.is_dir():
        return None
    for candidate in (source / name, source / Path(name).name):
        if candidate.is_file():
            return candidate
    return None


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix=".fetch-", dir=folder)
    os.close(descriptor)
    path = Path(name)
    path.chmod(0o644)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _download(url: str, target: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "scorekit"})
    try:
        with (
            urllib.request.urlopen(request, timeout=TIMEOUT) as answer,
            target.open("wb") as file,
        ):
            _copy(answer, file, url)
            wanted = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise UsageError(f"{url}: {error.code} {error.reason}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UsageError(f"can't reach {url} ({reason}); with a copy: --from PATH") from None
    if wanted is not None and int(wanted) != target.stat().st_size:
        raise UsageError(f"{url}: cut short at {target.stat().st_size} of {wanted} bytes")


def _copy(source: IO[bytes], target: IO[bytes], what: str) -> None:
    """Copy with a limit that no header can raise, and one on a server that trickles."""
    size, end = 0, time.monotonic() + 120 * TIMEOUT
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > MAX_BYTES:
            raise UsageError(f"{what} is larger than {MAX_BYTES >> 20} MiB")
        if time.monotonic() > end:
            raise UsageError(f"{what} takes longer than {120 * TIMEOUT / 60:g} minutes")
        target.write(chunk)


# Archives -----------------------------------------------------------------------------------


def _unpacked(path: Path, file: DataFile, folder: Path) -> Iterator[tuple[str, Path]]:
    """The wanted members of an archive, each as a temporary file in the folder."""
    try:
        if zipfile.is_zipfile(path):
            check_directory(path, file.name)
            with zipfile.ZipFile(path) as archive:
                infos = {_safe(i.filename, file): i for i in archive.infolist() if not i.is_dir()}
                for info in infos.values():
                    if (info.external_attr >> 16) & 0o170000 == 0o120000:
                        raise UsageError(f"{file.name}: {info.filename} is a link")
                for name, member in _wanted(file, list(infos)):
                    with archive.open(infos[member]) as stream, _temporary(folder) as out:
                        yield name, _written(stream, out, member)
        else:
            with open_tar(path, file.name) as tar:
                members = {_safe(m.name, file): m for m in listed(tar, file.name) if not m.isdir()}
                for each in members.values():
                    if not each.isfile():
                        raise UsageError(f"{file.name}: {each.name} is a link or a device")
                for name, member in _wanted(file, list(members)):
                    opened = tar.extractfile(members[member])
                    if opened is not None:
                        with opened as stream, _temporary(folder) as out:
                            yield name, _written(stream, out, member)
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError,
        NotImplementedError,
    ) as error:  # fmt: skip
        raise UsageError(f"{file.name} can't be unpacked ({error})") from None


def _safe(name: str, file: DataFile) -> str:
    """A member's name, refused where it would leave the folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0].startswith("/") or ".." in parts or ":" in parts[0]:
        raise UsageError(f"{file.name}: the member {name!r} would leave its folder")
    return "/".join(parts)


def _wanted(file: DataFile, members: list[str]) -> list[tuple[str, str]]:
    wanted = []
    for name in file.members:
        found = [m for m in members if m == name or m.endswith(f"/{name}")]
        found = [m for m in found if "__MACOSX" not in m] or found
        if len(found) != 1:
            raise UsageError(f"{file.name} has {len(found)} members {name}")
        if Path(name).suffix.lower() in _PICKLES:
            raise UsageError(f"{file.name}: {name} is a pickle, which can run code: not unpacked")
        wanted.append((name, found[0]))
    return wanted


def _written(stream: IO[bytes], out: Path, member: str) -> Path:
    with out.open("wb") as file:
        _copy(stream, file, member)
    return out
