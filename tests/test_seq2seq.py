"""Encoder-decoders of texts against transformers' own forward, and BARTScore on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TEXTS, save_tokenizer

from scorekit.backbones.hf import kind_of
from scorekit.backbones.hf_seq2seq import HfSeq2Seq, load
from scorekit.backbones.spec import BackboneOptions
from scorekit.metrics.bartscore import BARTScore
from scorekit.types import Extracted, Feature, InputError, Pair, UsageError

CPU = BackboneOptions(device="cpu")
LOGS = Feature("token_logprobs", "b", "source_text", second="text")
FAMILIES = ("bart", "mbart", "t5", "pegasus")
LIMIT = 40


def make(folder: Path, family: str) -> Any:
    """A tiny checkpoint with weights that tell inputs apart."""
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        MBartConfig,
        MBartForConditionalGeneration,
        PegasusConfig,
        PegasusForConditionalGeneration,
        T5Config,
        T5ForConditionalGeneration,
    )

    # BART's tokenizer marks both ends, T5's and Pegasus' the end.
    words = save_tokenizer(folder, limit=LIMIT, start=family in ("bart", "mbart"))
    ends = {"pad_token_id": 0, "eos_token_id": words - 1, "bos_token_id": words - 2}
    shape = {
        "vocab_size": words, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32, "max_position_embeddings": 64,
    }  # fmt: skip
    model: Any
    if family == "bart":
        model = BartForConditionalGeneration(
            BartConfig(**shape, **ends, decoder_start_token_id=words - 1)
        )
    elif family == "mbart":
        model = MBartForConditionalGeneration(MBartConfig(**shape, **ends))
    elif family == "pegasus":
        model = PegasusForConditionalGeneration(
            PegasusConfig(**shape, **ends, decoder_start_token_id=0)
        )
    else:
        config = T5Config(
            vocab_size=words, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            decoder_start_token_id=0, tie_word_embeddings=False, **ends,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4, generator=generator)
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("seq2seq") / request.param
    model = make(folder, request.param)
    return load(folder, [folder / "model.safetensors"], CPU), model


def plain(model: Any, tokenizer: Any, source: str, target: str) -> np.ndarray:
    """As the authors' BARTScorer: the target's ids as labels, special tokens and all."""
    inputs = tokenizer(source, return_tensors="pt")
    labels = tokenizer(target, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(**inputs, labels=labels).logits[0]
    return logits.log_softmax(-1)[torch.arange(labels.shape[1]), labels[0]].numpy()


def arrays(results: Sequence[Extracted | InputError]) -> list[np.ndarray]:
    assert all(isinstance(r, Extracted) for r in results), results
    return [r.array for r in results if isinstance(r, Extracted)]


PAIRS = [Pair(a, b) for a in TEXTS for b in TEXTS[:3]]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("backwards", [False, True])
def test_it_is_transformers_own_forward(case: Any, batch_size: int, backwards: bool) -> None:
    ours, model = case
    pairs = PAIRS[::-1] if backwards else PAIRS
    got = arrays(ours.extract(LOGS, pairs, batch_size=batch_size))
    for array, (source, target) in zip(got, pairs, strict=True):
        expected = plain(model, ours.tokenizer, source, target)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, atol=1e-5)
    assert len({round(float(array.mean()), 3) for array in got}) > 6  # inputs are told apart


def test_a_model_that_shifts_in_its_forward_alone(
    case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = case
    expected = arrays(ours.extract(LOGS, PAIRS))
    monkeypatch.delattr(type(ours.model), "prepare_decoder_input_ids_from_labels")
    for got, want in zip(arrays(ours.extract(LOGS, PAIRS)), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_errors_stay_with_their_pair(case: Any) -> None:
    ours, model = case
    long, special = "a red " * LIMIT, "an <eos> in it"
    pairs = [
        Pair(TEXTS[0], TEXTS[1]), Pair(long, TEXTS[1]), Pair(TEXTS[0], long),
        Pair(special, TEXTS[1]), Pair(TEXTS[2], TEXTS[1]),
    ]  # fmt: skip
    got = ours.extract(LOGS, pairs, batch_size=2)
    assert [getattr(r, "status", "ok") for r in got] == [
        "ok", "text_too_long", "text_too_long", "invalid_text", "ok",
    ]  # fmt: skip
    assert "the source has" in got[1].note
    assert "the target has" in got[2].note
    np.testing.assert_allclose(
        got[4].array, plain(model, ours.tokenizer, TEXTS[2], TEXTS[1]), atol=1e-5
    )


@pytest.mark.parametrize("text", ['a "red" {} circle', "a dog\n\n{0!r} %s", "the"])
def test_a_text_arrives_literally(case: Any, text: str) -> None:
    ours, model = case
    got = arrays(ours.extract(LOGS, [Pair(text, TEXTS[0]), Pair(TEXTS[0], text)]))
    np.testing.assert_allclose(got[0], plain(model, ours.tokenizer, text, TEXTS[0]), atol=1e-5)
    np.testing.assert_allclose(got[1], plain(model, ours.tokenizer, TEXTS[0], text), atol=1e-5)


def test_a_broken_batch_costs_its_pair_alone(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = case
    run = ours._run

    def fragile(batch: Any) -> Any:
        if any(len(source) > 8 for _, source, _ in batch):
            raise RuntimeError("too hot")
        return run(batch)

    monkeypatch.setattr(ours, "_run", fragile)
    got = ours.extract(LOGS, [Pair(t, TEXTS[0]) for t in TEXTS], batch_size=4)
    failed = [len(ours._ids(t)) > 8 for t in TEXTS]
    assert any(failed) and not all(failed)
    assert [getattr(r, "status", "ok") == "failed" for r in got] == failed


def test_short_memory_halves_the_batch(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = case
    run, sizes = ours._run, []

    def small(batch: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return run(batch)

    monkeypatch.setattr(ours, "_run", small)
    monkeypatch.setattr(ours, "batch_size", ours.batch_size)
    assert len(arrays(ours.extract(LOGS, PAIRS[:8], batch_size=8))) == 8
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_it_reads_pairs_of_texts_alone(case: Any) -> None:
    ours, _ = case
    with pytest.raises(UsageError, match="a source and a target"):
        ours.extract(LOGS, ["a red circle"])
    with pytest.raises(UsageError, match="gives no image_embedding"):
        ours.extract(Feature("image_embedding", "b", "image"), [])
    with pytest.raises(UsageError, match="not images"):
        ours.prepare(LOGS, None)


def test_bartscore_is_the_authors_loss(case: Any) -> None:
    ours, model = case
    loss = torch.nn.NLLLoss(reduction="none", ignore_index=0)
    # mBART's decoder starts from the target's last token, which padding would hide.
    batches = [[0], [1]] if model.config.model_type == "mbart" else [[0, 1]]
    expected: list[float] = []
    for rows in batches:
        source, target = (
            ours.tokenizer([TEXTS[i + k] for i in rows], padding=True, return_tensors="pt")
            for k in (0, 2)
        )
        labels = target["input_ids"]
        with torch.no_grad():
            logits = model(**source, labels=labels).logits
        each = loss(logits.log_softmax(-1).flatten(0, 1), labels.flatten()).reshape(labels.shape)
        expected += (-each.sum(1) / target["attention_mask"].sum(1)).tolist()
    got = arrays(ours.extract(LOGS, [Pair(*p) for p in zip(TEXTS[:2], TEXTS[2:], strict=True)]))
    scores = BARTScore(direction="src_hyp").score({"src_hyp": got})
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_directions_ask_for_what_they_read() -> None:
    fields = {
        direction: {
            name: (need.field, need.second)
            for name, need in BARTScore(direction=direction).needs.items()  # type: ignore[arg-type]
        }
        for direction in ("src_hyp", "ref_hyp", "hyp_ref", "f")
    }
    assert fields["src_hyp"] == {"src_hyp": ("source_text", "text")}
    assert fields["ref_hyp"] == {"ref_hyp": ("references", "text")}
    assert fields["hyp_ref"] == {"hyp_ref": ("text", "references")}
    assert fields["f"] == fields["ref_hyp"] | fields["hyp_ref"]


def test_a_checkpoint_is_told_by_its_weights(tmp_path: Path) -> None:
    make(tmp_path / "one", "bart")
    one = load(tmp_path / "one", [tmp_path / "one" / "model.safetensors"], CPU)
    half = load(
        tmp_path / "one",
        [tmp_path / "one" / "model.safetensors"],
        BackboneOptions(device="cpu", dtype="bf16"),
    )
    assert isinstance(one, HfSeq2Seq)
    assert one.info.identity == half.info.identity
    assert one.fingerprint != half.fingerprint
    assert one.info.text_limit == LIMIT
    assert kind_of(json.loads((tmp_path / "one" / "config.json").read_text())) == "hf_seq2seq"
