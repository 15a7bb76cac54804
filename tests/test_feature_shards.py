"""Shards: what is written comes back, what is damaged is known, what has changed is not served."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scorekit.backbones.handle import BackboneInfo
from scorekit.feature_shards import (
    DamagedShard,
    ShardFolder,
    remove_shards,
    row_keys,
    run_key,
)
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
    mask.write_bytes(b"m")
    assert row_keys([changed[4]]) != [keys[4]]


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
