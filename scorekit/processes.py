"""Features on several devices of one machine, by a process for each. No torch here.

The processes share the feature cache and take chunks as they finish their last ones. One that
dies costs its rows a second try, in smaller and smaller parts: a row that kills a process by
itself, twice, has failed, and no other has. One that is killed while it loads is started anew,
where another could load the same. They share the limits of endpoints, and what several of them
warn of is said once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from scorekit.backbones.endpoint_client import Settings
from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.spec import BackboneSpec
from scorekit.chunks import Chunk, Counts, chunk_size, union_of
from scorekit.images import is_tensor
from scorekit.inputs import IMAGE_FIELDS
from scorekit.run import RunOptions
from scorekit.types import Feature, InputError, Sample, UsageError

AHEAD = 2  # one to compute, one to read
PARTS = 8  # what a process died of is tried again in so many parts
TRIES = 2  # of a row alone
MAX_STILLBORN = 3
"""So often a device's process may be killed while it loads what another has loaded."""
MAX_DEATHS_IN_A_ROW = 8
"""So many deaths without a finished chunk between them are the machine's fault, not a row's."""


@dataclass
class _Process:
    """One process and the chunks that it has been given."""

    place: int
    device: str
    popen: subprocess.Popen[bytes]
    connection: Connection
    ready: bool = False
    given: deque[Chunk] = field(default_factory=deque)
    suspected: bool = False
    at: int = 0

    def send(self, message: Any) -> None:
        """Tell the process something; a dead one is found out when it is listened to."""
        # Not by `Connection.send`, whose pickler lends tensors by file descriptors.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(pickle.dumps(message))


class ProcessRun:
    """Computes a run's features in one process for each device.

    Parameters
    ----------
    needs : sequence of Feature
    options : RunOptions
        `device` names several devices.
    on_progress : callable, optional
        Called with the number of samples that are done.

    Raises
    ------
    UsageError
        If the processes can't be started, or the first that answers has no such checkpoint.
    """

    def __init__(
        self,
        needs: Sequence[Feature],
        options: RunOptions,
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        if os.name != "posix":
            raise UsageError("several devices need a POSIX system; give one device")
        self.counts = Counts()
        self.infos: Mapping[str, BackboneInfo] = {}
        self._needs = union_of(needs)
        names = dict.fromkeys(str(need.backbone) for need in self._needs)
        self.labels = {name: BackboneSpec.parse(name).label for name in names}
        self._options = options
        self._on_progress = on_progress or (lambda done: None)
        self._devices: dict[str, None] = {}
        self._usage: dict[str, Any] = {}
        self._warned: set[str] = set()
        self._finished = self._deaths = 0
        self._ending = False
        self._stillborn: Counter[str] = Counter()
        self._tries: dict[int, int] = {}
        self._todo: deque[Chunk] = deque()
        self._suspects: deque[Chunk] = deque()
        self._processes: list[_Process] = []
        try:
            for place in range(len(options.devices)):
                self._processes.append(self._start(place))
            while not any(process.ready for process in self._processes):
                self._hear_all()
        except BaseException:
            self.close()
            raise

    def chunks(self, samples: Sequence[Sample]) -> Iterator[Chunk]:
        """Consecutive samples with their features, as the processes finish them."""
        size = self._size(len(samples))
        self._todo.extend(
            Chunk(start, list(samples[start : start + size]))
            for start in range(0, len(samples), size)
        )
        self._finished = 0
        while self._todo or self._suspects or any(p.given for p in self._processes):
            self._give()
            for chunk in self._hear_all():
                self._finished += len(chunk.samples)
                self._tell()
                yield chunk
        for process in list(self._processes):
            if process.ready:
                process.send(None)
            else:  # it is still loading what nobody needs any more
                self._end(process)
        self._ending = True
        while self._processes:
            self._hear_all()

    def device(self) -> str:
        """The devices that computed features, or "" where all came from the cache."""
        return ", ".join(self._devices)

    def usage(self) -> dict[str, Any]:
        """Calls, tokens and cost of the endpoints that were asked, by backbone."""
        return self._usage

    def close(self) -> None:
        """End the processes; what they have computed is in the cache."""
        while self._processes:
            self._end(self._processes[0])

    def _end(self, process: _Process) -> None:
        process.popen.kill()
        self._dismiss(process)

    def _size(self, n: int) -> int:
        """Samples a chunk: such that each process has several, and a last one is not long."""
        cuda = any(device.startswith("cuda") for device in self._options.devices)
        most = chunk_size(self._needs, self._options, on_cpu=not cuda)
        return max(self._options.batch_size or 1, min(most, -(-n // (4 * len(self._processes)))))

    def _start(self, place: int, *, load: bool = False) -> _Process:
        """Start the process of a device; `load` if it is to load its models before it is ready."""
        ours, theirs = socket.socketpair()
        with theirs:
            # Not by `multiprocessing`, which would run the caller's script again.
            popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "scorekit.device_worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=self._environment(place),
                start_new_session=True,  # Ctrl-C is for the run to handle
            )
        device = self._options.devices[place]
        process = _Process(place, device, popen, Connection(ours.detach()))
        options = replace(self._options, device=device, workers=self._readers())
        process.send((self._needs, options, load))
        return process

    def _readers(self) -> int:
        """Threads that read, for each process."""
        if self._options.workers is not None:
            return self._options.workers
        return max(1, min(8, (os.cpu_count() or 1) // len(self._options.devices)))

    def _environment(self, place: int) -> dict[str, str]:
        path = os.pathsep.join(filter(None, sys.path))
        shares = _endpoint_shares(place, len(self._options.devices))
        out = {**os.environ, **shares, "PYTHONPATH": path}
        sharing = sum(name == "auto" or name[:3] == "cpu" for name in self._options.devices)
        if sharing > 1:
            out.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // sharing)))
        return out

    def _give(self) -> None:
        """Give each process what to do, and what to read meanwhile; a suspect goes alone."""
        for process in self._processes:
            if not process.ready or (process.given and process.suspected):
                continue
            process.suspected = bool(self._suspects) and not process.given
            queue, most = (self._suspects, 1) if process.suspected else (self._todo, AHEAD)
            while queue and len(process.given) < most:
                if not process.given:
                    process.at = queue[0].start
                chunk = queue.popleft()
                process.given.append(chunk)
                process.send(replace(chunk, samples=list(map(_portable, chunk.samples))))

    def _hear_all(self) -> list[Chunk]:
        """Wait until a process says something; the chunks that are done."""
        done: list[Chunk] = []
        heard = wait([process.connection for process in self._processes])
        for process in [p for p in self._processes if p.connection in heard]:
            try:
                message = pickle.loads(process.connection.recv_bytes())
            except (EOFError, OSError):
                done += self._bury(process)
            else:
                done += self._hear(process, *message)
        return done

    def _hear(self, process: _Process, what: str, *rest: Any) -> list[Chunk]:
        if what == "ready":
            process.ready = True
            (infos,) = rest
            if self.infos and _fingerprints(infos) != _fingerprints(self.infos):
                raise UsageError(
                    f"the process on {process.device} loaded another checkpoint than the first: "
                    "it changed while it was in use; run again"
                )
            self.infos = infos
        elif what == "at":
            (process.at,) = rest
            self._tell()
        elif what == "done":
            rows, (computed, cached) = rest
            chunk = process.given.popleft()
            self._deaths = 0
            process.at = process.given[0].start if process.given else 0
            chunk.features.update(zip(self._needs, rows, strict=True))
            self.counts.computed += computed
            self.counts.cached += cached
            return [chunk]
        elif what == "end":
            device, usage = rest
            self._devices.update(dict.fromkeys(filter(None, [device])))
            self._usage = sum_of(self._usage, usage)
            self._dismiss(process)
        elif what == "warn":
            category, text = rest
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(text, category, stacklevel=2)
        elif what == "usage":
            raise UsageError(rest[0])
        else:
            raise RuntimeError(f"the process on {process.device} failed:\n{rest[0]}")
        return []

    def _tell(self) -> None:
        part = sum(max(0, p.at - p.given[0].start) for p in self._processes if p.given)
        self._on_progress(self._finished + part)

    def _dismiss(self, process: _Process) -> None:
        process.connection.close()
        process.popen.wait()
        self._processes.remove(process)

    def _bury(self, process: _Process) -> list[Chunk]:
        """Start another process in a dead one's place; the chunks that are given up."""
        self._dismiss(process)
        if self._ending:
            return []
        how = _how(process.popen.returncode)
        self._deaths += 1
        if not process.ready:
            self._stillborn[process.device] += 1
            # The checkpoint itself is sound if another could load it.
            killed = process.popen.returncode < 0 and self.infos
            if not killed or self._stillborn[process.device] == MAX_STILLBORN:
                raise UsageError(f"the process on {process.device} {how} while it started")
        if self._deaths > MAX_DEATHS_IN_A_ROW:
            raise UsageError(
                f"processes died {self._deaths} times on end, the last on {process.device} "
                f"{how}; what was computed is in the cache"
            )
        given_up = []
        for chunk in process.given:
            size = -(-len(chunk.samples) // PARTS)
            if process.suspected and len(chunk.samples) == 1:
                self._tries[chunk.start] = self._tries.get(chunk.start, 0) + 1
            if self._tries.get(chunk.start, 0) < TRIES:
                self._suspects.extend(
                    Chunk(chunk.start + i, chunk.samples[i : i + size])
                    for i in range(0, len(chunk.samples), size)
                )
            else:
                error = InputError("failed", f"the process that scored this row {how}, twice")
                given_up.append(replace(chunk, features={n: [error] for n in self._needs}))
        # A model that the cache knows of is else loaded when the first row wants it, and a row
        # would be blamed where loading kills.
        self._processes.append(self._start(process.place, load=True))
        return given_up


def _fingerprints(infos: Mapping[str, BackboneInfo]) -> dict[str, str]:
    return {name: info.fingerprint for name, info in infos.items()}


def _endpoint_shares(place: int, n: int) -> dict[str, str]:
    """The part of a run's limits that the process in this place, of `n`, has for endpoints."""
    try:
        settings = Settings.from_environment()
    except UsageError:  # for a process to say that asks an endpoint
        return {}
    share = settings.concurrency // n + (place < settings.concurrency % n)
    out = {"SCOREKIT_ENDPOINT_CONCURRENCY": str(max(1, share))}
    if settings.rpm is not None:
        out["SCOREKIT_ENDPOINT_RPM"] = str(settings.rpm / n)
    return out


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _portable(sample: Sample) -> Sample:
    """A sample that another process can read: tensors leave their device."""
    moved: dict[str, Any] = {}
    for name in IMAGE_FIELDS:
        given = getattr(sample, name)
        if isinstance(given, tuple):
            if any(map(is_tensor, given)):
                moved[name] = tuple(i.detach().cpu() if is_tensor(i) else i for i in given)
        elif is_tensor(given):
            moved[name] = given.detach().cpu()
    return replace(sample, **moved) if moved else sample


def sum_of(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Two processes' use of endpoints together: numbers are added, and lists united.

    What one of them does not know (a cost without a price) is not known of both.
    """
    out = dict(a)
    for key, value in b.items():
        if key not in a:
            out[key] = value
        elif a[key] is None or value is None:
            out[key] = None
        elif isinstance(value, Mapping):
            out[key] = sum_of(a[key], value)
        elif isinstance(value, int | float):
            out[key] = a[key] + value
        elif key == "not_accepted":
            out[key] = sorted({*a[key], *value})
    return out
