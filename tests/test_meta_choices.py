"""Meta-evaluation of preferences, and of groups of captions and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import scorekit
from scorekit import meta_view
from scorekit.grouping import Scheme
from scorekit.joined import MetricScores
from scorekit.manifests import load_set
from scorekit.meta import MetaOptions
from scorekit.meta_report import MetaReport
from scorekit.preferences import winoground
from scorekit.ratings import rating_set
from scorekit.types import UsageError

SHARED = Path(__file__).parents[2] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared rating files are not there")
QUICK = MetaOptions(n_resamples=0)


def value(report: MetaReport, metric: str, statistic: str, dimension: str | None = None) -> float:
    frame = report.frame()
    rows = frame[(frame["metric"] == metric) & (frame["statistic"] == statistic)]
    rows = rows if dimension is None else rows[rows["dimension"] == dimension]
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


def test_preferences() -> None:
    rows = [
        {"item": str(i), "system_a": "x", "system_b": "y", "rater": r, "choice": c}
        for i, r, c in [(1, "r", "a"), (2, "r", "b"), (3, "r", "tie"), (4, "r", "a"), (4, "s", "b")]
    ]
    rated = rating_set(rows, name="pairs", kind="preferences")
    values = {("x", 1): 2, ("y", 1): 1, ("x", 2): 2, ("y", 2): 1, ("x", 3): 1, ("y", 3): 0}
    frame = pd.DataFrame(
        [
            {"system": s, "item": str(i), "index": 0, "metric": "m", "value": float(v)}
            for (s, i), v in values.items()
        ]
    )
    report = scorekit.meta_evaluate(MetricScores(frame), rated, QUICK)
    assert value(report, "m", "two_afc") == 0.5
    assert value(report, "m", "two_afc_ties_split") == 0.5
    assert {r.statistic: (r.n, r.n_unscored) for r in report.results} == {
        "two_afc": (2, 1),
        "two_afc_ties_split": (3, 1),
    }


def test_groups() -> None:
    rows, values = [], []
    grids = {"1": [[0.9, 0.2], [0.4, 0.3]], "2": [[0.9, 0.2], [0.4, 0.6]]}
    for item, grid in grids.items():
        for c in (0, 1):
            for k in (0, 1):
                key = {"item": item, "system": f"c{c}_i{k}"}
                rows.append({**key, "caption": c, "picture": k, "value": float(c == k)})
                values.append({**key, "index": 0, "metric": "m", "value": grid[c][k]})
    rated = rating_set(rows, name="wino", kind="groups")
    report = scorekit.meta_evaluate(MetricScores(pd.DataFrame(values)), rated, QUICK)
    found = {r.statistic: r.value for r in report.results}
    assert found == {"text_score": 1.0, "image_score": 0.5, "group_score": 0.5}


def test_a_pair_that_raters_had_either_way_round_is_one() -> None:
    rows = [
        {"item": "1", "system_a": a, "system_b": b, "rater": r, "choice": c}
        for r, a, b, c in [("r", "x", "y", "a"), ("s", "y", "x", "b"), ("t", "y", "x", "a")]
    ]
    frame = pd.DataFrame(
        [
            {"system": s, "item": "1", "index": 0, "metric": "m", "value": v}
            for s, v in (("x", 2.0), ("y", 1.0))
        ]
    )
    rated = rating_set(rows, name="pairs", kind="preferences")
    found = scorekit.meta_evaluate(MetricScores(frame), rated, QUICK).results
    assert [(r.value, r.n) for r in found] == [(pytest.approx(2 / 3), 1)] * 2


def test_preferences_by_tag_count_for_both_sides() -> None:
    rows = [
        {"item": str(i), "system_a": "x", "system_b": "y", "choice": c}
        for i, c in ((1, "a"), (2, "b"))
    ]
    samples = [
        {"item": str(i), "system": s, "model": m}
        for i in (1, 2)
        for s, m in (("x", "old"), ("y", "old" if i == 1 else "new"))
    ]
    frame = pd.DataFrame(
        [{"system": s, "item": str(i), "index": 0, "metric": "m", "value": v}
         for i in (1, 2) for s, v in (("x", 2.0), ("y", 1.0))]
    )  # fmt: skip
    rated = rating_set(rows, samples, name="pairs", kind="preferences")
    report = scorekit.meta_evaluate(MetricScores(frame), rated, MetaOptions(by=("model",)))
    found = {r.skill: (r.value, r.n) for r in report.results if r.statistic == "two_afc"}
    assert found == {"": (0.5, 2), "new": (0.0, 1), "old": (0.5, 2)}


def group_rows(item: str, grid: list[list[float | None]]) -> tuple[list[Any], list[Any]]:
    """Cells and scores of a group, caption 0 with picture 0 and 1 with 1."""
    rows, values = [], []
    for c, line in enumerate(grid):
        for k, score in enumerate(line):
            key = {"item": item, "system": f"c{c}_i{k}"}
            rows.append({**key, "caption": c, "picture": k, "value": float(c == k)})
            values.append({**key, "index": 0, "metric": "m", "value": score})
    return rows, values


def test_groups_are_winogrounds_where_they_are_of_that_form() -> None:
    grids = np.random.default_rng(0).integers(0, 4, (300, 2, 2)).astype(float)
    parts = [group_rows(str(n), grid.tolist()) for n, grid in enumerate(grids)]
    rated = rating_set([r for rows, _ in parts for r in rows], name="wino", kind="groups")
    frame = pd.DataFrame([v for _, values in parts for v in values])
    for sign, lower in ((1, frozenset[str]()), (-1, frozenset({"m"}))):
        turned = frame.assign(value=sign * frame["value"])
        report = scorekit.meta_evaluate(MetricScores(turned, {}, lower), rated, QUICK)
        expected = winoground(grids, n_resamples=0)
        assert [(r.statistic, r.value, r.random) for r in report.results] == [
            ("text_score", expected.text.value, 0.25),
            ("image_score", expected.image.value, 0.25),
            ("group_score", expected.group.value, pytest.approx(1 / 6)),
        ]


def test_one_picture_with_foils_has_a_text_score_by_tag() -> None:
    grids: dict[str, list[list[float | None]]] = {
        "a": [[0.9], [0.2]],
        "b": [[0.5], [0.5]],  # a tie is wrong
        "c": [[0.9], [0.1], [0.95], [0.3]],
        "d": [[0.9], [None]],
    }
    parts = {item: group_rows(item, grid) for item, grid in grids.items()}
    samples = [
        {"item": row["item"], "system": row["system"], "part": "one" if item in "ab" else "two"}
        for item, (rows, _) in parts.items()
        for row in rows
    ]
    rated = rating_set(
        [r for rows, _ in parts.values() for r in rows], samples, name="foils", kind="groups"
    )
    frame = pd.DataFrame([v for _, values in parts.values() for v in values])
    report = scorekit.meta_evaluate(MetricScores(frame), rated, MetaOptions(by=("part",)))
    assert {r.statistic for r in report.results} == {"text_score"}
    found = {r.skill: (r.value, r.n, r.n_unscored, r.random) for r in report.results}
    assert found == {
        "": (pytest.approx(1 / 3), 3, 1, pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)),
        "one": (0.5, 2, 0, 0.5),
        "two": (0.0, 1, 1, 0.25),
    }


@shared
def test_sugar_crepe_is_the_share_of_originals_that_score_higher() -> None:
    rated = load_set("sugar-crepe", SHARED / "sugar_crepe")
    cells = rated.frame
    noise = np.random.default_rng(0).normal(size=len(cells))
    frame = cells[["system", "item", "index"]].assign(metric="m", value=cells["value"] + noise)
    report = scorekit.meta_evaluate(
        MetricScores(frame), rated, MetaOptions(by=("part",), n_resamples=0)
    )
    wide = frame.pivot(index="item", columns="system", values="value")
    right = wide["c0_i0"] > wide["c1_i0"]
    found = {r.skill: (r.value, r.n) for r in report.results}
    assert found[""] == (pytest.approx(right.mean()), 7512)
    assert len(found) == 8
    swaps = right[right.index.str.startswith("swap_obj/")]
    assert found["swap_obj"] == (pytest.approx(swaps.mean()), len(swaps))


@pytest.mark.parametrize(
    "options",
    [MetaOptions(statistics=("pearson",)), MetaOptions(scheme=Scheme(grouping="per_item"))],
)
def test_what_choices_have_none_of_is_refused(options: MetaOptions) -> None:
    rows, values = group_rows("1", [[0.9, 0.2], [0.4, 0.3]])
    rated = rating_set(rows, name="wino", kind="groups")
    with pytest.raises(UsageError, match="wino has groups, not ratings"):
        scorekit.meta_evaluate(MetricScores(pd.DataFrame(values)), rated, options)


def test_preferences_have_significance_ranks() -> None:
    rows, values = [], []
    rng = np.random.default_rng(0)
    for i in range(40):
        rows.append({"item": str(i), "system_a": "x", "system_b": "y", "choice": "ab"[i % 2]})
        better = 1.0 if i % 2 == 0 else -1.0
        for name, right in (("good", 0.95), ("also", 0.9), ("chance", 0.5)):
            sign = better if rng.random() < right else -better
            for system, value in (("x", sign), ("y", -sign)):
                values.append(
                    {"system": system, "item": str(i), "index": 0, "metric": name, "value": value}
                )
    rated = rating_set(rows, name="pairs", kind="preferences")
    given = MetricScores(pd.DataFrame(values))
    report = scorekit.meta_evaluate(given, rated, QUICK)
    by, ranked = report.ranked("preference") or ("", None)
    assert by == "two_afc"
    assert ranked is not None
    assert set(ranked.names[:2]) == {"good", "also"}
    assert ranked.ranks == (1, 1, 2)
    assert ranked.n == 40
    told = meta_view.as_json(report)["dimensions"]["preference"]["significance"]
    assert told["ranks"] == [1, 1, 2]
    assert told["p_values"][0][2] < 0.01
    without = scorekit.meta_evaluate(given, rated, QUICK, extras=())
    assert without.choices == {}


def test_groups_have_significance_ranks() -> None:
    rows, values = [], []
    for i in range(20):
        for c in (0, 1):
            for k in (0, 1):
                key = {"item": str(i), "system": f"c{c}_i{k}"}
                rows.append({**key, "caption": c, "picture": k, "value": float(c == k)})
                for name, right in (("good", True), ("bad", i < 4)):
                    score = float((c == k) == right)
                    values.append({**key, "index": 0, "metric": name, "value": score})
    rated = rating_set(rows, name="wino", kind="groups")
    report = scorekit.meta_evaluate(MetricScores(pd.DataFrame(values)), rated, QUICK)
    by, ranked = report.ranked("rating") or ("", None)
    assert by == "group_score"
    assert ranked is not None
    assert (ranked.names, ranked.values, ranked.ranks) == (("good", "bad"), (1.0, 0.2), (1, 2))
    assert ranked.p_values[0, 1] == pytest.approx(2 / 2**16, abs=2e-3)
