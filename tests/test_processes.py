"""Several devices on one machine: the same table, and no row lost to a process that dies."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import poison
import pytest
from PIL import Image
from tiny import TEXTS, picture

from scorekit.cache import FeatureCache
from scorekit.device_worker import Line
from scorekit.engine import open_engine
from scorekit.io import read_samples, samples_from
from scorekit.processes import ProcessRun, sum_of
from scorekit.run import RunOptions, score_samples
from scorekit.types import UsageError, image_embedding

TWO = RunOptions(cache=False, device="cpu,cpu")
Ours = Callable[[], set[int]]


def assert_same(a: Any, b: Any) -> None:
    """Two tables that differ in their record and in rounding alone."""
    pd.testing.assert_frame_equal(a.frame, b.frame, check_exact=False, rtol=0, atol=1e-5)
    assert a.signatures == b.signatures


def children_of(pid: int) -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == pid:
            found.add(int(folder.name))
    return found


def environment_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


@pytest.fixture
def ours() -> Ours:
    """The processes that the test has started; other tests may have left helpers behind."""
    before = children_of(os.getpid())
    return lambda: children_of(os.getpid()) - before


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(poison.install(tmp_path / "site")))


def install_family(site: Path, name: str, code: str) -> str:
    """A family beside poison's, of this code; its name."""
    (site / f"{name}.py").write_text(code)
    with (site / "poison-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write(f"{name} = {name}:load\n")
    return name


def images_with_red(n: int, red: set[int]) -> list[Image.Image]:
    colours = [poison.RED if i in red else (i % 200, 90, (7 * i) % 256) for i in range(n)]
    return [Image.new("RGB", (8, 8), colour) for colour in colours]


def test_the_same_table_as_in_one_process(image_folder: Path, tiny_clip: str) -> None:
    (image_folder / "good" / "0.png").write_bytes(b"")
    (image_folder / "bad" / "3.png").unlink()
    samples = read_samples(image_folder).samples
    metrics = ["clipscore", "retrieval", "psnr"]
    here = score_samples(samples, metrics, backbone=tiny_clip, options=RunOptions(cache=False))
    there = score_samples(samples, metrics, backbone=tiny_clip, options=TWO)
    assert_same(here, there)
    assert set(there.frame["status"]) == {
        "ok", "unreadable_image", "missing_image", "missing_input"
    }  # fmt: skip
    assert there.run["device"] == here.run["device"] == "cpu"
    computed = [table.run["counts"]["features_computed"] for table in (here, there)]
    # A text of two processes may be computed by both: each metric has its own prefix.
    assert computed[0] == 6 + 2 * len(TEXTS)
    assert computed[0] <= computed[1] <= computed[0] + 2 * len(TEXTS)


def test_images_in_memory_and_batch_sizes(tiny_clip: str) -> None:
    import torch

    images: list[Any] = [picture(i) for i in range(5)]
    images[1] = torch.tensor(np.asarray(images[1])).permute(2, 0, 1)
    samples = samples_from(images, [TEXTS[i % 4] for i in range(5)])
    here = score_samples(samples, "clipscore", backbone=tiny_clip, options=RunOptions(cache=False))
    options = RunOptions(cache=False, device="cpu,cpu", batch_size=2)
    assert_same(here, score_samples(samples, "clipscore", backbone=tiny_clip, options=options))


def test_they_share_the_cache(image_folder: Path, tiny_clip: str, tmp_path: Path) -> None:
    samples = read_samples(image_folder).samples
    options = RunOptions(cache=tmp_path / "cache", device="cpu,cpu")
    first = score_samples(samples, "clipscore", backbone=tiny_clip, options=options)
    again = score_samples(samples, "clipscore", backbone=tiny_clip, options=options)
    assert first.run["counts"]["features_computed"] >= 12
    assert again.run["counts"]["features_computed"] == 0
    assert again.run["device"] == "none (all features from the cache)"
    assert_same(first, again)


@pytest.mark.usefixtures("poisoned")
def test_a_temporary_cache_is_shared_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with FeatureCache(None) as cache:
        run = open_engine([image_embedding("poison:x")], TWO, cache)
        next(run.chunks(samples_from(images_with_red(40, set()), TEXTS[0])))
        assert cache.info().entries >= 5  # a chunk's
        run.close()  # as after Ctrl-C: the processes are killed
        assert list(tmp_path.glob("scorekit-*")) == [cache.path.parent]
    assert list(tmp_path.glob("scorekit-*")) == []


@pytest.mark.usefixtures("poisoned")
def test_without_room_for_a_temporary_file_the_processes_keep_to_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", "/proc/self")
    with FeatureCache(None) as cache:
        assert str(cache.path) == ":memory:"
        run = open_engine([image_embedding("poison:x")], TWO, cache)
        list(run.chunks(samples_from(images_with_red(5, set()), TEXTS[0])))
    assert run.counts.computed == 5
    assert list(tmp_path.glob("*.sqlite*")) == []


@pytest.mark.usefixtures("poisoned")
def test_a_row_that_kills_its_process_costs_that_row() -> None:
    samples = samples_from(images_with_red(40, {0, 17}), "some text")
    told: list[tuple[int, int]] = []
    table = score_samples(
        samples,
        "clipscore",
        backbone="poison:all",
        options=TWO,
        progress=lambda done, total: told.append((done, total)),
    )
    failed = table.failures()
    assert list(failed.index) == [0, 17]
    assert set(failed["status"]) == {"failed"}
    assert set(failed["note"]) == {
        "the process that scored this row was ended by SIGKILL (out of memory?), twice"
    }
    assert table.mean("clipscore").n == 38
    assert told[-1] == (40, 40)
    assert max(done for done, _ in told) == 40


@pytest.mark.usefixtures("poisoned")
def test_a_process_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    samples = samples_from(images_with_red(40, {20}), "some text")
    name = f"poison:once/{tmp_path}"
    table = score_samples(samples, "clipscore", backbone=name, options=TWO)
    assert (tmp_path / "killed").exists()
    assert len(table.failures()) == 0


@pytest.mark.usefixtures("poisoned")
def test_a_process_that_is_killed_while_it_loads_is_started_anew(tmp_path: Path) -> None:
    samples = samples_from(images_with_red(40, set()), "some text")
    options = RunOptions(cache=False, device="cpu,cpu:0")
    name = f"poison:stillborn/2/{tmp_path}"
    table = score_samples(samples, "clipscore", backbone=name, options=options)
    assert (tmp_path / "death2").exists()
    assert table.mean("clipscore").n == 40


@pytest.mark.usefixtures("poisoned")
def test_a_process_that_never_loads_ends_the_run(tmp_path: Path, ours: Ours) -> None:
    samples = samples_from(images_with_red(40, set()), "some text")
    options = RunOptions(cache=False, device="cpu,cpu:0")
    name = f"poison:stillborn/9/{tmp_path}"
    with pytest.raises(UsageError, match=r"on cpu:0 was ended by SIGKILL .* while it started"):
        score_samples(samples, "clipscore", backbone=name, options=options)
    assert len(list(tmp_path.glob("death*"))) == 3
    assert ours() == set()


RECALLED = """
from dataclasses import replace
import poison
from scorekit.backbones.handle import state_of

def load(spec, options):
    model = poison.load(spec, options)
    model.info = replace(model.info, files=(state_of(__file__),))
    return model
"""
"""As poison, with a file: a later process takes from the cache what is known of the model."""


@pytest.mark.usefixtures("poisoned")
def test_no_row_is_blamed_where_loading_what_the_cache_knows_kills(
    tmp_path: Path, ours: Ours
) -> None:
    name = install_family(tmp_path / "site", "recalled", RECALLED)
    samples = samples_from(images_with_red(40, set()), "some text")
    options = RunOptions(cache=tmp_path / "cache", device="cpu,cpu:0")
    with pytest.raises(UsageError, match=r"on cpu:0 was ended by SIGKILL .* while it started"):
        score_samples(
            samples, "clipscore", backbone=f"{name}:stillborn/9/{tmp_path}", options=options
        )
    assert ours() == set()


LOUD = """
import warnings
import poison

class Ours(FutureWarning):
    pass

class Loud(poison.Poison):
    def prepare(self, feature, image):  # on a thread that reads
        warnings.warn("too bright")
        return super().prepare(feature, image)

    def extract(self, feature, inputs, *, batch_size=None):
        warnings.warn("gone in the next release", Ours)
        return super().extract(feature, inputs)

def load(spec, options):
    warnings.simplefilter("always")
    return Loud(spec.name, options.device)
"""


@pytest.mark.usefixtures("poisoned")
def test_what_several_processes_warn_of_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = install_family(tmp_path / "site", "loud", LOUD)
    (tmp_path / "file").touch()
    samples = samples_from(images_with_red(12, set()), "some text")
    options = RunOptions(cache=tmp_path / "file", device="cpu,cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = score_samples(samples, "clipscore", backbone=f"{name}:x", options=options)
    assert table.mean("clipscore").n == 12
    said = sorted((str(w.message).partition(" (")[0], w.category) for w in caught)
    assert said == [
        ("gone in the next release", FutureWarning),
        (f"no cache at {tmp_path / 'file'}", UserWarning),
        ("too bright", UserWarning),
    ]
    assert capfd.readouterr().err == ""
    assert table.run["arguments"]["cache"] == str(tmp_path / "file")


class _Slow:
    """A connection that takes its time, and has a finalizer warn meanwhile."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.under_way = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def send_bytes(self, data: bytes) -> None:
        self.under_way += 1
        assert self.under_way == 1
        self.meanwhile()
        time.sleep(0.001)
        self.sent.append(pickle.loads(data))
        self.under_way -= 1


def test_messages_of_several_threads_are_sent_one_after_another() -> None:
    connection = _Slow()
    line = Line(connection)  # type: ignore[arg-type]
    finalizer = iter(range(20))

    def warn() -> None:
        if next(finalizer, None) is not None:
            line.say("amid", "another")

    connection.meanwhile = warn
    threads = [
        threading.Thread(target=lambda i=i: [line.say(i, k) for k in range(20)])  # type: ignore[misc]
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connection.sent.count(("amid", "another")) == 20
    for i in range(4):
        assert [k for who, k in connection.sent if who == i] == list(range(20))


@pytest.mark.usefixtures("poisoned")
def test_when_every_row_kills_the_run_ends(ours: Ours) -> None:
    samples = samples_from(images_with_red(200, set(range(200))), "some text")
    with pytest.raises(UsageError, match=r"processes died 9 times on end, .*SIGKILL"):
        score_samples(samples, "clipscore", backbone="poison:all", options=TWO)
    assert ours() == set()


@pytest.mark.parametrize(
    ("device", "backbone", "said"),
    [
        ("cpu,cuda:77", "scenes-clip", "no device 'cuda:77' here"),
        ("cpu,banana", "scenes-clip", "device is auto, cpu, cuda, cuda:N or mps, not 'banana'"),
        ("cpu,", "scenes-clip", "not ''"),
        ("cpu,cpu", "hf:./no-such-folder", "no-such-folder"),
    ],
)
def test_mistakes_are_one_line(device: str, backbone: str, said: str, ours: Ours) -> None:
    # So many that the other device is not done with them before this one is complained of.
    samples = samples_from([picture(i) for i in range(2000)], TEXTS[0])

    def run() -> None:
        options = RunOptions(cache=False, device=device)
        score_samples(samples, "clipscore", backbone=backbone, options=options)

    with pytest.raises(UsageError, match=said):
        run()
    assert ours() == set()


def test_a_process_that_dies_at_once_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UsageError, match="the process on cpu ended with exit code 1 while it st"):
        ProcessRun([image_embedding("scenes-clip")], TWO)


def test_processes_end_when_the_table_is_given_up(tiny_clip: str, ours: Ours) -> None:
    run = ProcessRun([image_embedding(tiny_clip)], TWO)
    chunks = run.chunks(samples_from([picture(i) for i in range(40)], TEXTS[0]))
    next(chunks)
    assert len(ours()) == 2
    run.close()
    assert ours() == set()


@pytest.mark.usefixtures("poisoned")
def test_both_sides_may_have_much_to_say() -> None:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (48, 160, 160, 3), dtype=np.uint8))  # 77 kB each
    samples = samples_from(images, "some text")
    table = score_samples(samples, "clipscore", backbone="poison:wide", options=TWO)
    assert table.mean("clipscore").n == 48


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", ["farewell", "late"])
def test_what_happens_after_the_last_row_costs_nothing(name: str, ours: Ours) -> None:
    samples = samples_from(images_with_red(12, set()), "some text")
    options = RunOptions(cache=False, device="cpu,cpu:0")
    table = score_samples(samples, "clipscore", backbone=f"poison:{name}", options=options)
    assert table.mean("clipscore").n == 12
    assert ours() == set()


@pytest.mark.usefixtures("poisoned")
def test_two_models_of_one_name_make_no_table(ours: Ours) -> None:
    samples = samples_from(images_with_red(3000, set()), "some text")
    options = RunOptions(cache=False, device="cpu,cpu:0")
    with pytest.raises(UsageError, match="loaded another checkpoint than the first"):
        score_samples(samples, "clipscore", backbone="poison:twofaced", options=options)
    assert ours() == set()


def test_modules_in_the_working_folder_are_not_run(
    image_folder: Path, tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image_folder / "pickle.py").write_text("open('fired', 'w')\nraise SystemExit\n")
    monkeypatch.chdir(image_folder)
    samples = read_samples(image_folder).samples
    table = score_samples(samples, "clipscore", backbone=tiny_clip, options=TWO)
    assert table.mean("clipscore").n == len(samples)
    assert not (image_folder / "fired").exists()


def _command(folder: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "scorekit.cli", "score", str(folder), "-q", "--text", "some text",
        "--backbone", f"poison:slow/{folder / 'slow'}", "--device", "cpu,cpu", "--out", str(out),
    ]  # fmt: skip


def _many_images(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        Image.new("RGB", (8, 8), (i % 256, i // 256, 7)).save(folder / f"{i}.png")
    (folder / "slow").touch()
    return folder


def _start(command: list[str], tmp_path: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(poison.install(tmp_path / "site")), str(Path(__file__).parent)])
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background may have been told to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _wait_for_children(pid: int) -> set[int]:
    for _ in range(2400):
        if len(found := children_of(pid)) == 2:
            time.sleep(2)
            return found
        time.sleep(0.05)
    raise AssertionError("no processes were started")


def _gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_run_leaves_no_process_and_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    folder, out = _many_images(tmp_path / "images", 2000), tmp_path / "scores.csv"
    run = _start(_command(folder, out), tmp_path)
    children = _wait_for_children(run.pid)
    run.send_signal(how)
    _, said = run.communicate(timeout=60)
    if how == signal.SIGINT:
        assert run.returncode == 130
        assert "interrupted" in said
        assert "Traceback" not in said
    deadline = threading.Event()
    for _ in range(300):
        if all(map(_gone, children)):
            break
        deadline.wait(0.1)
    assert all(map(_gone, children))
    assert not out.exists()
    (folder / "slow").unlink()
    again = _start(_command(folder, out), tmp_path)
    _, said = again.communicate(timeout=120)
    assert (again.returncode, said) == (0, "")
    assert len(pd.read_csv(out)) == 2000


def test_use_of_endpoints_is_added_up() -> None:
    a = {"judge": {"calls": 2, "cost": 0.5, "price_per_million": [1, 2]}, "x": {"cost": None}}
    b = {"judge": {"calls": 3, "cost": 0.25, "price_per_million": [1, 2]}, "x": {"cost": 1.0}}
    assert sum_of(sum_of({}, a), b) == {
        "judge": {"calls": 5, "cost": 0.75, "price_per_million": [1, 2]},
        "x": {"cost": None},
    }
    assert sum_of(b, a)["x"] == {"cost": None}
    refused = [{"not_accepted": ["seed"]}, {"not_accepted": ["logprobs"]}]
    assert sum_of(*refused) == {"not_accepted": ["logprobs", "seed"]}


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("concurrency", "shares"),
    [("", [2, 3, 3]), ("4", [1, 1, 2]), ("2", [1, 1, 1]), ("0", [0] * 3), ("2.5", [2.5] * 3)],
)
def test_the_limits_of_endpoints_are_the_runs(
    concurrency: str, shares: list[float], monkeypatch: pytest.MonkeyPatch, ours: Ours
) -> None:
    """Each process asks at least one at a time; who asks complains of what makes no sense."""
    monkeypatch.setenv("SCOREKIT_ENDPOINT_CONCURRENCY", concurrency)
    monkeypatch.setenv("SCOREKIT_ENDPOINT_RPM", "30")
    options = RunOptions(cache=False, device="cpu,cpu,cpu")
    run = ProcessRun([image_embedding("poison:x")], options)
    told = [environment_of(pid) for pid in ours()]
    run.close()
    assert sorted(float(env["SCOREKIT_ENDPOINT_CONCURRENCY"]) for env in told) == shares
    sound = concurrency not in ("0", "2.5")
    assert [env["SCOREKIT_ENDPOINT_RPM"] for env in told] == ["10.0" if sound else "30"] * 3
