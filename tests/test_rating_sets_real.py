"""Readers on the published files themselves: counts, means, and the published numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr

from scorekit.fetch import fetch, verify
from scorekit.manifests import load_set, manifest_of
from scorekit.ratings import RatingSet

# The means were taken from the files by other means: a regular expression, a sum.

Real = Callable[[str], RatingSet]


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Real:
    @cache
    def load(name: str) -> RatingSet:
        return load_set(name, shared_data / _folder(name))

    return load


def _folder(name: str) -> str:
    return "tifa" if name == "tifa160" else manifest_of(name).folder


def beside(ratings: RatingSet, metric: str, dimension: str) -> pd.DataFrame:
    assert ratings.scores is not None
    scores = ratings.scores[ratings.scores["metric"] == metric].dropna(subset=["value"])
    key = ["system", "item", "index"]
    return ratings.mean(dimension).merge(scores, on=key, suffixes=("_h", ""))


@pytest.mark.parametrize(
    ("name", "rows", "samples", "dimension", "mean"),
    [
        ("tifa160", 1600, 800, "alignment", 3.89),
        ("dsg-tifa160", 3995, 800, "alignment", 3.86533),
        ("viescore-editing", 14499, 1611, "sc", 0.13563),
        ("viescore-subject", 6750, 750, "pq", 0.82067),
        ("agiqa-3k", 5964, 2982, "align", 2.5),
        ("seetrue", 6930, 6930, "aligned", 0.54603),
        ("sugar-crepe", 15024, 15024, "match", 0.5),
    ],
)
def test_counts_and_means(real, name, rows, samples, dimension, mean) -> None:
    ratings = real(name)
    assert (len(ratings), len(ratings.samples), ratings.n_missing) == (rows, samples, 0)
    assert ratings.ratings(dimension)["value"].mean() == pytest.approx(mean, abs=5e-5)


@pytest.mark.parametrize(
    ("metric", "tau", "pearson", "spearman"),
    [("clipscore_vitb32", 0.231, 0.332, 0.320), ("tifa_mplug-large", 0.472, 0.597, 0.592)],
)
def test_what_tifa_calls_spearman_is_pearson(real, metric, tau, pearson, spearman) -> None:
    both = beside(real("tifa160"), metric, "alignment")
    assert len(both) == 800
    assert kendalltau(both["value"], both["value_h"])[0] == pytest.approx(tau, abs=5e-4)
    assert pearsonr(both["value"], both["value_h"])[0] == pytest.approx(pearson, abs=5e-4)
    assert spearmanr(both["value"], both["value_h"])[0] == pytest.approx(spearman, abs=5e-4)


@pytest.mark.parametrize(
    ("metric", "n", "spearman", "kendall"),
    [
        ("mplug_dsg:as_published", 800, 0.463, 0.380),
        ("pali17b_dsg:as_published", 800, 0.570, 0.458),
        # Five images of a prompt without questions, and ten with a question unanswered.
        ("mplug_dsg", 795, 0.457, 0.375),
        ("pali17b_dsg", 785, 0.568, 0.457),
    ],
)
def test_dsg_as_published_counts_what_was_not_asked_as_0(
    real, metric, n, spearman, kendall
) -> None:
    both = beside(real("dsg-tifa160"), metric, "alignment")
    assert len(both) == n
    assert spearmanr(both["value"], both["value_h"])[0] == pytest.approx(spearman, abs=5e-4)
    assert kendalltau(both["value"], both["value_h"])[0] == pytest.approx(kendall, abs=5e-4)


def by_system(real: Real, metric: str, dimension: str) -> list[float]:
    both = beside(real("viescore-editing"), metric, dimension)
    return [spearmanr(g["value"], g["value_h"])[0] for _, g in both.groupby("system")]


@pytest.mark.parametrize(
    ("metric", "dimension", "published"),
    [
        ("gpt4o_0shot:SC", "sc", 0.4062),
        ("gpt4o_0shot:PQ", "pq", 0.4863),
        ("gpt4o_0shot:O", "overall", 0.3821),
        ("LPIPS", "sc", -0.0956),
        ("LPIPS", "pq", -0.2400),
        ("LPIPS", "overall", -0.1142),
    ],
)
def test_viescore_averages_without_the_arctanh(real, metric, dimension, published) -> None:
    found = np.tanh(np.mean(by_system(real, metric, dimension)))
    assert found == pytest.approx(published, abs=1e-4)


def test_a_true_fisher_average_and_the_plain_mean_are_higher(real) -> None:
    each = by_system(real, "gpt4o_0shot:SC", "sc")
    assert np.tanh(np.mean(np.arctanh(each))) == pytest.approx(0.4544, abs=5e-5)
    assert np.mean(each) == pytest.approx(0.4311, abs=5e-5)


def test_sub_scores_pooled_over_the_edits_that_all_have(real) -> None:
    ratings = real("viescore-editing")
    names = ["gpt4o_0shot:SC:s1", "gpt4o_0shot:SC:s2", "gpt4o_0shot:SC", "gpt4o_0shot:SC:geometric"]
    scores = ratings.scores
    assert scores is not None
    wide = scores.pivot(index=["system", "item"], columns="metric", values="value")
    rated = ratings.mean("sc").set_index(["system", "item"])["value"].rename("human")
    common = wide[[*names, "LPIPS"]].join(rated).dropna()
    assert len(common) == 1427
    found = [spearmanr(common[name], common["human"])[0] for name in [*names, "LPIPS"]]
    assert found == pytest.approx([0.622, 0.179, 0.652, 0.648, -0.208], abs=5e-4)


@pytest.mark.parametrize("name", ["tifa160", "viescore-editing", "dsg-tifa160", "sugar-crepe"])
def test_the_files_are_the_ones_that_the_manifests_know(name, shared_data, tmp_path) -> None:
    manifest = manifest_of(name)
    source = shared_data / _folder(name)
    assert {check.state for check in fetch(manifest, tmp_path, source)} == {"ok"}
    assert {check.state for check in verify(manifest, tmp_path)} == {"ok"}
