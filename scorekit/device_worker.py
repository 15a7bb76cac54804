"""A process that computes features on one device, for `scorekit.processes`.

``python -m scorekit.device_worker FD`` talks over an inherited socket with the run that started
it, and ends when that run does.
"""

from __future__ import annotations

import pickle
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from scorekit.chunks import Chunk
from scorekit.features import FeatureRun
from scorekit.images import silence_pil
from scorekit.types import UsageError

TELL_EVERY_SECONDS = 0.5


class _Worker:
    """One process's side of the conversation."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told = 0.0
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # Always taken off the socket: while both sides were sending, neither would come to its end.
        threading.Thread(target=self._listen, daemon=True).start()
        needs, options = self._hear()
        self._cache = options.open_cache()
        self._run = FeatureRun(
            needs,
            options,
            self._cache,
            workers=options.workers,
            on_progress=self._tell_progress,
        )
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

    def _say(self, *message: Any) -> None:
        say(self._connection, *message)

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


def say(connection: Connection, *message: Any) -> None:
    """Send a message to the run; its first word tells what it is."""
    connection.send_bytes(pickle.dumps(message))


def main(descriptor: int) -> None:
    """Serve the run at the other end of a socket."""
    connection = Connection(descriptor)
    silence_pil()
    try:
        _Worker(connection).work()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the run is gone; what was computed is in the cache
    except UsageError as error:
        say(connection, "usage", str(error))
    except Exception:
        say(connection, "crash", traceback.format_exc())


if __name__ == "__main__":
    main(int(sys.argv[1]))
