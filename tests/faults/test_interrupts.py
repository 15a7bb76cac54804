"""Ctrl-C and SIGTERM: an exit code, a message, the rows so far, and a run that goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults.harness import Work, beside, ended, features_in, score, start, wait_until

from scorekit.interrupts import INTERRUPTED, Interrupted, Terminated
from scorekit.io import read_samples
from scorekit.run import RunOptions, score_samples
from scorekit.table import ScoreTable

Moment = Callable[[Path, Path], bool]
GO_ON = "what was computed is in the cache, and the same command goes on from there"


def loading(cache: Path, out: Path) -> bool:
    """The cache is open, and torch or the checkpoint is being loaded."""
    return any(cache.glob("*.sqlite"))


def computing(cache: Path, out: Path) -> bool:
    """In the second chunk of reading: the rows of the first are scored."""
    return features_in(cache) > 260


def writing(cache: Path, out: Path) -> bool:
    return any(name.startswith(".scores") for name in beside(out))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("sent", "code", "word", "moment"),
    [
        (signal.SIGINT, 130, "interrupted", loading),
        (signal.SIGINT, 130, "interrupted", computing),
        (signal.SIGINT, 130, "interrupted", writing),
        (signal.SIGTERM, 143, "terminated", computing),
    ],
    ids=["loading", "computing", "writing", "sigterm"],
)
def test_ended_at_a_moment_and_resumed(
    work: Work, tmp_path: Path, sent: signal.Signals, code: int, word: str, moment: Moment
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out" / "scores.csv"
    out.parent.mkdir()
    # One at a time, so that the run is long enough to be met in its middle.
    options = (*work.options, "--cache", cache, "--out", out, "--batch-size", "1")
    for _ in range(10):
        process = start(work.images, *options)
        met = wait_until(process, lambda: moment(cache, out))
        process.send_signal(sent)
        found, errors = ended(process)
        # Writing is over in milliseconds, and the signal may come too late: then once more.
        if moment is not writing or not beside(out):
            break
        for left in out.parent.iterdir():
            left.unlink()
    assert met
    assert found == code, errors
    message, *rows = errors.strip().splitlines()
    assert message == f"{word}: {GO_ON}"
    assert not out.exists()
    partial = out.with_name("scores.partial.csv")
    if rows:
        table = ScoreTable.load(partial)
        done = int((table.frame["status"] != INTERRUPTED).sum())
        assert rows == [f"the {done:,} of {len(table):,} rows so far are in {partial}"]
        assert_rows_of(table, work)
    else:
        assert beside(out) == set()
    assert bool(rows) == (moment is computing)

    score(work.images, *options)
    assert beside(out) == {"scores.csv", "scores.csv.json"}  # the partial table has gone
    table = ScoreTable.load(out)
    assert set(table.frame["status"]) == {"ok"}
    if moment is not loading:
        assert table.run["counts"]["features_from_cache"] > 100


def assert_rows_of(table: ScoreTable, work: Work) -> None:
    """Assert that what a partial table has is right, and that it says what it lacks."""
    whole = ScoreTable.load(work.table).frame.set_index(["system", "item", "metric"])
    for row in table.frame.to_dict("records"):
        there = whole.loc[row["system"], row["item"], row["metric"]]["value"]
        if row["status"] == "ok":
            assert abs(row["value"] - there) < 1e-5
        else:
            assert row["status"] == INTERRUPTED
            assert np.isnan(row["value"])


@pytest.mark.faults
def test_a_second_ctrl_c_ends_it_at_once_and_harms_nothing(work: Work, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "scores.csv"
    options = (*work.options, "--cache", cache, "--out", out, "--batch-size", "1")
    process = start(work.images, *options)
    assert wait_until(process, lambda: computing(cache, out))
    deadline = time.monotonic() + 5
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    code, _ = ended(process)
    assert code in (130, -signal.SIGINT)
    assert not list(cache.glob("*.unreadable-*"))
    score(work.images, *options)
    assert ScoreTable.load(out).run["counts"]["features_from_cache"] > 100


@pytest.mark.faults
def test_without_a_cache_it_says_that_nothing_is_kept(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = start(work.images, *work.options, "--no-cache", "--batch-size", "1")
    logs = "scorekit-*/*-wal"  # of the temporary cache
    assert wait_until(process, lambda: any(p.stat().st_size > 50_000 for p in tmp_path.glob(logs)))
    process.send_signal(signal.SIGTERM)
    code, errors = ended(process)
    assert code == 143, errors
    assert errors.strip() == "terminated: nothing was kept (--no-cache)"
    assert not list(tmp_path.glob("scorekit-*"))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated])
def test_from_python_the_rows_so_far_come_with_the_exception(
    work: Work, tmp_path: Path, stop: type[KeyboardInterrupt]
) -> None:
    def progress(done: int, total: int) -> None:
        if done >= 300:
            raise stop

    samples = read_samples(work.images).samples
    options = RunOptions(cache=tmp_path)
    with pytest.raises(Interrupted) as caught:
        score_samples(
            samples, ["clipscore"], backbone=work.backbone, options=options, progress=progress
        )
    assert isinstance(caught.value.__cause__, stop)
    table = caught.value.table
    assert table is not None
    assert len(table) == len(samples)
    statuses = list(table.frame["status"])
    done = statuses.index(INTERRUPTED)
    assert done in (128, 256)
    assert set(statuses[:done]) == {"ok"}
    assert set(statuses[done:]) == {INTERRUPTED}
    assert table.frame["value"].notna().tolist() == [s == "ok" for s in statuses]
