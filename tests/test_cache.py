"""The feature cache: what comes back, and what happens when the file is harmed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scorekit.cache import (
    FILE_NAME,
    Extracted,
    FeatureCache,
    MemoryCache,
    default_cache_dir,
    feature_key,
)


def entries(n: int, start: int = 0) -> list[tuple[bytes, Extracted]]:
    rng = np.random.default_rng(start)
    return [
        (feature_key("f", "k", [], str(start + i)), Extracted(rng.normal(size=8).astype("f4")))
        for i in range(n)
    ]


def test_round_trip_of_dtypes_shapes_and_info(tmp_path: Path) -> None:
    arrays = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.zeros((0, 4)),
        np.float16([1.5]),
        np.array(3.0),
        np.array([[True]]),
        np.arange(10)[::2],
    ]
    with FeatureCache(tmp_path) as cache:
        put = [(bytes([i]) * 20, Extracted(a, {"tokens": i})) for i, a in enumerate(arrays)]
        cache.put_many("bb", "kind", put)
    with FeatureCache(tmp_path) as cache:
        got = cache.get_many([key for key, _ in put])
    for key, entry in put:
        assert got[key].info == entry.info
        assert got[key].array.dtype == entry.array.dtype
        np.testing.assert_array_equal(got[key].array, entry.array)


def test_keys_tell_everything_apart() -> None:
    base = ("f", "image_embedding", [("prefix", "a")], "c")
    others = [
        ("g", *base[1:]),
        ("f", "text_embedding", *base[2:]),
        ("f", "image_embedding", [("prefix", "b")], "c"),
        (*base[:3], "d"),
        ("f", "image_embedding", [], "c"),
    ]
    keys = {feature_key(*args) for args in [base, *others]}
    assert len(keys) == 6
    assert feature_key(*base) in keys


def test_many_keys_in_one_question(tmp_path: Path) -> None:
    put = entries(2000)
    with FeatureCache(tmp_path) as cache:
        cache.put_many("bb", "k", put)
        assert len(cache.get_many([key for key, _ in put] + [b"absent"])) == 2000


@pytest.mark.parametrize("column", ["data", "info", "shape", "dtype"])
def test_a_flipped_byte_is_never_served(tmp_path: Path, column: str) -> None:
    put = entries(2)
    with FeatureCache(tmp_path) as cache:
        cache.put_many("bb", "k", put)
    db = sqlite3.connect(tmp_path / FILE_NAME)
    change = {"data": "zeroblob(32)", "info": "'{\"a\": 1}'", "shape": "'[2, 4]'", "dtype": "'<i4'"}
    db.execute(f"UPDATE features SET {column} = {change[column]} WHERE key = ?", (put[0][0],))
    db.commit()
    db.close()
    with FeatureCache(tmp_path) as cache:
        got = cache.get_many([key for key, _ in put])
        assert list(got) == [put[1][0]]
        cache.put_many("bb", "k", put)  # and it can be put right
        assert len(cache.get_many([key for key, _ in put])) == 2


@pytest.mark.parametrize("harm", ["cut", "garbage", "flipped"])
def test_an_unreadable_file_is_moved_aside(tmp_path: Path, harm: str) -> None:
    with FeatureCache(tmp_path) as cache:
        cache.put_many("bb", "k", entries(400))
    file = tmp_path / FILE_NAME
    content = bytearray(file.read_bytes())
    if harm == "cut":
        content = content[: len(content) // 2]
    elif harm == "garbage":
        content = bytearray(b"no database at all" * 100)
    else:
        content[100:4000] = bytes(b ^ 0x5A for b in content[100:4000])
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="begun anew"), FeatureCache(tmp_path) as cache:
        cache.get_many([key for key, _ in entries(400)])
        cache.put_many("bb", "k", entries(3))
        assert len(cache.get_many([key for key, _ in entries(3)])) == 3
    assert len(list(tmp_path.glob("*.unreadable-*"))) == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.warns(UserWarning, match="keeps its features to itself"),
        FeatureCache(tmp_path / "file" / "cache") as cache,
    ):
        cache.put_many("bb", "k", entries(2))
        assert len(cache.get_many([key for key, _ in entries(2)])) == 2
        place = cache.path
    assert not place.exists()


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from scorekit.cache import *\n"
        "with FeatureCache(sys.argv[1]) as c:\n"
        "    for b in range(40):\n"
        "        c.put_many('bb', 'k', [(feature_key('f', 'k', [], f'{sys.argv[2]}-{b}-{i}'),\n"
        "            Extracted(np.full(4, i))) for i in range(20)])\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "xy"]
    assert [p.wait(60) for p in both] == [0, 0]
    with FeatureCache(tmp_path) as cache:
        assert cache.info().entries == 2 * 40 * 20


def test_info_and_clear(tmp_path: Path) -> None:
    with FeatureCache(tmp_path) as cache:
        cache.put_many("a", "image_embedding", entries(3))
        cache.put_many("b", "text_embedding", entries(2, start=100))
        cache.put_note("n", [1, 2])
        info = cache.info()
        assert info.by_source == (("a", "image_embedding", 3, 96), ("b", "text_embedding", 2, 64))
        assert info.size_bytes > 160
        assert cache.clear("a") == 3
        assert cache.info().entries == 2
        assert cache.get_note("n") == [1, 2]
        assert cache.clear() == 2
        assert cache.get_note("n") is None


def test_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREKIT_CACHE", "/somewhere/else")
    assert default_cache_dir() == Path("/somewhere/else")


def test_memory_cache_forgets_the_oldest() -> None:
    cache = MemoryCache(limit=5)
    put = entries(8)
    cache.put_many("bb", "k", put)
    assert set(cache.get_many([key for key, _ in put])) == {key for key, _ in put[3:]}
