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
from tiny_vlm import MAKERS, OTHERS, make_florence2, make_idefics3, make_llava

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
    if kind == "llava" and model.config.vision_config.model_type != "pixtral":
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


def test_an_image_that_one_model_rejects_is_scored_by_the_others(
    llava: Path, tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(llava)

    def refuse(self: Any, feature: Any, image: Any) -> Any:
        raise InputError("invalid_image", "too odd")

    monkeypatch.setattr(type(model), "prepare", refuse)
    table = score_samples(
        [Sample("0", "s", "a dog", picture(1))],
        [f"clipscore@{tiny_clip}", f"vqascore@hf:{llava}"],
        options=RunOptions(cache=False, device="cpu"),
    )
    assert table.frame["status"].tolist() == ["ok", "invalid_image"]


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


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore:.*is run pair by pair")
def test_other_types_equal_their_own_forward(name: str, tmp_path: Path) -> None:
    folder = OTHERS[name](tmp_path / name)
    model = model_of(folder)
    assert model.preset.name == "generic"
    # What has no place for an image among its tokens shares nothing, and is still right.
    assert model.way == ("plain" if name == "mllama" else "prefix")
    feature = answer_probability("x")
    images = [picture(k, *size) for k, size in enumerate(((48, 40), (40, 90), (90, 40)))]
    prepared = [model.prepare(feature, image) for image in images]
    pairs = [(k, text) for text in TEXTS[:3] for k in range(len(images))]
    want = [reference(folder, images[k], text, end=False) for k, text in pairs]
    assert np.ptp(want) > 1e-3
    for size in (1, 4):
        got = model.extract(feature, [Pair(prepared[k], t) for k, t in pairs], batch_size=size)
        for result, value in zip(got, want, strict=True):
            np.testing.assert_allclose(result.array, value, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*is run pair by pair")
def test_plain_way_reads_answers_and_errors_alike(llava: Path, tmp_path: Path) -> None:
    fast = model_of(llava)
    slow = model_of(shutil.copytree(llava, tmp_path / "slow"))
    slow.way = "plain"
    for feature in (
        answer_probability("x"),
        answer_probability("x", normalize="yes_no"),
        answer_probability("x", answer="Certainly", answer_tokens="all"),
        Feature("token_logprobs", "x", "image", (("end", True),), second="text"),
    ):
        got = [
            model.extract(feature, [Pair(model.prepare(feature, picture(1)), t) for t in TEXTS])
            for model in (fast, slow)
        ]
        for one, two in zip(*got, strict=True):
            np.testing.assert_allclose(one.array, two.array, atol=1e-4)
    feature = answer_probability("x")
    held = slow.prepare(feature, picture(1))
    good, special, long = slow.extract(
        feature, [Pair(held, "a dog"), Pair(held, "a dog<eos>"), Pair(held, "dog " * 600)]
    )
    assert isinstance(good, Extracted)
    assert (special.status, long.status) == ("invalid_text", "text_too_long")


def test_a_way_that_gives_other_numbers_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scorekit.backbones.hf_vlm import HfVlm

    folder = make_idefics3(tmp_path / "idefics3")
    image = picture(1)
    feature = answer_probability("x")
    want = [reference(folder, image, text, end=False) for text in TEXTS]

    def scores(model: Any) -> Any:
        prepared = model.prepare(feature, image)
        return [r.array for r in model.extract(feature, [Pair(prepared, t) for t in TEXTS])]

    real = HfVlm._position_deltas
    monkeypatch.setattr(HfVlm, "_position_deltas", lambda self, n: real(self, n) + 5)
    model = model_of(shutil.copytree(folder, tmp_path / "a"))
    assert model.way == "whole"
    np.testing.assert_allclose(scores(model), want, atol=1e-4)
    monkeypatch.setattr(HfVlm, "_vision", lambda self, images: {})  # an image that is lost
    with pytest.warns(UserWarning, match=r"b \(idefics3\) is run pair by pair"):
        model = model_of(shutil.copytree(folder, tmp_path / "b"))
    np.testing.assert_allclose(scores(model), want, atol=1e-4)
    real_plain = HfVlm._plain

    def looks_ahead(self: Any, image: Any, prompt: str, said: Any) -> Any:
        return real_plain(self, image, prompt, said) - len(said)

    monkeypatch.setattr(HfVlm, "_plain", looks_ahead)
    with pytest.raises(UsageError, match="depends on the tokens after it"):
        model_of(shutil.copytree(folder, tmp_path / "c"))


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"florence is an encoder-decoder \(florence2\)"):
        model_of(make_florence2(tmp_path / "florence"))


def test_marks_of_a_chat_are_refused_even_where_they_are_not_listed(tmp_path: Path) -> None:
    folder = make_llava(tmp_path / "marked")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(config.get(key), list):  # as Gemma's `<end_of_turn>` is listed nowhere
            config[key] = [t for t in config[key] if t != "<turn>"]
    path.write_text(json.dumps(config))
    model = model_of(folder)
    assert "<turn>" not in model.tokenizer.all_special_tokens
    feature = answer_probability("x")
    (result,) = model.extract(feature, [Pair(model.prepare(feature, picture(1)), "a <turn> b")])
    assert result.status == "invalid_text"


def test_a_chat_ends_as_its_template_says(tmp_path: Path) -> None:
    folder = make_llava(tmp_path / "ends")
    template = folder / "chat_template.jinja"
    text = template.read_text()
    template.write_text(
        text.replace("{% endfor %}\n{% endfor %}", "{% endfor %}<turn>{% endfor %}")
    )
    assert template.read_text() != text
    model = model_of(folder)
    turn = model.tokenizer.convert_tokens_to_ids("<turn>")
    assert model._end_id(PRESETS["generic"]) == model.tokenizer.eos_token_id
    model.model.generation_config.eos_token_id = [model.tokenizer.eos_token_id, turn]
    model._chat_end = None
    assert model._end_id(PRESETS["generic"]) == turn
    assert model._end_id(PRESETS["llava-1.5"]) == model.tokenizer.eos_token_id


def test_own_frame_needs_no_chat_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_llava(tmp_path / "mute", chat=False)
    model = model_of(folder)
    monkeypatch.setattr(model, "preset", PRESETS["generic"])  # as of a type that is not known
    feature = answer_probability("x", preset="llava-1.5")
    prepared = model.prepare(feature, picture(1))
    (result,) = model.extract(feature, [Pair(prepared, "a dog")])
    assert isinstance(result, Extracted)


def test_a_prompt_without_image_has_no_gap(llava: Path) -> None:
    model = model_of(llava)
    prompt = model.render(PRESETS["llava-1.5"], "Who?", with_image=False)
    assert prompt.endswith("USER: Who? ASSISTANT:")


def test_paligemma_alone_reads_its_prompt_both_ways(tmp_path: Path) -> None:
    import torch

    model = model_of(MAKERS["paligemma"](tmp_path / "p"))
    (result,) = model.extract(Feature("token_logprobs", "x", "text"), ["a red circle"])
    prompt = model.render(model.preset, model.preset.describe, with_image=False)
    context, whole = model._ids(prompt), model._ids(prompt + "a red circle")
    ids = torch.tensor([whole])
    types = torch.zeros_like(ids)
    types[0, len(context) :] = 1
    logits = model.model(input_ids=ids, token_type_ids=types).logits[0].float()
    logs = torch.log_softmax(logits, -1)
    want = [float(logs[k - 1, whole[k]]) for k in range(len(context), len(whole))]
    np.testing.assert_allclose(result.array, want, atol=1e-4)


def test_many_logits_are_read_in_parts(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scorekit.backbones import hf_vlm

    model = model_of(llava)
    for feature in (
        Feature("token_logprobs", "x", "image", (("end", True),), second="text"),
        answer_probability("x", normalize="yes_no"),
    ):
        pairs = [Pair(model.prepare(feature, picture(1)), text) for text in TEXTS]
        whole = [r.array for r in model.extract(feature, pairs)]
        monkeypatch.setattr(hf_vlm, "READ_AT_ONCE", 1)
        for one, other in zip(whole, model.extract(feature, pairs), strict=True):
            np.testing.assert_allclose(other.array, one, atol=1e-5)
        monkeypatch.undo()


def test_short_memory_is_met_with_smaller_batches(
    llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    import torch

    model = model_of(llava)
    feature = answer_probability("x")
    pairs = [Pair(model.prepare(feature, picture(k)), "a dog") for k in range(5)]
    want = [r.array for r in model.extract(feature, pairs)]
    real = model.ask
    sizes = []

    def tight(asked: Any, size: int) -> Any:
        # While an error is being handled, its batch's tensors can't be freed.
        assert sys.exc_info()[0] is None
        sizes.append(size)
        if min(size, len(asked)) > 1:
            raise torch.OutOfMemoryError
        return real(asked, size)

    monkeypatch.setattr(model, "ask", tight)
    monkeypatch.setattr(model, "batch_size", 4)
    got = [r.array for r in model.extract(feature, pairs)]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert sizes[0] == 4
    assert min(sizes) >= 1
    assert model.batch_size < 4


def test_presets_and_resizer_are_in_the_fingerprint(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scorekit.backbones import hf_vlm_plain

    one = model_of(llava).info
    assert one.resize in ("processor-pil", "processor-torchvision")
    for name, value in (("PRESETS_HASH", "new words"), ("backend_of", lambda processor: "other")):
        with monkeypatch.context() as patch:
            patch.setattr(hf_vlm_plain, name, value)
            other = model_of(shutil.copytree(llava, tmp_path / name / llava.name)).info
        assert other.identity == one.identity
        assert other.fingerprint != one.fingerprint


@pytest.mark.parametrize("question", ["{text} and {text}: {}", "{} {}", "no place"])
def test_a_question_has_one_place(question: str) -> None:
    with pytest.raises(UsageError, match="says once where the text goes"):
        PRESETS["generic"].with_words(question, "")
