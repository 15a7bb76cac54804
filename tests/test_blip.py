"""BLIP-2 and InstructBLIP against transformers' own forward passes, on tiny random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TEXTS, picture, save_tokenizer

from scorekit.backbones.hf import kind_of
from scorekit.backbones.hf_blip_vlm import BlipVlm, load
from scorekit.backbones.spec import BackboneOptions
from scorekit.questions import Question
from scorekit.types import Extracted, Feature, InputError, Pair, UsageError, answer_probability

CPU = BackboneOptions(device="cpu")
VQA = answer_probability("b", answer="circle")
QUERIES = 4
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2}
SYSTEMS = ("instructblip-t5", "instructblip-llama", "blip2-t5", "blip2-opt")


def text_config(kind: str, words: int) -> Any:
    from transformers import LlamaConfig, OPTConfig, T5Config

    ends = {"pad_token_id": 0, "eos_token_id": words - 1, "bos_token_id": words - 2}
    if kind == "t5":
        return T5Config(
            vocab_size=words + 4, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2,
            num_heads=3, decoder_start_token_id=0, tie_word_embeddings=False, **ends,
        )  # fmt: skip
    if kind == "opt":
        return OPTConfig(
            vocab_size=words + 4, hidden_size=24, ffn_dim=32, num_hidden_layers=2,
            num_attention_heads=3, max_position_embeddings=96, word_embed_proj_dim=24, **ends,
        )  # fmt: skip
    return LlamaConfig(
        vocab_size=words + 4, num_key_value_heads=2, max_position_embeddings=96,
        **{**SHAPE, "hidden_size": 24, "head_dim": 12}, **ends,
    )  # fmt: skip


def spread(model: Any, folder: Path) -> Any:
    """Weights that tell inputs apart, saved."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    model.save_pretrained(folder)
    return model.eval()


def image_processor() -> Any:
    from transformers import BlipImageProcessor

    return BlipImageProcessor(size={"height": 32, "width": 32})


def make(folder: Path, system: str) -> tuple[Any, Any]:
    """A tiny checkpoint; its model and processor."""
    from transformers import (
        AutoTokenizer,
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
    )

    family, _, kind = system.partition("-")
    words = save_tokenizer(folder, limit=90, start=kind != "t5", end=kind == "t5")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vision = {**SHAPE, "image_size": 32, "patch_size": 8}
    reads = {**SHAPE, "vocab_size": words, "max_position_embeddings": 64, "pad_token_id": 0}
    common = {"num_query_tokens": QUERIES, "image_token_index": words}
    given = {"vision_config": vision, "text_config": text_config(kind, words), **common}
    if family == "blip2":
        processor = Blip2Processor(image_processor(), tokenizer, num_query_tokens=QUERIES)
        config = Blip2Config(qformer_config=reads, **given)
        model = Blip2ForConditionalGeneration(config)
    else:
        save_tokenizer(folder / "q", limit=60)
        reader = AutoTokenizer.from_pretrained(folder / "q")
        processor = InstructBlipProcessor(
            image_processor(), tokenizer, reader, num_query_tokens=QUERIES
        )
        config = InstructBlipConfig(qformer_config=reads, **given)
        model = InstructBlipForConditionalGeneration(config)
    processor.save_pretrained(folder)
    return spread(model, folder), processor


@pytest.fixture(scope="module", params=SYSTEMS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("blip") / request.param
    model, processor = make(folder, request.param)
    return load(folder, [folder / "model.safetensors"], CPU), model, processor, folder


def plain(model: Any, processor: Any, image: Any, prompt: str, answer: str, end: bool) -> Any:
    """One pair through transformers' own processor and forward."""
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    tokenizer = processor.tokenizer
    said = tokenizer(answer, add_special_tokens=False)["input_ids"]
    said = [*said, tokenizer.eos_token_id] if end else said
    with torch.no_grad():
        if not model.config.use_decoder_only_language_model:
            logits = model(**inputs, labels=torch.tensor([said])).logits[0]
        else:
            answers = torch.tensor([said])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], answers], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            logits = model(**inputs).logits[0, -len(said) - 1 : -1]
        logs = logits.float().log_softmax(-1)
    return logs[torch.arange(len(said)), torch.tensor(said)].numpy()


def question_about(text: str) -> str:
    return f'Question: Does this figure show "{text}"? Please answer yes or no.'


def arrays(results: Sequence[Extracted | InputError]) -> list[np.ndarray]:
    assert all(isinstance(r, Extracted) for r in results), results
    return [r.array for r in results if isinstance(r, Extracted)]


IMAGES = [picture(0), picture(1, 40, 60), picture(2, 32, 32)]
PAIRS = [(i, t) for i, n in enumerate((4, 1, 3)) for t in TEXTS[:n]]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("backwards", [False, True])
def test_it_is_transformers_own_forward(case: Any, batch_size: int, backwards: bool) -> None:
    ours, model, processor, _ = case
    prepared = [ours.prepare(VQA, image) for image in IMAGES]
    pairs = PAIRS[::-1] if backwards else PAIRS
    got = arrays(ours.extract(VQA, [Pair(prepared[i], t) for i, t in pairs], batch_size=batch_size))
    for array, (i, text) in zip(got, pairs, strict=True):
        expected = plain(model, processor, IMAGES[i], question_about(text), "circle", True)
        assert array.shape == (2,)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, atol=1e-4)
    values = np.stack(got)
    assert np.ptp(values, axis=0).max() > 1e-3  # inputs are told apart


def test_a_caption_is_teacher_forced(case: Any) -> None:
    ours, model, processor, _ = case
    image = ours.prepare(VQA, IMAGES[0])
    for end in (False, True):
        caption = Feature("token_logprobs", "b", "image", (("end", end),), second="text")
        got = arrays(ours.extract(caption, [Pair(image, t) for t in TEXTS], batch_size=3))
        for array, text in zip(got, TEXTS, strict=True):
            expected = plain(model, processor, IMAGES[0], "Describe this image.", text, end)
            np.testing.assert_allclose(array, expected, atol=1e-4)


def test_every_choice_is_teacher_forced(case: Any) -> None:
    ours, model, processor, _ = case
    asked = Feature("answer", "b", "image", second="text")
    question = Question("1", "What is it?", "a dog", ("a dog", "the red square", "cat"))
    (got,) = ours.extract(asked, [Pair(ours.prepare(asked, IMAGES[0]), question.dumps())])
    means = [
        plain(model, processor, IMAGES[0], question.prompt, choice, False).mean()
        for choice in question.choices
    ]
    np.testing.assert_allclose(got.array, means, atol=1e-4)
    assert got.info["answer"] == question.choices[int(np.argmax(means))]


def test_words_at_the_first_position(case: Any) -> None:
    ours, model, processor, _ = case
    image = ours.prepare(VQA, IMAGES[0])
    first = answer_probability("b", answer="circle", answer_tokens="first")
    (got,) = arrays(ours.extract(first, [Pair(image, TEXTS[0])]))
    expected = plain(model, processor, IMAGES[0], question_about(TEXTS[0]), "circle", False)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    with pytest.raises(UsageError, match="no single token"):  # this vocabulary has no yes
        ours.extract(answer_probability("b", normalize="yes_no"), [Pair(image, TEXTS[0])])


def test_the_vit_sees_an_image_once(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, *_ = case
    counts = {"vit": 0, "qformer": 0}
    for name, module in (("vit", ours.model.vision_model), ("qformer", ours.model.qformer)):

        def counting(
            *args: Any, name: str = name, inner: Any = module.forward, **kwargs: Any
        ) -> Any:
            counts[name] += len(kwargs.get("pixel_values", kwargs.get("query_embeds")))
            return inner(*args, **kwargs)

        monkeypatch.setattr(module, "forward", counting)
    one, other = (ours.prepare(VQA, image) for image in IMAGES[:2])
    ours.extract(VQA, [*(Pair(one, t) for t in TEXTS), Pair(other, TEXTS[0])], batch_size=2)
    assert counts == {"vit": 2, "qformer": 5 if ours.instructed else 2}


@pytest.mark.parametrize(
    "text", ['a "red" {} circle', "a {image} of\na dog {question}", "{0!r} %s"]
)
def test_a_text_arrives_literally(case: Any, text: str) -> None:
    ours, model, processor, _ = case
    (got,) = arrays(ours.extract(VQA, [Pair(ours.prepare(VQA, IMAGES[0]), text)]))
    expected = plain(model, processor, IMAGES[0], question_about(text), "circle", True)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_errors_stay_with_their_pair(case: Any) -> None:
    ours, *_ = case
    image = ours.prepare(VQA, IMAGES[0])
    texts = [TEXTS[0], "a red " * 60, "an <image> in it", TEXTS[1]]
    got = ours.extract(VQA, [Pair(image, t) for t in texts], batch_size=2)
    assert [getattr(r, "status", "ok") for r in got] == [
        "ok", "text_too_long", "invalid_text", "ok",
    ]  # fmt: skip
    np.testing.assert_allclose(
        got[3].array, arrays(ours.extract(VQA, [Pair(image, TEXTS[1])]))[0], atol=1e-5
    )


def test_text_alone_has_a_likelihood(case: Any) -> None:
    ours, *_ = case
    alone = Feature("token_logprobs", "b", "text", (("end", True),))
    got = arrays(ours.extract(alone, list(TEXTS)))
    assert [len(a) for a in got] == [len(t.split()) + 1 for t in TEXTS]
    mixed = ours.extract(
        Feature("token_logprobs", "b", "image", (("end", True),), second="text"),
        [Pair(None, TEXTS[0]), Pair(ours.prepare(VQA, IMAGES[0]), TEXTS[0])],
    )
    np.testing.assert_allclose(arrays(mixed)[0], got[0], atol=1e-5)
    assert abs(arrays(mixed)[1] - got[0]).max() > 1e-3


def test_an_image_that_the_processor_rejects(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, *_ = case

    def broken(image: Any) -> Any:
        raise ValueError("no such size")

    monkeypatch.setattr(ours, "prepare_image", broken)
    with pytest.raises(InputError, match="no such size"):
        ours.prepare(VQA, IMAGES[0])


def test_the_dispatcher_knows_it(case: Any) -> None:
    ours, _, _, folder = case
    assert kind_of(json.loads((folder / "config.json").read_text())) == "hf_blip_vlm"
    assert isinstance(ours, BlipVlm)
    assert ours.info.facts == {"preset": "instructblip"}


# Retrieval --------------------------------------------------------------------------------------

IMAGE, TEXT = Feature("image_embedding", "b", "image"), Feature("text_embedding", "b", "text")
MATCH = Feature("match_probability", "b", "image", second="text")


@pytest.fixture(scope="module", params=["as published", "with an image token"])
def retrieval(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import (
        AutoTokenizer,
        Blip2Config,
        Blip2ForImageTextRetrieval,
        Blip2Processor,
    )

    folder = tmp_path_factory.mktemp("retrieval") / "blip2-itm"
    words = save_tokenizer(folder, limit=512)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    marked = request.param == "with an image token"
    reads = {**SHAPE, "vocab_size": words + 1, "max_position_embeddings": 64, "pad_token_id": 0}
    config = Blip2Config(
        vision_config={**SHAPE, "image_size": 32, "patch_size": 8},
        qformer_config={**reads, "use_qformer_text_input": True},
        num_query_tokens=QUERIES,
        image_text_hidden_size=12,
        image_token_index=words if marked else None,
    )
    model = spread(Blip2ForImageTextRetrieval(config), folder)
    processor = Blip2Processor(
        image_processor(), tokenizer, num_query_tokens=QUERIES if marked else None
    )
    processor.save_pretrained(folder)
    from scorekit.backbones import hf_blip2

    return hf_blip2.load(folder, [folder / "model.safetensors"], CPU), model, processor, folder


def retrieved(model: Any, processor: Any, image: Any, text: str, itm: bool) -> np.ndarray:
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs, use_image_text_matching_head=itm).logits_per_image[0].numpy()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("backwards", [False, True])
def test_matching_is_transformers_own(retrieval: Any, batch_size: int, backwards: bool) -> None:
    ours, model, processor, _ = retrieval
    prepared = [ours.prepare(MATCH, image) for image in IMAGES]
    pairs = PAIRS[::-1] if backwards else PAIRS
    asked = [Pair(prepared[i], text) for i, text in pairs]
    got = arrays(ours.extract(MATCH, asked, batch_size=batch_size))
    for array, (i, text) in zip(got, pairs, strict=True):
        # The resize is the one thing that may differ, by two levels of 255.
        pixels = processor(images=IMAGES[i], text=text, return_tensors="pt")
        pixels["pixel_values"] = ours.normalise(torch.tensor(prepared[i].pixels)[None])
        with torch.no_grad():
            expected = model(**pixels, use_image_text_matching_head=True).logits_per_image[0]
        assert array.shape == (2,)
        np.testing.assert_allclose(array, expected.numpy(), atol=1e-5)
        loose = retrieved(model, processor, IMAGES[i], text, True)
        np.testing.assert_allclose(array, loose, atol=0.1)
    assert np.ptp(np.stack(got), axis=0).max() > 1e-2


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_contrast_is_transformers_own(retrieval: Any, batch_size: int) -> None:
    from scorekit.metrics.blip2_itc import blip2_itc

    ours, model, processor, _ = retrieval
    prepared = [ours.prepare(IMAGE, image) for image in IMAGES]
    images = arrays(ours.extract(IMAGE, prepared, batch_size=batch_size))
    texts = arrays(ours.extract(TEXT, list(TEXTS), batch_size=batch_size))
    assert images[0].shape == (QUERIES, 12)
    assert texts[0].shape == (12,)
    for i, image in enumerate(images):
        for array, text in zip(texts, TEXTS, strict=True):
            inputs = processor(images=IMAGES[i], text=text, return_tensors="pt")
            inputs["pixel_values"] = ours.normalise(torch.tensor(prepared[i].pixels)[None])
            with torch.no_grad():
                expected = float(model(**inputs).logits_per_image[0, 0])
            assert float(blip2_itc(image[None], array[None])[0]) == pytest.approx(
                expected, abs=1e-5
            )


def test_gradients_reach_the_image(retrieval: Any) -> None:
    from scorekit.metrics.blip2_itc import blip2_itc

    ours, *_ = retrieval
    image = torch.rand(2, 3, 40, 48, requires_grad=True)
    (text,) = arrays(ours.extract(TEXT, [TEXTS[0]]))
    score = blip2_itc(ours.embed_differentiably(image), torch.from_numpy(text)[None])
    score.sum().backward()
    assert (
        image.grad is not None and torch.isfinite(image.grad).all() and image.grad.abs().max() > 0
    )


def test_the_vit_sees_an_image_once_for_its_matches(
    retrieval: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, *_ = retrieval
    counts = []
    forward = ours.model.vision_model.forward
    monkeypatch.setattr(
        ours.model.vision_model,
        "forward",
        lambda pixel_values: counts.append(len(pixel_values)) or forward(pixel_values),
    )
    one, other = (ours.prepare(MATCH, image) for image in IMAGES[:2])
    ours.extract(MATCH, [*(Pair(one, t) for t in TEXTS), Pair(other, TEXTS[0])], batch_size=2)
    assert sum(counts) == 2


def test_long_texts_are_cut_and_said_to_be(retrieval: Any) -> None:
    ours, *_ = retrieval
    image = ours.prepare(MATCH, IMAGES[0])
    long = "a red circle " * 20
    assert ours.info.text_limit == 35
    (cut,) = ours.extract(MATCH, [Pair(image, long)])
    assert isinstance(cut, Extracted)
    assert cut.info == {"tokens": 62, "limit": 35}
    (same,) = arrays(ours.extract(MATCH, [Pair(image, "a red circle " * 11)]))
    np.testing.assert_allclose(cut.array, same, atol=1e-5)
    strict = Feature("match_probability", "b", "image", (("long_text", "error"),), second="text")
    got = ours.extract(strict, [Pair(image, long), Pair(image, TEXTS[0])])
    assert [getattr(r, "status", "ok") for r in got] == ["text_too_long", "ok"]
    for kind in (Feature("token_logprobs", "b", "image"),):
        with pytest.raises(UsageError, match="gives no token logprobs"):
            ours.extract(kind, [image])


def test_one_broken_image_costs_its_pairs_alone(retrieval: Any) -> None:
    from scorekit.backbones.dual import Prepared

    ours, *_ = retrieval
    good = ours.prepare(MATCH, IMAGES[0])
    bad = Prepared(np.zeros((3, 3, 3), dtype=np.uint8), {})
    pairs = [Pair(good, TEXTS[0]), Pair(bad, TEXTS[0]), Pair(bad, TEXTS[1]), Pair(good, TEXTS[1])]
    got = ours.extract(MATCH, pairs, batch_size=5)
    assert [getattr(r, "status", "ok") for r in got] == ["ok", "failed", "failed", "ok"]


def test_the_first_blip_is_refused(tmp_path: Path) -> None:
    from scorekit.backbones import hf_blip2

    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "blip", "architectures": ["BlipForImageTextRetrieval"]})
    )
    assert kind_of(json.loads((tmp_path / "config.json").read_text())) == "hf_blip2"
    with pytest.raises(UsageError, match="is a blip model"):
        hf_blip2.load(tmp_path, [tmp_path / "model.safetensors"], CPU)
