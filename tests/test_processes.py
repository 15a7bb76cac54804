"""Several devices on one machine: the same table, and no row lost to a process that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import poison
import pytest
from PIL import Image
from tiny import TEXTS, picture

from scorekit.io import read_samples, samples_from
from scorekit.processes import ProcessRun, sum_of
from scorekit.run import RunOptions, score_samples
from scorekit.types import UsageError, image_embedding

TWO = RunOptions(cache=False, device="cpu,cpu")


def assert_same(a: Any, b: Any) -> None:
    """Two tables that differ in their record and in rounding alone."""
    pd.testing.assert_frame_equal(a.frame, b.frame, check_exact=False, rtol=0, atol=1e-6)
    assert a.signatures == b.signatures


def children_of(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == pid:
            found.append(int(folder.name))
    return found


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(poison.install(tmp_path / "site")))


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
def test_a_process_that_never_loads_ends_the_run(tmp_path: Path) -> None:
    samples = samples_from(images_with_red(40, set()), "some text")
    options = RunOptions(cache=False, device="cpu,cpu:0")
    name = f"poison:stillborn/9/{tmp_path}"
    with pytest.raises(UsageError, match=r"on cpu:0 was ended by SIGKILL .* while it started"):
        score_samples(samples, "clipscore", backbone=name, options=options)
    assert len(list(tmp_path.glob("death*"))) == 3
    assert children_of(os.getpid()) == []


@pytest.mark.usefixtures("poisoned")
def test_when_every_row_kills_the_run_ends() -> None:
    samples = samples_from(images_with_red(200, set(range(200))), "some text")
    with pytest.raises(UsageError, match=r"processes died 9 times on end, .*SIGKILL"):
        score_samples(samples, "clipscore", backbone="poison:all", options=TWO)
    assert children_of(os.getpid()) == []


@pytest.mark.parametrize(
    ("device", "backbone", "said"),
    [
        ("cpu,cuda:77", "scenes-clip", "no device 'cuda:77' here"),
        ("cpu,banana", "scenes-clip", "device is auto, cpu, cuda, cuda:N or mps, not 'banana'"),
        ("cpu,", "scenes-clip", "not ''"),
        ("cpu,cpu", "hf:./no-such-folder", "no-such-folder"),
    ],
)
def test_mistakes_are_one_line(device: str, backbone: str, said: str) -> None:
    samples = samples_from([picture(i) for i in range(40)], TEXTS[0])

    def run() -> None:
        options = RunOptions(cache=False, device=device)
        score_samples(samples, "clipscore", backbone=backbone, options=options)

    with pytest.raises(UsageError, match=said):
        run()
    assert children_of(os.getpid()) == []


def test_a_process_that_dies_at_once_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UsageError, match="the process on cpu ended with exit code 1 while it st"):
        ProcessRun([image_embedding("scenes-clip")], TWO)


def test_processes_end_when_the_table_is_given_up(tiny_clip: str) -> None:
    run = ProcessRun([image_embedding(tiny_clip)], TWO)
    chunks = run.chunks(samples_from([picture(i) for i in range(40)], TEXTS[0]))
    next(chunks)
    assert len(children_of(os.getpid())) == 2
    run.close()
    assert children_of(os.getpid()) == []


@pytest.mark.usefixtures("poisoned")
def test_both_sides_may_have_much_to_say() -> None:
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (48, 160, 160, 3), dtype=np.uint8))  # 77 kB each
    samples = samples_from(images, "some text")
    table = score_samples(samples, "clipscore", backbone="poison:wide", options=TWO)
    assert table.mean("clipscore").n == 48


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", ["farewell", "late"])
def test_what_happens_after_the_last_row_costs_nothing(name: str) -> None:
    samples = samples_from(images_with_red(12, set()), "some text")
    options = RunOptions(cache=False, device="cpu,cpu:0")
    table = score_samples(samples, "clipscore", backbone=f"poison:{name}", options=options)
    assert table.mean("clipscore").n == 12
    assert children_of(os.getpid()) == []


@pytest.mark.usefixtures("poisoned")
def test_two_models_of_one_name_make_no_table() -> None:
    samples = samples_from(images_with_red(3000, set()), "some text")
    options = RunOptions(cache=False, device="cpu,cpu:0")
    with pytest.raises(UsageError, match="loaded another checkpoint than the first"):
        score_samples(samples, "clipscore", backbone="poison:twofaced", options=options)
    assert children_of(os.getpid()) == []


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


def _wait_for_children(pid: int) -> list[int]:
    for _ in range(600):
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
