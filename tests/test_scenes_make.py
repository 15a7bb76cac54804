"""Faults, and the folder that `make` writes."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image

from scorekit.scenes.faults import FAULTS, sample_fault
from scorekit.scenes.language import is_true, statement_from_dict
from scorekit.scenes.make import SYSTEMS, answer, make, sample_item
from scorekit.scenes.world import is_sound, scene_from_dict


@pytest.mark.parametrize(("kind", "sub_kind"), FAULTS)
def test_faults_break_the_caption_and_leave_a_sound_scene(kind, sub_kind):
    found = 0
    for k in range(600):
        scene, caption = sample_item(f"test:{k}")
        fault = sample_fault(scene, caption, kind, sub_kind, k)
        if fault is None:
            continue
        found += 1
        assert is_sound(fault.after.objects)
        assert is_true(fault.before, caption)
        held = [is_true(fault.after, each) for each in caption.statements]
        assert fault.broken == tuple(i for i, holds in enumerate(held) if not holds)
        assert 1 <= len(fault.broken) <= (2 if kind == "swap" else 1)
    assert found > 20


def test_unknown_fault_kind_is_an_error():
    scene, caption = sample_item(0)
    with pytest.raises(ValueError, match="unknown fault kind count/none"):
        sample_fault(scene, caption, "count", "none", 0)


def test_an_image_is_broken_exactly_if_a_fault_was_put_in():
    shares = {}
    for system in SYSTEMS:
        broken = 0
        for k in range(400):
            scene, caption = sample_item(f"test:{k}")
            drawn, faults = answer(scene, caption, system, k)
            assert is_true(drawn, caption) is not bool(faults)
            broken += bool(faults)
        shares[system] = broken / 400
    assert shares["faithful"] < 0.07
    assert 0.28 < shares["sloppy"] < 0.42
    assert 0.68 < shares["careless"] < 0.82


def test_make_writes_images_prompts_and_truth(tmp_path):
    out = tmp_path / "made"
    made = make(out, 6, ("faithful", "careless"), seed=3, size=64)
    with made.prompts.open(newline="") as file:
        rows = list(csv.DictReader(file))
    truth = [json.loads(line) for line in made.truth.read_text().splitlines()]
    assert list(rows[0]) == ["image", "text", "item", "system"]
    assert len(rows) == len(truth) == made.images == 12
    assert {row["system"] for row in rows} == {"faithful", "careless"}
    assert len({row["item"] for row in rows}) == 6
    for row, fact in zip(rows, truth, strict=True):
        assert {key: fact[key] for key in row} == row
        with Image.open(out / row["image"]) as image:
            assert image.size == (64, 64)
        scene = scene_from_dict(fact["scene"])
        holds = [each.pop("holds") for each in fact["statements"]]
        assert holds == [is_true(scene, statement_from_dict(each)) for each in fact["statements"]]
        assert fact["holds"] == all(holds) == (not fact["faults"])
    for system, broken in made.broken.items():
        assert broken == sum(not f["holds"] for f in truth if f["system"] == system)


def test_more_items_or_fewer_systems_change_no_image(tmp_path):
    make(tmp_path / "few", 2, ("sloppy",), size=32)
    make(tmp_path / "more", 4, size=32)
    for image in (tmp_path / "few").rglob("*.png"):
        other = tmp_path / "more" / image.relative_to(tmp_path / "few")
        assert image.read_bytes() == other.read_bytes()


def test_overwrite_removes_what_was_made_and_nothing_else(tmp_path):
    make(tmp_path, 3, ("sloppy",), size=32)
    (tmp_path / "notes.txt").write_text("mine")
    make(tmp_path, 1, ("faithful",), size=32, overwrite=True)
    assert [path.parent.name for path in tmp_path.rglob("*.png")] == ["faithful"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"n": 1, "systems": ("perfect",)}, "unknown system 'perfect'; one of faithful, sloppy"),
        ({"n": 1, "systems": ()}, "no system was given"),
        ({"n": 1, "systems": ("sloppy", "sloppy")}, "given twice"),
        ({"n": 1, "size": 8}, "size must be at least 16"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        make(tmp_path, 1)
    with pytest.raises(ValueError, match="nothing made here before"):
        make(tmp_path, 1, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        make(tmp_path / "notes.txt", 1)
