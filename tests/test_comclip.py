"""ComCLIP: entities and their sub-images, from the caller or from a parser and a detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import make_clip, picture
from tiny_detectors import make_grounding_dino, make_owl

from scorekit.backbones.handle import get_handle, unload_backbones
from scorekit.backbones.hf_detector import _caption
from scorekit.entities import entities_of, only, region_of, size_of, with_mask_paths
from scorekit.io import read_samples
from scorekit.metrics.comclip import ComCLIP
from scorekit.noun_phrases import noun_phrases, parser_version
from scorekit.run import RunOptions, score_samples
from scorekit.samples import samples_from
from scorekit.table import ScoreTable
from scorekit.types import Feature, InputError, Sample, UsageError, image_embedding, text_embedding

DOG = {"text": "a dog", "box": [4, 5, 20, 30]}
CAT = {"text": "the cat", "box": [25, 2, 48, 40]}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CLIP whose cosines are positive, as real ones are: its towers share a direction."""
    from transformers import CLIPModel

    folder = make_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")
    model = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        model.text_model.final_layer_norm.bias.fill_(2)
        model.vision_model.post_layernorm.bias.fill_(2)
        model.text_projection.weight[0] = model.visual_projection.weight[0] = 0.2
    model.save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture(scope="module", params=["owlv2", "owlvit", "grounding-dino"])
def detector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("detector") / request.param
    if request.param == "grounding-dino":
        make_grounding_dino(folder)
    else:
        make_owl(folder, kind=request.param)
    yield f"hf:{folder}"
    unload_backbones()


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf:{make_owl(tmp_path_factory.mktemp('owl') / 'owlv2')}"


def run(
    metric: ComCLIP, images: Any, texts: Any, options: RunOptions | None = None, **columns: Any
) -> ScoreTable:
    samples = samples_from(images, texts, **columns)
    return score_samples(samples, [metric], options=options or RunOptions(cache=False))


def rows(table: ScoreTable) -> Any:
    return table.frame[table.frame.metric == "comclip"].reset_index(drop=True)


def one(metric: ComCLIP, entities: Any, image: Any = None, text: Any = "a dog") -> Any:
    image = picture(1) if image is None else image
    return rows(run(metric, [image], [text], entities=[entities])).iloc[0]


# The formula through a real model ---------------------------------------------------------


def black_outside(image: Image.Image, box: list[int]) -> Image.Image:
    pixels = np.asarray(image).copy()
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    pixels[~inside] = 0
    return Image.fromarray(pixels)


def test_the_score_is_that_of_a_plain_loop(clip: str) -> None:
    model = get_handle(clip).model()
    see, read = image_embedding(clip), text_embedding(clip)
    image = picture(1)
    text = "a dog chases the cat"

    def unit(array: Any) -> Any:
        return array.astype(np.float64) / np.linalg.norm(array.astype(np.float64))

    def embed(image: Image.Image) -> Any:
        return unit(model.extract(see, [model.prepare(see, image)])[0].array)

    words = [unit(r.array) for r in model.extract(read, ["a dog", "the cat", text])]
    parts = [embed(black_outside(image, box)) for box in (DOG["box"], CAT["box"])]
    matches = np.array([word @ part for word, part in zip(words, parts, strict=False)])
    weights = matches / matches.sum()
    e = embed(image) + weights[0] * parts[0] + weights[1] * parts[1]

    table = run(ComCLIP(backbone=clip), [image], [text], entities=[[DOG, CAT]])
    row = rows(table).iloc[0]
    assert row.status == "ok"
    assert row.value == pytest.approx(unit(e) @ words[2], abs=2e-6)
    told = json.loads(row.evidence)
    assert [each["weight"] for each in told] == pytest.approx(weights, abs=1e-4)
    assert [each["boxes"] for each in told] == [[DOG["box"]], [CAT["box"]]]
    parts_of = table.frame.set_index("metric").value
    assert parts_of["comclip.found"] == 1
    assert parts_of["comclip.clip_t"] == pytest.approx(embed(image) @ words[2], abs=2e-6)


def test_boxes_relative_boxes_and_masks_are_one_and_the_same(clip: str) -> None:
    metric = ComCLIP(backbone=clip)
    mask = np.zeros((40, 48), dtype=bool)
    mask[10:30, 12:36] = True
    given = [
        {"text": "a dog", "box": [12, 10, 36, 30]},
        {"text": "a dog", "box_relative": [0.25, 0.25, 0.75, 0.75]},
        {"text": "a dog", "mask": mask},
        {"text": "a dog", "box": [[12, 10, 24, 30], [24, 10, 36, 30]]},
    ]
    values = [one(metric, [each]).value for each in given]
    assert values == pytest.approx([values[0]] * 4, abs=1e-6)
    assert one(metric, [DOG]).value != pytest.approx(values[0], abs=1e-4)


def test_batch_size_and_row_order_do_not_matter(clip: str) -> None:
    metric = ComCLIP(backbone=clip)
    images = [picture(k, 48 + k, 40) for k in range(5)]
    texts = ["a dog", "the cat", "a dog and the cat", "a tree", "a dog"]
    entities = [[DOG], [CAT], [DOG, CAT], [{**DOG, "text": "a tree"}, CAT, DOG], [CAT]]
    whole = rows(run(metric, images, texts, entities=entities)).value
    alone = RunOptions(cache=False, batch_size=1)
    single = rows(run(metric, images, texts, alone, entities=entities)).value
    np.testing.assert_allclose(single, whole, atol=2e-6)
    turned = rows(run(metric, images[::-1], texts[::-1], entities=entities[::-1])).value
    np.testing.assert_allclose(turned[::-1], whole, atol=2e-6)


def test_sub_images_are_computed_once(
    clip: str, options: Any, count_forwards: Callable[[], dict[str, int]]
) -> None:
    metric = ComCLIP(backbone=clip)
    image, texts = picture(1), ["a dog", "the cat"]
    entities = [[DOG, CAT], [DOG, {**CAT, "text": "a tree"}]]
    unload_backbones()
    get_handle(clip).model()  # loading tries a few texts
    before = count_forwards()
    first = run(metric, [image, image.copy()], texts, options, entities=entities)
    now = count_forwards()
    # The image and its two regions; "a dog" and "the cat" are entities and texts.
    assert now["images"] - before["images"] == 3
    assert now["texts"] - before["texts"] == 3
    again = run(metric, [image, image.copy()], texts, options, entities=entities)
    assert count_forwards() == now
    np.testing.assert_array_equal(rows(first).value, rows(again).value)
    moved = [[{**DOG, "box": [5, 5, 20, 30]}, CAT], entities[1]]
    run(metric, [image, image.copy()], texts, options, entities=moved)
    assert count_forwards()["images"] == now["images"] + 1


# What the caller gives --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entities", "status", "note"),
    [
        (None, "missing_input", "no column entities"),
        ("", "missing_input", "no column entities"),
        (float("nan"), "missing_input", "no column entities"),
        ([], "undefined", "no entities"),
        ("a dog", "invalid_text", "not a JSON list"),
        ('{"text": "a dog"}', "invalid_text", "not a list"),
        (["a dog"], "invalid_text", "entity 1 is no object"),
        ([{"box": [0, 0, 1, 1]}], "invalid_text", "entity 1 has no text"),
        ([{"text": " ", "box": [0, 0, 1, 1]}], "invalid_text", "no text"),
        ([{"text": "a dog", "bbox": [0, 0, 1, 1]}], "invalid_text", "key 'bbox'"),
        ([DOG, {"text": "x", "box": [0, 0, 1]}], "invalid_text", "entity 2: box is four numbers"),
        ([{"text": "x", "box": "0 0 1 1"}], "invalid_text", "four numbers"),
        ([{"text": "x", "box": [0, 0, True, 1]}], "invalid_text", "four numbers"),
        ([{"text": "x", "box": [0, 0, float("nan"), 1]}], "invalid_text", "four numbers"),
        ([{"text": "x", "box": []}], "invalid_text", "four numbers"),
        ([{**DOG, "mask": "m.png"}], "invalid_text", "both box and mask"),
        ([{"text": "a dog"}], "missing_input", "'a dog' has neither box nor mask"),
        ([{**DOG, "box": [5, 5, 5, 9]}], "invalid_region", "of 'a dog' has no area"),
        ([{**DOG, "box": [9, 5, 5, 9]}], "invalid_region", "no area"),
        ([{**DOG, "box": [48, 0, 60, 9]}], "invalid_region", "outside the image of 48 x 40"),
        ([{**DOG, "box": [0, -9, 60, 0]}], "invalid_region", "outside"),
        ([{"text": "x", "mask": np.ones((40, 47), bool)}], "invalid_region", "47 x 40, the image"),
        ([{"text": "x", "mask": np.zeros((40, 48), bool)}], "invalid_region", "no white pixel"),
        ([{"text": "x", "mask": "/no/such.png"}], "missing_image", "the mask of 'x': no file"),
    ],
)
def test_what_is_wrong_with_entities_is_said_on_the_row(
    clip: str, entities: Any, status: str, note: str
) -> None:
    table = run(
        ComCLIP(backbone=clip), [picture(1), picture(2)], "a dog", entities=[entities, [DOG]]
    )
    bad, good = rows(table).itertuples()
    assert bad.status == status
    assert note in bad.note
    assert np.isnan(bad.value)
    assert good.status == "ok"


def test_other_failures_keep_their_own_status(clip: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = [tmp_path / "none.png", tmp_path / "broken.png", picture(1)]
    table = run(ComCLIP(backbone=clip), images, ["a", "a", None], entities=[[DOG]] * 3)
    found = list(rows(table).status)
    assert found == ["missing_image", "unreadable_image", "missing_text"]


def test_a_box_beyond_the_image_is_clipped_with_a_note(clip: str) -> None:
    metric = ComCLIP(backbone=clip)
    row = one(metric, [{**DOG, "box": [-3, 5, 20, 99.5]}])
    assert row.status == "ok"
    assert row.note == "the box [-3, 5, 20, 99.5] of 'a dog' was clipped to the image of 48 x 40"
    assert row.value == pytest.approx(one(metric, [{**DOG, "box": [0, 5, 20, 40]}]).value)


def test_a_table_has_masks_beside_it(clip: str, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "1.png")
    mask = np.zeros((40, 48), np.uint8)
    mask[5:30, 4:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    lines = [
        {"image": "1.png", "text": "a dog", "entities": [{"text": "a dog", "mask": "mask.png"}]},
        {"image": "1.png", "text": "a cat", "entities": json.dumps([DOG])},
        {"image": "1.png", "text": "a tree", "entities": "[broken"},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    listing = read_samples(tmp_path / "t.jsonl")
    table = score_samples(
        listing.samples, [ComCLIP(backbone=clip)], options=RunOptions(cache=False)
    )
    masked, boxed, broken = rows(table).itertuples()
    assert [masked.status, boxed.status, broken.status] == ["ok", "ok", "invalid_text"]
    # The same region by mask and by box: the same weights and sub-image.
    match = [json.loads(row.evidence)[0]["match"] for row in (masked, boxed)]
    assert match[0] == pytest.approx(match[1], abs=1e-6)


def test_the_signature_names_a_parser_only_beside_a_detector(clip: str, owl: str) -> None:
    plain = run(ComCLIP(backbone=clip), [picture(1)], "a dog", entities=[[DOG]])
    signature = str(plain.metrics["comclip"].signature)
    assert "|bb:entities/column|" in signature
    assert "parser" not in signature
    table = run(ComCLIP(backbone=clip, detector=owl), [picture(1)], "a dog")
    signature = str(table.metrics["comclip"].signature)
    assert "|bb:hf/owlv2|" in signature
    assert "|parser:rules|threshold:0.1|missing:whole|" in signature


# Regions ----------------------------------------------------------------------------------


def test_only_keeps_every_pixel_that_a_box_touches() -> None:
    image = Image.new("RGB", (6, 4), "white")
    (entity,) = entities_of([{"text": "x", "box": [1.2, 0.9, 2.1, 3]}]) or []
    region, note = region_of(entity, image.size)
    assert note == ""
    assert np.argwhere(np.asarray(only(image, region))[..., 0] > 0).tolist() == [
        [y, x] for y in range(3) for x in (1, 2)
    ]


def test_boxes_are_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1).save(tmp_path / "turned.jpg", exif=exif)
    assert size_of(str(tmp_path / "turned.jpg")) == (40, 48)
    assert size_of((tmp_path / "turned.jpg").read_bytes()) == (40, 48)
    assert size_of(np.zeros((3, 5, 3), np.uint8)) == (5, 3)


def test_a_cell_that_is_no_list_is_left_for_its_row() -> None:
    for cell in (None, 3, "[broken", '"text"', [3], {"mask": 1}):
        assert with_mask_paths(cell, "base") == cell
    given = [{"text": "x", "mask": "m.png"}, {"text": "y", "box": [0, 0, 1, 1]}]
    assert with_mask_paths(given, "base")[0]["mask"] == str(Path("base") / "m.png")


# Parser and detector ----------------------------------------------------------------------


def test_phrases_are_found_by_rules() -> None:
    cases = {
        "A woman wearing a red hat holds an umbrella.": ["A woman", "a red hat", "an umbrella"],
        "a photo of two dogs next to a tall building": ["two dogs", "a tall building"],
        "There are people sitting at the table": ["people", "the table"],
        "a table covered with plates, a cup": ["a table", "plates", "a cup"],
        "the dog, the dog": ["the dog"],
        "nobody is there": [],
    }
    assert {text: noun_phrases(text) for text in cases} == cases


def test_a_parser_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UsageError, match="rules or spacy:PIPELINE"):
        parser_version("trees")
    with pytest.raises(UsageError, match="pip install spacy"):
        parser_version("spacy:no_such_pipeline")
    with pytest.raises(UsageError, match="threshold is auto or 0 to 1"):
        ComCLIP(detector="hf:x", threshold="2")
    with pytest.raises(UsageError, match="go with detector="):
        ComCLIP(threshold="0.3")


def test_a_detector_places_what_the_text_names(clip: str, detector: str) -> None:
    metric = ComCLIP(backbone=clip, detector=detector, threshold="0")
    images = [picture(k) for k in range(3)]
    texts = ["a red circle and the blue square", "a dog chases the cat", "a tree"]
    table = rows(run(metric, images, texts))
    assert set(table.status) == {"ok"}
    told = [json.loads(cell) for cell in table.evidence]
    assert [[e["text"] for e in row] for row in told] == [
        ["a red circle", "the blue square"],
        ["a dog", "the cat"],
        ["a tree"],
    ]
    placed = [e for row in told for e in row if e["found"]]
    assert placed
    for each in placed:
        (x0, y0, x1, y1) = each["boxes"][0]
        assert 0 <= x0 < x1 <= 48 and 0 <= y0 < y1 <= 40
        assert 0 <= each["score"] <= 1
    # Alone and the other way round, whatever a batch was padded to.
    alone = RunOptions(cache=False, batch_size=1)
    single = rows(run(metric, images[::-1], texts[::-1], alone))
    again = [json.loads(cell) for cell in single.evidence][::-1]
    for mine, theirs in zip(again, told, strict=True):
        assert [e.get("boxes") for e in mine] == [e.get("boxes") for e in theirs]
        assert [e.get("score") for e in mine] == pytest.approx(
            [e.get("score") for e in theirs], abs=1e-5
        )


def test_detectors_agree_with_the_library(detector: str) -> None:
    model = get_handle(detector).model()
    image = picture(3, 64, 40)
    queries = ["a red circle", "the cat"]
    ((box, score), _) = model.look([image], [queries])[0]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(detector.removeprefix("hf:"))
    pixels = model.processor(images=image, return_tensors="pt")
    if "grounding" in detector:
        tokens = tokenizer("a red circle. the cat.", return_tensors="pt")
        out = model.model(**tokens, **pixels)
        # Behind [CLS]: three words of the first query.
        best = out.logits[0, :, 1:4].sigmoid().max(dim=1).values
        x, y, w, h = out.pred_boxes[0, best.argmax()].tolist()
        expected = [(x - w / 2) * 64, (y - h / 2) * 40, (x + w / 2) * 64, (y + h / 2) * 40]
        assert score == pytest.approx(float(best.max()), abs=1e-5)
    else:
        tokens = tokenizer(
            ["a photo of a red circle"], padding="max_length", max_length=16, return_tensors="pt"
        )
        out = model.model(**tokens, pixel_values=pixels["pixel_values"])
        # One query alone: the library's own reading keeps every box.
        found = model.processor.post_process_object_detection(
            out, threshold=0.0, target_sizes=[(40, 64)]
        )[0]
        expected = found["boxes"][found["scores"].argmax()].tolist()
        assert score == pytest.approx(float(found["scores"].max()), abs=1e-5)
    assert box == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("missing", ["whole", "drop", "error"])
def test_what_is_not_found_is_said(clip: str, owl: str, missing: Any) -> None:
    metric = ComCLIP(backbone=clip, detector=owl, threshold="1", missing=missing)
    columns = {"entities": [[DOG, {"text": "a tree"}], None]}
    table = run(metric, [picture(1), picture(2)], "a dog", **columns)
    some, none = rows(table).itertuples()
    found = table.frame[table.frame.metric == "comclip.found"].value.tolist()
    if missing == "error":
        assert [some.status, none.status] == ["undefined"] * 2
        assert some.note == "not found: a tree"
        return
    assert some.status == "ok"
    assert some.note.startswith("not found: a tree")
    assert found[0] == 0.5
    if missing == "drop":
        assert none.status == "undefined"
        assert none.note == "not found: a dog"
        placed = one(ComCLIP(backbone=clip), [DOG], picture(1))
        assert some.value == pytest.approx(placed.value, abs=1e-6)
    else:
        # Twice the image's embedding points where the image's does.
        plain = table.frame[table.frame.metric == "comclip.clip_t"].value.tolist()
        assert none.status == "ok"
        assert none.value == pytest.approx(plain[1], abs=1e-6)


def test_the_detector_looks_once(
    clip: str, owl: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scorekit.backbones import hf_detector

    looked: list[int] = []
    look = hf_detector.Owl.look

    def counted(self: Any, images: Any, queries: Any) -> Any:
        looked.append(len(images))
        return look(self, images, queries)

    monkeypatch.setattr(hf_detector.Owl, "look", counted)
    metric = ComCLIP(backbone=clip, detector=owl, threshold="0")
    for _ in range(2):
        run(metric, [picture(1), picture(1), picture(2)], "a dog", options)
    assert sum(looked) == 2
    run(metric, [picture(1)], "a dog", options, entities=[[DOG]])
    assert sum(looked) == 2  # the caller has placed it
    run(ComCLIP(backbone=clip, detector=owl, threshold="0.2"), [picture(1)], "a dog", options)
    assert sum(looked) == 3


def test_a_detector_that_fails_on_one_image_fails_on_its_row(
    clip: str, owl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scorekit.backbones import hf_detector

    look = hf_detector.Owl.look

    def picky(self: Any, images: Any, queries: Any) -> Any:
        if any(image.width == 50 for image in images):
            raise RuntimeError("not this one")
        return look(self, images, queries)

    monkeypatch.setattr(hf_detector.Owl, "look", picky)
    metric = ComCLIP(backbone=clip, detector=owl, threshold="0")
    images = [picture(1), picture(2, 50, 40), Path("/no/such.png"), picture(3)]
    table = rows(run(metric, images, ["a dog", "a dog", "a dog", "and of"]))
    assert list(table.status) == ["ok", "failed", "missing_image", "undefined"]
    assert table.note[1] == "RuntimeError: not this one"
    assert table.note[3] == "no entity was found in the text"


def test_long_queries_are_told_of(clip: str, owl: str) -> None:
    long = {"text": "a small red dog and " * 5 + "a cat"}
    row = one(ComCLIP(backbone=clip, detector=owl, threshold="0"), [long])
    assert "the detector reads 16 of 32 tokens" in row.note


def test_grounding_dino_refuses_more_than_it_reads(clip: str, tmp_path: Path) -> None:
    name = f"hf:{make_grounding_dino(tmp_path / 'gd')}"
    row = one(ComCLIP(backbone=clip, detector=name), [{"text": "a dog " * 20}])
    assert row.status == "text_too_long"
    assert row.note == "the entities have 43 tokens, the detector reads 32"


def test_queries_are_divided_by_full_stops_alone() -> None:
    caption, spans = _caption(["St. Bernard?", "a Cat"])
    assert caption == "st bernard. a cat."
    assert [caption[a:b] for a, b in spans] == ["st bernard", "a cat"]


def test_a_model_of_another_kind_is_refused(clip: str, owl: str) -> None:
    with pytest.raises(UsageError, match="gives no entities"):
        run(ComCLIP(backbone=clip, detector=clip), [picture(1)], "a dog")
    with pytest.raises(UsageError, match="is a detector"):
        score_samples(
            samples_from([picture(1)], "a dog"),
            ["clipscore"],
            backbone=owl,
            options=RunOptions(cache=False),
        )
    sample = Sample("0", "", "a dog", None)
    (result,) = (
        get_handle("entities:column")
        .model()
        .extract(Feature("entities", "entities:column", "sample"), [sample])
    )
    assert isinstance(result, InputError)
