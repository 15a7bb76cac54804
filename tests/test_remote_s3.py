"""The same over S3: a server that speaks its protocol, and others that fail in every way."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_remote import keys, scores, upload

from scorekit import remote
from scorekit.images import read_bytes
from scorekit.io import read_samples
from scorekit.run import RunOptions, score_samples
from scorekit.table import ScoreTable, check_writable
from scorekit.types import InputError, UsageError

pytest.importorskip("s3fs", reason='needs s3fs: pip install "scorekit[s3]"')


def speak_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A user's profile, or the role of a machine in a cloud, is none of these stores'.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    remote._made.cache_clear()
    remote._silent_since.clear()


# A store that works -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto_address() -> Iterator[str]:
    server = pytest.importorskip("moto.server", reason="needs moto[s3], flask and flask-cors")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(
    moto_address: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """The URL of a new bucket."""
    speak_to(moto_address, monkeypatch)
    name = re.sub("[^a-z0-9]+", "-", request.node.name)[:60].strip("-")
    remote._filesystem("s3://b").mkdir(name)
    return f"s3://{name}"


def test_objects(bucket: str) -> None:
    for name in ("b.txt", "a/1 ü+?#%.txt", "a/2.txt", "a2/3.txt"):
        remote.write(f"{bucket}/{name}", name.encode())
    remote._filesystem(bucket).touch(f"{bucket}/marker/")  # as consoles make folders
    assert remote.find(bucket) == ["a/1 ü+?#%.txt", "a/2.txt", "a2/3.txt", "b.txt"]
    assert remote.find(f"{bucket}/a") == ["1 ü+?#%.txt", "2.txt"]
    assert remote.read(f"{bucket}/a/1 ü+?#%.txt") == "a/1 ü+?#%.txt".encode()
    before = remote.state(f"{bucket}/b.txt")
    remote.write(f"{bucket}/b.txt", b"other")
    after = remote.state(f"{bucket}/b.txt")
    assert before[0] == after[0] == 5 and before[1] != after[1]
    remote.write(f"{bucket}/none", b"")
    assert remote.read(f"{bucket}/none") == b""
    assert not remote.exists(f"{bucket}/a")
    remote.remove(f"{bucket}/none")
    assert not remote.exists(f"{bucket}/none")


def test_longer_than_one_request(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST", 1000)
    for size in (999, 1000, 1001, 5000):
        data = bytes(range(250)) * 20
        remote.write(f"{bucket}/x", data[:size])
        assert remote.read(f"{bucket}/x", size) == data[:size]
        with pytest.raises(OSError, match=f"{size:,} bytes"):
            remote.read(f"{bucket}/x", size - 1)


def test_scores_of_a_bucket(
    bucket: str, image_folder: Path, tiny_clip: str, tmp_path: Path
) -> None:
    upload(image_folder, f"{bucket}/images")
    listing = read_samples(f"{bucket}/images")
    assert keys(listing) == keys(read_samples(image_folder))
    metric = f"clipscore@{tiny_clip}"
    near = score_samples(
        read_samples(image_folder).samples, [metric], options=RunOptions(cache=False)
    )
    table = score_samples(listing.samples, [metric], options=RunOptions(cache=False, workers=16))
    assert list(table.frame["value"]) == list(near.frame["value"])
    assert table.signatures == near.signatures
    for suffix in (".parquet", ".csv"):
        url = f"{bucket}/out/scores{suffix}"
        check_writable(url)
        table.save(url)
        pd.testing.assert_series_equal(ScoreTable.load(url).frame["value"], table.frame["value"])
    assert remote.find(f"{bucket}/out") == ["scores.csv", "scores.csv.json", "scores.parquet"]


def test_what_is_not_there(bucket: str) -> None:
    with pytest.raises(InputError, match=f"no file {bucket}/none.png"):
        read_bytes(f"{bucket}/none.png")
    with pytest.raises(InputError, match=r"no file s3://no-such-bucket/a.png"):
        read_bytes("s3://no-such-bucket/a.png")
    with pytest.raises(UsageError, match="folder s3://no-such-bucket/x: no such bucket"):
        read_samples("s3://no-such-bucket/x")
    with pytest.raises(UsageError, match=r"no table s3://no-such-bucket/x.csv"):
        ScoreTable.load("s3://no-such-bucket/x.csv")
    for write in (check_writable, scores().save):
        with pytest.raises(UsageError, match=r"can't write .*/x.csv: no such bucket"):
            write("s3://no-such-bucket/x.csv")


def test_an_image_that_vanishes_between_listing_and_reading(
    bucket: str, image_folder: Path, tiny_clip: str
) -> None:
    upload(image_folder, bucket)
    samples = read_samples(bucket).samples
    remote.remove(f"{bucket}/good/2.png")
    table = score_samples(samples, [f"clipscore@{tiny_clip}"], options=RunOptions(cache=False))
    failed = table.failures()
    assert list(failed["note"]) == [f"no file {bucket}/good/2.png"]
    assert list(failed["status"]) == ["missing_image"]


def test_many_threads_at_once(bucket: str) -> None:
    data = {f"{bucket}/{i}": bytes([i]) * (1000 + i) for i in range(100)}
    for url, content in data.items():
        remote.write(url, content)
    remote._made.cache_clear()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(remote.read, list(data) * 3))
    assert found == list(data.values()) * 3
    assert remote._made.cache_info().misses == 1  # one filesystem, with its connections, for all


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes(bucket: str, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    remote.write(f"{bucket}/x", b"data")
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(remote.read, f"{bucket}/x").result(60) == b"data"
    assert remote.read(f"{bucket}/x") == b"data"


class Cutter:
    """Passes a connection on to a server, up to so many bytes of what is sent to it."""

    def __init__(self, address: str, limit: int) -> None:
        self._target = address.removeprefix("http://").split(":")
        self.limit = limit
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                ours, _ = self._socket.accept()
            except OSError:
                return
            theirs = socket.create_connection((self._target[0], int(self._target[1])))
            threading.Thread(target=self._pass, args=(ours, theirs, self.limit)).start()
            threading.Thread(target=self._pass, args=(theirs, ours, 1 << 30)).start()

    def _pass(self, source: socket.socket, sink: socket.socket, left: int) -> None:
        try:
            while left > 0 and (data := source.recv(min(left, 65_536))):
                sink.sendall(data)
                left -= len(data)
        except OSError:
            pass
        for each in (source, sink):
            each.close()

    def close(self) -> None:
        self._socket.close()


def test_half_an_upload_is_never_seen(
    bucket: str, moto_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/scores.parquet"
    scores().save(url)
    before = remote.read(url)
    cutter = Cutter(moto_address, 300_000)
    speak_to(cutter.url, monkeypatch)
    assert remote.read(url) == before  # short requests pass
    monkeypatch.setattr(remote, "TIMEOUT", 1.0)
    monkeypatch.setattr(remote, "SLOWEST", 1e9)
    for name in ("scores.parquet", "new.parquet"):
        with pytest.raises(OSError, match=r"(no answer|error 400) from"):
            remote.write(f"{bucket}/{name}", bytes(1_000_000))
    cutter.close()
    monkeypatch.setattr(remote, "TIMEOUT", 60.0)
    speak_to(moto_address, monkeypatch)
    assert remote.read(url) == before
    assert remote.find(bucket) == ["scores.parquet"]


# Stores that fail -------------------------------------------------------------------------------


class Stub:
    """A store that gives one answer to all, or none."""

    def __init__(self) -> None:
        self.status, self.body, self.length, self.wait = 200, b"", 0, 0.0
        self.count = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.count += 1
                self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.released.wait(outer.wait)
                self.send_response(outer.status)
                self.send_header("content-length", str(outer.length or len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)
                self.close_connection = True

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

            def log_message(self, *args: Any) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()

        self.released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    running = Stub()
    speak_to(running.url, monkeypatch)
    remote._filesystem("s3://b").connect()  # which takes longer than a test should wait for
    yield running
    running.close()


def error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no, key hush</Message></Error>".encode()


def test_denied(stub: Stub) -> None:
    stub.status, stub.body = 403, error("AccessDenied")
    with pytest.raises(InputError) as caught:
        read_bytes("s3://b/a.png")
    assert caught.value.status == "missing_image"
    assert caught.value.note == "no permission to read s3://b/a.png"
    with pytest.raises(UsageError, match="can't read the folder s3://b/x: access denied"):
        read_samples("s3://b/x")
    with pytest.raises(UsageError, match=r"can't read s3://b/x.csv: access denied"):
        read_samples("s3://b/x.csv")
    with pytest.raises(UsageError, match=r"can't write s3://b/x.csv: access denied"):
        check_writable("s3://b/x.csv")
    assert not remote._silent_since


def test_a_store_that_is_broken(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.status, stub.body = 500, error("InternalError")
    monkeypatch.setattr(remote, "TIMEOUT", 2.0)
    with pytest.raises(InputError, match=r"a.png: (no answer|error 500) from s3://b \("):
        read_bytes("s3://b/a.png")
    assert "s3://b" in remote._silent_since


def test_an_object_that_comes_cut_short(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.body, stub.length = b"half", 100
    with pytest.raises(InputError, match="no answer from s3://b"):
        read_bytes("s3://b/a.png")
    assert stub.count > 1  # tried again, and never taken for the whole


def test_a_store_that_stalls(
    stub: Stub, tmp_path: Path, tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.wait = 60.0
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    (tmp_path / "t.csv").write_text("image,text\ns3://b/1.png,a\n")
    samples = read_samples(tmp_path / "t.csv").samples
    metric, options = f"clipscore@{tiny_clip}", RunOptions(cache=False)
    table = score_samples(samples, [metric], options=options)
    assert list(table.frame["note"]) == [
        "can't read s3://b/1.png: no answer from s3://b (timed out)"
    ]
    monkeypatch.setattr(remote, "LISTING_TIMEOUT", 0.2)
    with pytest.raises(UsageError, match=r"the folder s3://b: no answer .*timed out"):
        read_samples("s3://b")
    monkeypatch.setattr(remote, "GIVE_UP", 0.1)
    with pytest.raises(UsageError, match="s3://b has given no good answer for"):
        score_samples(samples, [metric], options=options)


def test_a_store_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TIMEOUT", 1.0)
    with socket.socket() as taken:  # held, so that nobody else takes it, and not listened at
        taken.bind(("127.0.0.1", 0))
        speak_to(f"http://127.0.0.1:{taken.getsockname()[1]}", monkeypatch)
        with pytest.raises(InputError, match="no answer from s3://b"):
            read_bytes("s3://b/a.png")


def test_no_credentials(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    remote._made.cache_clear()
    with pytest.raises(UsageError, match=r"no credentials for s3://b: .*\w"):
        read_bytes("s3://b/a.png")
    assert stub.count == 0
