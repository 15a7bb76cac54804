"""A process that computes features on one device, for `scorekit.processes`.

``python -m scorekit.device_worker FD`` talks over an inherited socket with the run that started
it, and ends when that run does.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from scorekit.chunks import Chunk
from scorekit.features import FeatureRun
from scorekit.images import silence_pil
from scorekit.types import UsageError

TELL_EVERY_SECONDS = 0.5


class Line:
    """What a process says to the run.

    Any thread may say something, and a finalizer may warn in the middle of it: so each message is
    queued, and sent by whoever is at it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._queued: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._sending = threading.Lock()

    def say(self, *message: Any) -> None:
        """Send a message; its first word tells what it is."""
        self._queued.put(pickle.dumps(message))
        while not self._queued.empty() and self._sending.acquire(blocking=False):
            try:
                with contextlib.suppress(queue.Empty):  # another thread was as quick
                    self._connection.send_bytes(self._queued.get_nowait())
            finally:
                self._sending.release()

    def take_warnings(self) -> None:
        """From now on the run says what is warned of in this process, on any thread."""
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *a: Any, **k: Any) -> None:
            # Python's own kind of it: a library's may be none that the run can import.
            kind = next(c for c in category.__mro__ if c.__module__ == "builtins")
            try:
                self.say("warn", kind, str(message))
            except OSError:  # the run is gone
                show(message, category, *a, **k)

        warnings.showwarning = tell


class _Worker:
    """One process's side of the conversation."""

    def __init__(self, connection: Connection, say: Callable[..., None]) -> None:
        self._connection = connection
        self._say = say
        self._told = 0.0
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # Always taken off the socket: while both sides were sending, neither would come to its end.
        threading.Thread(target=self._listen, daemon=True).start()
        needs, options, load = self._hear()
        self._cache = options.open_cache()
        self._run = FeatureRun(
            needs,
            options,
            self._cache,
            workers=options.workers,
            on_progress=self._tell_progress,
        )
        for handle in self._run.handles.values() if load else ():
            handle.model()
        self._say("ready", self._run.infos)

    def work(self) -> None:
        """Compute the features of chunks as they arrive, until the run has no more."""
        counts = self._run.counts
        for chunk in self._run.run(self._arriving()):
            rows = [chunk.features.get(need, []) for need in self._run.needs]
            done = (counts.computed, counts.cached)
            counts.computed = counts.cached = 0
            self._say("done", rows, done)
        self._cache.close()
        self._say("end", self._run.device(), self._run.usage())

    def _listen(self) -> None:
        try:
            while True:
                self._heard.put(self._connection.recv_bytes())
        except (EOFError, OSError):
            self._heard.put(None)

    def _hear(self) -> Any:
        message = self._heard.get()
        if message is None:
            raise EOFError
        return pickle.loads(message)

    def _arriving(self) -> Iterator[Chunk | None]:
        """Chunks in the order in which they come; None while there is none to read ahead."""
        while True:
            chunk = self._hear()
            if chunk is None:
                return
            yield chunk
            if self._heard.empty():
                yield None

    def _tell_progress(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told > TELL_EVERY_SECONDS:
            self._told = now
            self._say("at", done)


def main(descriptor: int) -> None:
    """Serve the run at the other end of a socket."""
    connection = Connection(descriptor)
    line = Line(connection)
    line.take_warnings()
    silence_pil()
    try:
        _Worker(connection, line.say).work()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the run is gone; what was computed is in the cache
    except UsageError as error:
        line.say("usage", str(error))
    except Exception:
        line.say("crash", traceback.format_exc())


if __name__ == "__main__":
    main(int(sys.argv[1]))
