"""Two runs at once on one cache: both end, both are right, and the cache is sound."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from faults.harness import Work, assert_close, ended, features_in, is_sound, score, start

from scorekit import cache as cache_module
from scorekit.cache import FILE_NAME, FeatureCache
from scorekit.types import Extracted


@pytest.mark.faults
def test_the_same_run_twice_at_once(work: Work, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    runs = [start(work.images, *work.options, "--cache", cache, "--out", out) for out in tables]
    assert [ended(run) for run in runs] == [(0, ""), (0, "")]
    for out in tables:
        assert_close(out, work.table)
    assert is_sound(cache)
    assert features_in(cache) == work.features


@pytest.mark.faults
def test_two_different_runs_at_once(work: Work, tmp_path: Path) -> None:
    """Of other metrics and other batches, over the same images, into one cache and one folder."""
    cache = tmp_path / "cache"
    other = "pickscore", "--batch-size", "5"
    alone = tmp_path / "alone.csv"
    score(work.images, *work.options, "--no-cache", "--out", alone, *other[1:], metrics=other[:1])
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    shared = (*work.options, "--cache", cache, "--out")
    runs = [
        start(work.images, *shared, tables[0]),
        start(work.images, *shared, tables[1], *other[1:], metrics=other[:1]),
    ]
    assert [ended(run) for run in runs] == [(0, ""), (0, "")]
    assert_close(tables[0], work.table)
    assert_close(tables[1], alone)
    assert is_sound(cache)


@pytest.mark.faults
def test_two_runs_write_one_table_at_once(work: Work, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out" / "scores.csv"
    out.parent.mkdir()
    options = (*work.options, "--cache", cache, "--out", out)
    score(work.images, *options)  # so that both come to writing at nearly the same time
    runs = [start(work.images, *options) for _ in range(2)]
    assert [ended(run) for run in runs] == [(0, ""), (0, "")]
    assert_close(out, work.table)
    assert {p.name for p in out.parent.iterdir()} == {"scores.csv", "scores.csv.json"}


def test_a_lock_that_is_never_given_back_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a process that was stopped in the middle of storing."""
    monkeypatch.setattr(cache_module, "_LOCK_SECONDS", 0.05)
    entry = (b"k" * 20, Extracted(np.ones(3)))
    with FeatureCache(tmp_path) as cache, closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        with pytest.warns(UserWarning, match=r"can't be written \(.*locked"):
            cache.put_many("bb", "k", [entry])
        assert cache._db.execute("PRAGMA busy_timeout").fetchone() == (1000,)
        assert cache.get_many([entry[0]]) == {}
        other.execute("ROLLBACK")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cache.put_many("bb", "k", [entry])  # the lock was given back after all
        assert list(cache.get_many([entry[0]])) == [entry[0]]
