"""`scorekit explain` and `calibrate` as a user meets them, and the relevance of patches."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from open_clip.model import CLIP
from PIL import Image, ImageDraw
from tiny import make_clip, picture, save_tokenizer
from transformers.models.clip import modeling_clip

from scorekit.backbones.attribution import tower_of
from scorekit.backbones.handle import get_handle
from scorekit.backbones.relevance import (
    directions_of,
    patch_relevances,
    relevance_of,
    relevances_of,
    vision_tower_of,
)
from scorekit.explain import Explanation, explain, seen_box
from scorekit.explain_view import _LEGEND, colours, heat_map, html_page, shown_size
from scorekit.resize import ImageSpec
from scorekit.run import RunOptions
from scorekit.types import UsageError

DATA = Path(__file__).parents[1] / "data"
SCENES = DATA / "checkpoints" / "scenes-clip"
IMAGE = DATA / "demo" / "faithful" / "scene-0001.png"  # of a triangle, a circle, three triangles
TEXT = "a black star left of a circle, with three small yellow triangles"
PREFIX = "A photo depicts "


pytestmark = pytest.mark.usefixtures("one_thread")


def scenes(**options: Any) -> Any:
    return get_handle("scenes-clip", RunOptions(device="cpu", **options)).model()


# The command --------------------------------------------------------------------------------


def test_a_pair_in_full(run: Any) -> None:
    code, shown, errors = run("explain", IMAGE, TEXT, "--backbone", "scenes-clip")
    assert (code, errors) == (0, "")
    assert "\x1b" not in shown  # no colours where the output is no terminal
    assert "a black [star] left" in shown
    (star,) = (line.split() for line in shown.splitlines() if line.startswith(" star"))
    assert float(star[1]) < 0 and star[4] == "1" and star[-1] == "misaligned"
    assert star[-2].endswith("|") and "█" in star[-2]  # the bar goes to the left
    assert "eps = -5e-05" in shown and "scorekit calibrate" in shown
    assert re.search(r"^CLIPScore +0\.\d{4} ", shown) and "F-CLIPScore" in shown
    assert shown.count("|bb:scenes-clip|") == 3


def test_colours_on_a_terminal() -> None:
    from rich.console import Console

    from scorekit.explain_view import print_explanation

    found = explain(IMAGE, TEXT, backbone="scenes-clip")
    console = Console(force_terminal=True, color_system="truecolor", record=True, width=120)
    with console.capture() as captured:
        print_explanation(found, console)
    assert "\x1b[1;4;38;2;225;60;60m[star]" in captured.get()


def test_json(run: Any) -> None:
    code, shown, _ = run("explain", IMAGE, TEXT, "--backbone", "scenes-clip", "--json")
    value = json.loads(shown)
    assert code == 0
    assert list(value) == list(Explanation.__dataclass_fields__)
    assert value["chosen"]["word"] == "star"
    assert [TEXT[w["start"] : w["end"]] for w in value["words"]] == [
        w["word"] for w in value["words"]
    ]
    flagged = [w["attribution"] for w in value["words"] if w["misaligned"]]
    assert value["f_clipscore"] == pytest.approx((1 - value["cosine"]) * sum(flagged))
    assert value["clipscore"] == pytest.approx(2.5 * value["cosine"], abs=1e-5)
    assert value["relevance"] is None


def test_rules_of_what_is_misaligned(run: Any) -> None:
    def flagged(*rule: str) -> list[str]:
        code, shown, _ = run("explain", IMAGE, TEXT, "--backbone", "scenes-clip", "--json", *rule)
        assert code == 0
        return [w["word"] for w in json.loads(shown)["words"] if w["misaligned"]]

    assert flagged("--mode", "most_negative") == ["star"]
    assert flagged("--eps", "-1") == []
    assert flagged("--unit", "z", "--eps", "-2") == ["star"]


def test_dtype_and_resize_reach_the_model(run: Any) -> None:
    options = ("--dtype", "bf16", "--resize", "fast", "--json")
    code, shown, _ = run("explain", IMAGE, TEXT, "--backbone", "scenes-clip", *options)
    assert code == 0
    signature = json.loads(shown)["signatures"]["clipscore"]
    assert "|resize:torch-uint8-bicubic|" in signature and "|dtype:bf16|" in signature
    code, _, errors = run("explain", IMAGE, TEXT, "--backbone", "scenes-clip", "--dtype", "x")
    assert code == 2 and len(errors.splitlines()) == 1


def test_a_note_that_names_many_words_is_cut(run: Any) -> None:
    code, shown, _ = run("explain", IMAGE, f"{TEXT} " * 40, "--backbone", "scenes-clip")
    (note,) = (line for line in shown.splitlines() if line.startswith("note: "))
    assert code == 0 and "to 64 tokens" in note
    assert note.endswith(" …") and len(note) < 320


def test_html_is_escaped_and_stands_alone(run: Any, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    text = 'a <script>alert("1")</script> star & a circle'
    code, shown, _ = run("explain", IMAGE, text, "--backbone", "scenes-clip", "--html", page)
    assert code == 0 and f"written to {page}" in shown
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;<span" in html and "&amp;" in html
    assert re.findall(r'(?:src|href)="(.{0,14})', html) == ["data:image/png"]
    bare = re.sub(r"<[^>]*>", "", html.partition('class="caption">')[2].partition("</p>")[0])
    assert bare.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace(
        "&amp;", "&"
    ) == text  # fmt: skip


def test_heat_map_is_written(run: Any, tmp_path: Path) -> None:
    png, page = tmp_path / "out.png", tmp_path / "out.html"
    arguments = ("explain", IMAGE, TEXT, "--backbone", "scenes-clip", "--word", "Yellow")
    code, shown, _ = run(*arguments, "--heatmap", png, "--html", page)
    assert code == 0
    (yellow,) = (line for line in shown.splitlines() if line.startswith(" yellow"))
    assert "heat map" in yellow
    with Image.open(IMAGE) as image, Image.open(png) as drawn:
        width, height = shown_size(*image.size)
        assert drawn.size == (2 * width + 8, height + _LEGEND)
        assert drawn.format == "PNG"
    assert "heat map of yellow" in page.read_text(encoding="utf-8")


def test_a_phrase_is_one_word() -> None:
    found = explain(IMAGE, TEXT, backbone="scenes-clip", word="yellow triangles")
    assert found.chosen is not None and found.chosen["word"] == "yellow triangles"
    assert len(found.words) == 11


def test_a_word_that_stands_twice() -> None:
    found = explain(IMAGE, "a circle and a star", backbone="scenes-clip", word="a")
    ranks = [word["rank"] for word in found.words if word["word"] == "a"]
    assert found.chosen is not None and found.chosen["rank"] == min(ranks)
    assert "'a' stands 2 times" in found.notes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{image}", TEXT, "--word", "dog"], "no word 'dog' in the text; it has a, black, star"),
        (["{image}", "...", "--word", "dog"], "it has no words"),
        (["{image}", "..."], "no words"),
        (["{image}", " "], "the text is empty"),
        (["{broken}", TEXT], "zero bytes"),
        (["no/such.png", TEXT], "no file no/such.png"),
        (["{image}", TEXT, "--heatmap", "x.jpg"], "must end in .png"),
        (["{image}", TEXT, "--heatmap", "no/such/x.png"], "no such folder"),
        (["{image}", TEXT, "--mode", "all"], "--mode is one of threshold, most_negative"),
        (["{image}", TEXT, "--unit", "z"], "give eps="),
        (["{image}", TEXT, "--calibration", "x", "--eps", "-1"], "leave out --eps and --unit"),
        (["{image}", TEXT, "--calibration", "no.json"], "can't read no.json"),
    ],
)
def test_wrong_use_is_one_line(
    run: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    given = [a.format(image=IMAGE, broken=broken) for a in arguments]
    code, shown, errors = run("explain", *given, "--backbone", "scenes-clip")
    assert (code, shown) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors


def make_siglip(folder: Path) -> Path:
    """A tiny SigLIP, whose text tower is not causal."""
    n = save_tokenizer(folder, limit=16, start=False, mask=False)
    tower = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }  # fmt: skip
    text = {**tower, "vocab_size": n, "max_position_embeddings": 16, "projection_size": 32}
    config = transformers.SiglipConfig(
        text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}
    )
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_siglip_is_refused_in_one_line(run: Any, tmp_path: Path) -> None:
    backbone = f"hf:{make_siglip(tmp_path / 'siglip')}"
    code, shown, errors = run("explain", IMAGE, "a red circle", "--backbone", backbone)
    assert (code, shown, errors.count("\n")) == (2, "", 1)
    assert "no token attribution" in errors


# Relevance ----------------------------------------------------------------------------------


def exact_attention(
    module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' eager attention, but for its softmax, which is float32 whatever comes in."""
    scores = q @ k.transpose(-1, -2) * scaling
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights @ v).transpose(1, 2).contiguous(), weights


def reference(ids: list[int], tokens: list[int], pixels: torch.Tensor) -> tuple[np.ndarray, float]:
    """A * d r_w / dA in the class token's row, all through attention maps in one graph."""
    model = transformers.CLIPModel.from_pretrained(
        SCENES, attn_implementation="eager", dtype=torch.float64
    ).eval()
    seen = model.vision_model(pixels.double(), output_attentions=True)
    image = torch.nn.functional.normalize(model.visual_projection(seen.pooler_output)[0], dim=0)
    read = model.text_model(input_ids=torch.tensor([ids]), output_attentions=True)
    text = torch.nn.functional.normalize(model.text_projection(read.pooler_output)[0], dim=0)
    maps = list(read.attentions[-3:])
    gradients = torch.autograd.grad(text @ image, maps, create_graph=True)
    rows = [(a * g)[0, :, len(ids) - 1].mean(0) for a, g in zip(maps, gradients, strict=True)]
    word = torch.stack(rows).mean(0)[tokens].mean()
    maps = list(seen.attentions[-3:])
    gradients = torch.autograd.grad(word, maps)
    rows = [(a * g)[0, :, 0, 1:].mean(0) for a, g in zip(maps, gradients, strict=True)]
    return torch.stack(rows).mean(0).detach().numpy(), float(word.detach())


def test_equal_to_the_eager_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scenes()
    monkeypatch.setattr(modeling_clip, "eager_attention_forward", exact_attention)
    picture = Image.open(IMAGE).convert("RGB")
    pixels = model.normalise(torch.from_numpy(model.prepare(None, picture).pixels[None].copy()))
    ids = model.tokenize([PREFIX + TEXT])[0].ids
    double = copy.deepcopy(model.model).double()
    for word in ("star", "yellow"):
        start = TEXT.index(word)
        (token,) = (k for k, i in enumerate(ids) if model.tokenizer.decode(i).strip() == word)
        expected, attribution = reference(ids, [token], pixels)
        size = np.abs(expected).max()
        directions = directions_of(tower_of(double), ids, [[token]], 3)
        (exact,) = patch_relevances(vision_tower_of(double), pixels.double(), directions)
        assert exact.attribution == pytest.approx(attribution, rel=1e-10)
        assert np.abs(exact.patches.ravel() - expected).max() / size < 1e-6  # kept in float32
        got = relevance_of(model, picture, TEXT, (start, start + len(word)), prefix=PREFIX)
        assert np.abs(got.patches.ravel() - expected).max() / size < 1e-4
        assert got.attribution == pytest.approx(attribution, rel=1e-4)


def test_several_words_at_once_are_each_as_alone() -> None:
    model, picture = scenes(), Image.open(IMAGE).convert("RGB")
    spans = [(TEXT.index(w), TEXT.index(w) + len(w)) for w in ("star", "yellow triangles", "star")]
    together = relevances_of(model, picture, TEXT, spans, prefix=PREFIX)
    for span, got in zip(spans, together, strict=True):
        alone = relevance_of(model, picture, TEXT, span, prefix=PREFIX)
        assert np.allclose(got.patches, alone.patches, rtol=1e-4, atol=1e-8)
        assert got.attribution == pytest.approx(alone.attribution, rel=1e-5)
        assert got.total == pytest.approx(alone.total, rel=1e-4)
    first, second, third = together
    assert np.array_equal(first.patches, third.patches)
    assert np.abs(first.patches - second.patches).max() > 0.1 * np.abs(first.patches).max()


def test_the_word_has_the_attribution_of_the_metric() -> None:
    found = explain(IMAGE, TEXT, backbone="scenes-clip", relevance=True)
    assert found.relevance is not None and found.chosen is not None
    assert found.relevance.attribution == pytest.approx(found.chosen["attribution"], rel=1e-4)


def small_open_clip() -> Any:
    torch.manual_seed(5)
    vision = {"layers": 3, "width": 32, "patch_size": 8, "image_size": 32, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 3}
    model = CLIP(16, vision, text).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model


def small_hf(folder: Path) -> Any:
    return transformers.CLIPModel.from_pretrained(make_clip(folder), dtype=torch.float64).eval()


@pytest.mark.parametrize("family", ["hf", "open_clip"])
@pytest.mark.parametrize("last", [1, 2])
def test_completeness_and_the_tower_itself(family: str, last: int, tmp_path: Path) -> None:
    model = small_hf(tmp_path / "hf") if family == "hf" else small_open_clip()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 32, 32, generator=generator, dtype=torch.float64)
    direction = torch.randn(16, generator=generator, dtype=torch.float64)
    (got,) = patch_relevances(vision_tower_of(model), pixels, direction[None], last)
    assert got.patches.shape == (4, 4)
    added = (float(got.patches.sum(dtype=np.float64)) + got.rest) * got.heads * got.layers
    assert added == pytest.approx(got.total, rel=1e-5)
    with torch.no_grad():
        if family == "hf":
            image = model.get_image_features(pixel_values=pixels).pooler_output[0]
        else:
            image = model.encode_image(pixels)[0]
    whole = float(torch.nn.functional.normalize(image, dim=0) @ direction)
    assert got.attribution == pytest.approx(whole, rel=1e-6)


def coca_pooling() -> Any:
    vision = {
        "layers": 1, "width": 32, "patch_size": 16, "image_size": 32, "head_width": 16,
        "attentional_pool": True, "attn_pooler_heads": 2,
    }  # fmt: skip
    text = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 1}
    return CLIP(32, vision, text)


def resnet() -> Any:
    vision = {"layers": (1, 1, 1, 1), "width": 32, "image_size": 32, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 1}
    return CLIP(32, vision, text)


@pytest.mark.parametrize("build", [coca_pooling, resnet], ids=lambda build: build.__name__)
def test_other_vision_towers_are_refused(build: Any) -> None:
    with pytest.raises(UsageError, match="no heat map") as caught:
        vision_tower_of(build())
    assert "\n" not in str(caught.value)


# The heat map's place and colours -----------------------------------------------------------

SPECS = [
    ImageSpec(size=(64, 64)),
    ImageSpec(size=(64, 64), crop_rounding="floor"),
    ImageSpec(size=(64, 64), resize_to=80),
    ImageSpec(size=(64, 48), mode="squash"),
    ImageSpec(size=(64, 64), mode="longest", crop_rounding="floor"),
    ImageSpec(size=(64, 64), mode="longest"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.describe()[:30])
@pytest.mark.parametrize("size", [(300, 200), (120, 201)])
def test_the_map_lies_over_the_right_pixels(spec: ImageSpec, size: tuple[int, int]) -> None:
    """A spot's place in the model's input, taken back, is its place in the image."""
    image = Image.new("RGB", size)
    x, y = size[0] * 0.45, size[1] * 0.6
    ImageDraw.Draw(image).ellipse((x - 9, y - 9, x + 9, y + 9), fill="white")
    weights = spec.apply(image)[..., 0].astype(float)
    rows, columns = np.indices(weights.shape) + 0.5
    at_x, at_y = ((weights * axis).sum() / weights.sum() for axis in (columns, rows))
    left, top, right, bottom = seen_box(spec, *size)
    assert left + (right - left) * at_x / spec.size[1] == pytest.approx(x, abs=1)
    assert top + (bottom - top) * at_y / spec.size[0] == pytest.approx(y, abs=1)


def test_what_the_model_does_not_see_is_dark() -> None:
    """A wide image loses its sides; the strongest colour is where the strongest patch is."""
    square = Image.open(IMAGE).convert("RGB")
    wide = Image.new("RGB", (2 * square.width, square.height), "white")
    wide.paste(square, (square.width // 2, 0))
    found = explain(wide, TEXT, backbone="scenes-clip", relevance=True)
    assert found.relevance is not None
    drawn = np.asarray(heat_map(found, wide)).astype(int)
    width, height = shown_size(*wide.size)
    over = drawn[:height, width + 8 :]
    assert over[:, : width // 4 - 2].max() < 120 < over[:, width // 4 + 2 : width // 2].mean()
    rows, columns = found.relevance.patches.shape
    row, column = divmod(int(np.abs(found.relevance.patches).argmax()), columns)
    spread = over.max(-1) - over.min(-1)
    high, wide_ = height // rows, width // 2 // columns
    patch = spread[row * high : (row + 1) * high, width // 4 + column * wide_ :][:, :wide_]
    assert patch.mean() > 3 * spread.mean()


def test_colours_darken_from_nought() -> None:
    """In grey as well: the luminance falls from nought on either side."""
    levels = colours(np.linspace(-1, 1, 41)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(levels[:21]) > 0).all() and (np.diff(levels[20:]) < 0).all()


def test_a_page_names_a_word_of_any_script() -> None:
    found = explain(IMAGE, "a 猫 & a circle", backbone="scenes-clip", relevance=True, word="猫")
    assert "heat map of 猫" in html_page(found, Image.open(IMAGE).convert("RGB"))


# Calibration --------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    lines = []
    for line in (DATA / "demo" / "truth.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["system"] != "faithful" or not row["holds"]:
            continue
        image, text = str(DATA / "demo" / row["image"]), row["text"]
        lines.append({"image": image, "text": text, "misaligned": [], "item": row["item"]})
        if text.split().count("triangle") == 1:
            text = text.replace("triangle", "star", 1)
            start = text.index("star")
            lines.append({**lines[-1], "text": text, "misaligned": [[start, start + 4]]})
    path = tmp_path / "labelled.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_calibrate_and_use_it(run: Any, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "eps.json"
    how = ("--backbone", "scenes-clip")
    code, shown, errors = run("calibrate", labelled, *how, "--unit", "scaled", "-o", out)
    assert (code, errors) == (0, "")
    assert "for scenes-clip (" in shown and "95% interval" in shown and "held out" in shown
    written = json.loads(out.read_text())
    eps = written["fit"]["eps"]["value"]
    assert written["unit"] == "scaled" and eps <= 0
    assert f"eps = {eps:.4g} (scaled)" in shown

    code, shown, _ = run("explain", IMAGE, TEXT, *how, "--calibration", out)
    assert code == 0 and f"eps from {out}" in shown
    folder = DATA / "demo" / "faithful"
    score = ("score", folder, "--text", TEXT, *how, "--calibration", out)
    code, shown, errors = run(*score, "-m", "clip4dm", "-m", "f_clipscore", "--json")
    assert code == 0 and f"eps from {out}" in errors
    value = json.loads(shown)
    for name in ("clip4dm", "f_clipscore"):
        assert f"|eps:{eps:g}|mode:threshold|unit:scaled|" in value["metrics"][name]["signature"]
    assert value["run"]["calibration"].startswith(f"eps from {out}")

    for more, message in (
        (("-m", "clip4dm", "--dtype", "bf16"), "other weights, resize or dtype"),
        (("-m", "clip4dm:eps=-1"), "has its own eps"),
        (("-m", "clipscore"), "--calibration is of no use"),
        (("-m", "clip4dm:last=2"), "fitted with last=3"),
    ):
        code, _, errors = run(*score, *more)
        assert code == 2 and message in errors and errors.count("\n") == 1


def test_calibrate_leaves_out_what_it_cannot_score(
    run: Any, labelled: Path, tmp_path: Path
) -> None:
    with labelled.open("a") as file:
        file.write('\n{"image": "gone.png", "text": "a star", "misaligned": ["star"]}')
    out = tmp_path / "eps.json"
    code, shown, errors = run(
        "calibrate", labelled, "--backbone", "scenes-clip", "-o", out, "--json"
    )
    assert code == 1 and out.exists()
    assert json.loads(shown)["failed"] == 1 and "gone.png" in errors


def test_calibrate_on_nothing(run: Any, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "one.png")
    data = tmp_path / "data.jsonl"
    data.write_text('{"image": "one.png", "text": "a star", "misaligned": []}')
    code, _, errors = run(
        "calibrate", data, "--backbone", "scenes-clip", "-o", tmp_path / "eps.json"
    )
    assert code == 2 and "no word is misaligned" in errors
    assert not (tmp_path / "eps.json").exists()
    code, _, errors = run("calibrate", data, "-o", tmp_path / "no" / "eps.json")
    assert code == 2 and "no such folder" in errors
