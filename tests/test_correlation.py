"""Statistics of agreement, their weighted form, schemes, and the published values."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from scorekit.correlation import (
    BINARY,
    STATISTICS,
    auroc,
    average_precision,
    correlate,
    kendall_tau_b,
    kendall_tau_c,
    pearson,
    spearman,
    undefined,
    weighted,
)
from scorekit.grouping import PERFECT, Scheme, correlate_grouped
from scorekit.pairs import Pairs, reach


def _peer(statistic: str, x: Any, y: Any) -> float:
    from sklearn import metrics

    peers: dict[str, Callable[[Any, Any], Any]] = {
        "pearson": lambda a, b: scipy_stats.pearsonr(a, b)[0],
        "spearman": lambda a, b: scipy_stats.spearmanr(a, b)[0],
        "kendall_tau_b": lambda a, b: scipy_stats.kendalltau(a, b)[0],
        "kendall_tau_c": lambda a, b: scipy_stats.kendalltau(a, b, variant="c")[0],
        "auroc": lambda a, b: metrics.roc_auc_score(b, a),
        "average_precision": lambda a, b: metrics.average_precision_score(b, a),
    }
    return float(peers[statistic](x, y))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_weights_are_copies_of_rows_and_values_are_the_libraries(statistic: Any) -> None:
    rng = np.random.default_rng(0)
    judged = 0
    for _ in range(60):
        n = int(rng.integers(2, 50))
        x = rng.integers(0, rng.integers(2, 30), n) / 7
        y = rng.integers(0, rng.integers(2, 30), n).astype(float)
        if statistic in BINARY:
            y = (y > np.median(y)).astype(float)
        weights = rng.integers(0, 3, (3, n)).astype(float)
        weights[0] = 1
        values = weighted(statistic, x, y)(weights)
        for value, times in zip(values, weights.astype(int), strict=True):
            a, b = np.repeat(x, times), np.repeat(y, times)
            if undefined(statistic, a, b):
                assert np.isnan(value)
            else:
                assert value == pytest.approx(_peer(statistic, a, b), abs=1e-12)
                judged += 1
    assert judged > 100


def test_by_hand() -> None:
    # Of 6 pairs 4 concordant, 1 discordant, 1 tied in y.
    assert kendall_tau_b([1, 2, 3, 4], [1, 1, 3, 2]) == pytest.approx(3 / np.sqrt(6 * 5))
    assert kendall_tau_c([1, 2, 3, 4], [1, 1, 3, 2]) == pytest.approx(2 * 3 / (16 * 2 / 3))
    assert spearman([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)
    assert pearson([0, 1, 2], [0, 1, 5]) == pytest.approx(5 / np.sqrt(2 * 14))
    assert auroc([1, 2, 2, 3], [0, 0, 1, 1]) == 3.5 / 4
    assert auroc([1, 1, 1], [0, 1, 1]) == 0.5
    assert average_precision([1, 1, 1, 1], [0, 0, 0, 1]) == 0.25


@pytest.mark.parametrize(
    ("statistic", "x", "y", "reason"),
    [
        ("pearson", [1, 1, 1], [1, 2, 3], "the metric is constant"),
        ("kendall_tau_b", [1, 2, 3], [2, 2, 2], "the ratings are constant"),
        ("spearman", [1], [1], "fewer than 2 rows"),
        ("spearman", [], [], "fewer than 2 rows"),
        ("auroc", [1, 2], [1, 1], "only one class"),
    ],
)
def test_undefined_says_why(statistic: Any, x: Any, y: Any, reason: str) -> None:
    found = correlate(x, y, statistic)
    assert (found.value, found.low, found.reason) == (None, None, reason)
    with pytest.raises(ValueError, match=reason):
        float(found)
    grouped = correlate_grouped(x, y, statistic)
    assert (grouped.value, grouped.reason, dict(grouped.undefined)) == (None, reason, {reason: 1})


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 rows have no value"):
        pearson([1, 2, np.nan], [1, 2, 3])
    with pytest.raises(ValueError, match="kendall_tau_b is undefined: the metric is constant"):
        kendall_tau_b([1, 1], [1, 2])
    with pytest.raises(ValueError, match="equally long"):
        correlate([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="infinite"):
        correlate([1, np.inf], [1, 2])
    with pytest.raises(ValueError, match="labels of 0 and 1"):
        auroc([1, 2, 3], [0, 1, 2])
    with pytest.raises(ValueError, match="none of pearson"):
        correlate([1, 2], [1, 2], "kendall")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the item"):
        correlate_grouped([1, 2], [1, 2], scheme=Scheme(grouping="per_item"))
    with pytest.raises(ValueError, match="not within groups"):
        Scheme("system", "per_item")
    with pytest.raises(ValueError, match="none of mean, fisher"):
        Scheme(average="tanh")  # type: ignore[arg-type]


def test_unscored_rows_are_counted() -> None:
    found = correlate([1, 2, np.nan, 4], [1, 2, 3, np.nan], "pearson", n_resamples=0)
    assert (found.value, found.n, found.n_total) == (pytest.approx(1), 2, 4)


def test_large_offsets_do_not_spoil_pearson() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 100))
    weights = rng.integers(0, 3, (2, 100)).astype(float)
    plain = weighted("pearson", x, y)(weights)
    assert weighted("pearson", x + 1e6, y * 1e-9)(weights) == pytest.approx(plain, abs=1e-9)
    assert np.isnan(weighted("pearson", np.array([0.1, 0.1, 0.7]), x[:3])(np.array([[2.0, 1, 0]])))


def test_interval_is_scipys_and_clusters_widen_it() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=120)
    y = x + rng.normal(size=120)
    found = correlate(x, y, "spearman", n_resamples=2000)
    peer = scipy_stats.bootstrap(
        (x, y), lambda a, b: scipy_stats.spearmanr(a, b)[0], paired=True, vectorized=False,
        n_resamples=2000, method="percentile", rng=rng,
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == (
        pytest.approx(peer.low, abs=0.02), pytest.approx(peer.high, abs=0.02)
    )  # fmt: skip
    alone = correlate(x[:30], y[:30])
    copied = correlate(np.repeat(x[:30], 5), np.repeat(y[:30], 5), clusters=np.repeat(range(30), 5))
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_pairs_are_counted_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        n = int(rng.integers(2, 40))
        x, y = rng.integers(0, 9, n) / 7, rng.integers(0, 6, n).astype(float)
        eps = float(rng.choice([0, 1 / 7, 2 / 7, 0.3]))
        w = rng.integers(0, 3, (2, n)).astype(float)
        i, j = np.triu_indices(n, 1)
        tied = abs(x[i] - x[j]) <= eps
        sign = np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) * ~tied
        weight, pairs = w[:, i] * w[:, j], Pairs(x, y, eps)
        assert (pairs.concordant(w) == (weight * (sign > 0)).sum(1)).all()
        assert (pairs.discordant(w) == (weight * (sign < 0)).sum(1)).all()
        assert (pairs.both_tied(w) == (weight * (tied & (y[i] == y[j]))).sum(1)).all()
        of_rows = [sign[(i == row) | (j == row)].sum() for row in range(n)]
        assert (pairs.net_of_rows() == of_rows).all()


def test_reach_compares_differences_as_floats_do() -> None:
    x = np.sort(np.random.default_rng(0).integers(0, 50, 300) / 10)
    for eps in (0.1, 0.30000000000000004, 0.7):
        low, high = reach(x, eps)
        near = np.abs(x[:, None] - x) <= eps
        assert (near.argmax(axis=1) == low).all()
        assert (near.sum(axis=1) == high - low).all()


# Levels and groups ---------------------------------------------------------------------------


def test_levels_and_groups_by_hand() -> None:
    metric = np.array([1, 2, 3, 1, 3, 2, 5, 5, 5.0])
    ratings = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3.0])
    items, systems = np.repeat(["a", "b", "c"], 3), np.tile(["x", "y", "z"], 3)

    def run(**scheme: Any) -> Any:
        return correlate_grouped(
            metric, ratings, "spearman", items=items, systems=systems,
            scheme=Scheme(**scheme), n_resamples=200,
        )  # fmt: skip

    found = run(grouping="per_item")
    assert float(found) == pytest.approx((1 + 0.5) / 2)
    assert [g.name for g in found.groups] == ["a", "b", "c"]
    assert (found.n_groups, dict(found.undefined)) == (2, {"the metric is constant": 1})
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(1.0))
    # A perfect correlation has no place in Fisher's average, and is counted.
    fisher = run(grouping="per_item", average="fisher")
    assert float(fisher) == pytest.approx(0.5)
    assert fisher.undefined[PERFECT] == 1
    assert float(run(grouping="per_item", average="tanh_mean")) == pytest.approx(np.tanh(0.75))
    # Systems' means: metric (7, 10, 10) / 3, ratings 1, 2, 3.
    assert float(run(level="system")) == pytest.approx(np.sqrt(3) / 2)
    per_system = run(grouping="per_system")
    assert (per_system.value, per_system.reason) == (None, "the ratings are constant")


def test_one_group_is_the_global_value() -> None:
    rng = np.random.default_rng(0)
    x, y, items = rng.normal(size=40), rng.integers(0, 4, 40), np.repeat(range(10), 4)
    whole = correlate_grouped(x, y, items=items, seed=2)
    plain = correlate(x, y, clusters=items, seed=2)
    assert (whole.value, whole.low, whole.high) == (plain.value, plain.low, plain.high)
    one = correlate_grouped(
        x, y, items=items, systems=["s"] * 40, scheme=Scheme(grouping="per_system"), seed=2
    )
    assert (one.low, one.high) == (pytest.approx(plain.low), pytest.approx(plain.high))


# Published -----------------------------------------------------------------------------------


def test_tifa(shared_data: Path) -> None:
    text = (shared_data / "tifa" / "human_annotations_with_scores.json").read_text()
    frame = pd.DataFrame(list(json.loads(text).values()))
    for column, published in (
        ("clipscore_vitb32", (0.231, 0.332, 0.320)),
        ("tifa_mplug-large", (0.472, 0.597, 0.592)),
    ):
        found = [
            round(float(correlate(frame[column], frame.human_avg, s, n_resamples=0)), 3)
            for s in ("kendall_tau_b", "pearson", "spearman")
        ]
        assert tuple(found) == published


def test_dsg(shared_data: Path) -> None:
    folder = shared_data / "dsg"
    key = ["item_id", "t2i_model"]
    ratings = pd.read_csv(folder / "tifa160-likert-anns.csv").groupby(key).answer.mean()
    answers = pd.read_csv(folder / "mplug_dsg.csv")
    scores = {}
    for name, rows in answers.groupby(key):
        yes = dict(zip(rows.question_id, rows.answer == "yes", strict=True))
        parents = zip(rows.question_id, rows.dependency_id.astype(str), strict=True)
        right = [
            yes[q] and all(yes.get(int(p), True) for p in re.findall(r"\d+", on) if p != "0")
            for q, on in parents
        ]
        scores[name] = np.mean(right)
    # The authors give 0 to the one prompt without questions.
    metric = pd.Series(scores).reindex(ratings.index).fillna(0)
    assert float(correlate(metric, ratings, "spearman", n_resamples=0)) == pytest.approx(
        0.463, abs=5e-4
    )
    assert float(correlate(metric, ratings, n_resamples=0)) == pytest.approx(0.380, abs=5e-4)


@pytest.fixture
def viescore(shared_data: Path) -> pd.DataFrame:
    """Human SC, PQ and overall, GPT-4o's sub-scores and -LPIPS of the edits."""
    folder = shared_data / "viescore"
    raters = [
        pd.read_csv(path, sep="\t", index_col="uid").map(ast.literal_eval)
        for path in sorted((folder / "ImagenHub_Text-Guided_IE").glob("*.tsv"))
    ]
    parts: dict[str, Callable[[Any], float]] = {
        "sc": lambda v: v[0], "pq": lambda v: v[1], "overall": lambda v: (v[0] * v[1]) ** 0.5,
    }  # fmt: skip
    columns = {
        name: sum(rater.map(part) for rater in raters).stack() / 3 for name, part in parts.items()
    }
    scores = pd.read_csv(folder / "metric_scores.csv")
    scores = scores[scores.task == "Text-Guided_IE"].set_index(["uid", "system"])
    for name in ("SC", "PQ"):
        rows = scores[scores.metric == f"gpt4o_0shot:{name}"]
        columns[f"{name}1"], columns[f"{name}2"] = rows.s1, rows.s2
    columns["lpips"] = -scores[scores.metric == "LPIPS"].s1
    frame = pd.DataFrame(columns).dropna(subset="lpips")
    frame.index.names = ["uid", "system"]
    return frame.reset_index()


def test_viescore_averages(viescore: pd.DataFrame) -> None:
    # The published code takes a missing sub-score for no bound: min(7, nan) is 7 in Python.
    sc, pq = (np.fmin(viescore[f"{k}1"], viescore[f"{k}2"]) for k in ("SC", "PQ"))

    def run(metric: Any, human: str, average: Any) -> float:
        found = correlate_grouped(
            metric, viescore[human], "spearman", items=viescore.uid, systems=viescore.system,
            scheme=Scheme(grouping="per_system", average=average), n_resamples=0,
        )  # fmt: skip
        assert (found.n_groups, dict(found.undefined)) == (8, {})
        return float(found)

    assert run(sc, "sc", "tanh_mean") == pytest.approx(0.4062, abs=5e-5)
    assert run(pq, "pq", "tanh_mean") == pytest.approx(0.4863, abs=1e-4)
    assert run(np.sqrt(sc * pq), "overall", "tanh_mean") == pytest.approx(0.3821, abs=5e-5)
    assert run(sc, "sc", "fisher") == pytest.approx(0.4544, abs=5e-5)
    assert run(sc, "sc", "mean") == pytest.approx(0.4311, abs=5e-5)
    for human, published in (("sc", 0.0956), ("pq", 0.2400), ("overall", 0.1142)):
        assert run(viescore.lpips, human, "tanh_mean") == pytest.approx(published, abs=5e-5)


def test_viescore_pooled(viescore: pd.DataFrame) -> None:
    one, two = viescore.SC1, viescore.SC2
    both = one.notna() & two.notna()
    metrics = {
        0.622: one, 0.179: two, 0.652: np.minimum(one, two), 0.648: np.sqrt(one * two),
        0.208: viescore.lpips,
    }  # fmt: skip
    for published, metric in metrics.items():
        found = correlate(metric[both], viescore.sc[both], "spearman", n_resamples=0)
        assert found.n == 1427
        assert float(found) == pytest.approx(published, abs=5e-4)
