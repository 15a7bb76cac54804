"""Pickles, which run code when they are loaded: nothing that scorekit reads is one.

Each test plants a pickle that would make a folder, and looks for the folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import make_clip

from scorekit.backbones.files import one_line_errors, weight_files
from scorekit.backbones.handle import get_handle
from scorekit.backbones.spec import BackboneOptions
from scorekit.images import as_uint8, content_key
from scorekit.io import read_samples
from scorekit.types import InputError, UsageError


class Bomb:
    """Makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def state(marker: Path) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save({"weight": Bomb(marker)}, out)
    return out.getvalue()


def test_the_bomb_works(tmp_path: Path) -> None:
    import torch

    torch.load(io.BytesIO(state(tmp_path / "fired")), weights_only=False)
    assert (tmp_path / "fired").is_dir()


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("place", ["pytorch_model.bin", "shard"])
def test_pickled_weights_run_nothing(place: str, allowed: bool, tmp_path: Path) -> None:
    """Refused; and where they are allowed, transformers reads tensors from them and no more."""
    folder = make_clip(tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(state(tmp_path / "fired"))
    if place == "shard":
        index = {"metadata": {}, "weight_map": {"weight": "pytorch_model.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=None if allowed else r"--allow-pickle|no safetensors"):
        get_handle(f"hf:{folder}", BackboneOptions(allow_pickle=allowed)).model()
    assert not (tmp_path / "fired").exists()


def test_an_openclip_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(state(tmp_path / "fired"))
    with pytest.raises(UsageError, match="--allow-pickle"):
        get_handle(f"open_clip:ViT-B-32/{tmp_path / 'w.pt'}").model()
    assert not (tmp_path / "fired").exists()


def test_lpips_weights_run_nothing(tmp_path: Path) -> None:
    from scorekit.backbones.pixels_lpips import _fill_trunk

    (tmp_path / "w.pth").write_bytes(state(tmp_path / "fired"))
    with pytest.raises(UsageError, match="can't load"), one_line_errors("lpips"):
        _fill_trunk(None, tmp_path / "w.pth")
    assert not (tmp_path / "fired").exists()


def test_an_index_of_shards_names_safetensors_alone(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../x.bin"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="no safetensors file"):
        weight_files(tmp_path, allow_pickle=False)


def test_object_arrays_are_no_images(tmp_path: Path) -> None:
    array = np.array([[Bomb(tmp_path / "fired")]], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    for image in (str(tmp_path / "a.npy"), (tmp_path / "a.npy").read_bytes(), array):
        with pytest.raises(InputError):
            as_uint8(image)
    with pytest.raises(InputError):
        content_key(array)
    assert not (tmp_path / "fired").exists()


def test_parquet_with_a_pickled_type_runs_nothing(tmp_path: Path) -> None:
    """What pyarrow once unpickled of its own accord (CVE-2023-47248), and pandas' own metadata."""
    storage = pa.schema(
        [
            pa.field(
                "image",
                pa.string(),
                metadata={
                    b"ARROW:extension:name": b"arrow.py_extension_type",
                    b"ARROW:extension:metadata": pickle.dumps(Bomb(tmp_path / "fired")),
                },
            ),
            pa.field("text", pa.string()),
        ],
        metadata={b"pandas": b'{"index_columns": [{"kind": "x"}], "columns": [1]}'},
    )
    table = pa.Table.from_arrays([pa.array(["a.png"]), pa.array(["a"])], schema=storage)
    pq.write_table(table, tmp_path / "t.parquet")
    assert [s.image for s in read_samples(tmp_path / "t.parquet").samples] == [f"{tmp_path}/a.png"]
    assert not (tmp_path / "fired").exists()


def test_features_of_a_cache_are_never_pickles(tmp_path: Path) -> None:
    import sqlite3

    from scorekit.cache import FeatureCache, _checksum
    from scorekit.types import Extracted

    with FeatureCache(tmp_path / "cache") as cache:
        cache.put_many("b", "k", [(b"k", Extracted(np.zeros(1)))])
        assert cache.get_many([b"k"])[b"k"].array.tolist() == [0]
    (file,) = (tmp_path / "cache").rglob("*.sqlite")
    row = ("|O", "[1]", "", pickle.dumps(Bomb(tmp_path / "fired")))
    with sqlite3.connect(file) as db:
        db.execute(
            "UPDATE features SET dtype = ?, shape = ?, info = ?, data = ?, checksum = ?",
            (*row, _checksum(b"k", *row)),
        )
    with FeatureCache(tmp_path / "cache") as cache, contextlib.suppress(ValueError):
        assert b"k" not in cache.get_many([b"k"])
    assert not (tmp_path / "fired").exists()
