"""CLIP-FlanT5 against an independent plain loop, on a tiny checkpoint in its published layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import TEXTS, picture, save_tokenizer

from scorekit.backbones.clip_flant5 import ClipFlanT5, framed, load
from scorekit.backbones.files import weight_files
from scorekit.backbones.hf import kind_of
from scorekit.backbones.spec import BackboneOptions
from scorekit.backbones.vlm import square
from scorekit.presets import PRESETS, Preset
from scorekit.questions import Question
from scorekit.types import Extracted, Feature, InputError, Pair, UsageError, answer_probability

CPU = BackboneOptions(device="cpu")
VQA = answer_probability("b")
SPARE = 3
"""Rows of the embeddings that no token has, as T5's tables have them."""


def save_t5_tokenizer(folder: Path, *, limit: int = 200) -> int:
    return save_tokenizer(folder, limit=limit, start=False)


def tiny_t5(vocabulary: int, **kwargs: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=24,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=vocabulary - 1 - SPARE,
        **kwargs,
    )
    return T5ForConditionalGeneration(config).eval()


def tiny_tower(folder: Path, *, whole: bool = False) -> Any:
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPVisionConfig,
        CLIPVisionModel,
    )

    torch.manual_seed(2)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
    shape |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    if not whole:
        tower = CLIPVisionModel(CLIPVisionConfig(**shape)).eval()
        tower.save_pretrained(folder)
        return tower
    model = CLIPModel(CLIPConfig(vision_config=shape, projection_dim=8)).eval()
    model.save_pretrained(folder)
    return model.vision_model


def make(
    folder: Path, *, inside: bool = True, whole_tower: bool = False, pickled: bool = False
) -> dict[str, Any]:
    """A checkpoint in the layout of zhiqiulin/clip-flant5-xl, and its parts."""
    tower_folder = folder.parent / (folder.name + "-tower")
    tower = tiny_tower(tower_folder, whole=whole_tower)
    words = save_t5_tokenizer(folder)
    t5 = tiny_t5(words + SPARE)
    with torch.no_grad():
        for parameter in t5.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
        t5.lm_head.weight = torch.nn.Parameter(torch.randn_like(t5.lm_head.weight))
    torch.manual_seed(3)
    mlp = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.GELU(), torch.nn.Linear(24, 24))
    state = {name: value.clone() for name, value in t5.state_dict().items()}
    state["embed_tokens.weight"] = state["shared.weight"].clone()
    state |= {f"mm_projector.{k}": v for k, v in mlp.state_dict().items()}
    if inside:
        state |= {
            f"vision_tower.vision_tower.vision_model.{name}": value.clone()
            for name, value in tower.state_dict().items()
        }
        places = torch.arange(17)[None]
        state["vision_tower.vision_tower.vision_model.embeddings.position_ids"] = places
    state = {name: value.contiguous() for name, value in state.items()}
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
        torch.save(CPU, folder / "training_args.bin")
    else:
        save_file(state, folder / "model.safetensors")
    config = t5.config.to_dict()
    config |= {
        "architectures": ["CLIPT5ForConditionalGeneration"],
        "model_type": "t5",
        "tie_word_embeddings": False,
        "mm_vision_tower": str(tower_folder),
        "mm_hidden_size": 16,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "tokenizer_model_max_length": 120,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return {"t5": t5, "mlp": mlp, "tower": tower, "folder": folder, "tower_folder": tower_folder}


def opened(folder: Path, options: BackboneOptions = CPU) -> ClipFlanT5:
    return load(folder, weight_files(folder, allow_pickle=options.allow_pickle), options)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make(tmp_path_factory.mktemp("flant5") / "clip-flant5-tiny")


@pytest.fixture(scope="module")
def model(parts: dict[str, Any]) -> ClipFlanT5:
    return opened(parts["folder"])


def plain(parts: dict[str, Any], image: Image.Image, question: str, answer: str) -> np.ndarray:
    """One pair at a time, as the paper's code does it, written from its description."""
    from transformers import AutoTokenizer, CLIPImageProcessor

    tokenizer = AutoTokenizer.from_pretrained(parts["folder"])
    processor = CLIPImageProcessor.from_pretrained(parts["tower_folder"])
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(int(255 * m) for m in processor.image_mean))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    pixels = processor(images=canvas, return_tensors="pt")["pixel_values"]
    system = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: "
    )
    with torch.no_grad():
        hidden = parts["tower"](pixel_values=pixels, output_hidden_states=True).hidden_states
        seen = parts["mlp"](hidden[len(hidden) - 2][0, 1:])
        table = parts["t5"].shared.weight
        before = tokenizer(system)["input_ids"]
        after = tokenizer("\n" + question + " ASSISTANT: ")["input_ids"]
        embeds = torch.cat([table[before], seen, table[after]])[None]
        target = torch.tensor([tokenizer(answer)["input_ids"]])
        logits = parts["t5"](inputs_embeds=embeds, labels=target).logits[0]
        logits = logits[:, : len(tokenizer)]
        return logits.log_softmax(-1)[torch.arange(target.shape[1]), target[0]].numpy()


def question_about(text: str) -> str:
    return f'Does this figure show "{text}"? Please answer yes or no.'


def arrays(results: Sequence[Extracted | InputError]) -> list[np.ndarray]:
    assert all(isinstance(r, Extracted) for r in results), results
    return [r.array for r in results if isinstance(r, Extracted)]


IMAGES = [picture(0), picture(1, 40, 60), picture(2, 32, 32)]
PAIRS = [(i, t) for i, n in enumerate((4, 1, 3)) for t in TEXTS[:n]]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("backwards", [False, True])
def test_it_is_the_plain_loop(
    model: ClipFlanT5, parts: dict[str, Any], batch_size: int, backwards: bool
) -> None:
    prepared = [model.prepare(VQA, image) for image in IMAGES]
    pairs = PAIRS[::-1] if backwards else PAIRS
    asked = [Pair(prepared[i], text) for i, text in pairs]
    got = arrays(model.extract(VQA, asked, batch_size=batch_size))
    for array, (i, text) in zip(got, pairs, strict=True):
        expected = plain(parts, IMAGES[i], question_about(text), "Yes")
        assert array.shape == (2,)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, atol=1e-4)


@pytest.mark.parametrize("case", ["tower outside", "tower in a whole CLIP", "pickle"])
def test_every_layout_gives_the_same_kind_of_answer(tmp_path: Path, case: str) -> None:
    parts = make(
        tmp_path / "m",
        inside=case == "pickle",
        whole_tower=case == "tower in a whole CLIP",
        pickled=case == "pickle",
    )
    options = BackboneOptions(device="cpu", allow_pickle=case == "pickle")
    model = opened(parts["folder"], options)
    pair = Pair(model.prepare(VQA, IMAGES[0]), TEXTS[0])
    (got,) = arrays(model.extract(VQA, [pair]))
    expected = plain(parts, IMAGES[0], question_about(TEXTS[0]), "Yes")
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_image_is_seen_once_for_all_its_texts(
    model: ClipFlanT5, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    see = model.see
    monkeypatch.setattr(model, "see", lambda images: seen.extend(images) or see(images))
    one, other = (model.prepare(VQA, image) for image in IMAGES[:2])
    pairs = [Pair(one, t) for t in TEXTS] + [Pair(other, t) for t in TEXTS[:2]]
    model.extract(VQA, pairs, batch_size=2)
    assert len(seen) == 2


@pytest.mark.parametrize(
    "text", ['a "red" {} circle', "a {image} of\na dog {question}", "{0!r} %s"]
)
def test_a_text_arrives_literally(model: ClipFlanT5, parts: dict[str, Any], text: str) -> None:
    pair = Pair(model.prepare(VQA, IMAGES[0]), text)
    (got,) = arrays(model.extract(VQA, [pair]))
    np.testing.assert_allclose(got, plain(parts, IMAGES[0], question_about(text), "Yes"), atol=1e-4)


def test_answer_tokens_and_captions(model: ClipFlanT5, parts: dict[str, Any]) -> None:
    pair = Pair(model.prepare(VQA, IMAGES[0]), TEXTS[1])
    (both,) = arrays(model.extract(VQA, [pair]))
    (first,) = arrays(model.extract(answer_probability("b", answer_tokens="first"), [pair]))
    np.testing.assert_allclose(first, both[:1], atol=1e-5)
    caption = Feature("token_logprobs", "b", "image", (("end", True),), second="text")
    (got,) = arrays(model.extract(caption, [pair]))
    expected = plain(parts, IMAGES[0], "Describe this image.", TEXTS[1])
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_text_alone_has_a_likelihood(model: ClipFlanT5) -> None:
    alone = Feature("token_logprobs", "b", "text", (("end", True),))
    got = arrays(model.extract(alone, list(TEXTS)))
    assert [len(a) for a in got] == [len(t.split()) + 1 for t in TEXTS]
    assert all((a < 0).all() for a in got)


def test_yes_and_no_at_the_first_position(tmp_path: Path) -> None:
    parts = make(tmp_path / "m")
    model = opened(parts["folder"])
    asked = answer_probability("b", normalize="yes_no")
    pair = Pair(model.prepare(asked, IMAGES[0]), TEXTS[0])
    with pytest.raises(UsageError, match="no single token"):
        model.extract(asked, [pair])  # this vocabulary has no yes
    words = answer_probability("b", answer="circle")
    (circle,) = arrays(model.extract(words, [pair]))
    expected = plain(parts, IMAGES[0], question_about(TEXTS[0]), "circle")
    np.testing.assert_allclose(circle, expected, atol=1e-4)


def test_every_choice_is_teacher_forced(model: ClipFlanT5, parts: dict[str, Any]) -> None:
    asked = Feature("answer", "b", "image", second="text")
    question = Question("1", "What is it?", "a dog", ("a dog", "the red square", "cat"))
    pair = Pair(model.prepare(asked, IMAGES[0]), question.dumps())
    (got,) = model.extract(asked, [pair])
    assert isinstance(got, Extracted)
    means = [
        plain(parts, IMAGES[0], question.prompt, choice)[:-1].mean() for choice in question.choices
    ]
    np.testing.assert_allclose(got.array, means, rtol=1e-5)
    assert got.info["answer"] == question.choices[int(np.argmax(means))]


def test_errors_stay_with_their_pair(model: ClipFlanT5) -> None:
    image = model.prepare(VQA, IMAGES[0])
    texts = [TEXTS[0], "a red " * 80, "an </eos> <eos> in it", TEXTS[1]]
    got = model.extract(VQA, [Pair(image, t) for t in texts], batch_size=2)
    assert [getattr(r, "status", "ok") for r in got] == [
        "ok", "text_too_long", "invalid_text", "ok",
    ]  # fmt: skip
    (alone,) = model.extract(VQA, [Pair(image, TEXTS[1])])
    assert isinstance(alone, Extracted) and isinstance(got[3], Extracted)
    np.testing.assert_allclose(got[3].array, alone.array, atol=1e-4)


def test_images_are_padded_with_the_mean_colour(model: ClipFlanT5) -> None:
    wide = picture(3, 64, 20)
    padded = square(wide, model.mean_colour())
    assert model.mean_colour() == (122, 116, 104)
    direct = model.prepare_image(padded)
    assert torch.equal(model.prepare(VQA, wide).inputs, direct)


def test_an_image_that_the_processor_rejects(
    model: ClipFlanT5, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(image: Any) -> Any:
        raise ValueError("no such size")

    monkeypatch.setattr(model, "prepare_image", broken)
    with pytest.raises(InputError, match="no such size"):
        model.prepare(VQA, IMAGES[0])


def test_a_missing_tower_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make(tmp_path / "m", inside=False)
    config = json.loads((parts["folder"] / "config.json").read_text())
    for name in ("openai/clip-vit-none", str(tmp_path / "gone")):
        config["mm_vision_tower"] = name
        (parts["folder"] / "config.json").write_text(json.dumps(config))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UsageError, match=f"mm_vision_tower: {name}"):
            opened(parts["folder"])


def test_a_checkpoint_without_a_tokenizer_uses_flan_t5s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = make(tmp_path / "m")
    whole = opened(parts["folder"])
    (tmp_path / "t5").mkdir()
    for file in parts["folder"].glob("*token*"):
        file.rename(tmp_path / "t5" / file.name)
    asked = []

    def fetched(name: str, repo: str, files: list[str]) -> Path:
        asked.append(repo)
        return tmp_path / "t5" / files[0]

    monkeypatch.setattr("scorekit.backbones.clip_flant5.hub_file", fetched)
    model = opened(parts["folder"])
    assert set(asked) == {"google/flan-t5-xl"}
    pair = Pair(model.prepare(VQA, IMAGES[0]), TEXTS[0])
    (got,), (expected,) = (arrays(m.extract(VQA, [pair])) for m in (model, whole))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert str(tmp_path / "t5" / "tokenizer.json") in {state[0] for state in model.info.files}


@pytest.mark.parametrize("options", [{"dtype": "bf16"}, {"dtype": "fp16"}, {"quantize": "int8"}])
def test_other_precisions_are_near(parts: dict[str, Any], options: dict[str, Any]) -> None:
    model = opened(parts["folder"], BackboneOptions(device="cpu", **options))
    pair = Pair(model.prepare(VQA, IMAGES[0]), TEXTS[0])
    (got,) = arrays(model.extract(VQA, [pair]))
    expected = plain(parts, IMAGES[0], question_about(TEXTS[0]), "Yes")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0.05)
    wo = model.model.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float32}
    assert wo == kinds.get(options.get("dtype", ""), torch.int8)


def test_a_projector_of_another_type_is_one_line(tmp_path: Path) -> None:
    parts = make(tmp_path / "m")
    config = json.loads((parts["folder"] / "config.json").read_text())
    for kind, message in (("qformer", "no projector type"), ("linear", "mm_projector")):
        config["mm_projector_type"] = kind
        (parts["folder"] / "config.json").write_text(json.dumps(config))
        with pytest.raises(UsageError, match=message):
            opened(parts["folder"])


def test_the_fingerprint_tells_towers_apart(tmp_path: Path, parts: dict[str, Any]) -> None:
    other = make(tmp_path / "m", inside=False)
    one, two = opened(parts["folder"]).info, opened(other["folder"]).info
    assert one.fingerprint != two.fingerprint
    assert one.facts == {"preset": "clip-flant5"}
    assert any("tower" in state[0] for state in two.files)


def test_the_dispatcher_knows_it(parts: dict[str, Any]) -> None:
    assert kind_of(json.loads((parts["folder"] / "config.json").read_text())) == "clip_flant5"


def test_frames_without_an_image_put_it_first() -> None:
    assert framed(Preset("x", "{}"), "q {image}") == ("", "q {image}")
    assert framed(PRESETS["paligemma"], "q") == ("", "q\n")
    assert framed(Preset("x", "{}", frame="{question} {image}!"), "{image}") == ("{image} ", "!")
