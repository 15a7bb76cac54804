"""A hub that stalls: one clear line after a while, and no endless wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from faults.harness import ended, make_images
from tiny import make_clip

REPO, COMMIT = "someone/tiny-clip", "c" * 40
WEIGHTS = "model.safetensors"


class Hub:
    """A repository on the loopback interface.

    Attributes
    ----------
    silent_at : str or None
        Part of a path, with its method, from which on nothing is answered.
    piece : int or None
        The weights come this many bytes at a time; each piece calls `between`, which says
        whether to go on, to fall silent, or to drop the connection.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {p.name: p.read_bytes() for p in folder.iterdir()}
        self.silent_at: str | None = None
        self.piece: int | None = None
        self.between: Callable[[int], str] = lambda sent: "go on"
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                outer.answer(self)

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if self.silent_at is not None and self.silent_at in f"{request.command} {request.path}":
            self.released.wait()
            request.close_connection = True
            return
        path = request.path.partition("?")[0]
        if path.startswith("/api/") and "/tree/" in path:
            sizes = {name: len(data) for name, data in self.files.items()}
            listed = [{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes.items()]
            self._send(request, json.dumps(listed).encode())
        elif path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings}
            self._send(request, json.dumps(about).encode())
        elif "/resolve/" in path:
            name = path.rpartition("/")[2]
            if name not in self.files:
                request.send_error(404)
                return
            self._send(request, self.files[name], name)
        else:
            self._send(request, b"")

    def _send(self, request: BaseHTTPRequestHandler, data: bytes, name: str = "") -> None:
        start = 0
        if given := request.headers.get("range"):
            start = int(given.removeprefix("bytes=").partition("-")[0])
        request.send_response(206 if start else 200)
        request.send_header("content-length", str(len(data) - start))
        if start:
            request.send_header("content-range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if name:
            request.send_header("etag", f'"{name}"')
            request.send_header("x-repo-commit", COMMIT)
        request.end_headers()
        if request.command == "HEAD":
            return
        step = self.piece if name == WEIGHTS and self.piece else len(data) + 1
        for at in range(start, len(data), step):
            word = self.between(at) if name == WEIGHTS else "go on"
            if word == "fall silent":
                self.released.wait()
            if word != "go on":
                request.close_connection = True
                return
            request.wfile.write(data[at : at + step])
            request.wfile.flush()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    make_images(folder / "images", 4)
    make_clip(folder / "checkpoint")
    return folder


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    running = Hub(folder / "checkpoint")
    yield running
    running.close()


def start(hub: Hub, folder: Path, home: Path, timeout: int = 1) -> subprocess.Popen[str]:
    """Start a run that has never seen the checkpoint."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "scorekit.cli", "score", folder / "images"),
            *("--backbone", f"hf:{REPO}", "--no-cache", "-q"),
        ],
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DOWNLOAD_TIMEOUT": str(timeout),
            "HF_HUB_ETAG_TIMEOUT": str(timeout),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_one_line(process: subprocess.Popen[str]) -> None:
    """Assert that a run ends, with one line for its user after what the hub's client says."""
    code, errors = ended(process)
    assert code == 2, errors
    *_, line = errors.splitlines()
    assert line.startswith(f"error: no checkpoint hf:{REPO}: it is not in ")
    assert "can't be reached" in line
    assert "use scenes-clip" in line


@pytest.mark.faults
def test_a_hub_that_falls_silent(folder: Path, tmp_path: Path) -> None:
    """At once, or when it is asked for its files, for a file's head, for a file."""
    hubs, runs = [], []
    # All at a time: what is tested is mostly waiting.
    for silent_at in ("HEAD /", "/tree/", "HEAD /someone", f"GET /{REPO}/resolve"):
        hubs.append(Hub(folder / "checkpoint"))
        hubs[-1].silent_at = silent_at
        runs.append(start(hubs[-1], folder, tmp_path / str(len(hubs))))
    try:
        for run in runs:
            assert_one_line(run)
    finally:
        for hub in hubs:
            hub.close()
        for run in runs:
            run.kill()


@pytest.mark.faults
@pytest.mark.parametrize("word", ["fall silent", "drop"])
def test_a_hub_that_never_gets_past_a_point(
    hub: Hub, folder: Path, tmp_path: Path, word: str
) -> None:
    hub.piece = 20_000
    hub.between = lambda sent: "go on" if sent < 40_000 else word
    assert_one_line(start(hub, folder, tmp_path))
    assert not list(tmp_path.rglob(WEIGHTS))  # half a file is no file


@pytest.mark.faults
@pytest.mark.parametrize("word", ["fall silent", "drop"])
def test_a_hub_that_falters_once(hub: Hub, folder: Path, tmp_path: Path, word: str) -> None:
    """The download goes on where it was, and the weights are whole."""
    faltered: list[int] = []

    def between(sent: int) -> str:
        if sent >= 40_000 and not faltered:
            faltered.append(sent)
            return word
        return "go on"

    hub.piece, hub.between = 20_000, between
    # A machine may be busy for a second between two pieces, and has not stalled.
    code, errors = ended(start(hub, folder, tmp_path, timeout=5))
    assert code == 0, errors
    assert faltered
    for weights in (tmp_path / "hub").rglob(WEIGHTS):
        assert weights.read_bytes() == hub.files[WEIGHTS]
