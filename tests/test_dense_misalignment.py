"""Token attributions against a per-pair eager reference, and the words that are made of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import combining

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from tiny import TEXTS, make_clip, picture
from transformers.models.clip import modeling_clip

from scorekit.backbones.attributed import token_spans
from scorekit.backbones.attribution import Attribution, attribute, tower_of
from scorekit.backbones.handle import get_handle
from scorekit.backbones.spec import BackboneOptions
from scorekit.metrics._baselines import last_noun, leave_one_out, random_word, without_each
from scorekit.metrics._words import judge_words, phrases_of, units_of, word_attributions, words_of
from scorekit.metrics.clip4dm import CLIP4DM
from scorekit.metrics.f_clipscore import FCLIPScore
from scorekit.misalignment import word_labels
from scorekit.misalignment_sets import pairs_of as foil_pairs
from scorekit.misalignment_sets import read_sugar_crepe
from scorekit.run import RunOptions, score_samples
from scorekit.samples import samples_from
from scorekit.types import (
    Extracted,
    InputError,
    Pair,
    UsageError,
    text_embedding,
    token_attribution,
)

SCENES = Path(__file__).parents[1] / "data" / "checkpoints" / "scenes-clip"
PREFIX = "A photo depicts "
LONG = "one red circle and two blue square with three green triangle on the large window."
CAPTIONS = (*TEXTS, "tree", "a dog, asleep ... and a cat.")


pytestmark = pytest.mark.usefixtures("one_thread")


def small_vit_b_32(folder: Path) -> Path:
    """OpenCLIP's ViT-B-32 with fewer layers and random weights, in its own folder format."""
    config = open_clip.get_model_config("ViT-B-32")
    config["text_cfg"]["layers"] = 4
    config["vision_cfg"]["layers"] = 1
    torch.manual_seed(3)
    model = CLIP(**config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("transformer.") and parameter.ndim > 1:
                parameter.normal_(0, 0.06)  # attention far from uniform
        model.token_embedding.weight.normal_(0, 0.3)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    return folder


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("towers")
    return {
        "scenes-clip": f"hf:{SCENES}",
        "tiny hf": f"hf:{make_clip(folder / 'hf', limit=32)}",
        "open_clip": f"open_clip:{small_vit_b_32(folder / 'open_clip')}",
    }


@pytest.fixture(params=["scenes-clip", "tiny hf", "open_clip"])
def backbone(request: pytest.FixtureRequest, names: dict[str, str]) -> str:
    return names[request.param]


def last_of(backbone: str) -> int:
    """The tiny model has two layers."""
    return min(3, len(tower_of(model_of(backbone).model).layers))


def model_of(backbone: str, **options: Any) -> Any:
    return get_handle(backbone, BackboneOptions(**options)).model()


def pairs_of(model: Any, captions: Sequence[str] = CAPTIONS) -> list[Pair]:
    """Captions, each with an image embedding of its own."""
    width = model.extract(text_embedding("x"), ["x"])[0].array.shape[0]
    rng = np.random.default_rng(7)
    return [Pair(c, rng.normal(size=width).astype(np.float32)) for c in captions]


# The reference: one pair at a time, attention maps kept, gradients with respect to them ---------


def exact_attention(
    module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' eager attention, but for its softmax, which is float32 whatever comes in."""
    weights = (q @ k.transpose(-1, -2) * scaling + mask).softmax(-1)
    return (weights @ v).transpose(1, 2).contiguous(), weights


def reference_hf(model: Any, ids: list[int], image: torch.Tensor, last: int) -> Any:
    out = model.text_model(input_ids=torch.tensor([ids]), output_attentions=True)
    text = model.text_projection(out.pooler_output)
    return relevance(out.attentions[-last:], text, image, len(ids) - 1)


def reference_open_clip(model: Any, ids: list[int], image: torch.Tensor, last: int) -> Any:
    """`encode_text` on all 77 places, with an attention written out."""
    maps: list[torch.Tensor] = []

    def eager(attention: Any) -> Callable[..., Any]:
        def forward(
            q: Any, k: Any, v: Any, need_weights: bool = False, attn_mask: Any = None
        ) -> Any:
            n, t, d = q.shape
            heads = attention.num_heads
            parts = (q @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=-1)
            q, k, v = (p.reshape(n, t, heads, d // heads).transpose(1, 2) for p in parts)
            scores = q @ k.transpose(-1, -2) / (d // heads) ** 0.5 + attn_mask
            maps.append(scores.softmax(-1).requires_grad_())
            z = (maps[-1] @ v).transpose(1, 2).reshape(n, t, d)
            return (attention.out_proj(z), None)

        return forward

    for block in model.transformer.resblocks:
        block.attn.forward = eager(block.attn)
    try:
        padded = torch.zeros(1, 77, dtype=torch.long)
        padded[0, : len(ids)] = torch.tensor(ids)
        text = model.encode_text(padded)
        return relevance(maps[-last:], text, image, len(ids) - 1)
    finally:
        for block in model.transformer.resblocks:
            del block.attn.forward


def relevance(maps: Any, text: torch.Tensor, image: torch.Tensor, end: int) -> np.ndarray:
    """Mean over layers and heads of A * ds/dA in the end token's row, of what is between."""
    cosine = torch.nn.functional.cosine_similarity(text[0], image, dim=0)
    gradients = torch.autograd.grad(cosine, list(maps))
    layers = [(g * a)[0, :, end].mean(0) for g, a in zip(gradients, maps, strict=True)]
    return torch.stack(layers).mean(0)[1:end].detach().numpy()


def references(backbone: str, pairs: Sequence[Pair], dtype: Any = torch.float32) -> list[Any]:
    """What the eager loop gives for all tokens, the prefix's included."""
    model = model_of(backbone)
    family, _, folder = backbone.partition(":")
    if family == "hf":
        reference: Any = reference_hf
        fresh = transformers.CLIPModel.from_pretrained(
            folder, attn_implementation="eager", dtype=dtype
        )
    else:
        reference = reference_open_clip
        config = json.loads(Path(folder, "open_clip_config.json").read_text())["model_cfg"]
        fresh = CLIP(**config).to(dtype)
        fresh.load_state_dict(model.model.state_dict())
    fresh.eval()
    return [
        reference(
            fresh,
            model.tokenize([PREFIX + pair.first])[0].ids,
            torch.from_numpy(pair.second).to(dtype),
            last_of(backbone),
        )
        for pair in pairs
    ]


def error(got: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest value."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def extracted(backbone: str, pairs: Sequence[Pair], **how: Any) -> list[Extracted]:
    feature = token_attribution(backbone, prefix=PREFIX, last=last_of(backbone))
    return model_of(backbone).extract(feature, pairs, **how)


def whole(backbone: str, pairs: Sequence[Pair], dtype: Any) -> list[Attribution]:
    """The engine's own results, for all tokens."""
    model = model_of(backbone)
    ids = [model.tokenize([PREFIX + pair.first])[0].ids for pair in pairs]
    images = torch.from_numpy(np.stack([pair.second for pair in pairs])).to(dtype)
    tower = tower_of(copy.deepcopy(model.model).to(dtype))
    return attribute(tower, ids, images, last_of(backbone))


def test_equal_to_the_eager_reference(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = pairs_of(model_of(backbone))
    eager = references(backbone, pairs)
    monkeypatch.setattr(modeling_clip, "eager_attention_forward", exact_attention)
    exact = references(backbone, pairs, torch.float64)
    for got, expected in zip(whole(backbone, pairs, torch.float64), exact, strict=True):
        assert error(got.tokens.numpy(), expected) < 1e-12
    # In float32 the two differ as much as the reference itself does from the exact value.
    own = max(map(error, eager, exact))
    assert own < 1e-5
    for got, expected in zip(whole(backbone, pairs, torch.float32), eager, strict=True):
        assert error(got.tokens.numpy(), expected) < 1e-6 + 2 * own


def test_the_prefix_is_dropped(backbone: str) -> None:
    pairs = pairs_of(model_of(backbone))
    everything = whole(backbone, pairs, torch.float32)
    skipped = len(token_spans(model_of(backbone), PREFIX))
    assert skipped == 3
    for got, each, pair in zip(extracted(backbone, pairs), everything, pairs, strict=True):
        assert error(got.array, each.tokens[skipped:].numpy()) < 1e-5
        assert (got.info["heads"], got.info["layers"]) == (each.heads, each.layers)
        assert pair.first[: got.info["spans"][0][1]] == pair.first.split()[0]


@pytest.mark.parametrize("last", [1, 2])
def test_completeness(backbone: str, last: int) -> None:
    model = model_of(backbone)
    pairs = pairs_of(model)
    tower = tower_of(copy.deepcopy(model.model).double())
    ids = [model.tokenize([PREFIX + pair.first])[0].ids for pair in pairs]
    images = torch.from_numpy(np.stack([pair.second for pair in pairs])).double()
    for each in attribute(tower, ids, images, last):
        added = (float(each.tokens.sum()) + each.rest) * each.heads * each.layers
        assert added == pytest.approx(each.total, rel=1e-10, abs=1e-15)


def test_cosine_is_that_of_the_embeddings(backbone: str) -> None:
    model = model_of(backbone)
    pairs = pairs_of(model)
    texts = model.extract(text_embedding("x", prefix=PREFIX), [pair.first for pair in pairs])
    for got, text, pair in zip(extracted(backbone, pairs), texts, pairs, strict=True):
        a, b = text.array.astype(float), pair.second.astype(float)
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert got.info["cosine"] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batch_size_and_order_do_not_matter(backbone: str, size: int) -> None:
    pairs = pairs_of(model_of(backbone))
    expected = extracted(backbone, pairs)
    got = extracted(backbone, pairs[::-1], batch_size=size)[::-1]
    for a, b in zip(got, expected, strict=True):
        assert error(a.array, b.array) < 1e-5
        assert a.info["spans"] == b.info["spans"]


def test_a_text_that_images_share_is_attributed_to_each(names: dict[str, str]) -> None:
    name = names["tiny hf"]
    pairs = pairs_of(model_of(name), [TEXTS[1], TEXTS[0], TEXTS[1], TEXTS[1]])
    together = extracted(name, pairs)
    for pair, got in zip(pairs, together, strict=True):
        (alone,) = extracted(name, [pair])
        assert error(got.array, alone.array) < 1e-5
        assert got.info["cosine"] == pytest.approx(alone.info["cosine"], abs=1e-6)
    # The same tokens, but another image's.
    assert error(together[0].array, together[2].array) > 0.1


def test_padding_does_not_matter(backbone: str) -> None:
    model = model_of(backbone)
    tower = tower_of(model.model)
    pairs = pairs_of(model)
    ids = [model.tokenize([pair.first])[0].ids for pair in pairs]
    images = torch.from_numpy(np.stack([pair.second for pair in pairs]))
    expected = attribute(tower, ids, images, 1, pad=0)
    for a, b in zip(attribute(tower, ids, images, 1, pad=9), expected, strict=True):
        assert torch.equal(a.tokens, b.tokens)


@pytest.mark.parametrize("last", [0, 99])
def test_layers_that_are_not_there(names: dict[str, str], last: int) -> None:
    feature = token_attribution("x", last=last)
    model = model_of(names["tiny hf"])
    with pytest.raises(UsageError, match=f"2 layers, not {last}"):
        model.extract(feature, pairs_of(model))


# Towers that are refused ------------------------------------------------------------------------

TINY_TEXT = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 1}
TINY_VISION = {"layers": 1, "width": 32, "patch_size": 16, "image_size": 32, "head_width": 16}
TINY_HF = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def siglip() -> Any:
    config = transformers.SiglipConfig(
        text_config=TINY_HF, vision_config={**TINY_HF, "image_size": 32, "patch_size": 16}
    )
    return transformers.SiglipModel(config)


def chinese_clip() -> Any:
    config = transformers.ChineseCLIPConfig(
        text_config=TINY_HF, vision_config={**TINY_HF, "image_size": 32, "patch_size": 16}
    )
    return transformers.ChineseCLIPModel(config)


def open_clip_siglip() -> Any:
    text = {**TINY_TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    return CustomTextCLIP(16, TINY_VISION, text)


def open_clip_coca_tower() -> Any:
    return CustomTextCLIP(16, TINY_VISION, {**TINY_TEXT, "embed_cls": True})


def open_clip_other_blocks() -> Any:
    return CustomTextCLIP(16, TINY_VISION, {**TINY_TEXT, "qk_norm": True})


@pytest.mark.parametrize(
    "build",
    [siglip, chinese_clip, open_clip_siglip, open_clip_coca_tower, open_clip_other_blocks],
    ids=lambda build: build.__name__,
)
def test_other_towers_are_refused_in_one_line(build: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match="no token attribution") as caught:
        tower_of(build())
    assert "\n" not in str(caught.value)


def test_open_clip_custom_text_of_the_plain_kind_is_not() -> None:
    assert len(tower_of(CustomTextCLIP(16, TINY_VISION, TINY_TEXT)).layers) == 1


# Spans ------------------------------------------------------------------------------------------


class Tokenized:
    """What `token_spans` wants of a backbone."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer


@pytest.fixture(scope="module")
def simple() -> Any:
    return open_clip.get_tokenizer("ViT-B-32")


@pytest.fixture(scope="module")
def fast(simple: Any) -> Any:
    """CLIP's tokenizer of transformers, from OpenCLIP's file of merges."""
    ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {ends.get(token, token): i for token, i in simple.encoder.items()}
    merges = sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__)
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges)


SAME = {
    "a dog ... runs": ["a", "dog", "...", "runs"],
    "a dog… runs": ["a", "dog", "…", "runs"],
    "isn't a dog's": ["isn", "'t", "a", "dog", "'s"],
    "A BIG Dog": ["A", "BIG", "Dog"],
    "state-of-the-art": ["state", "-", "of", "-", "the", "-", "art"],
    "  two   words\n\tmore ": ["two", "words", "more"],
    "😀 a cat": ["😀", "a", "cat"],
    "日本 猫": ["日", "本", "本", "猫", "猫", "猫"],
    "İstanbul": ["İ", "İ", "stanbul"],
    "12,345": ["1", "2", ",", "3", "4", "5"],
}
OPEN_CLIP = {
    "cafe\u0301 x": ["cafe\u0301", "x"],
    "“a cat” it’s": ["“", "a", "cat", "”", "it", "’s"],
    "a &amp; b &lt;c&gt; &amp;amp; d": ["a", "&amp;", "b", "&lt;", "c", "&gt;", "&amp;amp;", "d"],
    "don&#39;t": ["don", "&#39;t"],
    "ﬁne ﬂag": ["ﬁne", "ﬂag"],
    "Ａ ＦＵＬＬ": ["Ａ", "ＦＵＬＬ"],
    "sÃ£o x": ["sÃ£o", "x"],
}
FAST = {
    "cafe\u0301 x": ["cafe", "x"],  # the accent is taken in, without its place
    "“a cat”": ["“", "“", "a", "cat", "”", "”"],
    "a &amp; b": ["a", "&", "amp", ";", "b"],
    "ﬁne": ["ﬁ", "ﬁ", "ﬁ", "ne"],
}


@pytest.mark.parametrize(("text", "expected"), [*SAME.items(), *OPEN_CLIP.items()])
def test_spans_of_open_clip(simple: Any, text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in token_spans(Tokenized(simple), text)] == expected
    assert len(expected) == len(simple.encode(text))


@pytest.mark.parametrize(("text", "expected"), [*SAME.items(), *FAST.items()])
def test_spans_of_transformers(fast: Any, text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in token_spans(Tokenized(fast), text)] == expected


@pytest.mark.parametrize("text", [*SAME, *OPEN_CLIP, *FAST])
@pytest.mark.parametrize("kind", ["simple", "fast"])
def test_spans_cover_the_text_in_order(
    kind: str, text: str, request: pytest.FixtureRequest
) -> None:
    spans = token_spans(Tokenized(request.getfixturevalue(kind)), text)
    assert spans == sorted(spans)
    covered = {k for a, b in spans for k in range(a, b)}
    left = {letter for k, letter in enumerate(text) if k not in covered}
    assert all(letter.isspace() or combining(letter) for letter in left)


def test_spans_do_not_change_behind_a_prefix(names: dict[str, str]) -> None:
    text = "“a ﬁne” cat &amp; İ"
    model = model_of(names["open_clip"])
    pair = pairs_of(model, [text])
    got = extracted(names["open_clip"], pair)[0].info["spans"]
    assert [tuple(span) for span in got] == token_spans(model, text)


# Long texts -------------------------------------------------------------------------------------


def test_the_first_of_each_sugar_crepe_file(names: dict[str, str], shared_data: Path) -> None:
    files = sorted((shared_data / "sugar_crepe").glob("*.json"))
    assert len(files) == 7
    pairs = [pair for file in files for pair in foil_pairs(read_sugar_crepe(file))[:4]]
    foils = [foil for _, foil in pairs]
    texts = [case.text for pair in pairs for case in pair]
    model = model_of(names["open_clip"])
    found = extracted(names["open_clip"], pairs_of(model, texts))
    for text, got in zip(texts, found, strict=True):
        assert "tokens" not in got.info and np.isfinite(got.array).all()
        rows = judge_words(text, got, eps=0.0, mode="threshold", unit="raw")
        assert [(w["start"], w["end"]) for w in rows.words] == [
            (w.start, w.end) for w in words_of(text)
        ]
        assert rows.notes == []
        # Every character but spaces is in some token.
        covered = {k for start, end in got.info["spans"] for k in range(start, end)}
        assert {k for k, c in enumerate(text) if not c.isspace()} <= covered
    for foil in foils:
        words = [(w.start, w.end) for w in words_of(foil.text)]
        assert word_labels(words, foil.spans).any()


def test_a_long_text_is_cut_and_says_so(names: dict[str, str]) -> None:
    model = model_of(names["tiny hf"])
    text = f"{LONG} {LONG}"
    got = extracted(names["tiny hf"], pairs_of(model, [text]))[0]
    assert got.info["limit"] == 32
    assert got.info["tokens"] == model.tokenize([PREFIX + text])[0].full_length > 32
    assert len(got.array) == len(got.info["spans"]) == 32 - 2 - 3
    own = [text[a:b] for a, b in got.info["spans"]]
    assert own == text.replace(".", " .").split()[:27]


def test_a_long_text_is_refused_where_asked_for(names: dict[str, str]) -> None:
    model = model_of(names["tiny hf"])
    feature = token_attribution("x", prefix=PREFIX, last=2)
    asked = replace(feature, params=(*feature.params, ("long_text", "error")))
    long, short = model.extract(asked, pairs_of(model, [f"{LONG} {LONG}", "a dog"]))
    assert isinstance(long, InputError) and long.status == "text_too_long"
    assert isinstance(short, Extracted)


def test_windows_are_refused(names: dict[str, str]) -> None:
    options = RunOptions(long_text="window", cache=False)
    metric = CLIP4DM(backbone=names["tiny hf"], last=2)
    with pytest.raises(UsageError, match="in one piece"):
        score_samples(samples_from([picture(0)], "a dog"), [metric], options=options)


def test_a_row_of_a_long_text_says_what_was_not_read(names: dict[str, str]) -> None:
    metric = CLIP4DM(backbone=names["tiny hf"], last=2)
    samples = samples_from([picture(0), picture(1)], [f"{LONG} {LONG}", "a dog"])
    table = score_samples(samples, [metric], options=RunOptions(cache=False)).frame
    rows = table[table["metric"] == "clip4dm"]
    assert list(rows["status"]) == ["ok", "ok"]
    note = rows["note"].iloc[0]
    assert "to 32 tokens" in note
    assert "did not read" in note and note.endswith("large window")
    assert rows["note"].iloc[1] == ""


# Words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog, asleep.", "A dog asleep"),
        ("well-known dogs' isn't it's rock-'n'-roll", "well-known dogs isn't it's rock-'n'-roll"),
        ("wait ... what… really...yes", "wait what really yes"),
        ("“a” ‘b’ 'c' \"d\" «e» 「f」", "a b c d e f"),
        ("red/blue—green–grey (pink)[x]", "red blue green grey pink x"),
        ("U.S. 3.5 12,345 3:45 $5 20°", "U.S 3.5 12,345 3:45 $5 20°"),
        ("one,two: three;four", "one two three four"),
        ("... — !? -", ""),
        ("a 😀cat👩‍👩‍👧 🇩🇪🇫🇷 👍🏽 → ☂", "a 😀 cat 👩‍👩‍👧 🇩🇪 🇫🇷 👍🏽 ☂"),
        ("猫と犬。iPhone手机 カード が", "猫 と 犬 iPhone 手 机 カー ド が"),
        ("강아지가 달린다", "강아지가 달린다"),
        ("a &amp; b don&#39;t caf&eacute;", "a b don&#39;t caf&eacute;"),
        ("\ufeffdog\u200b", "dog"),
    ],
)
def test_words(caption: str, expected: str) -> None:
    words = words_of(caption)
    assert " ".join(w.text for w in words) == expected
    assert all(caption[w.start : w.end] == w.text for w in words)


@pytest.mark.parametrize(
    ("given", "units", "lost"),
    [
        ("hot dog", "a|hot dog|and|a|red|hot|dog", ""),
        ("hot dog|HOT DOG", "a|hot dog|and|a|red|hot dog", ""),
        ('["red hot dog"]', "a|hot|dog|and|a|red hot dog", ""),
        ([[2, 9], [16, 19]], "a|hot dog|and|a|red|hot|dog", ""),
        (["red", "cat", [16, 99]], "a|hot|dog|and|a|red|hot|dog", "cat|[16, 99]"),
        ("ho", "a|hot|dog|and|a|red|hot|dog", "ho"),
        (None, "a|hot|dog|and|a|red|hot|dog", ""),
        (float("nan"), "a|hot|dog|and|a|red|hot|dog", ""),
    ],
)
def test_phrases(given: Any, units: str, lost: str) -> None:
    found, missing = units_of("a hot dog and a red hot dog.", phrases_of(given))
    assert "|".join(u.text for u in found) == units
    assert "|".join(missing) == lost


def test_phrases_of_letters_without_spaces() -> None:
    found, missing = units_of("白い子猫がいる", phrases_of(["子猫", "白い"]))
    assert [u.text for u in found] == ["白い", "子猫", "が", "い", "る"]
    assert missing == []


@pytest.mark.parametrize("given", [5, [5], [[1]], '["a"', {"a": 1}, [["a", "b"]]])
def test_phrases_that_are_none(given: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        phrases_of(given)


def test_a_token_of_punctuation_belongs_to_no_word() -> None:
    words = words_of("dog... cat")
    got = word_attributions(words, [[0, 3], [3, 6], [7, 10]], np.array([1.0, -9.0, 2.0]))
    assert got.tolist() == [1.0, 2.0]


def test_a_token_of_two_letters_belongs_to_both() -> None:
    got = word_attributions(words_of("日本"), [[0, 2]], np.array([3.0]))
    assert got.tolist() == [3.0, 3.0]


def judged(values: Sequence[float], **how: Any) -> list[dict[str, Any]]:
    """Words a, b, c, ... of one token each."""
    caption = " ".join("abcdefgh"[: len(values)])
    info = {"spans": [[2 * i, 2 * i + 1] for i in range(len(values))], "heads": 2, "layers": 3}
    settings = {"eps": -5e-5, "mode": "threshold", "unit": "raw", **how}
    return judge_words(caption, Extracted(np.array(values), info), **settings).words


@pytest.mark.parametrize(
    ("how", "flags"),
    [
        ({}, [True, False, True]),
        ({"eps": -2.0}, [True, False, False]),
        ({"eps": -3.0}, [False, False, False]),
        ({"unit": "scaled", "eps": -6.0}, [True, False, False]),
        ({"unit": "z", "eps": -0.5}, [True, False, False]),
        ({"mode": "most_negative", "eps": -99.0}, [True, False, False]),
    ],
)
def test_flags(how: dict[str, Any], flags: list[bool]) -> None:
    words = judged([-3, 2, -1], **how)
    assert [w["misaligned"] for w in words] == flags
    assert [w["rank"] for w in words] == [1, 3, 2]
    assert [w["scaled"] for w in words] == [-18, 12, -6]


def test_of_equal_words_the_first_is_the_lowest_and_none_stands_out() -> None:
    words = judged([0.1, 0.1, 0.1], mode="most_negative")
    assert [w["misaligned"] for w in words] == [True, False, False]
    assert [w["z"] for w in words] == [0, 0, 0]


@pytest.mark.parametrize("unit", ["scaled", "z"])
def test_a_threshold_of_another_unit_is_refused(unit: Any) -> None:
    with pytest.raises(UsageError, match="give eps="):
        FCLIPScore(unit=unit)
    assert FCLIPScore(unit=unit, mode="most_negative").unit == unit


def test_a_run_gives_each_word_as_evidence(names: dict[str, str]) -> None:
    metrics = [kind(backbone=names["tiny hf"], last=2) for kind in (CLIP4DM, FCLIPScore)]
    samples = samples_from(
        [picture(0), picture(1)],
        ["a red dog, asleep", "the large tree"],
        phrases=[["red dog"], None],
    )
    table = score_samples(samples, metrics, options=RunOptions(cache=False)).frame
    rows = table[table["metric"] == "clip4dm"].reset_index()
    words = json.loads(rows["evidence"][0])
    assert [w["word"] for w in words] == ["a", "red dog", "asleep"]
    assert set(words[0]) == {
        "word", "start", "end", "attribution", "scaled", "z", "rank", "misaligned",
    }  # fmt: skip
    assert rows["value"][0] == pytest.approx(min(w["attribution"] for w in words))
    cosine = table[table["metric"] == "clip4dm.cosine"]["value"].iloc[0]
    expected = (1 - max(cosine, 0)) * sum(w["attribution"] for w in words if w["misaligned"])
    assert table[table["metric"] == "f_clipscore"]["value"].iloc[0] == pytest.approx(expected)


# Baselines --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "nouns", "expected"),
    [
        ("A dog chases the cat.", (), "cat"),
        ("A dog is looking at it", (), "looking"),
        ("of the", (), "the"),
        ("A hot dog and a Cat run", ("cat", "hot dog"), "Cat"),
        ("A hot dog on a run", ("dog", "hot dog"), "hot dog"),
        ("A dog runs", ("cat",), "runs"),
        ("...", (), None),
    ],
)
def test_last_noun(caption: str, nouns: tuple[str, ...], expected: str | None) -> None:
    found = last_noun(caption, nouns)
    assert (found and found.text) == expected


def test_random_word_is_fixed_by_the_caption_and_the_seed() -> None:
    captions = [f"a red dog number{i}" for i in range(400)]
    first = [random_word(caption) for caption in captions]
    assert first == [random_word(caption) for caption in captions]
    places = [words_of(c).index(w) for c, w in zip(captions, first, strict=True) if w]
    assert np.bincount(places).min() > 70  # 100 are expected, with a deviation of 9
    assert [random_word(caption, seed=1) for caption in captions] != first
    assert random_word("...") is None


def test_without_each() -> None:
    caption = "A well-known dog, asleep."
    assert without_each(caption, words_of(caption)) == [
        "well-known dog, asleep.", "A dog, asleep.", "A well-known, asleep.", "A well-known dog.",
    ]  # fmt: skip


def test_leave_one_out() -> None:
    words = words_of("a red dog")
    assert leave_one_out(words, 0.5, [0.4, 0.7, 0.6]) == words[1]
    assert leave_one_out(words, 0.5, [0.4, 0.1, 0.3]) == words[0]
    assert leave_one_out([], 0.5, []) is None
    with pytest.raises(ValueError, match="3 words"):
        leave_one_out(words, 0.5, [0.4])
