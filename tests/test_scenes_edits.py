"""Edits with known truth, and the folder that `make_edits` writes."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from scorekit.io import read_samples
from scorekit.scenes.draw import render
from scorekit.scenes.edits import KINDS, LOSSES, sample_edit
from scorekit.scenes.language import Caption, Count, Relation, Thing, counts_of, is_true
from scorekit.scenes.make_edits import DRAWN, SYSTEMS, make_edits
from scorekit.scenes.tokens import vocabulary
from scorekit.scenes.world import MAX_OBJECTS, Scene, is_sound, scene_from_dict

N = 40


@pytest.fixture(scope="module", params=KINDS)
def edits(request):
    return [sample_edit(request.param, f"test:{k}") for k in range(N)]


def levels(scene: Scene) -> np.ndarray:
    return np.asarray(render(scene, 96)).astype(int)


def changed(one: Scene, two: Scene) -> np.ndarray:
    return np.abs(levels(one) - levels(two)).max(axis=-1) > 0


def test_the_target_text_holds_of_the_right_scenes_alone(edits):
    for edit in edits:
        assert is_true(edit.source, edit.source_caption)
        held = {name: is_true(getattr(edit, name), edit.target) for name in DRAWN}
        assert held == {
            "source": False,
            "ideal": True,
            "over": True,
            "under": False,
            "unrelated": False,
        }


def test_scenes_are_sound_and_differ(edits):
    for edit in edits:
        scenes = [getattr(edit, name) for name in DRAWN]
        assert len({(s.objects, s.background) for s in scenes}) == len(scenes)
        for scene in scenes:
            assert is_sound(scene.objects)
            assert len(scene.objects) <= MAX_OBJECTS
        assert edit.source.background == edit.ideal.background == edit.under.background
        assert not set(edit.unrelated.objects) & set(edit.source.objects)


def test_the_ideal_edit_changes_nothing_outside_its_mask(edits):
    for edit in edits[:12]:
        inside = np.asarray(edit.mask(96)) == 255
        assert set(np.unique(edit.mask(96))) == {0, 255}
        there = changed(edit.source, edit.ideal)
        assert there.any()
        assert not (there & ~inside).any()
        assert inside.mean() < 0.5
        if edit.kind in ("recolour", "resize", "remove"):  # the others have other outlines
            assert not (changed(edit.source, edit.under) & ~inside).any()


def test_an_over_edit_makes_the_change_and_loses_what_is_not_mentioned(edits):
    assert {edit.lost for edit in edits} == set(LOSSES)
    for edit in edits[:12]:
        inside = np.asarray(edit.mask(96)) == 255
        assert (changed(edit.ideal, edit.over) & ~inside).any()
        lost = set(edit.ideal.objects) - set(edit.over.objects)
        if edit.lost == "background":
            assert not lost
            difference = levels(edit.ideal) - levels(edit.over)
            assert np.abs(difference[:5, :5].mean(axis=(0, 1))).max() > 5
        else:
            assert lost
            assert edit.over.background == edit.ideal.background
            assert (len(edit.over.objects) < len(edit.ideal.objects)) == (edit.lost == "removed")
            said = [c.thing for s in edit.target.statements for c in counts_of(s)]
            assert not any(thing.matches(item) for thing in said for item in lost)


def test_one_thing_is_asked_and_all_else_kept(edits):
    for edit in edits:
        before, after = Counter(edit.source.objects), Counter(edit.ideal.objects)
        gone, come = list((before - after).elements()), list((after - before).elements())
        assert {*gone, *come} <= set(edit.touched)
        if edit.kind in ("add", "remove"):
            assert (len(gone), len(come)) == ((0, 1) if edit.kind == "add" else (1, 0))
            continue
        assert len(gone) == len(come) > 0
        field = {"recolour": "colour", "reshape": "shape", "resize": "size", "move": None}
        for name in ("colour", "shape", "size"):
            same = {getattr(o, name) for o in gone} == {getattr(o, name) for o in come}
            assert same == (name != field[edit.kind])
        assert ({(o.x, o.y) for o in gone} == {(o.x, o.y) for o in come}) == (edit.kind != "move")


def test_texts_are_in_the_vocabulary_and_true(edits):
    words = set(vocabulary())
    for edit in edits:
        for texts in (edit.source_attributes, edit.target_attributes):
            assert len(set(texts)) == len(texts) >= 1
            assert {word for text in texts for word in text.split()} <= words
        text = edit.target.text.replace(",", " ,")
        assert set(text.split()) <= words
        assert edit.source_attributes != edit.target_attributes
        look = edit.source.groups[0]
        first = Count(Thing(look[0].shape, look[0].colour, look[0].size), len(look))
        assert edit.source_attributes[0] == Caption((first,)).text
        moved = any(isinstance(said, Relation) for said in edit.target.statements)
        if edit.kind == "move":
            assert moved
            relation = next(s for s in edit.target.statements if isinstance(s, Relation))
            assert Caption((relation,)).text in edit.target_attributes


def test_same_seed_same_edit():
    assert sample_edit("move", 3) == sample_edit("move", 3)
    assert sample_edit("move", 3) != sample_edit("move", 4)


def test_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="unknown kind of edit 'blur'; one of recolour"):
        sample_edit("blur", 0)


# The folder -----------------------------------------------------------------------------------


def test_make_edits_writes_images_table_and_truth(tmp_path):
    made = make_edits(tmp_path / "new", 7, seed=2, size=48)
    assert made.edits == 7
    listing = read_samples(made.table)
    assert listing.findings == []
    assert [s.system for s in listing.samples] == list(SYSTEMS) * 7
    assert [s.meta["kind"] for s in listing.samples[:: len(SYSTEMS)]] == [*KINDS, KINDS[0]]
    for sample in listing.samples:
        for path, mode in (
            (sample.image, "RGB"),
            (sample.source_image, "RGB"),
            (sample.mask, "L"),
        ):
            with Image.open(path) as image:
                assert (image.size, image.mode) == ((48, 48), mode)
        assert (sample.image == sample.source_image) == (sample.system == "unedited")
        edit = sample_edit(sample.meta["kind"], f"2:{int(sample.item[-4:])}")
        assert sample.text == edit.target.text
        assert sample.source_text == edit.source_caption.text
        assert sample.target_attributes == edit.target_attributes
    truth = [json.loads(line) for line in made.truth.read_text().splitlines()]
    for fact in truth:
        assert (tmp_path / "new" / fact["image"]).is_file()
        if "scene" in fact:
            name = fact["image"].split("/")[0]
            assert fact["text_holds"] == (name in ("ideal", "over"))
            with Image.open(tmp_path / "new" / fact["image"]) as image:
                drawn = render(scene_from_dict(fact["scene"]), 48)
                assert np.array_equal(np.asarray(image), np.asarray(drawn))


def test_overwrite_removes_what_was_made_and_nothing_else(tmp_path):
    make_edits(tmp_path, 3, size=32)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        make_edits(tmp_path, 1, size=32)
    make_edits(tmp_path, 1, size=32, overwrite=True)
    assert len(list(tmp_path.rglob("*.png"))) == len(DRAWN) + 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"n": 1, "size": 8}, "size must be at least 16"),
        ({"n": 1, "kinds": ("blur",)}, "unknown kind 'blur'; one or more of recolour"),
        ({"n": 1, "kinds": ()}, "no kind was given"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_edits(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()
