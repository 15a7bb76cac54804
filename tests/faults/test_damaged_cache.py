"""A cache file that was harmed: found out, begun anew or computed again, never served."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults.harness import make_images
from tiny import make_clip

from scorekit.backbones.handle import unload_backbones
from scorekit.cache import FILE_NAME, FeatureCache, feature_key
from scorekit.io import read_samples
from scorekit.run import RunOptions, score_samples
from scorekit.types import Extracted, Sample

WAL = FILE_NAME + "-wal"
Files = dict[str, bytes]
Harm = Callable[[bytearray, np.random.Generator], None]


def flip_bit(data: bytearray, rng: np.random.Generator) -> None:
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))


def flip_head(data: bytearray, rng: np.random.Generator) -> None:
    """In the first page: SQLite's own header, and the schema."""
    data[rng.integers(min(len(data), 4096))] ^= 1 << int(rng.integers(8))


def set_bytes(data: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(data)))
    data[at : at + 16] = rng.bytes(len(data[at : at + 16]))


def zero_page(data: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(max(1, len(data) // 4096))) * 4096
    data[at : at + 4096] = bytes(len(data[at : at + 4096]))


def swap_pages(data: bytearray, rng: np.random.Generator) -> None:
    """Each page is sound, and none where it belongs: an index leads to other rows."""
    pages = len(data) // 4096
    a, b = (int(n) * 4096 for n in rng.integers(pages, size=2))
    data[a : a + 4096], data[b : b + 4096] = data[b : b + 4096], data[a : a + 4096]


def cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data))) :]


HARMS: tuple[Harm, ...] = (flip_bit, flip_head, set_bytes, zero_page, swap_pages, cut)


def files_of(folder: Path) -> Files:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name in (FILE_NAME, WAL)}


def harmed(files: Files, name: str, harm: Harm, rng: np.random.Generator) -> Files:
    data = bytearray(files[name])
    harm(data, rng)
    return {**files, name: bytes(data)}


def lay(files: Files, folder: Path) -> Path:
    """Put files into a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


# The cache alone: thousands of harms ------------------------------------------------------------

NOTE = {"constants": {"logit_scale": 100.0}, "text_limit": 77}


def put_entries() -> list[tuple[bytes, Extracted]]:
    """Small and long ones (on pages of their own), with and without info."""
    rng = np.random.default_rng(0)
    sizes = [8, 16, 900, 3000]
    return [
        (
            feature_key("f", "k", [], str(i)),
            Extracted(rng.normal(size=sizes[i % 4]).astype("f4"), {"tokens": i} if i % 3 else {}),
        )
        for i in range(120)
    ]


@pytest.fixture(scope="module")
def entries_on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Files]:
    """The files of a cache that was closed, and of one whose process was killed."""
    folder = tmp_path_factory.mktemp("sound")
    with FeatureCache(folder) as cache:
        entries = put_entries()
        for start in range(0, len(entries), 16):
            cache.put_many("bb", "k", entries[start : start + 16])
        cache.put_note("backbone", NOTE)
        killed = files_of(folder)
    return files_of(folder), killed


@pytest.mark.faults
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("where", ["closed", "file of a killed", "log of a killed"])
def test_what_is_served_was_put(
    entries_on_disk: tuple[Files, Files], tmp_path: Path, where: str, harm: Harm
) -> None:
    closed, killed = entries_on_disk
    files = closed if where == "closed" else killed
    name = WAL if where == "log of a killed" else FILE_NAME
    put = dict(put_entries())
    rng = np.random.default_rng(HARMS.index(harm))
    lost = 0
    for _ in range(100 if where == "closed" else 40):
        folder = lay(harmed(files, name, harm, rng), tmp_path / "cache")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with FeatureCache(folder) as cache:
                found = cache.get_many(put)
                assert_entries(found, {key: put[key] for key in found})
                lost += len(found) < len(put)
                assert cache.get_note("backbone") in (None, NOTE)
                cache.info()
                for _ in range(2):  # the first may be what finds the harm out, and be lost
                    cache.put_many("bb", "k", list(put.items()))
                    cache.put_note("backbone", NOTE)
                assert_entries(cache.get_many(put), put)
            with FeatureCache(folder) as cache:
                assert_entries(cache.get_many(put), put)
                assert cache.get_note("backbone") == NOTE
    # The log of a killed process holds every page: what is in the file does not count.
    assert bool(lost) == (where != "file of a killed"), "the test tests nothing"


def assert_entries(found: dict[bytes, Extracted], expected: dict[bytes, Extracted]) -> None:
    assert found.keys() == expected.keys()
    for key, entry in expected.items():
        assert found[key].info == entry.info
        assert found[key].array.dtype == entry.array.dtype
        np.testing.assert_array_equal(found[key].array, entry.array)


@pytest.mark.parametrize(
    "change",
    [
        "dtype = CAST(dtype AS BLOB)",
        "shape = 5",
        "info = CAST(info AS BLOB)",
        "data = 'a text'",
        "checksum = 'none'",
        "key = CAST('a text' AS TEXT) WHERE key = (SELECT min(key) FROM features)",
    ],
)
def test_a_value_of_another_type_is_no_feature(
    entries_on_disk: tuple[Files, Files], tmp_path: Path, change: str
) -> None:
    """One flipped bit of a row's head makes bytes of a text."""
    folder = lay(entries_on_disk[0], tmp_path / "cache")
    with closing(sqlite3.connect(folder / FILE_NAME)) as db:
        changed = db.execute(f"UPDATE features SET {change}").rowcount
        db.commit()
    put = dict(put_entries())
    with FeatureCache(folder) as cache:
        assert len(cache.get_many(put)) == len(put) - changed
        cache.put_many("bb", "k", list(put.items()))
        assert_entries(cache.get_many(put), put)


# Whole runs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Harmless:
    """Samples, what a run makes of them, and the cache that it leaves."""

    samples: list[Sample]
    backbone: str
    table: pd.DataFrame
    signatures: dict[str, str]
    files: Files

    def score(self, cache: Path) -> list[str]:
        """Score with a harmed cache, and compare; the warnings that were given."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            frame, signatures = scored(self.samples, self.backbone, cache)
        pd.testing.assert_frame_equal(frame, self.table, check_exact=False, rtol=0, atol=1e-5)
        assert signatures == self.signatures
        return [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def scored(
    samples: list[Sample], backbone: str, cache: Path
) -> tuple[pd.DataFrame, dict[str, str]]:
    unload_backbones()  # else the record of the checkpoint would not be read from the cache
    options = RunOptions(cache=cache)
    table = score_samples(samples, ["clipscore", "pickscore"], backbone=backbone, options=options)
    assert set(table.frame["status"]) == {"ok"}
    return table.frame, {name: str(s) for name, s in table.signatures.items()}


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Harmless:
    folder = tmp_path_factory.mktemp("runs")
    samples = read_samples(make_images(folder / "images", 90)).samples
    backbone = f"hf:{make_clip(folder / 'tiny-clip')}"
    frame, signatures = scored(samples, backbone, folder / "cache")
    return Harmless(samples, backbone, frame, signatures, files_of(folder / "cache"))


@pytest.mark.faults
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_run_on_a_harmed_cache_gives_the_same_table(
    harmless: Harmless, tmp_path: Path, harm: Harm
) -> None:
    rng = np.random.default_rng(100 + HARMS.index(harm))
    for _ in range(6):
        cache = lay(harmed(harmless.files, FILE_NAME, harm, rng), tmp_path / "cache")
        harmless.score(cache)
        assert harmless.score(cache) == []  # and then the cache is sound again


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (b"", None),
        (b"no database at all" * 400, "begun anew"),
        (b"SQLite format 3\0" + bytes(84), "begun anew"),
    ],
    ids=["zero bytes", "garbage", "a header and no more"],
)
def test_another_file_in_its_place(
    harmless: Harmless, tmp_path: Path, content: bytes, warning: str | None
) -> None:
    cache = lay({FILE_NAME: content}, tmp_path / "cache")
    told = harmless.score(cache)
    assert len(told) == (warning is not None)
    assert all(warning in line for line in told if warning)
    assert harmless.score(cache) == []
    kept = [p.read_bytes() for p in cache.glob("*.unreadable-*")]
    assert kept == [content] * len(told)  # moved aside, never deleted


def test_a_folder_in_its_place(harmless: Harmless, tmp_path: Path) -> None:
    (tmp_path / "cache" / FILE_NAME / "mine").mkdir(parents=True)
    (told,) = harmless.score(tmp_path / "cache")
    assert "this run keeps its features to itself" in told
    assert (tmp_path / "cache" / FILE_NAME / "mine").is_dir()


def test_a_constant_of_the_checkpoint_is_not_believed_when_it_was_changed(
    harmless: Harmless, tmp_path: Path
) -> None:
    cache = lay(harmless.files, tmp_path / "cache")
    with closing(sqlite3.connect(cache / FILE_NAME)) as db:
        before = db.execute("SELECT value FROM notes").fetchall()
        db.execute(
            """UPDATE notes SET value = replace(value, '"logit_scale": ', '"logit_scale": 1')"""
        )
        db.commit()
        assert db.execute("SELECT value FROM notes").fetchall() != before
    harmless.score(cache)


# Several processes ------------------------------------------------------------------------------

FILL = """
import sys, warnings
import numpy as np
from scorekit.cache import FeatureCache, feature_key
from scorekit.types import Extracted
sys.stdin.readline()
with FeatureCache(sys.argv[1]) as cache:
    for i in range(60):
        keys = [feature_key('f', 'k', [], f'{i}-{j}') for j in range(16)]
        put = {key: Extracted(np.full(8, i + j)) for j, key in enumerate(keys)}
        found = cache.get_many(put)
        assert all((found[k].array == put[k].array).all() for k in found)
        cache.put_many('bb', 'k', [(k, e) for k, e in put.items() if k not in found])
"""


@pytest.fixture
def fillers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Three processes that wait for a line before they open the cache."""
    cache = tmp_path / "cache"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FILL, str(cache)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_three_processes_find_it_harmed_at_once(
    fillers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    cache = lay({FILE_NAME: b"no database at all" * 400}, tmp_path / "cache")
    for process in fillers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in fillers:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with FeatureCache(cache) as opened:
        assert opened.info().entries <= 60 * 16
        keys = [feature_key("f", "k", [], f"{i}-{j}") for i in range(60) for j in range(16)]
        for key, entry in opened.get_many(keys).items():
            i, j = divmod(keys.index(key), 16)
            np.testing.assert_array_equal(entry.array, np.full(8, i + j))


def test_the_second_to_find_it_harmed_takes_what_the_first_began(
    entries_on_disk: tuple[Files, Files], tmp_path: Path
) -> None:
    folder = lay(entries_on_disk[0], tmp_path / "cache")
    put = put_entries()
    keys = [key for key, _ in put]
    with FeatureCache(folder) as first, FeatureCache(folder) as second:
        with (folder / FILE_NAME).open("r+b") as file:
            file.seek(4096)
            file.write(b"\x5a" * 60_000)
        with pytest.warns(UserWarning, match="begun anew"):
            assert first.get_many(keys) == {}
        first.put_many("bb", "k", put)
        assert second.get_many(keys) == {}  # finds the same, and only then the new file
        assert_entries(second.get_many(keys), dict(put))
    assert len(list(folder.glob("*.unreadable-*"))) == 1


def test_a_closed_cache_is_not_taken_for_a_harmed_one(tmp_path: Path) -> None:
    """A second Ctrl-C leaves reading threads behind, who ask once more."""
    cache = FeatureCache(tmp_path)
    cache.put_many("bb", "k", put_entries())
    cache.close()
    with pytest.warns(UserWarning, match="closed"):
        assert cache.get_many([put_entries()[0][0]]) == {}
    assert not list(tmp_path.glob("*.unreadable-*"))
