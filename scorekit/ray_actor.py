"""What runs on the nodes of a Ray cluster: rows of paths in, shards of features out."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from scorekit.cache import Cache, MemoryCache
from scorekit.feature_shards import ShardFolder, rows_there_are, run_key
from scorekit.features import FeatureRun
from scorekit.images import silence_pil
from scorekit.run import RunOptions
from scorekit.types import Extracted, Feature, Sample, UsageError

REMEMBERED = 1 << 14
"""Features that an actor keeps for its next rows, where no cache was asked for."""
REMEMBERED_BYTES = 256 << 20
"""As many bytes at most: a detector's or a token model's features are large."""


class Memory(MemoryCache):
    """The latest features, bounded in number and in bytes."""

    def __init__(self) -> None:
        super().__init__(REMEMBERED)

    def put_many(
        self, backbone: str, kind: str, entries: Iterable[tuple[bytes, Extracted]]
    ) -> None:
        """Keep features; the oldest go when they are too many or too large."""
        super().put_many(backbone, kind, entries)
        with self._lock:
            size = sum(entry.array.nbytes for entry in self._entries.values())
            while size > REMEMBERED_BYTES:
                oldest = next(iter(self._entries))
                size -= self._entries.pop(oldest).array.nbytes


@dataclass(frozen=True)
class Job:
    """What every actor of a run is to do.

    Attributes
    ----------
    needs : sequence of Feature
    options : RunOptions
    threads : int
        Its share of the processors.
    folder : str
        Where relative paths start.
    place : str
        Where the shards go.
    key : str
        The run's, as the first node told it; "" while it is not known.
    """

    needs: Sequence[Feature]
    options: RunOptions
    threads: int
    folder: str
    place: str
    key: str = ""


class Extractor:
    """The state of one actor: the backbones, loaded once.

    Nothing is loaded before the first rows come, and no error leaves it but as a value: Ray
    would start an actor again and again that fails at its beginning.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._run: FeatureRun | None = None
        self._folder: ShardFolder | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Compute the features of rows and write them; what there is to say of it, as JSON."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            told = _caught(self._compute, rows)
        told["warnings"] = sorted({str(w.message) for w in caught if w.category is UserWarning})
        return pa.table({"told": [json.dumps(told)]})

    def _compute(self, rows: pa.Table) -> dict[str, Any]:
        if self._run is None or self._folder is None:
            self._folder = ShardFolder(self._job.place, self._job.key)
            self._run = _open(self._job)
            key = run_key(self._run.needs, self._run.infos, self._job.options)
            if key != self._job.key:
                raise UsageError(
                    f"node {socket.gethostname()} has another checkpoint or another release of "
                    "scorekit than the first that answered"
                )
        run, counts = self._run, self._run.counts
        keys = rows.column("row").to_pylist()
        samples: list[Sample] = [pickle.loads(data) for data in rows.column("sample").to_pylist()]
        needs = [need for need in run.needs if rows_there_are(need)]
        written = []
        for chunk in run.chunks(samples):
            results = zip(*(chunk.features[need] for need in needs), strict=True)
            about = {
                "computed": counts.computed,
                "cached": counts.cached,
                "device": run.device(),
                "usage": run.usage(),
            }
            counts.computed = counts.cached = 0
            end = chunk.start + len(chunk.samples)
            written.append(
                self._folder.write(zip(keys[chunk.start : end], results, strict=True), about)
            )
        return {"written": written}


def describe(job: Job) -> dict[str, Any]:
    """What the driver has to know of the backbones, asked of one node."""
    return _caught(_describe, job)


def _describe(job: Job) -> dict[str, Any]:
    run = _open(job)
    return {"infos": run.infos, "labels": run.labels}


def _open(job: Job) -> FeatureRun:
    with contextlib.suppress(OSError):  # a run without relative paths needs no such folder
        os.chdir(job.folder)
    silence_pil()
    _limit_threads(job.threads)
    options = job.options
    # No file unless one was asked for: homes may be shared over a network, where SQLite is not
    # safe, and an actor that is killed would leave a temporary one behind.
    cache: Cache = options.open_cache() if options.cache else Memory()
    return FeatureRun(job.needs, options, cache, workers=min(8, max(2, job.threads)))


def _limit_threads(threads: int) -> None:
    """Keep torch to this actor's processors; where it is never imported, so it stays."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _caught(call: Any, *args: Any) -> dict[str, Any]:
    """What a call returns, or its error as a value."""
    try:
        told: dict[str, Any] = call(*args)
    except UsageError as error:
        return {"usage": str(error)}
    except Exception:
        return {"error": f"on {socket.gethostname()}:\n{traceback.format_exc()}"}
    return told
