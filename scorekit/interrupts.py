"""Ctrl-C and SIGTERM: a run ends in order, leaves the rows it has, and says how to go on."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scorekit.remote import is_url, located
from scorekit.types import PathLike, UsageError

if TYPE_CHECKING:
    from scorekit.table import ScoreTable

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


INTERRUPTED = "interrupted"
"""Status of the rows that an interrupted run did not come to, and the mark in its record."""


class Interrupted(KeyboardInterrupt):
    """A run that was ended from outside.

    Attributes
    ----------
    table : ScoreTable or None
        Every row, those that were not reached with the status ``interrupted``; None if none
        was reached.
    """

    def __init__(self, table: ScoreTable | None) -> None:
        super().__init__()
        self.table = table


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers send it before they kill."""


def ends_in_order(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of ``score`` that survives being ended.

    It exits with 130 after Ctrl-C and 143 after SIGTERM, and with one message. What it scored
    so far is written beside ``out``, never over it.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        with _terminable():
            try:
                command(*args, **kwargs)
            except KeyboardInterrupt as stop:
                _end(
                    stop,
                    kwargs["out"],
                    kwargs["engine"],
                    no_cache=kwargs["no_cache"],
                    spreadsheet_safe=kwargs["spreadsheet_safe"],
                )

    return run


def partial_of(out: PathLike) -> Path | None:
    """Where the rows of an interrupted run are written; None for a URL.

    Examples
    --------
    >>> partial_of("runs/scores.csv").as_posix()
    'runs/scores.partial.csv'
    """
    place = located(out)
    return None if is_url(place) else Path(place).with_suffix(f".partial{Path(place).suffix}")


def remove_partial(out: PathLike) -> None:
    """Remove what an interrupted run left, once the whole table is there."""
    from scorekit.table import sidecar

    partial = partial_of(out)
    if partial is not None and _is_partial(partial):
        for path in (partial, sidecar(partial)):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_partial(path: Path) -> bool:
    """Whether a file is what an interrupted run left, and no table that merely has its name."""
    from scorekit.table import ScoreTable

    try:
        return bool(ScoreTable.load(path).run.get(INTERRUPTED))
    except UsageError:
        return False


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Meanwhile SIGTERM is an exception, as SIGINT is."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    global _saved, _terminated
    _saved, _terminated = None, False
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_saved: tuple[str, str] | None = None
"""Where the table is once it is written, and what it lacks."""
_terminated = False
"""Whether SIGTERM came: Ray makes a plain KeyboardInterrupt of what its handler raises."""


def _terminate(*_: Any) -> NoReturn:
    global _terminated
    _terminated = True
    raise Terminated


def saved(out: PathLike, lacks: str = "") -> None:
    """Remember that the table is written, for who ends the command from here on."""
    global _saved
    _saved = str(out), lacks


def was_terminated(stop: BaseException) -> bool:
    """Whether an interrupt was SIGTERM's."""
    return _terminated or isinstance(stop, Terminated) or isinstance(stop.__cause__, Terminated)


def _end(
    stop: KeyboardInterrupt,
    out: PathLike | None,
    engine: str,
    *,
    no_cache: bool,
    spreadsheet_safe: bool,
) -> NoReturn:
    import typer

    terminated = was_terminated(stop)
    goes_on = "and the same command goes on from there"
    if engine == "ray":
        kept = f"what Ray's actors finished is in the shards, {goes_on}"
    elif no_cache:
        kept = "nothing was kept (--no-cache)"
    else:
        kept = f"what was computed is in the cache, {goes_on}"
    if _saved is not None:
        place, lacks = _saved
        if not lacks:
            kept = f"the table is in {place}, and complete"
        else:
            kept = f"the table without {lacks} is in {place}" + ("" if no_cache else f"; {kept}")
    word = "terminated" if terminated else "interrupted"
    print(f"\n{word}: {kept}", file=sys.stderr)
    # Told first: who is in a hurry ends this with a second Ctrl-C.
    with contextlib.suppress(UsageError, KeyboardInterrupt):
        if out is not None and (partial := partial_of(out)) is not None:
            _save_partial(stop, partial, spreadsheet_safe)
    raise typer.Exit(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED) from None


def _save_partial(stop: KeyboardInterrupt, path: Path, spreadsheet_safe: bool) -> None:
    if not isinstance(stop, Interrupted) or stop.table is None:
        return
    if path.exists() and not _is_partial(path):
        print(f"the rows so far are not kept: {path} is another table", file=sys.stderr)
        return
    safe = spreadsheet_safe and path.suffix != ".parquet"
    stop.table.save(path, spreadsheet_safe=safe)
    done = int((stop.table.frame["status"] != INTERRUPTED).sum())
    print(f"the {done:,} of {len(stop.table):,} rows so far are in {path}", file=sys.stderr)
