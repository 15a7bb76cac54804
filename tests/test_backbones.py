"""Real architectures with random weights: what is read from a checkpoint, and what it gives."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tiny import TEXTS, make_clip, picture, save_tokenizer

from scorekit.backbones.handle import get_handle, unload_backbones
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.backbones.texts import Texts
from scorekit.types import (
    Backbone,
    InputError,
    UsageError,
    image_embedding,
    text_embedding,
)

IMAGE, TEXT = image_embedding("x"), text_embedding("x")


def embed(model: Any, images: Any = None, texts: Any = None) -> np.ndarray:
    if images is not None:
        results = model.extract(IMAGE, [model.prepare(IMAGE, image) for image in images])
    else:
        results = model.extract(TEXT, list(texts))
    return np.stack([r.array for r in results])


def spread(model: Any) -> None:
    """Weights of the usual initial scale give nearly equal embeddings; these tell inputs apart."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.3)


def make_siglip(folder: Path, kind: str = "Siglip") -> Path:
    """A tiny SigLIP or SigLIP 2 whose text tower pools the last, padded position."""
    n = save_tokenizer(folder, limit=16, start=False, mask=False)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = transformers.SiglipConfig(
        text_config={
            **tower,
            "vocab_size": n,
            "max_position_embeddings": 16,
            "projection_size": 32,
            "pad_token_id": 0,
        },
        vision_config={**tower, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(1)
    model = transformers.SiglipModel(config)
    with torch.no_grad():
        spread(model)
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-3.0)
    model.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def make_bert_type(folder: Path, kind: str) -> Path:
    """Tiny ALIGN, Chinese-CLIP and AltCLIP: towers that mask their padding."""
    n = save_tokenizer(folder, limit=16)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    torch.manual_seed(2)
    if kind == "align":
        config = transformers.AlignConfig(
            text_config={**tower, "vocab_size": n, "max_position_embeddings": 16},
            vision_config={
                "image_size": 32,
                "width_coefficient": 0.1,
                "depth_coefficient": 0.1,
                "hidden_dim": 32,
            },
            projection_dim=32,
        )
        model: Any = transformers.AlignModel(config)
        processor: Any = transformers.EfficientNetImageProcessor(
            size={"height": 40, "width": 40},
            crop_size={"height": 32, "width": 32},
            do_center_crop=True,
        )
    elif kind == "chinese_clip":
        config = transformers.ChineseCLIPConfig(
            text_config={**tower, "vocab_size": n, "max_position_embeddings": 16},
            vision_config={**tower, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
        model = transformers.ChineseCLIPModel(config)
        processor = transformers.ChineseCLIPImageProcessor(
            size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}
        )
    else:
        config = transformers.AltCLIPConfig(
            text_config={
                **tower,
                "vocab_size": n,
                "max_position_embeddings": 18,
                "project_dim": 16,
                "pad_token_id": 0,
            },
            vision_config={**tower, "image_size": 32, "patch_size": 8, "projection_dim": 16},
            projection_dim=16,
        )
        model = transformers.AltCLIPModel(config)
        processor = transformers.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    spread(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def b32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real ViT-B/32 with random weights, as OpenAI's are published: QuickGELU."""
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-32"), quick_gelu=True)
    file = tmp_path_factory.mktemp("b32") / "b32.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    return file


def test_open_clip_gives_what_open_clip_gives(b32: Path) -> None:
    arch = "ViT-B-32-quickgelu"
    ours = get_handle(f"open_clip:{arch}/{b32}").model()
    theirs, _, transform = open_clip.create_model_and_transforms(arch, pretrained=str(b32))
    theirs.eval()
    images = [picture(0, 640, 480), picture(1, 223, 601), picture(2, 100, 90)]
    tokenizer = open_clip.get_tokenizer(arch)
    texts = [*TEXTS, "word " * 100 + "end"]
    with torch.no_grad():
        want_images = theirs.encode_image(torch.stack([transform(i) for i in images])).numpy()
        want_texts = theirs.encode_text(tokenizer(texts)).numpy()
    np.testing.assert_allclose(embed(ours, images), want_images, atol=2e-5)
    np.testing.assert_allclose(embed(ours, texts=texts), want_texts, atol=2e-5)
    assert (ours.info.text_limit, ours.trims) == (77, True)


def test_openai_weights_get_quickgelu_whatever_the_architecture_says(
    b32: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights trained with QuickGELU in a plain-GELU config are silently wrong elsewhere."""
    from scorekit.backbones import open_clip_dual

    monkeypatch.setattr(open_clip_dual, "hub_file", lambda name, repo, files: b32)
    tagged = open_clip_dual.resolve("ViT-B-32/openai")
    assert tagged.config["quick_gelu"] is True
    assert open_clip_dual.resolve("ViT-B-32-quickgelu/openai").config["quick_gelu"] is True
    assert open_clip_dual.resolve("ViT-B-32/laion2b_s34b_b79k").config["quick_gelu"] is False
    assert open_clip_dual.resolve("roberta-ViT-B-32/laion2b_s12b_b32k").config["quick_gelu"]
    model = open_clip_dual.OpenClipDual(tagged, BackboneOptions())
    block = model.model.transformer.resblocks[0]
    assert type(block.mlp.gelu).__name__ == "QuickGELU"
    plain = get_handle(f"open_clip:ViT-B-32/{b32}").model()
    assert plain.fingerprint != model.fingerprint


def test_end_token_survives_the_cut(b32: Path) -> None:
    model = get_handle(f"open_clip:ViT-B-32-quickgelu/{b32}").model()
    long = [f"{first} dog " + "chases the cat " * 60 for first in ("red", "blue")]
    for tokens in model.tokenize(long):
        assert len(tokens.ids) == 77
        assert tokens.ids[-1] == 49407
        assert tokens.full_length > 180
    a, b = embed(model, texts=long)
    assert np.abs(a - b).max() > 1e-3  # without the end token all long texts are one


def test_clip_gives_what_transformers_gives(tiny_clip: str) -> None:
    ours = get_handle(tiny_clip).model()
    folder = tiny_clip.removeprefix("hf:")
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(list(TEXTS), padding="max_length", max_length=16, return_tensors="pt")
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(
        images=[picture(0, 32, 32)], return_tensors="pt"
    )
    with torch.no_grad():
        want = theirs.get_text_features(**inputs).pooler_output.numpy()
        want_image = theirs.get_image_features(**pixels).pooler_output.numpy()
    np.testing.assert_allclose(embed(ours, texts=TEXTS), want, atol=1e-5)
    np.testing.assert_allclose(embed(ours, [picture(0, 32, 32)]), want_image, atol=1e-5)
    assert ours.trims
    assert ours.uses_spec


def test_siglip_is_padded_to_its_full_length(tmp_path: Path) -> None:
    folder = make_siglip(tmp_path / "siglip")
    ours = get_handle(f"hf:{folder}").model()
    theirs = transformers.SiglipModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(list(TEXTS), padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        want = theirs.get_text_features(input_ids=inputs["input_ids"]).pooler_output.numpy()
    assert not ours.trims
    np.testing.assert_allclose(embed(ours, texts=TEXTS), want, atol=1e-5)
    np.testing.assert_allclose(embed(ours, texts=TEXTS[:1])[0], want[0], atol=1e-5)
    assert ours.info.constants == pytest.approx({"logit_scale": np.exp(2.0), "logit_bias": -3.0})


@pytest.mark.parametrize("kind", ["align", "chinese_clip", "alt_clip"])
def test_towers_of_other_kinds(tmp_path: Path, kind: str) -> None:
    folder = make_bert_type(tmp_path / kind, kind)
    model = get_handle(f"hf:{folder}").model()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    image = picture(3, 40, 40)
    with torch.no_grad():
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        want_image = theirs.get_image_features(pixel_values=pixels)
        inputs = tokenizer(list(TEXTS), padding="max_length", max_length=16, return_tensors="pt")
        want_text = theirs.get_text_features(**inputs)
    want_image, want_text = (
        w if torch.is_tensor(w) else w.pooler_output for w in (want_image, want_text)
    )
    got = embed(model, texts=TEXTS)
    np.testing.assert_allclose(got, want_text.numpy(), atol=1e-5)
    cos = torch.nn.functional.cosine_similarity(torch.from_numpy(embed(model, [image])), want_image)
    assert float(cos) > 0.9999  # PIL's resize against torchvision's
    assert model.info.text_limit == 16


def test_a_processor_of_its_own_kind_is_used_as_it_is(tmp_path: Path) -> None:
    """ALIGN's normalises twice; what no ImageSpec can say is left to the processor."""
    folder = make_bert_type(tmp_path / "align", "align")
    model = get_handle(f"hf:{folder}").model()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    prepared = model.prepare(IMAGE, picture(0, 40, 40))
    want = processor(images=[picture(0, 40, 40)], return_tensors="np")["pixel_values"][0]
    have = model.normalise(torch.from_numpy(prepared.pixels)[None])[0].numpy()
    np.testing.assert_allclose(have, want, atol=0.07)


def test_every_dtype_stays_near_float32(tiny_clip: str) -> None:
    exact = embed(get_handle(tiny_clip).model(), texts=TEXTS)
    low = get_handle(tiny_clip, BackboneOptions(dtype="bf16")).model()
    got = embed(low, texts=TEXTS)
    assert got.dtype == np.float32
    cos = (got * exact).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(exact, axis=1)
    assert cos.min() > 0.99
    assert low.fingerprint != get_handle(tiny_clip).model().fingerprint


def test_fast_resize_is_within_what_is_promised(b32: Path) -> None:
    name = f"open_clip:ViT-B-32-quickgelu/{b32}"
    exact, fast = (get_handle(name, BackboneOptions(resize=r)).model() for r in ("exact", "fast"))
    images = [picture(i, 640, 471) for i in range(3)]
    for image in images:
        a = exact.prepare(IMAGE, image).pixels.astype(int)
        b = fast.prepare(IMAGE, image).pixels.astype(int)
        assert np.abs(a - b).max() <= 2
        assert np.mean(a != b) < 0.01
    a, b = embed(exact, images), embed(fast, images)
    cos = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert (1 - cos).max() < 2e-5
    assert exact.fingerprint != fast.fingerprint


def long_text(how: str) -> Any:
    return text_embedding("x", long_text=how)


def test_long_texts(tiny_clip: str) -> None:
    long = "a red circle. a blue square. " * 4
    model = get_handle(tiny_clip).model()
    cut = model.extract(TEXT, [long, "a dog"])
    assert cut[0].info == {"tokens": 34, "limit": 16}
    assert cut[1].info == {}
    refused, fine = model.extract(long_text("error"), [long, "a dog"])
    assert isinstance(refused, InputError)
    assert refused.status == "text_too_long"
    assert "34 tokens" in refused.note
    np.testing.assert_allclose(fine.array, cut[1].array, atol=1e-6)


def test_windows_end_at_sentences(tiny_clip: str) -> None:
    model = get_handle(tiny_clip).model()
    text = "a red circle on a small square. the blue cat chases a dog around. rain."
    windows = Texts(model, "", 8).windows(text)
    assert windows == ["a red circle on a small square.", "the blue cat chases a dog around. rain."]
    (got,) = model.extract(long_text("window"), [text])
    parts = embed(model, texts=windows)
    want = np.mean(parts / np.linalg.norm(parts, axis=1, keepdims=True), axis=0)
    np.testing.assert_allclose(got.array, want, atol=1e-6)
    assert got.info["windows"] == 2
    one_sentence = " ".join(["red"] * 40)
    split = Texts(model, "", 8).windows(one_sentence)
    assert all(model.tokenize([w])[0].full_length <= 16 for w in split)
    assert " ".join(split) == one_sentence
    prefixed = Texts(model, "a photo depicts ", 8).windows(text)
    assert all(w.startswith("a photo depicts ") for w in prefixed)
    assert all(model.tokenize([w])[0].full_length <= 16 for w in prefixed)


def test_a_prefix_that_leaves_no_room_is_refused(tiny_clip: str) -> None:
    model = get_handle(tiny_clip).model()
    feature = text_embedding("x", long_text="window", prefix="a red circle and " * 3 + "a ")
    (got,) = model.extract(feature, ["a dog on a small square " * 3])
    assert isinstance(got, InputError)
    assert got.note == "the prefix leaves 1 tokens of 16"


def test_batch_size_and_order_change_nothing(tiny_clip: str) -> None:
    images = [picture(i) for i in range(7)]
    texts = [" ".join(TEXTS[i % 4].split()[: 1 + i]) for i in range(7)]
    full = get_handle(tiny_clip).model()
    prepared = [full.prepare(IMAGE, image) for image in images]
    for feature, inputs in ((IMAGE, prepared), (TEXT, texts)):
        whole, parts = (full.extract(feature, inputs, batch_size=b) for b in (None, 2))
        for a, b in zip(whole, parts, strict=True):
            np.testing.assert_allclose(a.array, b.array, atol=1e-5)
    back = embed(full, texts=texts[::-1])[::-1]
    np.testing.assert_allclose(embed(full, texts=texts), back, atol=1e-5)


def test_one_input_that_fails_costs_no_other(
    tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = get_handle(tiny_clip).model()
    whole = type(model).encode_tokens
    want = embed(model, texts=TEXTS)

    def encode(self: Any, ids: Any, length: int) -> Any:
        if any(len(i) == len(model.tokenize([TEXTS[0]])[0].ids) for i in ids):
            raise RuntimeError("no such kernel")
        return whole(self, ids, length)

    monkeypatch.setattr(type(model), "encode_tokens", encode)
    results = model.extract(TEXT, list(TEXTS))
    assert isinstance(results[0], InputError)
    assert results[0].note == "RuntimeError: no such kernel"
    for got, expected in zip(results[1:], want[1:], strict=True):
        np.testing.assert_allclose(got.array, expected, atol=1e-5)


def test_short_memory_halves_the_batch(tiny_clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unload_backbones()
    model = get_handle(tiny_clip).model()
    whole = type(model).encode_images

    def encode(self: Any, pixels: Any) -> Any:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, pixels)

    images = [picture(i) for i in range(8)]
    want = embed(model, images)
    monkeypatch.setattr(type(model), "encode_images", encode)
    np.testing.assert_allclose(embed(model, images), want, atol=1e-5)
    assert model.batch_size == 2
    unload_backbones()


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    a, b, c = (make_clip(tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    prints = {
        n: get_handle(f"hf:{f}").model().fingerprint for n, f in zip("abc", (a, b, c), strict=True)
    }
    assert prints["a"] == prints["b"] != prints["c"]
    config = json.loads((b / "config.json").read_text())
    config["transformers_version"] = "4.0"
    (b / "config.json").write_text(json.dumps(config))
    processor = json.loads((c / "preprocessor_config.json").read_text())
    unload_backbones()
    assert get_handle(f"hf:{b}").model().fingerprint == prints["a"]
    processor["image_mean"] = [0.5, 0.5, 0.5]
    (c / "preprocessor_config.json").write_text(json.dumps(processor))
    assert get_handle(f"hf:{c}").model().fingerprint != prints["c"]


def test_only_safetensors_unless_the_user_says_so(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "pickled")
    model = transformers.CLIPModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="--allow-pickle"):
        get_handle(f"hf:{folder}").model()
    loaded = get_handle(f"hf:{folder}", BackboneOptions(allow_pickle=True)).model()
    assert embed(loaded, texts=TEXTS).shape == (4, 16)
    pickle = tmp_path / "w.pt"
    pickle.write_bytes(b"x")
    with pytest.raises(UsageError, match="--allow-pickle"):
        get_handle(f"open_clip:ViT-B-32/{pickle}").model()


def _bad_names(tmp_path: Path) -> dict[str, str]:
    empty = tmp_path / "empty"
    empty.mkdir()
    return {
        "clip:foo": "unknown backbone",
        "hf:": "lacks a name",
        "hf:/no/such/folder": "no folder",
        f"hf:{empty}": "lacks config.json",
        "open_clip:ViT-B-33/openai": "did you mean ViT-B-32",
        "open_clip:ViT-B-32": "lacks its weights",
        "open_clip:ViT-B-32/nonsense": "no tag and no file",
        "open_clip:ViT-B-32/openai": "offline: give a folder",
        "hf:nobody/nothing": "offline: give a folder",
        "scenes-clop": "did you mean scenes-clip",
    }


@pytest.mark.parametrize("number", range(10))
def test_what_cannot_be_loaded_is_one_clear_line(tmp_path: Path, number: int) -> None:
    name, message = list(_bad_names(tmp_path).items())[number]
    with pytest.raises(UsageError, match=message) as caught:
        get_handle(name).model()
    assert "\n" not in str(caught.value)


def test_an_unplugged_network_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One refused connection, no half minute of retries, and the line names what was wanted."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("hf:nobody/nothing", "open_clip:ViT-B-16/openai"):
        with pytest.raises(UsageError, match="the hub can't be reached") as caught:
            get_handle(name).model()
        assert str(caught.value).startswith(f"no checkpoint {name}: it is not in ")
        assert "use scenes-clip" in str(caught.value)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"visual.proj": torch.zeros(3, 3)}, file)
    with pytest.raises(UsageError, match=r"other\.safetensors does not fit ViT-B-32"):
        get_handle(f"open_clip:ViT-B-32/{file}").model()
    folder = make_clip(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UsageError, match="can't load cut"):
        get_handle(f"hf:{folder}").model()


def test_labels_hold_no_path(tmp_path: Path, tiny_clip: str) -> None:
    assert BackboneSpec.parse(tiny_clip).label == "hf/tiny-clip"
    file = tmp_path / "w.safetensors"
    file.touch()
    assert BackboneSpec.parse(f"open_clip:ViT-B-32/{file}").label.endswith(
        "/ViT-B-32/w.safetensors"
    )
    assert BackboneSpec.parse("hf:google/siglip-base-patch16-224").label.count("/") == 2


def test_options_are_checked() -> None:
    for bad in ({"dtype": "fp8"}, {"resize": "slow"}, {"long_text": "x"}, {"batch_size": 0}):
        with pytest.raises(UsageError):
            BackboneOptions(**bad)
    with pytest.raises(UsageError, match="no device"):
        get_handle("scenes-clip", BackboneOptions(device="cuda:99")).model()


def test_gradients_reach_the_images(tiny_clip: str) -> None:
    model = get_handle(tiny_clip).model()
    x = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = model.embed_differentiably(x)
    out.square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0
    exact = embed(
        model, [Image.fromarray((x[0].detach().permute(1, 2, 0) * 255).round().byte().numpy())]
    )
    cos = torch.nn.functional.cosine_similarity(out[0].detach(), torch.from_numpy(exact[0]), dim=0)
    assert float(cos) > 0.999


def _tiny_open_clip(folder: Path, name: str, text: dict[str, Any]) -> Path:
    """A tiny OpenCLIP model with an HF tokenizer that pads with 1, as SigLIP's does."""
    tokenizer = folder / "tokenizer"
    save_tokenizer(tokenizer, limit=16, pad_last=True)
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "patch_size": 8,
            "head_width": 16,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 64,
            "width": 32,
            "heads": 2,
            "layers": 2,
            "hf_tokenizer_name": str(tokenizer),
            **text,
        },
        "custom_text": True,
    }
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(3)
    model = open_clip.model.CustomTextCLIP(
        **{k: v for k, v in open_clip.get_model_config(name).items() if k != "custom_text"}
    )
    spread(model)
    weights = folder / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    return weights


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tiny-siglip-type", {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
        ("tiny-causal", {"pool_type": "argmax"}),
    ],
)
def test_open_clip_with_a_tokenizer_of_another_kind(
    tmp_path: Path, name: str, text: dict[str, Any]
) -> None:
    weights = _tiny_open_clip(tmp_path, name, text)
    model = get_handle(f"open_clip:{name}/{weights}").model()
    theirs, _, _ = open_clip.create_model_and_transforms(name, pretrained=str(weights))
    theirs.eval()
    texts = [*TEXTS, "a red circle " * 20]
    with torch.no_grad():
        want = theirs.encode_text(open_clip.get_tokenizer(name)(texts)).numpy()
    np.testing.assert_allclose(embed(model, texts=texts), want, atol=1e-5)
    assert model.extract(TEXT, texts)[-1].info["limit"] == 16


def test_left_padding_is_kept(tmp_path: Path) -> None:
    folder = make_siglip(tmp_path / "left")
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "padding_side": "left"}))
    model = get_handle(f"hf:{folder}").model()
    theirs = transformers.SiglipModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(list(TEXTS), padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        want = theirs.get_text_features(input_ids=inputs["input_ids"]).pooler_output.numpy()
    np.testing.assert_allclose(embed(model, texts=TEXTS), want, atol=1e-5)


def test_scale_and_bias_are_those_of_the_file_in_every_dtype(tmp_path: Path) -> None:
    folder = make_siglip(tmp_path / "s")
    low = get_handle(f"hf:{folder}", BackboneOptions(dtype="bf16")).model()
    assert low.info.constants == pytest.approx({"logit_scale": np.exp(2.0), "logit_bias": -3.0})


def test_a_folder_in_open_clip_s_own_form(tmp_path: Path) -> None:
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {
                "image_size": 32,
                "layers": 1,
                "width": 32,
                "patch_size": 8,
                "head_width": 16,
            },
            "text_cfg": {
                "context_length": 77,
                "vocab_size": 49408,
                "width": 32,
                "heads": 2,
                "layers": 1,
            },
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.model.CLIP(**config["model_cfg"])
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    loaded = get_handle(f"open_clip:{tmp_path}").model()
    assert loaded.image_spec.mean == (0.5, 0.5, 0.5)
    assert embed(loaded, texts=TEXTS).shape == (4, 16)


def test_one_model_for_all_names_and_options_that_mean_it(
    tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tiny_clip.removeprefix("hf:"))
    monkeypatch.chdir(folder.parent)
    handles = [
        get_handle(tiny_clip),
        get_handle(f"hf:./{folder.name}"),
        get_handle(tiny_clip, BackboneOptions(batch_size=3, long_text="error")),
    ]
    assert len({id(handle) for handle in handles}) == 1


def test_an_image_that_would_explode_is_refused_in_both_modes(tiny_clip: str) -> None:
    thin = Image.new("RGB", (1, 100_000))
    for how in ("exact", "fast"):
        model = get_handle(tiny_clip, BackboneOptions(resize=how)).model()  # type: ignore[arg-type]
        with pytest.raises(InputError, match="oversized_image"):
            model.prepare(IMAGE, thin)


def test_every_family_keeps_the_protocol(tiny_clip: str, b32: Path) -> None:
    for name in (tiny_clip, f"open_clip:ViT-B-32-quickgelu/{b32}"):
        assert isinstance(get_handle(name).model(), Backbone)


def test_open_clip_brings_its_vocabulary() -> None:
    """The tokenizer of CLIP needs no hub: OpenCLIP ships it."""
    with gzip.open(open_clip.tokenizer.default_bpe()) as file:
        assert file.readline()
