"""Decoder-only vision-language models: equal to transformers' own forward, and only faster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import picture
from tiny_vlm import MAKERS, make_llava

from scorekit.backbones.handle import get_handle
from scorekit.backbones.spec import BackboneOptions
from scorekit.backbones.vlm import square
from scorekit.presets import PRESETS, Preset, preset_named
from scorekit.run import RunOptions, score_samples
from scorekit.types import (
    Extracted,
    Feature,
    InputError,
    Pair,
    Sample,
    UsageError,
    answer_probability,
)

TEXTS = (
    "a red circle",
    'the "dog" on a {tree}, and no cat\n\n100% \\n {text} {question} {image} <b>',
    "no",
    "日本語 ☂ and the blue square of the green square",
)
SIZES = ((48, 40), (40, 64), (64, 64))


@pytest.fixture(scope="session", params=MAKERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = MAKERS[request.param](tmp_path_factory.mktemp("vlm") / request.param)
    return made


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("vlm") / "tiny-llava")


def model_of(folder: Path, **options: Any) -> Any:
    return get_handle(f"hf:{folder}", BackboneOptions(device="cpu", **options)).model()


def reference(folder: Path, image: Any, text: str, *, end: bool, answer: str | None = None) -> Any:
    """One pair by transformers alone: the processor, a whole forward, all logits."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    kind = model.config.model_type
    bos = processor.tokenizer.bos_token
    if kind == "llava":
        question = f'Does this figure show "{text}"? Please answer yes or no.'
        prompt = (
            "A chat between a curious user and an artificial intelligence assistant. The "
            "assistant gives helpful, detailed, and polite answers to the user's questions. "
            f"USER: <image>\n{question} ASSISTANT:"
        )
        said = " " + (answer or "Yes")
        side = max(image.size)
        mean = tuple(int(m * 255) for m in processor.image_processor.image_mean)
        canvas = Image.new("RGB", (side, side), mean)
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = canvas
        inputs = processor(images=image, text=prompt, return_tensors="pt")
    elif kind == "paligemma":
        question = f'Does this figure show "{text}"? Please answer Yes or No.'
        inputs = processor(images=image, text="<image>" + question, return_tensors="pt")
        said = answer or "Yes"
    else:
        question = f'Does this figure show "{text}"? Please answer Yes or No.'
        turns = [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": question}],
            }
        ]
        prompt = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = processor(
            images=image,
            text=prompt,
            return_tensors="pt",
            add_special_tokens=not prompt.startswith(bos),
        )
        said = answer or "Yes"
    ids = processor.tokenizer(said, add_special_tokens=False)["input_ids"]
    if end:
        ids = [*ids, processor.tokenizer.eos_token_id]
    before = inputs["input_ids"].shape[1]
    tail = torch.tensor([ids[:-1]], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            fill = torch.full_like(tail, 1 if kind == "paligemma" else 0)
            inputs[name] = torch.cat([inputs[name], fill], dim=1)
    inputs.pop("labels", None)  # PaliGemma's processor gives them unasked
    with torch.no_grad():
        logits = model(**inputs).logits[0].float()
    logs = torch.log_softmax(logits, dim=-1)
    return np.array([float(logs[before - 1 + k, token]) for k, token in enumerate(ids)])


def test_equal_to_the_plain_forward(checkpoint: Path) -> None:
    model = model_of(checkpoint)
    feature = answer_probability("x")
    for size in SIZES[:2]:
        image = picture(1, *size)
        prepared = model.prepare(feature, image)
        got = model.extract(feature, [Pair(prepared, text) for text in TEXTS])
        for text, result in zip(TEXTS, got, strict=True):
            assert isinstance(result, Extracted), result
            want = reference(checkpoint, image, text, end=model.preset.counts_end)
            np.testing.assert_allclose(result.array, want, atol=1e-4)


def test_order_batch_size_and_neighbours_change_nothing(checkpoint: Path) -> None:
    model = model_of(checkpoint)
    feature = answer_probability("x")
    images = [model.prepare(feature, picture(k, *size)) for k, size in enumerate(SIZES)]
    pairs = [Pair(image, text) for image in images for text in TEXTS]
    alone = [model.extract(feature, [pair], batch_size=1)[0].array for pair in pairs]
    spread = np.ptp([a[0] for a in alone])
    assert spread > 1e-2, "the pairs must differ for this to test anything"
    for order in (pairs, pairs[::-1], pairs[::2] + pairs[1::2]):
        for size in (1, 2, 3, 16):
            got = model.extract(feature, order, batch_size=size)
            for pair, result in zip(order, got, strict=True):
                want = alone[pairs.index(pair)]
                np.testing.assert_allclose(result.array, want, atol=1e-4)


def test_vision_once_an_image(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(checkpoint)
    if not model.shares_prefix:
        pytest.skip("a prefix-LM sees the image anew with each question")
    feature = answer_probability("x")
    seen = []
    real = type(model.inner).get_image_features

    def counted(self: Any, pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(pixel_values))
        return real(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(type(model.inner), "get_image_features", counted)
    image = model.prepare(feature, picture(0))
    model.extract(feature, [Pair(image, text) for text in TEXTS])
    assert len(seen) == 1


def test_answer_of_several_tokens(checkpoint: Path) -> None:
    model = model_of(checkpoint)
    feature = answer_probability("x", answer="Certainly", answer_tokens="all")
    image = picture(1)
    prepared = model.prepare(feature, image)
    got = model.extract(feature, [Pair(prepared, t) for t in TEXTS[:2]])
    for text, result in zip(TEXTS, got, strict=False):
        want = reference(checkpoint, image, text, end=True, answer="Certainly")
        assert len(want) > 2
        np.testing.assert_allclose(result.array, want, atol=1e-4)
    feature = answer_probability("x", answer="Certainly", answer_tokens="first")
    with pytest.raises(UsageError, match=r"'Certainly' is \d+ tokens of this model.*=all"):
        model.extract(feature, [Pair(prepared, "a dog")])


def test_normalized_by_yes_and_no(checkpoint: Path) -> None:
    model = model_of(checkpoint)
    both = answer_probability("x", normalize="yes_no")
    prepared = model.prepare(both, picture(1))
    for text in TEXTS[:2]:
        (result,) = model.extract(both, [Pair(prepared, text)])
        yes = no = 0.0
        for word, sum_of in (("yes", 0), ("no", 1)):
            for variant in {word, word.capitalize(), word.upper()}:
                ids = model.tokenizer.encode(variant, add_special_tokens=False)
                if len(ids) > 1:
                    continue
                one = answer_probability("x", answer=variant, answer_tokens="first")
                # What stands between prompt and answer decides which of the variants it is.
                if model.preset.space:
                    continue
                p = float(np.exp(model.extract(one, [Pair(prepared, text)])[0].array[0]))
                yes, no = (yes + p, no) if sum_of == 0 else (yes, no + p)
        assert result.array.shape == (2,)
        if not model.preset.space:
            # With a space before them there are further variants: never fewer.
            assert np.exp(result.array[0]) >= yes - 1e-6
            assert np.exp(result.array[1]) >= no - 1e-6


def test_text_over_the_context_length(tmp_path: Path) -> None:
    model = model_of(make_llava(tmp_path / "short", limit=128))
    feature = answer_probability("x")
    prepared = model.prepare(feature, picture(1))
    good, bad = model.extract(feature, [Pair(prepared, "a cat"), Pair(prepared, "dog " * 200)])
    assert isinstance(good, Extracted)
    assert isinstance(bad, InputError)
    assert bad.status == "text_too_long"
    assert "the model reads 128" in bad.note


def test_special_tokens_in_a_text_are_refused(llava: Path) -> None:
    model = model_of(llava)
    feature = answer_probability("x")
    prepared = model.prepare(feature, picture(1))
    results = model.extract(
        feature, [Pair(prepared, "an <image> of a dog"), Pair(prepared, "a dog<eos>")]
    )
    assert [r.status for r in results] == ["invalid_text", "invalid_text"]
    assert "'<image>'" in results[0].note


def test_no_chat_template(tmp_path: Path) -> None:
    folder = make_llava(tmp_path / "mute", chat=False)
    sample = Sample("0", "s", "a dog", picture(1))
    options = RunOptions(cache=False, device="cpu")
    with pytest.raises(UsageError, match=r"has no chat template.*preset="):
        score_samples([sample], f"vqascore:preset=generic@hf:{folder}", options=options)
    table = score_samples([sample], f"vqascore@hf:{folder}", options=options)
    assert table.frame["status"].tolist() == ["ok"]


def test_image_that_the_processor_rejects(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(llava)
    real = model.processor

    class Picky:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def __call__(self, images: Any, **kwargs: Any) -> Any:
            if images.size[0] > 60:
                raise ValueError("mean must have 1 elements if it is an iterable")
            return real(images=images, **kwargs)

    monkeypatch.setattr(model, "processor", Picky())
    samples = [
        Sample(str(k), "s", "a dog", picture(k, width, 40)) for k, width in enumerate((48, 80, 52))
    ]
    options = RunOptions(cache=False, device="cpu")
    frame = score_samples(samples, f"vqascore@hf:{llava}", options=options).frame
    assert frame["status"].tolist() == ["ok", "invalid_image", "ok"]
    assert "image processor rejects it: ValueError: mean must" in frame["note"][1]


def test_model_that_does_not_fit(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scorekit.backbones import hf, loading

    monkeypatch.setattr(loading, "free_memory", lambda device: 1000.0)
    spec = type("Spec", (), {"name": str(llava)})()
    with pytest.raises(UsageError, match=r"need about 0\.0 GB in fp32 and cpu has 0\.0 GB free"):
        hf.load(spec, BackboneOptions(device="cpu"))


def test_bad_rows_cost_themselves_alone(llava: Path) -> None:
    image = picture(3)
    samples = [
        Sample("0", "s", "a dog", image),
        Sample("1", "s", "  ", image),
        Sample("2", "s", None, image),
        Sample("3", "s", "a cat", "/no/such.png"),
        Sample("4", "s", 'quotes " and {braces}\nand lines', image),
        Sample("5", "s", "an <image>", image),
    ]
    table = score_samples(
        samples, f"vqascore@hf:{llava}", options=RunOptions(cache=False, device="cpu")
    )
    assert table.frame["status"].tolist() == [
        "ok", "empty_text", "missing_text", "missing_image", "ok", "invalid_text",
    ]  # fmt: skip


def test_a_second_run_runs_nothing(llava: Path, tmp_path: Path) -> None:
    samples = [Sample(str(k), "s", text, picture(0)) for k, text in enumerate(TEXTS)]
    options = RunOptions(cache=tmp_path, device="cpu")
    first = score_samples(samples, f"vqascore@hf:{llava}", options=options)
    again = score_samples(samples, f"vqascore@hf:{llava}", options=options)
    assert first.run["counts"]["features_computed"] == len(TEXTS)
    assert again.run["counts"]["features_computed"] == 0
    assert again.frame["value"].tolist() == first.frame["value"].tolist()


def test_signature(llava: Path) -> None:
    sample = Sample("0", "s", "a dog", picture(1))

    def signature(metric: str, **more: Any) -> str:
        given = RunOptions(cache=False, device="cpu", **more)
        return str(score_samples([sample], metric, options=given).signatures["vqascore"])

    plain = signature(f"vqascore@hf:{llava}")
    assert plain.startswith("vqascore|bb:hf/tiny-llava|w:")
    assert "|preset:llava-1.5|" in plain
    assert "|answer:Yes|answer_tokens:all|pad:square|normalize:none|" in plain
    assert "|dtype:fp32|" in plain
    assert "|pad:none|" in signature(f"vqascore:pad=none@hf:{llava}")
    assert "|preset:generic|" in signature(f"vqascore:preset=generic@hf:{llava}")
    assert "|dtype:bf16|" in signature(f"vqascore@hf:{llava}", dtype="bf16")
    assert "|quantize:int8|" in signature(f"vqascore@hf:{llava}", quantize="int8")


def test_free_form_question(llava: Path) -> None:
    metric = f'vqascore:question="Is it true that {{text}}, really?",answer=No@hf:{llava}'
    sample = Sample("0", "s", "a {dog}", picture(1))
    table = score_samples([sample], metric, options=RunOptions(cache=False, device="cpu"))
    assert table.frame["status"].tolist() == ["ok"]
    assert "question:Is it true that {text}, really?" in str(table.signatures["vqascore"])
    with pytest.raises(UsageError, match="says once where the text goes"):
        score_samples(
            [sample],
            f'vqascore:question="Is it true?"@hf:{llava}',
            options=RunOptions(cache=False, device="cpu"),
        )


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="no preset 'llava'; there are auto, clip-flant5"):
        preset_named("llava")


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
def test_a_text_arrives_literally(preset: Preset) -> None:
    text = '{} {text} {question} {image} " \n %s'
    assert text in preset.ask(text)
    assert preset.ask(text).startswith(preset.question.partition("{}")[0])


def test_square_is_centred_and_filled() -> None:
    image = picture(1, 30, 10)
    padded = square(image, (1, 2, 3))
    assert padded.size == (30, 30)
    assert padded.getpixel((0, 9)) == (1, 2, 3)
    assert padded.crop((0, 10, 30, 20)).tobytes() == image.tobytes()


def test_int8_is_near_fp32(llava: Path) -> None:
    feature = answer_probability("x")
    exact, small = model_of(llava), model_of(llava, quantize="int8")
    assert exact.fingerprint != small.fingerprint
    for text in TEXTS:
        a = exact.extract(feature, [Pair(exact.prepare(feature, picture(1)), text)])[0].array
        b = small.extract(feature, [Pair(small.prepare(feature, picture(1)), text)])[0].array
        assert 0 < np.abs(a - b).max() < 0.5


def test_changed_template_is_another_model(llava: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(llava, folder)
    before = model_of(llava).info.identity
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["note"] = "changed"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert model_of(folder).info.identity != before


def test_text_prior_is_the_language_model_alone(llava: Path) -> None:
    model = model_of(llava)
    feature = Feature("token_logprobs", "x", "text")
    one, two = model.extract(feature, ["a red circle", "the dog"])
    assert one.array.ndim == two.array.ndim == 1
    assert (one.array < 0).all()
    seen = Feature("token_logprobs", "x", "image", second="text")
    (with_image,) = model.extract(seen, [Pair(model.prepare(seen, picture(1)), "a red circle")])
    assert with_image.array.shape == one.array.shape
    assert np.abs(with_image.array - one.array).max() > 1e-3
