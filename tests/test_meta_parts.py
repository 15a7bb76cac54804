"""Preferences, tests between metrics, raters and combinations, on vectors small enough to check."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from scorekit.complementarity import complementarity, influence, metric_correlations
from scorekit.correlation import correlate, kendall_tau_b, spearman
from scorekit.grouping import Scheme, correlate_grouped
from scorekit.preferences import best_of_n, two_afc, winoground
from scorekit.raters import krippendorff_alpha, leave_one_rater_out, summarize_raters
from scorekit.significance import (
    holm,
    permutation_test,
    rank_metrics,
    significance_ranks,
    williams_test,
)

# Preferences ---------------------------------------------------------------------------------


def test_two_afc_by_hand() -> None:
    a, b = [2, 2, 1, 5, np.nan], [1, 3, 1, 4, 1]
    share = [1, 0.75, 1, 0.5, 1]  # right, a quarter right, metric tie, human tie, unscored
    excluded = two_afc(a, b, share)
    assert float(excluded.accuracy) == pytest.approx((1 + 0.25 + 0.5) / 3)
    assert (excluded.n_human_ties, excluded.n_metric_ties) == (1, 1)
    assert (excluded.accuracy.n, excluded.accuracy.n_total) == (3, 5)
    halved = two_afc(a, b, share, human_ties="split")
    assert float(halved.accuracy) == pytest.approx((1 + 0.25 + 0.5 + 0.5) / 4)
    assert two_afc([1], [1], [0.5]).accuracy.value is None


def test_two_afc_refuses_other_codes() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        two_afc([1, 2], [2, 1], [1, -1])
    with pytest.raises(ValueError, match="exclude or split"):
        two_afc([1], [2], [1], human_ties="half")  # type: ignore[arg-type]


def test_winoground_is_strict() -> None:
    scores = [
        [[2, 1], [1, 2]],  # all right
        [[2, 1], [2, 3]],  # the first image has a tie of captions
        [[2, 2], [1, 3]],  # the first caption has a tie of images
        [[np.nan, 1], [1, 2]],
    ]
    found = winoground(scores)
    assert float(found.text) == pytest.approx(2 / 3)
    assert float(found.image) == pytest.approx(2 / 3)
    assert float(found.group) == pytest.approx(1 / 3)
    assert (found.group.n, found.group.n_total) == (3, 4)
    with pytest.raises(ValueError, match=r"\(n, 2, 2\)"):
        winoground(np.zeros((4, 4)))


def test_chance_of_winoground() -> None:
    found = winoground(np.random.default_rng(0).random((40_000, 2, 2)), n_resamples=2)
    assert float(found.text) == pytest.approx(1 / 4, abs=0.01)
    assert float(found.group) == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_best_of_n_is_the_mean_over_all_choices(n: int) -> None:
    score, ratings = np.array([3, 1, 3, 2]), np.array([1.0, 2, 4, 5])
    picks = []
    for chosen in map(list, combinations(range(4), n)):
        best = score[chosen] == score[chosen].max()
        picks.append(ratings[chosen][best].mean())
    found = best_of_n(score, ratings, np.zeros(4), n=n)
    assert float(found.metric) == pytest.approx(np.mean(picks))
    assert float(found.random) == pytest.approx(3)
    oracle = np.mean([max(c) for c in combinations(ratings, n)])
    assert float(found.oracle) == pytest.approx(oracle)
    assert found.share == pytest.approx((np.mean(picks) - 3) / (oracle - 3))


def test_best_of_n_counts_what_is_left_out() -> None:
    found = best_of_n([1, 2, 3, np.nan, 5], [1, 1, 1, 1, 1], ["a", "a", "b", "b", "c"])
    assert (found.metric.n, found.metric.n_total, found.n_too_few) == (1, 3, 2)
    assert (float(found.gain), found.share) == (0.0, None)
    assert best_of_n([1], [1], ["a"]).metric.value is None
    with pytest.raises(ValueError, match="no choice"):
        best_of_n([1, 2], [1, 2], [0, 0], n=1)


# Tests between metrics -----------------------------------------------------------------------


@pytest.mark.parametrize("statistic", ["pearson", "kendall_tau_b"])
def test_permutations_are_those_of_a_plain_loop(statistic: Any) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 30).astype(float)
    a, b = y + rng.normal(size=30), y + 2 * rng.normal(size=30)
    found = permutation_test(a, b, y, statistic, n_resamples=2000)

    def value(x: Any) -> float:
        return float(correlate(x, y, statistic, n_resamples=0))

    za, zb = scipy_stats.zscore(a), scipy_stats.zscore(b)
    assert (found.a, found.b) == (pytest.approx(value(a)), pytest.approx(value(b)))
    observed, hits = abs(value(b) - value(a)), 0
    for _ in range(1000):
        swap = rng.random(30) < 0.5
        difference = value(np.where(swap, za, zb)) - value(np.where(swap, zb, za))
        hits += abs(difference) >= observed - 1e-12
    assert found.p_value == pytest.approx((hits + 1) / 1001, abs=0.04)


def test_taus_are_compared_without_counting_them_all() -> None:
    class Other(Scheme):
        """The same scheme, of which the short cut does not know."""

    rng = np.random.default_rng(5)
    for case in range(24):
        n = int(rng.integers(4, 60))
        y = rng.integers(0, 5, n).astype(float)
        a, b = y + 2 * rng.normal(size=(2, n))
        a, b = (np.round(a) if case % 2 else a), (np.round(b) if case % 3 else b)
        how = {"items": rng.integers(0, 9, n), "swap": "cell" if case % 4 else "item"}
        one, other = (
            permutation_test(a, b, y, scheme=scheme, n_resamples=99, seed=case, **how)
            for scheme in (Scheme(), Other())
        )
        assert one == other


def test_permutation_of_equal_metrics_and_of_whole_items() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=40)
    assert permutation_test(y, y, y).p_value == 1.0
    items = np.repeat([0, 1], 20)
    by_item = permutation_test(y + rng.normal(size=40), y, y, items=items, swap="item")
    by_cell = permutation_test(y + rng.normal(size=40), y, y, items=items)
    # Two items have four patterns, of which two give the same difference as the observed one.
    assert by_item.p_value > 0.4
    assert by_cell.p_value < 0.01
    with pytest.raises(ValueError, match="needs the item"):
        permutation_test(y, y, y, swap="item")


def test_permutation_by_group_and_undefined() -> None:
    rng = np.random.default_rng(2)
    y, items = rng.normal(size=60), np.repeat(range(12), 5)
    a = y + rng.normal(size=60)
    scheme = Scheme(grouping="per_item")
    found = permutation_test(a, y, y, "spearman", items=items, scheme=scheme, n_resamples=200)
    grouped = correlate_grouped(a, y, "spearman", items=items, scheme=scheme, n_resamples=0)
    assert (found.a, found.b) == (pytest.approx(float(grouped)), pytest.approx(1.0))
    assert found.p_value == pytest.approx(1 / 201)
    constant = permutation_test(np.ones(60), y, y)
    assert (constant.a, constant.b, constant.p_value) == (None, 1.0, None)
    assert permutation_test([1], [1], [1]).p_value is None


def test_permutation_p_values_are_uniform_without_a_difference() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(100):
        y = rng.normal(size=30)
        a, b = y + rng.normal(size=(2, 30))
        hits += permutation_test(a, b, y, "pearson", n_resamples=200, seed=seed).p_value < 0.05
    assert hits <= 12


def test_williams_by_its_determinant() -> None:
    rng = np.random.default_rng(4)
    y = rng.normal(size=25)
    a, b = y + rng.normal(size=25), y + 2 * rng.normal(size=25)
    r = np.corrcoef([a, b, y])
    det, mean = np.linalg.det(r), (r[0, 2] + r[1, 2]) / 2
    t = (r[1, 2] - r[0, 2]) * np.sqrt(
        24 * (1 + r[0, 1]) / (2 * det * 24 / 22 + mean**2 * (1 - r[0, 1]) ** 3)
    )
    found = williams_test(a, b, y)
    assert found.p_value == pytest.approx(2 * scipy_stats.t.sf(abs(t), 22))
    assert williams_test(a, a, y).p_value == 1.0
    assert williams_test([1, 2, 3], [1, 2, 3], [1, 2, 3]).p_value is None
    assert williams_test(np.ones(25), b, y).p_value is None


def test_ranks_and_adjustment_by_hand() -> None:
    # The third differs from the first of its cluster, the fourth only from that: not from the 3rd.
    p = np.array([[1, 0.5, 0.01, 0.01], [0, 1, 0.2, 0.2], [0, 0, 1, 0.3], [0, 0, 0, 1]])
    assert significance_ranks(np.triu(p) + np.triu(p, 1).T) == (1, 1, 2, 2)
    assert significance_ranks(np.ones((3, 3))) == (1, 1, 1)
    assert significance_ranks(np.zeros((3, 3))) == (1, 2, 3)
    assert significance_ranks([[1.0]]) == (1,)
    assert holm([0.01, 0.04, 0.03, 0.9]).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.9])


def test_metrics_are_ranked_on_common_rows() -> None:
    rng = np.random.default_rng(5)
    y = rng.normal(size=80)
    good = y + 0.2 * rng.normal(size=80)
    good[:10] = np.nan
    ranked = rank_metrics(
        {"noise": rng.normal(size=80), "good": good, "flat": np.ones(80)}, y, "pearson",
        n_resamples=200, adjust="holm",
    )  # fmt: skip
    assert (ranked.names, ranked.ranks, ranked.n) == (("good", "noise"), (1, 2), 70)
    assert ranked.undefined == ("flat",)
    assert ranked.p_values[0, 1] == ranked.p_values[1, 0] == pytest.approx(1 / 201)


# Raters --------------------------------------------------------------------------------------

# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", example C.
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, np.nan, np.nan, np.nan],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, np.nan, 3],
    [np.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, np.nan],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, np.nan],
]


@pytest.mark.parametrize(
    ("scale", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_krippendorffs_example(scale: Any, published: float) -> None:
    found = krippendorff_alpha(EXAMPLE, scale, n_resamples=100)
    assert float(found) == pytest.approx(published, abs=5e-4)
    assert found.low < float(found) <= found.high
    assert (found.n, found.n_total) == (11, 12)  # the last has one rating


def test_alpha_without_a_value() -> None:
    assert krippendorff_alpha([[1, 1], [1, 1]]).value is None
    assert krippendorff_alpha([[1, np.nan], [np.nan, 2]]).value is None
    with pytest.raises(ValueError, match="raters, cells"):
        krippendorff_alpha([1, 2, 3])


def test_leave_one_rater_out_by_hand() -> None:
    ratings = np.array([[1, 2, 3, 4], [2, 1, 3, 4], [1, 3, 2, np.nan], [5, 5, 5, 5]])
    found = leave_one_rater_out(ratings, "spearman", n_resamples=50)
    others = [np.nanmean(np.delete(ratings, r, axis=0), axis=0) for r in range(3)]
    expected = [
        spearman(ratings[0], others[0]), spearman(ratings[1], others[1]),
        spearman(ratings[2, :3], others[2][:3]),
    ]  # fmt: skip
    assert found.raters == (*map(pytest.approx, expected), None)
    assert (float(found.mean), found.n_undefined) == (pytest.approx(np.mean(expected)), 1)
    nobody = leave_one_rater_out([[1, np.nan], [np.nan, 1]])
    assert (nobody.mean.value, nobody.mean.n, nobody.n_undefined) == (None, 0, 2)


def test_summary_of_tifas_raters(shared_data: Path) -> None:
    text = (shared_data / "tifa" / "human_annotations_with_scores.json").read_text()
    frame = pd.DataFrame(list(json.loads(text).values()))
    ratings = np.array(frame.human_scores.tolist(), dtype=float).T
    found = summarize_raters(ratings, items=frame.text_id, n_resamples=100)
    assert (found.n_raters, found.n_cells, found.n_ratings, found.most) == (2, 800, 1600, 2)
    assert found.exact == pytest.approx((ratings[0] == ratings[1]).mean())
    tau = scipy_stats.kendalltau(*ratings).statistic
    assert float(found.ceiling.mean) == pytest.approx(tau, abs=1e-12)
    assert 0.5 < float(found.alpha) < 0.9


# Complementarity -----------------------------------------------------------------------------


def test_correlations_between_metrics() -> None:
    a, b = [1, 2, 3, 4], [1, 3, 2, np.nan]
    assert metric_correlations({"a": a, "b": b}, "spearman")["a", "b"] == pytest.approx(0.5)


@pytest.mark.parametrize("method", ["linear", "rank_mean"])
def test_a_second_metric_is_worth_what_it_adds(method: Any) -> None:
    rng = np.random.default_rng(0)
    a, b, noise = rng.normal(size=(3, 300))
    items = np.repeat(range(60), 5)
    found = complementarity(
        {"a": a, "b": b, "copy": 2 * a, "noise": noise, "flat": np.ones(300)}, a + b, items,
        method=method, n_resamples=100,
    )  # fmt: skip
    top = {(pair.a, pair.b): pair for pair in found.pairs}
    assert {found.pairs[0].a, found.pairs[0].b} in ({"a", "b"}, {"b", "copy"})
    assert top["a", "b"].gain > 0.3
    assert top["a", "b"].low > 0.2
    assert top["a", "copy"].gain == pytest.approx(0, abs=1e-9)
    assert top["a", "noise"].gain < 0.05
    assert (found.n, found.n_items, found.n_folds, found.undefined) == (300, 60, 5, ("flat",))


def test_combinations_are_judged_on_other_items() -> None:
    """A memory of the items themselves would find a perfect fit; there is nothing to find."""
    rng = np.random.default_rng(1)
    items = np.repeat(range(40), 5)
    a, b = rng.normal(size=(2, 200))
    y = np.repeat(rng.normal(size=40), 5)
    found = complementarity({"a": a, "b": b}, y, items, n_resamples=0)
    assert abs(found.pairs[0].combined) < 0.2
    assert (found.pairs[0].low, found.pairs[0].high) == (None, None)
    with pytest.raises(ValueError, match="5 folds"):
        complementarity({"a": a, "b": b}, y, np.zeros(200))


@pytest.mark.parametrize("statistic", ["pearson", "spearman", "kendall_tau_b"])
def test_influence_is_what_leaving_out_does(statistic: Any) -> None:
    rng = np.random.default_rng(2)
    x, y, items = rng.normal(size=30), rng.integers(0, 4, 30), np.repeat(range(10), 3)
    found = influence(x, y, items, statistic)
    for k in range(10):
        rest = correlate(x[items != k], y[items != k], statistic, n_resamples=0)
        assert found.without[k] == pytest.approx(float(rest))
    name, change = found.strongest(1)[0]
    assert abs(change) == np.abs(found.change).max()
    assert found.items[np.abs(found.change).argmax()] == int(name)


def test_influence_of_what_alone_carries_it() -> None:
    found = influence([1, 2, 3], [1, 1, 2], ["a", "b", "c"])
    assert np.isnan(found.without[2])
    assert found.value == pytest.approx(kendall_tau_b([1, 2, 3], [1, 1, 2]))
    with pytest.raises(ValueError, match="constant"):
        influence([1, 1], [1, 2], [0, 1])
