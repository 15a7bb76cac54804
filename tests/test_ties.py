"""Tie-calibrated pairwise accuracy beside a loop over all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scorekit import tie_search
from scorekit.grouping import split
from scorekit.ties import pairwise_accuracy


def _naive(x: Any, y: Any, groups: Any) -> tuple[float, int]:
    """Each difference that occurs is tried as eps, in rising order."""
    i, j = np.triu_indices(len(x), 1)
    within = groups[i] == groups[j]
    i, j = i[within], j[within]
    apart, order = np.abs(x[i] - x[j]), np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
    best = (0.0, -1)
    for eps in np.unique(np.append(0.0, apart)):
        right = int(((order > 0) & (apart > eps)).sum() + ((y[i] == y[j]) & (apart <= eps)).sum())
        if right > best[1]:
            best = (float(eps), right)
    return best


@pytest.mark.parametrize("direct", [2**22, 200, 0])
def test_best_eps_is_the_naive_one(direct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 cases with ties in both, by sorting all pairs, and by bins with and without a rest."""
    monkeypatch.setattr(tie_search, "_DIRECT", direct)
    monkeypatch.setattr(tie_search, "_COARSE", 17 if direct else 8)
    rng = np.random.default_rng(0)
    above_zero = 0
    for case in range(200):
        n = int(rng.integers(2, 60))
        y = rng.integers(0, rng.integers(2, 10), n).astype(float)
        noise = rng.normal(size=n) * rng.choice([0.1, 1, 5])
        x = np.round(y + noise, 1) if case % 2 else rng.integers(0, rng.integers(2, 40), n) / 7
        groups = rng.integers(0, 3, n) if case % 5 == 0 else np.zeros(n, int)
        parts = [rows for rows in split(groups) if len(rows) > 1]
        if parts:
            eps, right = tie_search.best_eps(x, y, parts)
            assert (eps, right) == _naive(x, y, groups)
            above_zero += eps > 0
    assert above_zero > 50


@pytest.mark.parametrize("make", ["plain", "two heaps", "outliers", "few values"])
def test_bins_find_it_in_awkward_distributions(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tie_search, "_DIRECT", 50)
    monkeypatch.setattr(tie_search, "_BLOCK", 500)
    monkeypatch.setattr(tie_search, "_COARSE", 11)
    rng = np.random.default_rng(4)
    y = rng.integers(1, 6, 100).astype(float)
    base = y / 2 + rng.normal(size=100)
    x = {
        "plain": base,
        "two heaps": (base > 2) + rng.normal(size=100) * 1e-9,
        "outliers": np.exp(20 * base),
        "few values": np.round(base),
    }[make]
    assert tie_search.best_eps(x, y, [np.arange(100)]) == _naive(x, y, np.zeros(100))


def test_by_hand() -> None:
    """Ratings 1 1 2 2; differences .1 and .1 (ties), .6 to .8 (ordered)."""
    found = pairwise_accuracy([0.0, 0.125, 0.75, 0.875], [1, 1, 2, 2], n_resamples=50)
    assert (float(found.accuracy), found.eps, found.n_pairs) == (1.0, 0.125, 6)
    assert float(found.at_zero) == pytest.approx(4 / 6)
    assert found.tied_ratings == pytest.approx(2 / 6)
    # No equal scores: half of the 4 ordered pairs; or all ties: the 2 tied ones.
    assert (found.random_at_zero, found.random) == (pytest.approx(2 / 6), pytest.approx(2 / 6))


def test_random_value_is_that_of_shuffled_metrics() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40), rng.integers(0, 3, 40)
    found = pairwise_accuracy(x, y, held_out=False, n_resamples=2)
    shuffled = [
        float(pairwise_accuracy(rng.permutation(x), y, held_out=False, n_resamples=2).at_zero)
        for _ in range(300)
    ]
    assert found.random_at_zero == pytest.approx(np.mean(shuffled), abs=0.01)


def test_groups_and_what_is_missing() -> None:
    found = pairwise_accuracy(
        [1, 2, 3, 1, np.nan, 7], [1, 2, 2, 5, 4, 9], ["a", "a", "a", "b", "b", "c"],
        ["a", "a", "a", "b", "b", "c"], n_resamples=50,
    )  # fmt: skip
    assert (found.n_pairs, found.n_groups, found.n_empty) == (3, 1, 2)
    assert (found.accuracy.n, found.accuracy.n_total) == (5, 6)
    assert float(found.at_zero) == pytest.approx(2 / 3)
    empty = pairwise_accuracy([1, 2], [1, 2], ["a", "b"])
    assert (empty.accuracy.value, empty.eps, empty.n_pairs, empty.n_empty) == (None, None, 0, 2)
    assert pairwise_accuracy([], []).n_pairs == 0


def test_held_out_is_each_half_judged_by_the_other() -> None:
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, 60).astype(float)
    x, items = y + rng.normal(size=60), np.repeat(range(12), 5)
    found = pairwise_accuracy(x, y, items, items, n_resamples=20, seed=1)
    first = np.isin(items, np.random.default_rng(1).permutation(np.unique(items))[:6])
    right = pairs = 0
    for fit, judge in ((first, ~first), (~first, first)):
        eps, _ = _naive(x[fit], y[fit], items[fit])
        assert eps in found.held_out_eps
        i, j = np.triu_indices(30, 1)
        a, b, g = x[judge], y[judge], items[judge]
        i, j = i[g[i] == g[j]], j[g[i] == g[j]]
        near = np.abs(a[i] - a[j]) <= eps
        order = np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])
        right += int((near & (b[i] == b[j])).sum() + (~near & (order > 0)).sum())
        pairs += len(i)
    assert found.held_out == pytest.approx(right / pairs)
    assert found.held_out <= float(found.accuracy)


def test_interval_covers_and_does_not_pair_copies() -> None:
    rng = np.random.default_rng(6)
    y = rng.integers(0, 3, 100).astype(float)
    x = y + rng.normal(size=100)
    found = pairwise_accuracy(x, y, clusters=np.arange(100), n_resamples=500).at_zero
    assert found.low < found.value < found.high
    # Copies of a row would be ties in both, and raise the middle of the interval.
    assert (found.low + found.high) / 2 == pytest.approx(found.value, abs=0.01)
