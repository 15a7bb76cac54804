"""A disk that is full, and one that can't be written: the run goes on, and nothing old is lost."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults.harness import METRICS, Work, beside, ended, features_in, score, start

from scorekit.cache import FILE_NAME, FeatureCache
from scorekit.io import read_samples
from scorekit.run import RunOptions, score_samples
from scorekit.table import ScoreTable
from scorekit.types import Extracted, UsageError

Mount = Callable[..., Path]


def mount(*arguments: object) -> None:
    done = subprocess.run(
        ["mount", *map(str, arguments)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file system in memory, of a size."""
    if sys.platform != "linux":
        pytest.skip("a tmpfs is Linux's")
    mounted: list[Path] = []

    def make(size: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        mount("-t", "tmpfs", "-o", f"size={size}", "none", place)
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Meanwhile a folder is mounted such that not even root can write to it."""
    if sys.platform != "linux":
        pytest.skip("bind mounts are Linux's")
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def no_file_over(n_bytes: int) -> Iterator[None]:
    """Meanwhile no file may grow longer: an error like a full disk's that needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def scored(work: Work, cache: Path) -> tuple[ScoreTable, list[str]]:
    """Score in this process: the table, and what was warned of."""
    samples = read_samples(work.images).samples
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = RunOptions(cache=cache)
        table = score_samples(samples, METRICS, backbone=work.backbone, options=options)
    return table, [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def assert_undisturbed(table: ScoreTable, work: Work) -> None:
    pd.testing.assert_frame_equal(
        table.frame[["system", "item", "metric", "value", "status"]].reset_index(drop=True),
        ScoreTable.load(work.table).frame[["system", "item", "metric", "value", "status"]],
        check_exact=False,
        rtol=0,
        atol=1e-5,
        check_dtype=False,
    )


# The cache --------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("size", ["400k", "120k", "8k"])
def test_the_disk_of_the_cache_fills_up(
    work: Work, small_disk: Callable[[str], Path], size: str
) -> None:
    disk = small_disk(size)
    table, told = scored(work, disk / "cache")
    assert_undisturbed(table, work)
    assert len(told) == 1  # once, not for each batch
    assert "the run goes on without it" in told[0] or "keeps its features to itself" in told[0]
    # What was stored before is used.
    table, _ = scored(work, disk / "cache")
    assert_undisturbed(table, work)
    if size == "400k":
        assert table.run["counts"]["features_from_cache"] > 100


def test_a_cache_file_that_may_not_grow(work: Work, tmp_path: Path) -> None:
    with no_file_over(60_000):
        table, told = scored(work, tmp_path / "cache")
    assert_undisturbed(table, work)
    assert len(told) == 1
    assert "can't be written" in told[0]
    table, told = scored(work, tmp_path / "cache")
    assert_undisturbed(table, work)
    assert told == []
    assert features_in(tmp_path / "cache") == work.features


@pytest.mark.faults
def test_no_room_for_temporary_files_either(
    work: Work, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    disk = small_disk("8k")
    (disk / "filler").write_bytes(bytes(4096))
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    table, _ = scored(work, disk / "cache")
    assert_undisturbed(table, work)


@pytest.mark.faults
def test_a_read_only_cache_is_served(work: Work, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    scored(work, cache)
    with read_only(cache):
        table, told = scored(work, cache)
        left = beside(cache / FILE_NAME)
    assert_undisturbed(table, work)
    assert table.run["counts"]["features_computed"] == 0
    assert len(told) == 1 and "can't be written" in told[0]
    assert left == {FILE_NAME}


@pytest.mark.faults
@pytest.mark.parametrize("name", ["cache", "cache/below"])
def test_a_read_only_folder_without_a_cache(work: Work, tmp_path: Path, name: str) -> None:
    (tmp_path / "cache").mkdir()
    with read_only(tmp_path / "cache"):
        table, told = scored(work, tmp_path / name)
    assert_undisturbed(table, work)
    assert len(told) == 1 and "this run keeps its features to itself" in told[0]


def test_a_cache_of_another_user(tmp_path: Path) -> None:
    """As a user without the rights to it."""
    folder, entry = tmp_path / "cache", (b"k" * 20, Extracted(np.ones(3)))
    with FeatureCache(folder) as cache:
        cache.put_many("bb", "k", [entry])
    folder.chmod(0o555)
    (folder / FILE_NAME).chmod(0o444)
    with as_nobody(tmp_path):
        if os.access(folder, os.W_OK, effective_ids=True):
            pytest.skip("this system lets everybody write")
        if not os.access(folder / FILE_NAME, os.R_OK, effective_ids=True):
            pytest.skip("pytest's folders lie where nobody but root gets")
        with pytest.warns(UserWarning, match="can't be written"), FeatureCache(folder) as cache:
            cache.put_many("bb", "k", [(b"l" * 20, entry[1])])
            assert list(cache.get_many([entry[0], b"l" * 20])) == [entry[0]]
    folder.chmod(0o755)


@contextlib.contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Meanwhile without root's rights; pytest's folders let others in."""
    if os.geteuid() != 0:
        yield
        return
    for place in (folder, *folder.parents):
        if "pytest-" in str(place):
            place.chmod(0o755)
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("there is no other user here")
    try:
        yield
    finally:
        os.seteuid(0)


# The table --------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_no_room_for_the_table(
    work: Work, small_disk: Callable[[str], Path], tmp_path: Path, suffix: str
) -> None:
    disk = small_disk("2m")
    out = disk / f"scores{suffix}"
    old = ScoreTable.load(work.table)
    old = ScoreTable(old.frame[:50], old.metrics, {"old": True})
    old.save(out)
    before = {p.name: p.read_bytes() for p in disk.iterdir()}
    room = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes((room.f_bavail - 4) * room.f_bsize))

    options = (*work.options, "--cache", tmp_path / "cache", "--out", out)
    code, errors = ended(start(work.images, *options))
    assert code == 2
    (line,) = errors.splitlines()
    assert line.startswith(f"error: can't write {out}: ")
    assert line.endswith("No space left on device")
    assert {p.name: p.read_bytes() for p in disk.iterdir() if p.name != "filler"} == before
    assert ScoreTable.load(out).run == {"old": True}  # the old one, with its own signatures

    (disk / "filler").unlink()
    score(work.images, *options)
    table = ScoreTable.load(out)
    assert table.run["counts"]["features_computed"] == 0  # nothing was lost
    assert_undisturbed(table, work)


def test_a_table_that_may_not_grow(work: Work, tmp_path: Path) -> None:
    """The same without root, and for the table's second file."""
    table = ScoreTable.load(work.table)
    for name in ("scores.csv", "scores.parquet"):
        out = tmp_path / name
        ScoreTable(table.frame[:5], table.metrics, {"old": True}).save(out)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        with no_file_over(9_000), pytest.raises(UsageError, match="File too large"):
            table.save(out)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
        assert ScoreTable.load(out).run == {"old": True}
