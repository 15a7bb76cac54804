"""Shards: what is written comes back, what is damaged is known, what has changed is not served."""

from __future__ import annotations

import copy
import datetime
import decimal
import errno
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scorekit import remote
from scorekit.backbones.handle import BackboneInfo
from scorekit.cli_options import shards_choice
from scorekit.feature_shards import (
    DamagedShard,
    ShardFolder,
    remove_shards,
    row_keys,
    run_key,
)
from scorekit.ray_engine import _Rows
from scorekit.run import RunOptions
from scorekit.types import (
    Extracted,
    InputError,
    Sample,
    UsageError,
    image_embedding,
    text_embedding,
)
from scorekit.within import Refused

RESULTS: list[Any] = [
    Extracted(np.arange(6, dtype=np.float32).reshape(2, 3), {"tokens": 95, "limit": 77}),
    [Extracted(np.array([1.5, np.nan])), Extracted(np.array([], np.int8), {"é": "\ud800"})],
    [],
    InputError("missing_image", "no file \udcff.png"),
    Extracted(np.array(7.25)),
]


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, InputError):
        assert (a.status, a.note) == (b.status, b.note)
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert (a.array.dtype, a.array.shape, a.info) == (b.array.dtype, b.array.shape, b.info)
        np.testing.assert_array_equal(a.array, b.array)


@pytest.mark.parametrize("where", ["folder", "url"])
def test_results_of_every_form_come_back(where: str, tmp_path: Path) -> None:
    place = str(tmp_path) if where == "folder" else f"memory://shards{tmp_path}"
    folder = ShardFolder(place, "run")
    name = folder.write([("a", RESULTS), ("b", RESULTS[::-1])], {"computed": 3})
    assert folder.names() == [name]
    shard = folder.read(name)
    assert list(shard.rows) == ["a", "b"]
    for want, found in ((RESULTS, shard.rows["a"]), (RESULTS[::-1], shard.rows["b"])):
        assert len(found) == 5
        for x, y in zip(want, found, strict=True):
            assert_same(x, y)
    assert shard.about["computed"] == 3
    assert ShardFolder(place, "another run").names() == []
    remove_shards(place)
    assert ShardFolder(place, "run").names() == []


def test_a_shard_that_was_cut_or_flipped_is_known(tmp_path: Path) -> None:
    folder = ShardFolder(str(tmp_path), "run")
    name = folder.write([("a", RESULTS)], {})
    path = tmp_path / "run" / name
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedShard):
            folder.read(name)
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedShard):
        folder.read(name)
    path.write_bytes(whole)
    folder.read(name)


def test_an_unfinished_shard_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ShardFolder(str(tmp_path), "run")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.write([("a", RESULTS)], {})
    assert list((tmp_path / "run").iterdir())  # it was under way
    assert folder.names() == []


def test_a_place_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"no shards can be kept in .*file"):
        ShardFolder(str(tmp_path / "file"), "run")


@pytest.mark.parametrize("where", ["folder", "url"])
def test_a_store_that_fails_is_one_line(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path) if where == "folder" else f"memory://fails{tmp_path}"
    folder = ShardFolder(place, "run")
    name = folder.write([("a", RESULTS)], {})

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "no answer from the store", place)

    folder.remove("never written.parquet")
    for module, calls in ((os, ("listdir", "unlink")), (remote, ("find", "remove"))):
        for call in calls:
            monkeypatch.setattr(module, call, fail)
    with pytest.raises(UsageError, match=r"can't list .*: no answer .* goes on from there$"):
        folder.names()
    with pytest.raises(UsageError, match=r"can't remove .*: no answer .* goes on from there$"):
        folder.remove(name)


@pytest.mark.parametrize("where", ["folder", "file", "memory"])
def test_what_is_removed_with_the_table(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This run's shards and nothing else, least of all a user's own files."""
    monkeypatch.chdir(tmp_path)
    place = {"folder": "t.shards", "file": f"file://{tmp_path}/t.shards"}.get(
        where, f"memory://removed{tmp_path}/t.shards"
    )
    elsewhere = ShardFolder(f"{place}2", "run")
    elsewhere.write([("a", RESULTS)], {})
    folder = ShardFolder(place, "run")
    folder.write([("a", RESULTS)], {})
    folder.write([("b", RESULTS)], {})
    others = (
        "notes.txt",
        "mine.parquet",
        "another run/0.parquet",
        "run/mine.csv",
        "run/x/0.parquet",
    )
    if where == "memory":
        for other in others:
            remote.write(f"{place}/{other}", b"1")
        remove_shards(place)
        assert remote.find(place) == sorted(others)
        assert len(elsewhere.names()) == 1
        return
    root = tmp_path / "t.shards"
    (root / "another run").mkdir()
    (root / "run" / "x").mkdir()
    for other in (*others, "run/0.tmp"):
        (root / other).write_bytes(b"1")
    remove_shards(place)
    assert len(elsewhere.names()) == 1
    left = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(others)
    for other in others:
        (root / other).unlink()
    (root / "another run").rmdir()
    (root / "run" / "x").rmdir()
    ShardFolder(place, "run").write([("a", RESULTS)], {})
    remove_shards(place)
    assert not root.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remove_shards(place)  # of a run that needed none


def test_shards_that_can_not_be_removed_cost_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ShardFolder(str(tmp_path), "run").write([("a", RESULTS)], {})

    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "unlink", fail)
    with pytest.warns(UserWarning, match="the shards in .* can't be removed: Permission denied"):
        remove_shards(str(tmp_path))


def test_tables_of_one_stem_do_not_share_shards() -> None:
    places = {shards_choice("ray", None, f"runs/a.{suffix}") for suffix in ("csv", "parquet")}
    assert places == {"runs/a.csv.shards", "runs/a.parquet.shards"}


def test_a_row_is_another_when_anything_of_it_has_changed(tmp_path: Path) -> None:
    image, mask = tmp_path / "a.png", tmp_path / "mask.png"
    image.write_bytes(b"1")
    sample = Sample("i", "s", "text", str(image), meta={"kind": "x"})
    first = row_keys([sample])
    assert row_keys([sample]) == first
    changed = [
        replace(sample, text="other"),
        replace(sample, text=None),
        replace(sample, index=1),
        replace(sample, meta={"kind": "y"}),
        replace(sample, mask=mask),
        replace(sample, references=("one", "two")),
        replace(sample, references=("one two",)),
        replace(sample, image=Refused(str(image))),
        replace(sample, entities=[{"mask": np.zeros((99, 99))}]),
        replace(sample, entities=[{"mask": np.eye(99)}]),  # their reprs are the same
        replace(sample, entities=[{"text": "dog", "mask": str(mask)}]),
        replace(sample, entities=f'[{{"text": "dog", "mask": "{mask}"}}]'),
        replace(sample, entities=np.array([{"text": "cat", "mask": str(mask)}], object)),
        replace(sample, entities=[{"text": "dog", "mask": Refused(str(mask))}]),
        *(replace(sample, meta={"m": value}) for value in COLUMNS),
    ]
    keys = row_keys(changed)
    assert len({*keys, *first}) == len(changed) + 1
    image.write_bytes(b"22")
    second = row_keys([sample])
    assert second != first
    os.utime(image, ns=(0, 1))
    third = row_keys([sample])
    assert third != second
    image.unlink()
    assert row_keys([sample]) not in (first, second, third)
    image.write_bytes(b"1")
    masked = [changed[4], *changed[10:13]]
    mask.write_bytes(b"m")
    before = row_keys(masked)
    assert not {*before} & {*keys}
    assert row_keys(copy.deepcopy(masked)) == before
    mask.write_bytes(b"n")
    os.utime(mask, ns=(0, 1))
    assert not {*row_keys(masked)} & {*before}


COLUMNS: list[Any] = [
    *(datetime.datetime(2026, 1, day) for day in (1, 2)),
    *(decimal.Decimal(f"0.{digit}") for digit in (1, 2)),
    *(np.float32(value) for value in (1, 2)),
    *(b"1", b"2", Path("1"), Path("2")),
    *(np.array([{"a": value}], object) for value in (1, 2)),
    *([np.arange(9)], [np.arange(9)[::-1]]),
]
"""What the further columns of a Parquet file may hold."""


def test_what_can_not_be_told_from_another_is_refused() -> None:
    torch = pytest.importorskip("torch")
    sample = Sample("i", "s", "text", "a.png")
    for mask, name in (
        (torch.zeros(64, 64), "Tensor"),
        (Image.new("L", (8, 8)), "Image"),
        (b"png", "bytes"),
    ):
        given = replace(sample, entities=[{"text": "dog", "mask": mask}])
        with pytest.raises(UsageError, match=f"mask of an entity of s/i is a {name} in memory"):
            row_keys([given])
    for meta, what in (({"x": object()}, "a object in memory"), ({(1, 2): 3}, "keys must be")):
        with pytest.raises(UsageError, match=f"whether s/i has changed: {what}"):
            row_keys([replace(sample, meta=meta)])


def test_entities_that_can_not_be_read_cost_their_row_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    sample = Sample("i", "s", "text", str(tmp_path / "a.png"))
    given = [7, "no JSON", [{"text": 1, "mask": "m.png"}], [{"text": "dog", "mask": 5}]]
    keys = row_keys([replace(sample, entities=entities) for entities in given])
    assert len({*keys}) == 4


def test_a_store_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an object without an answer nothing is known; of a whole store, the run ends."""
    sample = Sample("i", "s", "text", "s3://bucket/a.png")
    answers: list[Any] = [(7, "tag"), OSError(errno.EIO, "no answer"), (7, "tag")]

    def state(_: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(remote, "state", state)
    before, meanwhile, after = (row_keys([sample])[0] for _ in range(3))
    assert before == after != meanwhile
    answers += [OSError(errno.EIO, "no answer")]
    assert row_keys([sample])[0] not in (before, meanwhile)
    answers += [UsageError("no credentials for s3://bucket")]
    with pytest.raises(UsageError, match="no credentials for s3://bucket"):
        row_keys([sample])


def test_a_path_that_is_none_costs_its_row_alone() -> None:
    assert len(row_keys([Sample("i", "s", "text", "a\0.png")])) == 1


@pytest.mark.parametrize(
    "error",
    [
        InputError("missing_image", "no permission to read a.png"),
        InputError("missing_image", "no answer from s3://bucket"),
        InputError("failed", "no answer"),
    ],
)
def test_errors_of_an_earlier_run_are_not_served(tmp_path: Path, error: InputError) -> None:
    """What they came from changes neither size nor time of a file."""
    image = tmp_path / "a.png"
    image.write_bytes(b"1")
    sample = Sample("i", "s", "text", str(image))
    image.chmod(0)
    (key,) = row_keys([sample])
    image.chmod(0o644)
    rows = _Rows([sample], [image_embedding("x"), text_embedding("x")])
    found = {key: [error, Extracted(np.zeros(3))]}
    assert list(rows.chunks_of(found, retry_failed=True)) == []
    assert list(rows.waiting) == [key]
    (chunk,) = rows.chunks_of(found, retry_failed=False)
    assert chunk.samples == [sample]
    assert not rows.waiting


def test_relative_paths_are_told_apart_by_where_they_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"same")
        os.utime(tmp_path / name / "a.png", ns=(0, 0))
        monkeypatch.chdir(tmp_path / name)
        keys += row_keys([Sample("i", "s", "text", "a.png")])
    assert keys[0] != keys[1]


def test_images_in_memory_are_refused() -> None:
    sample = Sample("i", "s", "text", "a.png", reference_images=(np.zeros((2, 2, 3)),))
    with pytest.raises(UsageError, match="reference images of s/i is a ndarray in memory"):
        row_keys([sample])


def test_a_url_that_is_not_read_costs_its_row_alone() -> None:
    assert len(row_keys([Sample("i", "s", "text", "http://127.0.0.1/a.png")])) == 1


def test_runs_that_may_share_shards() -> None:
    def key(needs: Any, fingerprint: str = "f", **options: Any) -> str:
        info = BackboneInfo(fingerprint, "w", 77, {}, "any", "none", ())
        return run_key(needs, {"hf:x": info}, RunOptions(**options))

    needs = [image_embedding("hf:x"), text_embedding("hf:x")]
    same = key(needs)
    assert key(needs, batch_size=3, workers=2, device="cpu", cache=False) == same
    others = [
        key(needs, "another checkpoint"),
        key(needs, long_text="window"),
        key(needs[:1]),
        key(needs[::-1]),
        key([needs[0], text_embedding("hf:x", prefix="A photo depicts ")]),
    ]
    assert len({same, *others}) == 6
