"""Files behind URLs (``s3://``, ``gs://``, ``az://``): read, listed and written through fsspec.

fsspec and the packages of the stores are imported when a URL is used, not before. Every error of
a store is an `OSError` with one line in `strerror`, as those of local files are.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from scorekit.types import PathLike, UsageError

SCHEMES: Mapping[str, tuple[str, str]] = {
    "s3": ("s3", "s3"),
    "s3a": ("s3", "s3"),
    "gs": ("gcs", "gcs"),
    "gcs": ("gcs", "gcs"),
    "az": ("abfs", "azure"),
    "abfs": ("abfs", "azure"),
    "abfss": ("abfs", "azure"),
    "memory": ("memory", ""),
}
"""Scheme -> the protocol of fsspec, and the extra of scorekit that brings its package.

No ``http``: a table of strangers must not send requests to any host it likes.
"""

PACKAGES = {"s3": "s3fs", "gcs": "gcsfs", "azure": "adlfs"}

TIMEOUT = 60.0
"""Seconds for one request, with the tries that the store's package makes."""
LISTING_TIMEOUT = 900.0
"""The same for a listing, which is a request for every thousand objects or so."""
SLOWEST = 500_000
"""Bytes a second that a long object must come with, or go."""
GIVE_UP = 120.0
"""A store that answers nothing for so long ends the run, which would else wait row by row."""
AT_ONCE = 16
"""Requests under way where many small objects are read."""

_FIRST = 16 << 20  # most images come with one request, and no longer object is read unasked

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_CHAINED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::.*://", re.DOTALL)
_LOST_SLASH = re.compile(rf"({'|'.join((*SCHEMES, 'file'))}):/(?!/)")
_STORE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9-]+\.(dfs|blob)\.core\.windows\.net)?", re.ASCII
)
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "RefreshError",
    "ClientAuthenticationError",
)


class CredentialsInURL(UsageError):
    """A URL holds a secret: whatever it is for, nothing is read, printed or stored of it."""


# Names ------------------------------------------------------------------------------------------


def is_url(path: PathLike) -> bool:
    """Whether a path is a URL; ``file://`` is a path of this machine, once it is `located`.

    Examples
    --------
    >>> is_url("s3://bucket/a.png"), is_url("images/a.png"), is_url("zip://a::s3://bucket/b.zip")
    (True, False, True)
    """
    return isinstance(path, str) and bool(_URL.match(path) or _CHAINED.match(path))


def located(path: PathLike) -> str:
    """A path of this machine, or a URL that may be used.

    A `Path` made of a URL lacks a slash, which is put back.

    Raises
    ------
    UsageError
        If the URL's scheme is none of `SCHEMES`, it is a chain of several, or names no bucket.
    CredentialsInURL
        If it holds a user or a password.

    Examples
    --------
    >>> located(Path("s3://bucket/a.png")), located("file:///tmp/a.png"), located("a.png")
    ('s3://bucket/a.png', '/tmp/a.png', 'a.png')
    >>> located("http://169.254.169.254/")
    Traceback (most recent call last):
    scorekit.types.UsageError: http://169.254.169.254/: only s3, gs, az and abfs URLs are read
    """
    text = os.fspath(path)
    if not isinstance(path, str) and _LOST_SLASH.match(text):
        text = text.replace(":/", ":///" if text.startswith("file") else "://", 1)
    found = _URL.match(text)
    if found is None:
        if _CHAINED.match(text):
            raise UsageError(f"{_shown(text)}: a chain of URLs is not followed")
        return text
    scheme, rest = found[1].lower(), found[2]
    store = rest.partition("/")[0]
    if scheme == "file":
        if store not in ("", "localhost"):
            raise UsageError(f"{_shown(text)}: file:// is for files of this machine")
        return unquote(rest[len(store) :])
    if scheme not in SCHEMES:
        raise UsageError(f"{_shown(text)}: only s3, gs, az and abfs URLs are read")
    account = _STORE.fullmatch(store)
    if account is None or (account[1] and SCHEMES[scheme][1] != "azure"):
        if "@" in rest:
            raise CredentialsInURL(
                f"{scheme}://***: credentials do not belong in a URL; the store's package takes "
                "them from the environment"
            )
        raise UsageError(f"{_shown(text)}: {store!r} is no name of a bucket")
    if _CHAINED.search(rest):
        raise UsageError(f"{_shown(text)}: a chain of URLs is not followed")
    return f"{scheme}://{rest}"


def join(base: str, name: str) -> str:
    """A name below a folder, as `os.path.join`; each may be a URL.

    Raises
    ------
    UsageError
        As `located`, if the name is a URL.

    Examples
    --------
    >>> join("s3://bucket/run", "../images/a.png"), join("run", "s3://bucket/a.png")
    ('s3://bucket/images/a.png', 's3://bucket/a.png')
    >>> join("s3://bucket/run", "../../../etc/a.png"), join("s3://bucket/run", "/data/a.png")
    ('s3://bucket/etc/a.png', '/data/a.png')
    """
    name = located(name)
    if is_url(name) or not is_url(base) or os.path.isabs(name):
        return os.path.join(base, name) if not is_url(name) else name
    scheme, _, rest = base.partition("://")
    store, *parts = rest.rstrip("/").split("/")
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join((f"{scheme}://{store}", *parts))


def _store_of(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _shown(url: str) -> str:
    """A URL that is refused, without what may be secret in it, at a length that can be read."""
    scheme, _, rest = url.partition("://")
    if "@" in rest:
        return f"{scheme}://***"
    text = url.partition("?")[0]
    return text if len(text) <= 100 else f"{text[:97]}..."


# Objects ----------------------------------------------------------------------------------------


def read(url: str, limit: int | None = None) -> bytes:
    """Read an object.

    Parameters
    ----------
    url : str
        As `located` gives it.
    limit : int, optional
        Bytes; of a longer object no more than the beginning is read.

    Raises
    ------
    OSError
        FileNotFoundError, PermissionError, EFBIG where it is longer than `limit`, or EIO where
        the store gave no answer.
    UsageError
        If the store's package is not installed, there are no credentials, or the store has not
        answered for `GIVE_UP` seconds.
    """
    path = _path(url)
    try:
        data: bytes = _ask(url, "cat_file", path, start=0, end=_FIRST)
    except OSError as error:
        # An empty object has no first byte, so that the range is wrong.
        if error.errno != errno.EINVAL or state(url)[0] > 0:
            raise
        return b""
    size = len(data)
    if size == _FIRST:
        size = state(url)[0]
    if limit is not None and size > limit:
        raise OSError(errno.EFBIG, f"{size:,} bytes", url)
    if size > len(data):
        # Anew from the start: what was read may be of an object that was replaced since.
        data = _ask(url, "cat_file", path, timeout=TIMEOUT + size / SLOWEST)
    return data


def read_many(urls: Sequence[str], limit: int | None = None) -> list[bytes | OSError]:
    """Read many small objects at once, in order; of those that can't be read, the error."""

    def one(url: str) -> bytes | OSError:
        try:
            return read(url, limit)
        except OSError as error:
            return error

    if not urls:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(urls))) as pool:
        return list(pool.map(one, urls))


@contextlib.contextmanager
def fetched(url: str, *beside: str) -> Iterator[Path]:
    """An object as a file of this machine while it is needed; a UsageError names its URL.

    Parameters
    ----------
    url : str
    *beside : str
        What is added to its name for objects that are fetched with it, where they are there.

    Raises
    ------
    OSError, UsageError
        As `read`.
    """
    with tempfile.TemporaryDirectory(prefix="scorekit-") as folder:
        copy = Path(folder, PurePosixPath(url).name)
        copy.write_bytes(read(url))
        for suffix in beside:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{copy}{suffix}").write_bytes(read(url + suffix))
        try:
            yield copy
        except UsageError as error:
            raise UsageError(str(error).replace(str(copy), url)) from None


def state(url: str) -> tuple[int, str]:
    """Size of an object, and a word that changes with its content (ETag, or time).

    Raises
    ------
    OSError, UsageError
        As `read`.
    """
    info: Mapping[str, Any] = _ask(url, "info", _path(url))
    if info.get("type") == "directory":
        raise FileNotFoundError(errno.ENOENT, "no such object", url)
    names = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
    return int(info["size"]), next((str(info[n]) for n in names if info.get(n)), "")


def exists(url: str) -> bool:
    """Whether there is an object.

    Raises
    ------
    OSError, UsageError
        As `read`, where that can't be told.
    """
    try:
        state(url)
    except FileNotFoundError:
        return False
    return True


def find(url: str) -> list[str]:
    """Names of all objects below a folder, relative to it, sorted; asked for in one listing.

    Raises
    ------
    OSError, UsageError
        As `read`; FileNotFoundError if there is no such bucket.
    """
    root = _path(url).rstrip("/")
    try:
        found = _ask(url, "find", root, timeout=LISTING_TIMEOUT)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such bucket", url) from None
    names = (name[len(root) + 1 :] for name in found if name.startswith(root + "/"))
    return sorted(name for name in names if name and not name.endswith("/"))


def write(url: str, data: bytes) -> None:
    """Write an object whole or not at all.

    Stores show an object when its upload is complete, and not before: no temporary name and no
    renaming, which would be a copy there, is needed.

    Raises
    ------
    OSError, UsageError
        As `read`; FileNotFoundError if there is no such bucket.
    """
    try:
        _ask(url, "pipe_file", _path(url), data, timeout=TIMEOUT + len(data) / SLOWEST)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such bucket", url) from None


def remove(url: str) -> None:
    """Remove an object.

    Raises
    ------
    OSError, UsageError
        As `read`.
    """
    _ask(url, "rm_file", _path(url))


def check_writable(url: str) -> None:
    """Refuse a place that a long run could not be written to: an empty object is put beside it.

    Raises
    ------
    UsageError
        If that fails.
    """
    probe = f"{url}.{secrets.token_hex(4)}.probe"
    try:
        write(probe, b"")
    except OSError as error:
        raise UsageError(f"can't write {url}: {error.strerror}") from None
    with contextlib.suppress(OSError):
        remove(probe)


# Requests ---------------------------------------------------------------------------------------

_silent_since: dict[str, float] = {}
_making = threading.Lock()


def _path(url: str) -> str:
    """An object's path as its filesystem takes it."""
    return str(type(_filesystem(url))._strip_protocol(url))


def _filesystem(url: str) -> Any:
    """The filesystem of a URL's store: one for all threads, another in a forked process."""
    scheme, _, rest = url.partition("://")
    store = rest.partition("/")[0]
    protocol, extra = SCHEMES[scheme]
    with _making:
        return _made(protocol, extra, url[: len(scheme) + 3] + store if "@" in store else "")


@functools.lru_cache(maxsize=32)
def _made(protocol: str, extra: str, account: str) -> Any:
    import fsspec

    try:
        kind: Any = fsspec.get_filesystem_class(protocol)
    except ImportError:
        raise UsageError(
            f'{extra} storage needs {PACKAGES[extra]}: pip install "scorekit[{extra}]"'
        ) from None
    # The class's own reading of the URL, never fsspec's, which follows chains.
    options = kind._get_kwargs_from_urls(account) if account else {}
    try:
        return kind(**options, use_listings_cache=False, skip_instance_cache=True)
    except Exception as error:
        raise UsageError(f"can't open the {extra} storage: {_reason(error)}") from None


def _after_fork() -> None:
    """Connections and locks of another process are of no use."""
    global _making
    _making = threading.Lock()
    _made.cache_clear()
    _silent_since.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _ask(url: str, call: str, *args: Any, timeout: float | None = None, **named: Any) -> Any:
    """One call of a filesystem, which comes to its end."""
    filesystem = _filesystem(url)
    store = _store_of(url)
    started = time.monotonic()
    try:
        if filesystem.async_impl:
            from fsspec.asyn import sync

            coroutine = getattr(filesystem, f"_{call}")
            limit = TIMEOUT if timeout is None else timeout
            found = sync(filesystem.loop, coroutine, *args, timeout=limit, **named)
        else:
            found = getattr(filesystem, call)(*args, **named)
    except Exception as error:
        known = _answered(error, url)
        if known is None:
            _count_silence(store, started, error)
            status = _http_status(error)
            what = "no answer" if status is None else f"error {status}"
            raise OSError(errno.EIO, f"{what} from {store} ({_reason(error)})", url) from None
        _silent_since.pop(store, None)
        raise known from None
    _silent_since.pop(store, None)
    return found


def _answered(error: Exception, url: str) -> OSError | None:
    """What the store's answer means; None where there was none, or none that says anything."""
    if type(error).__name__ in _NO_CREDENTIALS:
        raise UsageError(f"no credentials for {_store_of(url)}: {_reason(error)}") from None
    status = _http_status(error)
    if status == 404 or isinstance(error, FileNotFoundError | IsADirectoryError):
        return FileNotFoundError(errno.ENOENT, "no such object", url)
    denied = status in (401, 403) or isinstance(error, PermissionError)
    if denied or str(error).startswith("Forbidden"):  # as gcsfs says it
        return PermissionError(errno.EACCES, "access denied", url)
    if status == 416:
        return OSError(errno.EINVAL, "no such range", url)
    return None


def _http_status(error: Exception) -> int | None:
    for each in (error.__cause__, error):
        response = getattr(each, "response", None)
        if isinstance(response, Mapping):  # botocore
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return found if isinstance(found, int) else None
    for name in ("status_code", "status", "code"):  # azure, aiohttp, gcsfs
        if isinstance(found := getattr(error, name, None), int):
            return found
    return None


def _count_silence(store: str, started: float, error: Exception) -> None:
    silent = time.monotonic() - _silent_since.setdefault(store, started)
    if silent >= GIVE_UP:
        raise UsageError(
            f"{store} has given no good answer for {silent:.0f} seconds ({_reason(error)}); "
            "run the same command again when it does"
        ) from None


def _reason(error: Exception) -> str:
    """The first line of an error, without a query, which may be signed."""
    if isinstance(error, TimeoutError):
        return "timed out"
    text = re.sub(r"\?[^\s\"']*", "", (str(error) or "").split("\n")[0]).strip().rstrip(".")
    text = text if len(text) <= 120 else f"{text[:117]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
