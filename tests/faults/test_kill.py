"""kill -9 at 20 random moments of one run; what the last one writes is what it would have been."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from faults.harness import (
    Work,
    beside,
    ended,
    features_in,
    is_sound,
    score,
    sorted_lines,
    start,
    wait_until,
)

from scorekit.whole_files import replace_file

fcntl = pytest.importorskip("fcntl")  # kills and locks are POSIX's
SEED = 20260
STARTING, COMPUTING, WRITING = 5, 10, 5  # kills in each phase of the run


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_twenty_times_and_resumed(much_work: Work, tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    cache, out = tmp_path / "cache", tmp_path / "out" / "scores.csv"
    out.parent.mkdir()
    options = (*much_work.options, "--cache", cache, "--out", out)

    def kill(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()
        # A table is whole or not there, whatever the moment.
        assert not out.exists() or sorted_lines(out) == sorted_lines(much_work.table)

    shares = np.sort(rng.uniform(0, 1, COMPUTING))
    phases = rng.permutation([0.0] * STARTING + [1.0] * COMPUTING)
    targets = iter((shares * much_work.features).astype(int))
    kills = 0
    for computing in phases:
        process = start(much_work.images, *options)
        if computing:
            target = next(targets)
            assert wait_until(process, lambda n=target: features_in(cache) > n)
            time.sleep(rng.uniform(0, 0.05))  # into a forward pass, a commit or a lookup
        else:  # the interpreter, torch, the checkpoint, the folder; no further on a fast machine
            before, end = features_in(cache), time.monotonic() + rng.uniform(0, 4)
            assert wait_until(
                process, lambda n=before, t=end: time.monotonic() > t or features_in(cache) > n
            )
        kill(process)
        kills += 1
    found = features_in(cache)
    assert 0 < found < much_work.features

    score(much_work.images, *options)  # so that the next ones come to writing at once
    expected = sorted_lines(much_work.table)
    assert sorted_lines(out) == expected
    out.unlink()
    while kills < STARTING + COMPUTING + WRITING:
        process = start(much_work.images, *options)
        if wait_until(process, lambda: any(n.startswith(".scores") for n in beside(out))):
            time.sleep(rng.uniform(0, 0.05))
            kill(process)
            kills += 1
        out.unlink(missing_ok=True)

    score(much_work.images, *options)
    assert sorted_lines(out) == expected
    assert beside(out) == {"scores.csv", "scores.csv.json"}
    assert is_sound(cache)
    assert features_in(cache) == much_work.features
    code, _ = ended(start(much_work.images, *options[:-1], out.with_suffix(".parquet")))
    assert code == 0
    same_as_csv(out.with_suffix(".parquet"), out)


def same_as_csv(parquet: Path, csv: Path) -> None:
    """Assert that a Parquet table has the rows of a CSV table, byte for byte once written."""
    import pandas as pd

    text = pd.read_parquet(parquet).to_csv(index=False).encode()
    assert sorted(text.splitlines()) == sorted_lines(csv)


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_let_be(tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    names = ".scores.csv-abcdefgh", ".scores.csv-living__", ".scores"
    left, living, other = (tmp_path / name for name in names)
    for path in (left, living, other):
        path.write_text("half a table")
    with living.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        replace_file(out, lambda p: p.write_text("whole"))
        assert beside(out) == {"scores.csv", living.name, other.name}
    replace_file(out, lambda p: p.write_text("whole"))
    assert beside(out) == {"scores.csv", other.name}
    assert out.read_text() == "whole"
    assert out.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before
