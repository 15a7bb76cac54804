"""`scorekit meta --report`: what the page says, that nothing in it runs, that nothing leaves it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import scorekit
from scorekit.cli import app
from scorekit.grouping import Scheme
from scorekit.joined import MetricScores
from scorekit.manifests import load_set
from scorekit.meta import MetaOptions
from scorekit.meta_report import MetaReport
from scorekit.ratings import RatingSet, rating_set
from scorekit.reporting import meta as pages
from scorekit.reporting.meta import meta_page
from scorekit.reporting.page import render

SHARED = Path(__file__).parents[2] / "shared" / "data"
OPTIONS = MetaOptions(n_resamples=20, by=("skill",))
NAMES = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quotes' & %{x} <b>",
    "\u202eשלום עולם",
    "__proto__",
]
"""Metrics, and systems, and skills: what a table from anywhere may call them."""


@dataclass
class Seen(HTMLParser):
    """What a browser would make of the page."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    inside: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside = tag
            self.scripts += [""] if tag == "script" else []

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif not self.inside:
            self.texts.append(data)

    @property
    def data(self) -> Any:
        """What the page gives to its scripts."""
        types = [attrs.get("type") for tag, attrs in self.tags if tag == "script"]
        return json.loads(self.scripts[types.index("application/json")])


def seen(page: str) -> Seen:
    parser = Seen()
    parser.feed(page)
    parser.close()
    return parser


def evil_ratings(**about: Any) -> tuple[MetricScores, RatingSet]:
    """24 items by five systems, everything with a name to fear."""
    rng = np.random.default_rng(0)
    rows, samples, scores = [], [], []
    for i in range(24):
        for s, system in enumerate(NAMES):
            key = {"system": system, "item": f"{NAMES[i % 5]} {i}"}
            good = int(rng.integers(1, 5))
            samples.append({**key, "skill": NAMES[i % 5]})
            rows += [
                {**key, "rater": f"r{k}", "dimension": "<i>match</i>", "value": good + k * (s % 2)}
                for k in (0, 1)
            ]
            scores += [
                {**key, "index": 0, "metric": name, "value": good + m * float(rng.normal())}
                for m, name in enumerate(NAMES)
            ]
    rated = rating_set(rows, samples, name="<u>set</u>", **about)
    return MetricScores(pd.DataFrame(scores)), rated


@pytest.fixture(scope="module")
def evil() -> MetaReport:
    scores, rated = evil_ratings(source="javascript:alert(3)", citation="</dd><script>x</script>")
    return scorekit.meta_evaluate(
        scores,
        rated,
        OPTIONS,
        extras=("significance", "raters", "selection", "complementarity", "influence"),
    )


def test_names_stay_text(evil: MetaReport) -> None:
    found = seen(meta_page(evil, OPTIONS))
    kinds = [tag for tag, _ in found.tags]
    # the JSON, plotly, and two of ours
    assert kinds.count("script") == 4
    assert not {"img", "i", "u", "b", "iframe", "object", "link"} & set(kinds)
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]
    assert [attrs["href"] for tag, attrs in found.tags if tag == "a"] == ["#main"]
    for name in NAMES:
        assert name in found.texts
    assert found.data["dimensions"][0]["metrics"] == list(
        evil.dimensions["<i>match</i>"].ranked.names
    )


def test_policy_names_the_scripts_of_the_page_and_nothing_to_fetch(evil: MetaReport) -> None:
    page = meta_page(evil, OPTIONS)
    found = seen(page)
    (policy,) = [
        attrs["content"]
        for tag, attrs in found.tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in found.scripts[1:]
    ]
    assert rules["script-src"].split() == [f"'sha256-{h}'" for h in hashes]
    assert not [
        attrs for _, attrs in found.tags if "src" in attrs or attrs.get("http-equiv") == "refresh"
    ]


def test_only_an_https_source_is_a_link(evil: MetaReport) -> None:
    page = seen(meta_page(replace(evil, source="https://example.org/a?b=1&c=2"), OPTIONS))
    links = [attrs for tag, attrs in page.tags if tag == "a"]
    assert links[1] == {"href": "https://example.org/a?b=1&c=2", "rel": "noopener noreferrer"}


def test_the_page_says_the_numbers(evil: MetaReport) -> None:
    found = seen(meta_page(evil, OPTIONS))
    (drawn,) = found.data["dimensions"]
    main = drawn["statistics"][drawn["statistic"]]
    assert main == "tau-b"
    for metric in evil.dimensions["<i>match</i>"].ranked.names:
        (result,) = [
            r
            for r in evil.results
            if (r.metric, r.statistic, r.tag) == (metric, "kendall_tau_b", "")
        ]
        at = drawn["metrics"].index(metric)
        s = drawn["statistics"].index("tau-b")
        assert drawn["values"][s][at] == pytest.approx(
            [result.value, result.low, result.high], abs=1e-4
        )
        assert f"{result.value:.3f}" in "".join(found.texts)
    about = evil.dimensions["<i>match</i>"]
    assert drawn["ranks"] == list(about.ranked.ranks)
    assert drawn["ceiling"][0] == pytest.approx(about.raters.ceiling.mean.value, abs=1e-4)
    assert [t["skills"] for t in drawn["tags"]] == [sorted(NAMES)]
    assert sum(drawn["tags"][0]["n"]) == 120
    assert sorted(drawn["selection"]["metrics"]) == sorted(NAMES)
    best = max(about.combined.pairs, key=lambda p: p.gain)
    i, j = (drawn["metrics"].index(name) for name in (best.a, best.b))
    assert drawn["pairs"]["gains"][i][j] == drawn["pairs"]["gains"][j][i]
    assert drawn["pairs"]["gains"][i][j][0] == pytest.approx(best.gain, abs=1e-4)
    assert len([t for t in found.texts if re.fullmatch(r"[+-]0\.\d{4}", t)]) == 50


def test_p_values_of_both_tests_and_of_one(evil: MetaReport) -> None:
    (section,) = pages._sections(evil)
    about = evil.dimensions["<i>match</i>"]
    names = about.ranked.names
    cells = [row for _, row in section.pairs]
    assert cells[3][1]["p"] == about.ranked.p_values[3, 1]
    found = {frozenset(pair): p for pair, p in about.williams.items()}
    assert cells[1][3]["p"] == found[frozenset((names[1], names[3]))]
    assert [cells[i][i]["p"] for i in range(5)] == [None] * 5
    given = (None, 0.2, 0.05, 0.04, 0.009, 0.0009)
    assert [pages._shade(p) for p in given] == [0, 0, 0, 1, 2, 3]
    (alone,) = pages._sections(
        replace(evil, dimensions={"<i>match</i>": replace(about, williams={})})
    )
    assert alone.pairs[1][1][3]["p"] == about.ranked.p_values[1, 3]


def test_points_are_the_rows(evil: MetaReport) -> None:
    (drawn,) = seen(meta_page(evil, OPTIONS)).data["dimensions"]
    joined = evil.dimensions["<i>match</i>"].joined
    scatter = drawn["scatter"]
    assert scatter["kind"] == "points"
    assert scatter["ratings"] == [joined.rating.tolist()]
    assert [scatter["systems"][k] for k in scatter["system"]] == joined.systems.tolist()
    assert scatter["values"][drawn["metrics"].index("__proto__")] == pytest.approx(
        joined.values["__proto__"], rel=1e-4
    )


def test_too_many_rows_become_boxes_or_bins(
    evil: MetaReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = evil.dimensions["<i>match</i>"].joined
    monkeypatch.setattr(pages, "MOST_POINTS", 119)
    (drawn,) = seen(meta_page(evil, OPTIONS)).data["dimensions"]
    boxes = drawn["scatter"]["boxes"][drawn["metrics"].index(NAMES[2])]
    level = drawn["scatter"]["levels"].index(2.0)
    part = joined.values[NAMES[2]][joined.rating == 2]
    assert boxes[level][2] == pytest.approx(np.median(part), rel=1e-4)
    assert sum(box[5] for box in boxes) == 120
    monkeypatch.setattr(pages, "FEW_LEVELS", 2)
    (drawn,) = seen(meta_page(evil, OPTIONS)).data["dimensions"]
    bins = drawn["scatter"]["bins"][0]
    assert np.sum(bins["z"]) == 120
    assert np.shape(bins["z"]) == (len(bins["y"]), len(bins["x"])) == (24, 40)


def test_systems_means_are_what_a_system_level_shows() -> None:
    scores, rated = evil_ratings()
    options = MetaOptions(scheme=Scheme("system"), n_resamples=0)
    report = scorekit.meta_evaluate(scores, rated, options, extras=())
    (drawn,) = seen(meta_page(report, options)).data["dimensions"]
    joined = report.dimensions["<i>match</i>"].joined
    scatter = drawn["scatter"]
    assert scatter["systems"] == sorted(NAMES)
    means = [joined.rating[joined.systems == name].mean() for name in sorted(NAMES)]
    assert len(scatter["ratings"]) == len(NAMES)
    assert scatter["ratings"][0] == pytest.approx(means, abs=1e-4)
    assert scatter["told"] == "5 systems, by their means"


def test_an_unscored_row_and_a_metric_without_a_value() -> None:
    scores, rated = evil_ratings()
    frame = scores.frame.copy()
    frame.loc[frame["metric"] == "__proto__", "value"] = 1.0
    frame.loc[frame[frame["metric"] == NAMES[0]].index[:7], "value"] = np.nan
    options = MetaOptions(own_rows=True, n_resamples=0)
    report = scorekit.meta_evaluate(MetricScores(frame), rated, options)
    found = seen(meta_page(report, options))
    (drawn,) = found.data["dimensions"]
    constant = drawn["metrics"].index("__proto__")
    assert constant == 4
    assert drawn["values"][0][constant] == [None, None, None]
    assert drawn["ranks"][constant] is None
    first = drawn["metrics"].index(NAMES[0])
    assert drawn["scatter"]["values"][first].count(None) == 7
    assert "7" in found.texts


def test_preferences_have_a_page_without_scatter() -> None:
    rows = [
        {"item": str(i), "system_a": "x", "system_b": "y", "rater": "r", "choice": "ab"[i % 2]}
        for i in range(6)
    ]
    frame = pd.DataFrame(
        [
            {"system": s, "item": str(i), "index": 0, "metric": "m", "value": float(i + (s == "x"))}
            for i in range(6)
            for s in "xy"
        ]
    )
    rated = rating_set(rows, name="pairs", kind="preferences")
    report = scorekit.meta_evaluate(MetricScores(frame), rated, MetaOptions(n_resamples=0))
    found = seen(meta_page(report))
    (drawn,) = found.data["dimensions"]
    assert drawn["statistics"] == ["2AFC", "2AFC, ties 1/2"]
    assert drawn["values"][0] == [[0.5, None, None]]
    assert (drawn["scatter"], drawn["pairs"], drawn["ceiling"]) == (None, None, None)
    assert "Metric against rating" not in "".join(found.texts)


def test_no_value_that_json_lacks() -> None:
    with pytest.raises(ValueError, match="JSON"):
        render("base.html", title="x", data=[float("nan")])


# The command ---------------------------------------------------------------------------------


def test_command_writes_the_page(tmp_path: Path) -> None:
    scores, rated = evil_ratings()
    rated.save(tmp_path / "r.csv")
    scores.frame.to_csv(tmp_path / "s.csv", index=False)
    page = tmp_path / "meta.html"
    args = ["meta", "s.csv", "-r", "r.csv", "--fast", "--resamples", "0", "--report"]
    args = [str(tmp_path / a) if a.endswith(".csv") else a for a in args]
    found = CliRunner().invoke(app, [*args, str(page)])
    assert found.exit_code == 0, found.output
    assert found.output.rstrip().endswith(f"written: {page}".replace("\n", ""))
    assert seen(page.read_text("utf-8")).data["dimensions"][0]["scatter"]["n"] == 120


@pytest.mark.parametrize(
    ("target", "message"),
    [("meta.htm", "must end in .html"), ("none/meta.html", "no folder")],
)
def test_a_target_is_refused_before_the_work_begins(
    tmp_path: Path, target: str, message: str
) -> None:
    # the ratings are not there either: that would be said only later
    found = CliRunner().invoke(
        app, ["meta", "--published", "-r", "nowhere.csv", "--report", str(tmp_path / target)]
    )
    assert found.exit_code != 0
    assert message in str(found.exception) + found.output


def test_no_torch_and_no_template_engine_before_it_is_asked_for() -> None:
    code = (
        "import sys, scorekit.meta_cli; assert 'jinja2' not in sys.modules;"
        "import scorekit.reporting.meta; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared rating files are not there")
def test_tifas_page_stays_small() -> None:
    rated = load_set("tifa160", SHARED / "tifa")
    options = MetaOptions(n_resamples=0, by=("source",))
    report = scorekit.meta_evaluate(scorekit.published_scores(rated), rated, options, extras=())
    page = meta_page(report, options)
    assert len(page.encode()) < 5.5e6
    (drawn,) = seen(page).data["dimensions"]
    s = drawn["statistics"].index("tau-b")
    at = drawn["metrics"].index("clipscore_vitb32")
    assert drawn["values"][s][at][0] == pytest.approx(0.231, abs=5e-4)
