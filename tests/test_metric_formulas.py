"""The traps that make published numbers of one name incomparable, and the set metrics' rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scorekit.metrics._gallery import Gallery
from scorekit.metrics.clip_agg import CLIPAgg, aggregate
from scorekit.metrics.clip_i import CLIPI
from scorekit.metrics.clip_r_precision import CLIPRPrecision, distractors
from scorekit.metrics.clipscore import CLIPScore, clipscore
from scorekit.metrics.pickscore import PickScore, preference
from scorekit.metrics.ref_clipscore import RefCLIPScore, harmonic_mean
from scorekit.metrics.retrieval import Retrieval, average_precision, image_ranks, text_ranks
from scorekit.metrics.siglip_score import sigmoid
from scorekit.types import UsageError


def unit(n: int, d: int = 16, seed: int = 0) -> Any:
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# Scale, clamp and prefix: one cosine, many "CLIPScores".


@pytest.mark.parametrize("scale", [1.0, 2.5, 100.0])
def test_scale_multiplies_the_same_cosine(scale: float) -> None:
    image, text = unit(20), unit(20, seed=1)
    bare = clipscore(image, text, scale=1.0, clamp="none")
    np.testing.assert_allclose(
        clipscore(image, text, scale=scale, clamp="none"), scale * bare, rtol=1e-6
    )


def test_clamping_each_sample_is_not_clamping_the_mean() -> None:
    image = np.asarray([[1.0, 0.0], [-1.0, 0.0]])
    text = np.asarray([[0.6, 0.8], [0.6, 0.8]])
    each = clipscore(image, text, scale=100.0)
    mean_then_clamp = max(clipscore(image, text, scale=100.0, clamp="none").mean(), 0)
    assert each.mean() == pytest.approx(30)
    assert mean_then_clamp == pytest.approx(0)


def test_the_prefix_is_part_of_what_is_asked_for() -> None:
    assert CLIPScore().needs["text"] != CLIPScore(prefix="").needs["text"]
    assert CLIPScore().needs["image"] == CLIPScore(prefix="").needs["image"]


def test_scale_does_not_change_what_is_asked_for() -> None:
    assert CLIPScore(scale=100).needs == CLIPScore().needs


def test_lengths_of_embeddings_do_not_matter() -> None:
    image, text = unit(5), unit(5, seed=1)
    np.testing.assert_allclose(clipscore(3 * image, 7 * text), clipscore(image, text), rtol=1e-5)


# RefCLIPScore.


def test_the_prefix_is_on_the_references_too() -> None:
    needs = RefCLIPScore(prefix="A ").needs
    assert needs["text"].params == needs["references"].params == (("prefix", "A "),)


def test_harmonic_mean_of_two_zeros_is_zero() -> None:
    with np.errstate(all="raise"):
        assert harmonic_mean(np.zeros(1), np.zeros(1)).tolist() == [0.0]


def test_harmonic_mean_of_two_zeros_has_a_finite_gradient() -> None:
    torch = pytest.importorskip("torch")
    parts = torch.zeros(2, requires_grad=True)
    harmonic_mean(parts[:1], parts[1:]).sum().backward()
    assert torch.isfinite(parts.grad).all()


def test_the_best_reference_counts_not_their_mean() -> None:
    metric = RefCLIPScore()
    image = text = np.asarray([[1.0, 0.0]])
    best = np.asarray([[1.0, 0.0]])
    worse = np.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = [
        metric.score({"image": image, "text": text, "references": [refs]}).value.item()
        for refs in (best, worse)
    ]
    assert scores[0] == scores[1]


def test_a_row_without_references_is_an_error_of_the_caller() -> None:
    x = np.ones((1, 2))
    with pytest.raises(ValueError, match="at least one reference"):
        RefCLIPScore().score({"image": x, "text": x, "references": [np.ones((0, 2))]})


# One name, two meanings: CLIP-I.


def test_clip_i_asks_for_what_it_compares_with() -> None:
    assert CLIPI().needs.keys() == {"image", "source"}
    assert CLIPI().needs["source"].field == "source_image"
    assert CLIPI(against="reference").needs["references"].field == "reference_images"


# Logits, probabilities, preferences.


def test_sigmoid_keeps_small_probabilities_exact() -> None:
    x = np.asarray([-10.3354, -80.0], dtype=np.float32)
    np.testing.assert_allclose(sigmoid(x), np.exp(x.astype(float)), rtol=1e-4)


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise"):
        assert sigmoid(np.asarray([-1e4, 1e4])).tolist() == [0.0, 1.0]


def test_preferences_of_an_item_sum_to_one() -> None:
    logits = np.random.default_rng(0).normal(size=30) * 50
    items = [f"item{i % 7}" for i in range(30)]
    shares = preference(logits, items)
    for item in set(items):
        assert sum(s for s, i in zip(shares, items, strict=True) if i == item) == pytest.approx(1)


def test_an_item_s_preference_ignores_the_other_items() -> None:
    logits = np.asarray([1.0, 2.0, 300.0])
    np.testing.assert_allclose(
        preference(logits, ["a", "a", "b"])[:2], preference(logits[:2], ["a", "a"])
    )


def test_pickscore_has_a_gradient_through_the_preference_too() -> None:
    torch = pytest.importorskip("torch")
    image = torch.tensor(unit(4), requires_grad=True)
    text = torch.tensor(unit(4, seed=1))
    features = {
        "image": image,
        "text": text,
        "logit_scale": 100.0,
        "item": list("abab"),
        "system": list("xxyy"),
    }
    PickScore().score(features).components["preference"][0].backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    assert image.grad[2].abs().sum() > 0
    assert image.grad[1].abs().sum() == 0


# Retrieval.


def test_a_constant_scorer_has_the_last_rank_in_any_gallery() -> None:
    # Of a length where sums of equal products differ in their last bits between batches.
    same = np.repeat(unit(1, 511), 1237, axis=0)
    assert set(text_ranks(same, same, list(range(1237))).tolist()) == {1237.0}


def test_ranks_agree_with_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    image, gallery = unit(40), unit(17, seed=1)
    truth = [i % 17 for i in range(40)]
    order = np.argsort(-(image @ gallery.T), axis=1)
    expected = [int(np.flatnonzero(order[i] == t)[0]) + 1 for i, t in enumerate(truth)]
    assert text_ranks(image, gallery, truth).tolist() == expected
    # The same in blocks of one row.
    monkeypatch.setattr("scorekit.metrics.retrieval.BLOCK", 1)
    assert text_ranks(image, gallery, truth).tolist() == expected


def test_image_ranks_agree_with_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    image, gallery = unit(40), unit(10, seed=1)
    truth, groups = [i % 10 for i in range(40)], ["s" if i < 20 else "t" for i in range(40)]
    monkeypatch.setattr("scorekit.metrics.retrieval.BLOCK", 50)
    others, place = image_ranks(image, gallery, truth, groups)
    for row in range(40):
        rivals = [r for r in range(40) if groups[r] == groups[row]]
        ranking = sorted(rivals, key=lambda r: -(gallery[truth[row]] @ image[r]))
        assert others[row] + place[row] == ranking.index(row) + 1


def test_average_precision_agrees_with_its_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        relevant = rng.random(20) < 0.3
        if not relevant.any():
            continue
        positions = [int(p) + 1 for p in np.flatnonzero(relevant)]
        for k in (1, 5, 50):
            precisions = [relevant[:p].mean() for p in positions if p <= k]
            expected = sum(precisions) / min(k, len(positions))
            assert average_precision(positions, k) == pytest.approx(expected)


def test_one_system_s_numbers_ignore_the_other_systems() -> None:
    image, text = unit(12), np.tile(unit(6, seed=1), (2, 1))
    texts, system = [f"t{i % 6}" for i in range(12)], ["s"] * 6 + ["t"] * 6
    both = Retrieval().score({"image": image, "text": text, "texts": texts, "system": system})
    one = Retrieval().score(
        {"image": image[:6], "text": text[:6], "texts": texts[:6], "system": system[:6]}
    )
    for part, values in one.components.items():
        np.testing.assert_array_equal(both.components[part][:6], values, err_msg=part)
    assert one.facts == both.facts


def test_a_system_with_one_text_is_noted() -> None:
    x = unit(3)
    scores = Retrieval().score(
        {"image": x, "text": x, "texts": ["a", "b", "a"], "system": ["s", "s", "t"]}
    )
    assert list(scores.notes) == [2]


def test_the_gallery_is_in_the_facts() -> None:
    one, other = Gallery.of(["a", "b"]), Gallery.of(["a", "c"])
    assert one.facts("gallery")["gallery"] == other.facts("gallery")["gallery"] == "2"
    assert one.facts("gallery") != other.facts("gallery")
    assert one.facts("gallery") == Gallery.of(["b", "a", "a"]).facts("gallery")


# CLIP-R-Precision.


def test_distractors_are_distinct_and_never_the_text_itself() -> None:
    texts = [f"text {i:03d}" for i in range(150)]
    for truth in range(150):
        drawn = distractors(texts, truth, 99, seed=0)
        assert len(set(drawn)) == 99
        assert truth not in drawn
        assert set(drawn) <= set(range(150))


def test_distractors_are_drawn_evenly() -> None:
    texts = [f"text {i:02d}" for i in range(20)]
    counts = np.zeros(20)
    for seed in range(2000):
        counts[distractors(texts, 7, 5, seed)] += 1
    assert counts[7] == 0
    # 5 of 19 in 2000 draws: 526, with a standard deviation of 20.
    assert (np.abs(np.delete(counts, 7) - 2000 * 5 / 19) < 100).all()


def test_the_draw_is_pinned() -> None:
    # A release that drew other texts would change scores under an unchanged signature.
    assert distractors([f"text {i:02d}" for i in range(20)], 7, 5, seed=0) == [9, 16, 17, 18, 5]


def test_the_seed_changes_the_draw() -> None:
    texts = [f"text {i:03d}" for i in range(150)]
    assert distractors(texts, 3, 20, seed=0) != distractors(texts, 3, 20, seed=1)


def test_a_chance_scorer_has_a_precision_of_one_in_the_candidates() -> None:
    n = 600
    scores = CLIPRPrecision(candidates=4).score(
        {"image": unit(n), "text": unit(n, seed=1), "texts": [str(i) for i in range(n)]}
    )
    assert scores.value.mean() == pytest.approx(1 / 4, abs=4 * (0.25 * 0.75 / n) ** 0.5)


def test_fewer_than_two_candidates_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        CLIPRPrecision(candidates=1)


# CLIP-agg.


def test_a_sharp_attention_takes_the_nearest_text() -> None:
    image, corpus = unit(5), unit(30, seed=1)
    nearest = corpus[np.argmax(image @ corpus.T, axis=1)]
    np.testing.assert_allclose(aggregate(image, corpus, 1e5), nearest, atol=1e-3)


def test_aggregation_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image, corpus = unit(5), unit(30, seed=1)
    whole = aggregate(image, corpus)
    monkeypatch.setattr("scorekit.metrics.clip_agg.BLOCK", 60)
    np.testing.assert_allclose(aggregate(image, corpus), whole, atol=1e-6)


def test_a_text_that_many_rows_have_counts_once() -> None:
    image, text = unit(3), unit(3, seed=1)
    rows = [0, 1, 2, 2, 2]
    texts = ["a", "b", "c"]
    once = CLIPAgg().score({"image": image, "text": text, "corpus_texts": texts})
    often = CLIPAgg().score(
        {"image": image[rows], "text": text[rows], "corpus_texts": [texts[r] for r in rows]}
    )
    np.testing.assert_allclose(often.value[:3], once.value, atol=1e-6)
    assert often.facts == once.facts
