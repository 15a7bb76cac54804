"""CoCa's caption head against OpenCLIP's own forward, on tiny random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny import TEXTS, picture

from scorekit.backbones.dual import Prepared
from scorekit.backbones.open_clip_coca import CocaDual, is_coca, load, mixture
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.types import Extracted, Feature, InputError, Pair, UsageError

CPU = BackboneOptions(device="cpu")
ARCH = "coca_tiny_for_tests"
LIMIT = 24


def logprobs(end: bool = True, field: str = "image") -> Feature:
    second = "text" if field == "image" else None
    return Feature("token_logprobs", "b", field, (("end", end),), second=second)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coca")
    text = {"context_length": LIMIT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    vision = {
        "image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8,
        "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 6,
        "output_tokens": True,
    }  # fmt: skip
    config = {
        "embed_dim": 16,
        "vision_cfg": vision,
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, "attn_pooler_heads": 2},
        "custom_text": True,
    }
    (folder / f"{ARCH}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    from open_clip.coca_model import CoCa

    model = CoCa(**{k: v for k, v in config.items() if k != "custom_text"})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
            elif parameter.ndim == 1 and not parameter.isfinite().all():
                parameter.zero_()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "w.safetensors")
    return folder / "w.safetensors"


@pytest.fixture(scope="module")
def model(weights: Path) -> CocaDual:
    return load(BackboneSpec.parse(f"open_clip:{ARCH}/{weights}"), CPU)


def plain(model: CocaDual, image: Prepared, text: str, end: bool) -> np.ndarray:
    """One pair through the model's own forward, with its own tokenizer and full padding."""
    pixels = model.normalise(torch.tensor(image.pixels)[None])
    ids = open_clip.get_tokenizer(ARCH)([text])
    with torch.no_grad():
        out = model.model(pixels, ids)
    last = int((ids[0] == 49407).nonzero()[0])
    logs = out["logits"][0].log_softmax(-1)
    said = out["labels"][0][: last if end else last - 1]
    return logs[torch.arange(len(said)), said].numpy()


def arrays(results: Sequence[Extracted | InputError]) -> list[np.ndarray]:
    assert all(isinstance(r, Extracted) for r in results), results
    return [r.array for r in results if isinstance(r, Extracted)]


IMAGES = [picture(0), picture(1, 40, 60), picture(2, 32, 32)]
PAIRS = [(i, t) for i, n in enumerate((4, 1, 3)) for t in TEXTS[:n]]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("backwards", [False, True])
def test_it_is_the_models_own_forward(model: CocaDual, batch_size: int, backwards: bool) -> None:
    prepared = [model.prepare(logprobs(), image) for image in IMAGES]
    pairs = PAIRS[::-1] if backwards else PAIRS
    asked = [Pair(prepared[i], text) for i, text in pairs]
    for end in (True, False):
        got = arrays(model.extract(logprobs(end), asked, batch_size=batch_size))
        for array, (i, text) in zip(got, pairs, strict=True):
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, plain(model, prepared[i], text, end), atol=1e-4)
            assert len(array) == len(text.split()) + end


def test_images_are_told_apart_and_seen_once(
    model: CocaDual, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    states = model._states
    monkeypatch.setattr(model, "_states", lambda x: counts.append(len(x)) or states(x))
    one, other = (model.prepare(logprobs(), image) for image in IMAGES[:2])
    pairs = [*(Pair(one, t) for t in TEXTS), Pair(other, TEXTS[0])]
    got = arrays(model.extract(logprobs(), pairs, batch_size=2))
    assert sum(counts) == 2
    assert abs(got[0] - got[-1]).max() > 1e-3


@pytest.mark.parametrize("text", ['a "red" {} circle!', "a dog! on\na tree", "{0!r} %s <start"])
def test_a_text_arrives_literally(model: CocaDual, text: str) -> None:
    image = model.prepare(logprobs(), IMAGES[0])
    (got,) = arrays(model.extract(logprobs(), [Pair(image, text)]))
    np.testing.assert_allclose(got, plain(model, image, text, True), atol=1e-4)


def test_text_alone_is_the_mean_over_noise(model: CocaDual) -> None:
    got = arrays(model.extract(logprobs(field="text"), list(TEXTS), batch_size=3))
    again = arrays(model.extract(logprobs(field="text"), list(TEXTS)[::-1], batch_size=1))[::-1]
    noise = model._states(model._noise())
    assert len(noise) == 3
    for array, same, text in zip(got, again, TEXTS, strict=True):
        np.testing.assert_allclose(array, same, atol=1e-5)
        ids = open_clip.get_tokenizer(ARCH)([text])
        with torch.no_grad():
            tokens = model.model._encode_text(ids)[1][:, :-1].expand(3, -1, -1)
            logs = model.model.text_decoder(noise, tokens).log_softmax(-1)
        said = ids[0, 1 : len(array) + 1]
        each = logs[:, torch.arange(len(said)), said].sum(1)
        whole = float(torch.logsumexp(each, 0) - np.log(3))
        assert float(array.sum()) == pytest.approx(whole, abs=1e-3)


def test_a_mixture_of_one_is_itself() -> None:
    logs = np.array([-1.0, -0.5, -3.0])
    np.testing.assert_allclose(mixture([logs]), logs)
    np.testing.assert_allclose(mixture([logs, logs]), logs)


def test_errors_stay_with_their_pair(model: CocaDual) -> None:
    image = model.prepare(logprobs(), IMAGES[0])
    bad = Prepared(np.zeros((3, 3, 3), dtype=np.uint8), {})
    pairs = [
        Pair(image, TEXTS[0]), Pair(image, "red " * 40), Pair(bad, TEXTS[1]), Pair(image, " "),
        Pair(image, TEXTS[2]),
    ]  # fmt: skip
    got = model.extract(logprobs(end=False), pairs, batch_size=5)
    assert [getattr(r, "status", "ok") for r in got] == [
        "ok", "text_too_long", "failed", "empty_text", "ok",
    ]  # fmt: skip


def test_it_keeps_its_embeddings(model: CocaDual, weights: Path) -> None:
    feature = Feature("image_embedding", "b", "image")
    image = model.prepare(feature, IMAGES[0])
    (got,) = arrays(model.extract(feature, [image]))
    with torch.no_grad():
        pixels = model.normalise(torch.tensor(image.pixels)[None])
        expected = model.model.encode_image(pixels)[0].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    (text,) = arrays(model.extract(Feature("text_embedding", "b", "text"), [TEXTS[0]]))
    assert text.shape == (16,)


def test_what_is_no_coca_is_refused(tmp_path: Path) -> None:
    assert is_coca(open_clip.get_model_config("coca_ViT-L-14"))
    assert not is_coca(open_clip.get_model_config("ViT-B-32"))
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="no caption head"):
        load(BackboneSpec.parse(f"open_clip:ViT-B-32/{tmp_path}/w.safetensors"), CPU)
