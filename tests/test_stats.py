"""Intervals and paired comparisons, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scorekit.stats import Estimate, compare_paired, summarize


def test_mean_and_interval_of_known_data() -> None:
    x = np.random.default_rng(0).normal(10, 2, 400)
    estimate = summarize(x)
    assert estimate.value == pytest.approx(x.mean())
    half = 1.96 * x.std(ddof=1) / 20  # the normal interval, close for 400 values
    assert estimate.low == pytest.approx(x.mean() - half, abs=0.03)
    assert estimate.high == pytest.approx(x.mean() + half, abs=0.03)


def test_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        e = summarize(rng.normal(0, 1, 60), n_resamples=400, seed=seed)
        assert e.low is not None and e.high is not None
        inside += e.low <= 0 <= e.high
    assert 0.90 <= inside / 200 <= 0.985


def test_rows_of_one_item_widen_the_interval() -> None:
    """Ten copies of each value hold no more information than one."""
    x = np.random.default_rng(2).normal(0, 1, 50)
    alone = summarize(x)
    copied = summarize(np.repeat(x, 10), np.repeat(np.arange(50), 10))
    naive = summarize(np.repeat(x, 10))
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_few_and_no_values() -> None:
    assert summarize([]) == Estimate(None, None, None, 0, 0)
    assert summarize([], n_total=3).n_total == 3
    one = summarize([0.5])
    assert (one.value, one.low, one.high, one.n) == (0.5, None, None, 1)
    assert str(summarize([], n_total=2)) == "- (0/2)"
    with pytest.raises(ValueError, match="nothing was scored"):
        float(summarize([]))


def test_median_of_ranks() -> None:
    estimate = summarize([1, 1, 2, 50, 1, 3, 2], statistic="median")
    assert estimate.value == 2
    assert estimate.low == 1
    assert 2 <= estimate.high <= 50
    assert summarize([1, 2, 3, 10], statistic="median").value == 2.5


def test_same_seed_same_interval() -> None:
    x = np.arange(30.0)
    assert summarize(x, seed=3) == summarize(x, seed=3)


def test_paired_comparison_by_hand() -> None:
    r = compare_paired([1, 2, 3, 4], [2, 2, 5, 3])
    assert (r.mean_a, r.mean_b, r.difference) == (2.5, 3.0, 0.5)
    assert (r.wins, r.ties, r.losses, r.n) == (2, 1, 1, 4)
    # Signs of the differences (1, 2, 1): 6 of 8 patterns have |sum| >= 2.
    assert r.p_value == pytest.approx(12 / 16)


def test_paired_p_value_is_exact_for_a_clear_case() -> None:
    r = compare_paired(np.zeros(8), np.ones(8))
    assert r.p_value == pytest.approx(2 / 2**8)
    assert (r.low, r.high) == (1.0, 1.0)


def test_no_difference_is_seldom_significant() -> None:
    rng = np.random.default_rng(5)
    hits = sum(
        compare_paired(rng.normal(size=30), rng.normal(size=30), n_resamples=500).p_value < 0.05
        for _ in range(100)
    )
    assert hits <= 12


def test_permutation_swaps_whole_items() -> None:
    """100 rows of 2 items can't be more significant than 2 items are."""
    items = np.repeat(["x", "y"], 50)
    r = compare_paired(np.zeros(100), np.ones(100), items)
    assert (r.n, r.n_clusters) == (100, 2)
    assert r.p_value == pytest.approx(2 / 4)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        compare_paired([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="clusters"):
        summarize([1.0, 2.0], ["a"])


def test_sign_flips_agree_with_scipy() -> None:
    from scipy.stats import permutation_test

    rng = np.random.default_rng(8)
    a, b = rng.normal(0, 1, 12), rng.normal(0.4, 1, 12)
    exact = permutation_test(
        (a, b), lambda x, y: np.mean(y - x), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert compare_paired(a, b).p_value == pytest.approx(exact)
    sampled = compare_paired(a, b, n_resamples=4000).p_value
    assert sampled == pytest.approx(exact, abs=0.03)
