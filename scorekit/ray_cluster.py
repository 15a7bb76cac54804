"""A Ray cluster to compute on: reached or started, and shared out among actors."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scorekit.feature_shards import GO_ON
from scorekit.interrupts import Terminated
from scorekit.types import UsageError

ANSWER_SECONDS = 10.0
HEAD_SECONDS = 5.0
"""Between two looks whether the head is there, and for its answer."""
CPUS_AN_ACTOR = 4
"""On a cluster without GPUs, where --workers does not say how many actors there are."""
OBJECT_STORE = 512 << 20
"""Bytes for the rows on their way to actors, where Ray is started here; more goes to disk."""


@dataclass(frozen=True)
class Share:
    """How a cluster is shared out.

    Attributes
    ----------
    actors : int
    cpus : int
        Of each actor.
    gpu : bool
        Whether each has a GPU of its own.
    """

    actors: int
    cpus: int
    gpu: bool


@contextmanager
def quiet() -> Iterator[None]:
    """Without Ray's warnings about itself: what matters of them, the run tells."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        yield


@contextmanager
def no_logs() -> Iterator[None]:
    """Without logs of Ray Data.

    Not for quiet alone: the record of an error keeps the error, which keeps actors that are done
    with, and these their CPUs, which the next ones then wait for.
    """
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
        gc.collect()


def import_ray() -> Any:
    """Ray, with its data library.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Below `uv run`, Ray would pack up the working folder and run what lies there on the nodes.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        with quiet():
            import ray
            import ray.data
    except ImportError as error:
        raise UsageError(
            f'the engine ray needs Ray ({error}): pip install "scorekit[ray]"'
        ) from None
    return ray


def connect(ray: Any, address: str | None) -> bool:
    """Connect to a cluster, or start one on this machine; whether it is ours to end.

    A program that has connected already keeps its connection.

    Raises
    ------
    UsageError
        If there is no answer, the cluster runs another version or asks for another token, or
        none can be started here.
    """
    if ray.is_initialized():
        return False
    where = "Ray did not start"
    if address is not None:
        where = f"the Ray cluster at {_reachable(address)} can't be used"
    ended = signal.getsignal(signal.SIGTERM)
    try:
        with quiet(), _no_stderr():
            ray.init(
                # As it was given: for "auto" alone Ray sends the token that lies in the home.
                address=address or "local",
                # Of any other job, Ray puts the working folder first on the actors' search path,
                # and a scorekit.py or pickle.py that lies there is run. In public there is only
                # a working_dir instead, which each node unpacks and makes the actors' folder.
                job_config=ray.job_config.JobConfig(_client_job=True),
                include_dashboard=None if address else False,
                object_store_memory=None if address else OBJECT_STORE,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        ray.shutdown()
        hint = ""
        unset = "RAY_AUTH_MODE" not in os.environ
        if address is not None and isinstance(error, ConnectionError) and unset:
            hint = "; if it asks for a token, set RAY_AUTH_MODE=token"
        raise UsageError(f"{where}: {in_one_line(error)}{hint}") from None
    except SystemExit as stop:  # what Ray makes of SIGTERM while it starts
        ray.shutdown()
        raise Terminated from stop
    except BaseException:
        ray.shutdown()
        raise
    if threading.current_thread() is threading.main_thread() and ended is not None:
        signal.signal(signal.SIGTERM, ended)  # which Ray takes for itself
    # Deaths of workers would be told on stdout, where the table is.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
    return True


def disconnect(ray: Any, *, at_work: bool) -> None:
    """End a connection of `connect`, and the cluster if that started it.

    Parameters
    ----------
    ray
        The module.
    at_work : bool
        Whether a dataset has not come to its end.
    """
    if at_work:  # its threads would start another cluster, as all calls of Ray do without one
        from ray._private import auto_init_hook

        auto_init_hook.enable_auto_connect = False
    ray.shutdown()


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Without what Ray's C++ part says while it starts; its errors are raised all the same."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _reachable(address: str) -> str:
    """HOST:PORT of a cluster that answers: Ray itself would wait for it without end."""
    if "://" in address:
        raise UsageError(
            f"--address is HOST:PORT of a node of the cluster, or auto, not {address}: the run "
            "must be started on a machine of the cluster's network"
        )
    found = address
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        try:
            found = canonicalize_bootstrap_address("auto") or ""
        except (ConnectionError, ValueError):
            found = ""
        if not found:
            raise UsageError("--address auto: no Ray cluster runs on this machine (`ray start`)")
    _, colon, port = found.rpartition(":")
    if not (colon and port.isdigit()):
        raise UsageError(f"--address is HOST:PORT or auto, not {address!r}")
    try:
        _call(found, ANSWER_SECONDS)
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster answers at {found}: {error}") from None
    return found


def _call(address: str, seconds: float) -> None:
    """Connect to HOST:PORT; an OSError if nobody answers."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), seconds).close()


class Head:
    """The head of a cluster: a minute after it has died, Ray ends this process without a word.

    Parameters
    ----------
    address : str
        HOST:PORT. Where nobody answers there from the start (a program may have connected by a
        proxy), nothing is asked any more.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._silent = 0
        self._next = float("inf") if self._is_silent() else 0.0

    def answers(self) -> bool:
        """Whether the head answers, or did so some seconds ago.

        Raises
        ------
        UsageError
            If it does not, at two looks in a row.
        """
        if time.monotonic() >= self._next:
            self._silent = self._silent + 1 if self._is_silent() else 0
            self._next = time.monotonic() + HEAD_SECONDS
        if self._silent > 1:
            raise UsageError(f"the cluster's head does not answer; {GO_ON}")
        return not self._silent

    def _is_silent(self) -> bool:
        try:
            _call(self._address, HEAD_SECONDS)
        except OSError:
            return True
        return False


def share_out(nodes: Sequence[Mapping[str, float]], workers: int | None, device: str) -> Share:
    """Share a cluster out among actors.

    One CPU is left free, on the largest node: actors that hold all of them would wait for ever
    for the rows that nobody is left to hand out.

    Parameters
    ----------
    nodes : sequence of mapping of str to float
        ``CPU`` and ``GPU`` of each.
    workers : int or None
        How many actors; None takes one a GPU, or one for every `CPUS_AN_ACTOR` CPUs.
    device : str

    Raises
    ------
    UsageError
        If there are too few CPUs or GPUs.

    Examples
    --------
    >>> share_out([{"CPU": 8}, {"CPU": 4}], None, "auto")
    Share(actors=2, cpus=4, gpu=False)
    >>> share_out([{"CPU": 16, "GPU": 4}], None, "auto")
    Share(actors=4, cpus=3, gpu=True)
    >>> share_out([{"CPU": 1}], None, "cpu")
    Traceback (most recent call last):
    scorekit.types.UsageError: the engine ray needs 2 CPUs, and the cluster has 1
    """
    if device.startswith("cuda:"):
        raise UsageError("with the engine ray, Ray says which GPU an actor takes: --device cuda")
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if sum(cpus) < 2:
        raise UsageError(f"the engine ray needs 2 CPUs, and the cluster has {sum(cpus)}")
    if device == "cuda" and not sum(gpus):
        raise UsageError("--device cuda: the cluster has no GPU")
    gpu = device in ("auto", "cuda") and sum(gpus) > 0
    cpus[cpus.index(max(cpus))] -= 1

    def room(share: int) -> int:
        """How many actors with so many CPUs there is room for."""
        each = zip(cpus, gpus, strict=True)
        return sum(min(c // share, g) if gpu else c // share for c, g in each)

    most = room(1)
    if most < (workers or 1):
        what = "GPU and a CPU" if gpu else "CPU"
        raise UsageError(
            f"{workers or 1} workers need a {what} each and one CPU must stay free; the cluster "
            f"has {sum(cpus) + 1} CPUs" + (f" and {sum(gpus)} GPUs" if gpu else "")
        )
    if workers is None:
        workers = most if gpu else sum(max(c // CPUS_AN_ACTOR, min(c, 1)) for c in cpus)
    share = next(s for s in range(max(cpus), 0, -1) if room(s) >= workers)
    return Share(workers, share, gpu)


def in_one_line(error: BaseException) -> str:
    """What an error says, at a length that can be read, without the colours that Ray gives it."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return text if len(text) <= 300 else f"{text[:297]}..."
