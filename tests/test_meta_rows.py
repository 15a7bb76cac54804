"""Which rows a meta-evaluation counts, of single ratings, labels, systems and captions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score, roc_auc_score

import scorekit
from scorekit import meta_view
from scorekit.grouping import Scheme
from scorekit.joined import MetricScores
from scorekit.manifests import load_set
from scorekit.meta import MetaOptions
from scorekit.meta_report import MetaReport
from scorekit.ratings import Scale, rating_set
from scorekit.significance import permutation_test, williams_test

QUICK = MetaOptions(n_resamples=0)


def value(report: MetaReport, metric: str, statistic: str, dimension: str | None = None) -> float:
    frame = report.frame()
    rows = frame[(frame["metric"] == metric) & (frame["statistic"] == statistic)]
    rows = rows if dimension is None else rows[rows["dimension"] == dimension]
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


def each_rating() -> tuple[MetricScores, scorekit.RatingSet]:
    """60 cells with three ratings each that count by themselves, and two metrics."""
    rng = np.random.default_rng(3)
    cells = [(s, str(i)) for i in range(20) for s in "xyz"]
    truth = rng.normal(size=len(cells))
    rows = [
        {"system": s, "item": i, "rater": f"r{k}", "value": v + rng.normal()}
        for (s, i), v in zip(cells, truth, strict=True)
        for k in range(3)
    ]
    frame = pd.DataFrame(
        [
            {"system": s, "item": i, "index": 0, "metric": name, "value": v + spread * noise}
            for name, spread in (("good", 0.3), ("poor", 1.0))
            for (s, i), v, noise in zip(cells, truth, rng.normal(size=len(cells)), strict=True)
        ]
    )
    return MetricScores(frame), rating_set(rows, name="each", pooling="each")


def test_where_each_rating_counts_a_cell_is_still_one_candidate_and_is_swapped_whole() -> None:
    given, rated = each_rating()
    report = scorekit.meta_evaluate(
        given, rated, QUICK, extras=("selection", "significance", "raters")
    )
    about = report.dimensions["rating"]
    assert len(about.joined) == 180
    assert about.raters is None
    of_cells = scorekit.meta_evaluate(
        given, replace(rated, pooling="mean"), QUICK, extras=("selection",)
    ).dimensions["rating"]
    for metric, best in about.selection.items():
        other = of_cells.selection[metric]
        assert best.oracle.n == 20
        assert best.oracle.value == pytest.approx(other.oracle.value)
        assert best.metric.value == pytest.approx(other.metric.value)
        assert best.share == pytest.approx(other.share)
    used = about.joined
    assert about.ranked is not None
    expected = permutation_test(
        used.values["poor"], used.values["good"], used.rating, items=used.cells, swap="item"
    )
    assert about.ranked.p_values[0, 1] == expected.p_value


def test_labels_with_two_metrics(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(2, size=40)
    rows = [
        {
            "system": "s",
            "item": str(i),
            "rater": f"r{k}",
            "value": float(v if k else v ^ (i % 9 == 0)),
        }
        for i, v in enumerate(labels)
        for k in (0, 1)
    ]
    rows = [row for row in rows if int(row["item"]) % 9 or row["rater"] == "r0"]
    rated = rating_set(rows, name="right", kind="labels", scales={"rating": Scale(0, 1, "binary")})
    frame = pd.DataFrame(
        [
            {"system": "s", "item": str(i), "index": 0, "metric": m, "value": v + spread * noise}
            for m, spread in (("good", 0.4), ("poor", 2.0))
            for i, (v, noise) in enumerate(zip(labels, rng.normal(size=40), strict=True))
        ]
    )
    report = scorekit.meta_evaluate(MetricScores(frame), rated, QUICK)
    about = report.dimensions["rating"]
    truth = about.joined.rating
    for metric, values in about.joined.values.items():
        assert value(report, metric, "auroc") == pytest.approx(roc_auc_score(truth, values))
        assert value(report, metric, "average_precision") == pytest.approx(
            average_precision_score(truth, values)
        )
    assert {r.random for r in report.results if r.statistic == "average_precision"} == {
        truth.mean()
    }
    both = about.joined.values
    assert about.between == "kendall_tau_b"
    assert about.correlations["good", "poor"] == pytest.approx(
        kendalltau(both["good"], both["poor"]).statistic
    )
    assert about.raters is not None
    assert "one rater against the mean of the others, tau-b" in meta_view.as_markdown(report)


def test_labels_on_which_raters_differ_are_shares() -> None:
    rows = [
        {"item": str(i), "rater": f"r{k}", "value": float(v)}
        for i, votes in enumerate([(1, 1, 0), (0, 0, 0), (1, 1, 1), (1, 0, 0)])
        for k, v in enumerate(votes)
    ]
    rated = rating_set(rows, name="votes", scales={"rating": Scale(0, 1, "binary")})
    frame = pd.DataFrame(
        [
            {"system": "", "item": str(i), "index": 0, "metric": "m", "value": v}
            for i, v in enumerate([0.8, 0.1, 0.7, 0.3])
        ]
    )
    report = scorekit.meta_evaluate(MetricScores(frame), rated, QUICK)
    assert value(report, "m", "kendall_tau_b") == pytest.approx(
        kendalltau([0.8, 0.1, 0.7, 0.3], [2, 0, 3, 1]).statistic
    )
    assert "auroc" not in {r.statistic for r in report.results}


def test_average_precision_by_chance_is_of_the_scored_rows_and_of_each_group() -> None:
    rows = [
        {"system": s, "item": str(i), "value": v}
        for s, labels in (("x", (1, 0, 0, 0)), ("y", (1, 1, 1, 0)), ("z", (1, 1, 1, 1)))
        for i, v in enumerate(labels)
    ]
    rated = rating_set(rows, name="right", kind="labels", scales={"rating": Scale(0, 1, "binary")})
    frame = pd.DataFrame(
        [{**r, "index": 0, "metric": "m", "value": float(n)} for n, r in enumerate(rows)]
    )
    frame.loc[frame["system"] == "z", "value"] = np.nan

    def random(**more: Any) -> float | None:
        options = MetaOptions(
            statistics=("average_precision",), own_rows=True, n_resamples=0, **more
        )
        return (
            scorekit.meta_evaluate(MetricScores(frame), rated, options, extras=()).results[0].random
        )

    assert random() == 0.5
    assert random(scheme=Scheme(grouping="per_system")) == 0.5
    frame.loc[frame["system"] == "z", "value"] = 1.0
    assert random() == pytest.approx(8 / 12)
    assert random(scheme=Scheme(grouping="per_system")) == 0.5  # z has one class, and no value


def test_williams_is_of_the_systems_means_and_of_no_groups() -> None:
    given, rated = each_rating()
    rated = replace(rated, pooling="mean")

    def found(scheme: Scheme) -> Any:
        options = MetaOptions(statistics=("pearson",), scheme=scheme, n_resamples=0)
        return scorekit.meta_evaluate(given, rated, options, extras=("significance",)).dimensions[
            "rating"
        ]

    plain = found(Scheme())
    used = plain.joined
    assert plain.williams["good", "poor"] == pytest.approx(
        williams_test(used.values["good"], used.values["poor"], used.rating).p_value
    )
    assert found(Scheme(grouping="per_item")).williams == {}
    # Three systems have too few degrees of freedom.
    assert found(Scheme(level="system")).williams == {("good", "poor"): None}


def test_a_system_with_fewer_items_weighs_as_much_and_is_rated_on_them() -> None:
    rows = [
        {"system": s, "item": str(i), "value": v}
        for s, values in (("x", (1, 5, 3)), ("y", (2,)), ("z", (4, 5)))
        for i, v in enumerate(values)
    ]
    values = {("x", "0"): 1.0, ("x", "1"): np.nan, ("x", "2"): 2.0, ("y", "0"): 4.0,
              ("z", "0"): 5.0, ("z", "1"): 6.0}  # fmt: skip
    frame = pd.DataFrame(
        [
            {"system": s, "item": i, "index": 0, "metric": "m", "value": v}
            for (s, i), v in values.items()
        ]
    )
    options = MetaOptions(scheme=Scheme(level="system"), n_resamples=0)
    report = scorekit.meta_evaluate(
        MetricScores(frame), rating_set(rows, name="uneven"), options, extras=()
    )
    expected = np.corrcoef([1.5, 4, 5.5], [2, 2, 4.5])[0, 1]
    assert value(report, "m", "pearson") == pytest.approx(expected)
    assert {(r.n, r.n_systems, r.n_unscored) for r in report.results} == {(5, 3, 1)}


def test_few_common_items_are_not_combined() -> None:
    given, rated = each_rating()
    late = given.frame["item"].astype(int) > 1
    frame = given.frame.assign(
        value=given.frame["value"].mask((given.frame["metric"] == "poor") & late)
    )
    report = scorekit.meta_evaluate(
        MetricScores(frame), rated, MetaOptions(own_rows=True, n_resamples=0)
    )
    assert report.dimensions["rating"].combined is None


def flickr8k(folder: Path, annotations: str, rows: list[str]) -> None:
    captions = [f"{n}.jpg#{k}\tcaption {k} of {n}" for n in (1, 2, 3) for k in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(captions))
    (folder / annotations).write_text("\n".join(rows))


def caption_scores(rated: scorekit.RatingSet, values: list[float]) -> MetricScores:
    cells = rated.samples[["system", "item", "index"]]
    return MetricScores(cells.assign(metric="m", value=values))


def test_flickr8k_expert_counts_each_rating_for_tau_c(tmp_path: Path) -> None:
    rows = [
        "1.jpg\t2.jpg#0\t1\t1\t2",
        "1.jpg\t1.jpg#1\t4\t4\t4",  # one of the image's own captions
        "1.jpg\t3.jpg#0\t2\t3\t4",
        "2.jpg\t3.jpg#1\t3\t3\t4",
        "3.jpg\t1.jpg#2\t1\t2\t",  # an expert gave none
    ]
    flickr8k(tmp_path, "ExpertAnnotations.txt", rows)
    rated = load_set("flickr8k-expert", tmp_path)
    report = scorekit.meta_evaluate(
        caption_scores(rated, [0.1, 0.6, 0.7, 0.2]), rated, QUICK, extras=()
    )
    x = [0.1] * 3 + [0.6] * 3 + [0.7] * 3 + [0.2] * 2
    y = [1, 1, 2, 2, 3, 4, 3, 3, 4, 1, 2]
    assert {r.n for r in report.results} == {11}
    assert value(report, "m", "kendall_tau_c") == pytest.approx(
        kendalltau(x, y, variant="c").statistic
    )
    assert any(note.startswith("1 candidates that are among") for note in report.notes)


def test_flickr8k_cf_is_tau_b_of_the_share_of_yes(tmp_path: Path) -> None:
    rows = [
        "1.jpg\t2.jpg#0\t0\t0\t3",
        "1.jpg\t1.jpg#1\t1\t3\t0",  # stays, but leaves the references
        "2.jpg\t3.jpg#1\t0.5\t2\t2",
        "3.jpg\t1.jpg#2\t0.5\t1\t1",
    ]
    flickr8k(tmp_path, "CrowdFlowerAnnotations.txt", rows)
    rated = load_set("flickr8k-cf", tmp_path)
    assert "caption 1 of 1" not in rated.samples["references"].iloc[0]
    x = [0.1, 0.9, 0.8, 0.2]
    report = scorekit.meta_evaluate(caption_scores(rated, x), rated, QUICK, extras=())
    assert value(report, "m", "kendall_tau_b") == pytest.approx(
        kendalltau(x, [0, 1, 0.5, 0.5]).statistic
    )
