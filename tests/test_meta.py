"""`scorekit meta`: joining, statistics by the published files, notes, outputs, wrong use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import scorekit
from scorekit import meta_view
from scorekit.cli import app
from scorekit.grouping import Scheme
from scorekit.joined import MetricScores, join
from scorekit.manifests import load_set
from scorekit.meta import MetaOptions
from scorekit.meta_report import MetaReport
from scorekit.ratings import rating_set
from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import Signature, UsageError

SHARED = Path(__file__).parents[2] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared rating files are not there")
QUICK = MetaOptions(n_resamples=0)

# system, item, two raters, two metrics
CELLS = [
    ("x", "1", 1, 2, 0.1, 0.9),
    ("y", "1", 3, 3, 0.3, 0.6),
    ("x", "2", 2, 1, 0.2, 0.8),
    ("y", "2", 5, 4, 0.9, 0.1),
    ("x", "3", 4, 4, 0.8, None),
]


def ratings(**more: object) -> scorekit.RatingSet:
    rows = [
        {"system": s, "item": i, "rater": f"r{k}", "dimension": "alignment", "value": v}
        for s, i, *values, _, _ in CELLS
        for k, v in enumerate(values)
    ]
    samples = [
        {"system": s, "item": i, "skill": "odd" if i in "13" else "even"} for s, i, *_ in CELLS
    ]
    return rating_set(rows, samples, name="small", **more)


def scores(lower: frozenset[str] = frozenset()) -> MetricScores:
    rows = [
        {"system": s, "item": i, "index": 0, "metric": name, "value": value}
        for s, i, _, _, up, down in CELLS
        for name, value in (("up", up), ("down", down))
    ]
    return MetricScores(pd.DataFrame(rows).astype({"value": float}), {}, lower)


def value(report: MetaReport, metric: str, statistic: str, dimension: str | None = None) -> float:
    frame = report.frame()
    rows = frame[(frame["metric"] == metric) & (frame["statistic"] == statistic)]
    rows = rows if dimension is None else rows[rows["dimension"] == dimension]
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


def published(name: str, folder: str, options: MetaOptions, **more: object) -> MetaReport:
    found = load_set(name, SHARED / folder)
    given = scorekit.published_scores(found)
    return scorekit.meta_evaluate(given, found, options, extras=(), **more)


# The numbers that the shared files give back -------------------------------------------------


@shared
@pytest.mark.parametrize(
    ("metric", "statistic", "expected"),
    [
        ("clipscore_vitb32", "kendall_tau_b", 0.231),
        ("clipscore_vitb32", "pearson", 0.332),
        ("clipscore_vitb32", "spearman", 0.320),
        ("tifa_mplug-large", "kendall_tau_b", 0.472),
        ("tifa_mplug-large", "pearson", 0.597),
        ("tifa_mplug-large", "spearman", 0.592),
    ],
)
def test_tifa_whose_published_spearman_is_pearson(
    metric: str, statistic: str, expected: float
) -> None:
    report = published("tifa160", "tifa", QUICK)
    assert value(report, metric, statistic) == pytest.approx(expected, abs=5e-4)


@shared
@pytest.mark.parametrize(
    ("metric", "spearman", "kendall"),
    [("mplug_dsg:as_published", 0.463, 0.380), ("pali17b_dsg:as_published", 0.570, None)],
)
def test_dsg(metric: str, spearman: float, kendall: float | None) -> None:
    options = MetaOptions(metrics=(metric,), n_resamples=0)
    report = published("dsg-tifa160", "dsg", options)
    assert value(report, metric, "spearman") == pytest.approx(spearman, abs=6e-4)
    if kendall is not None:
        assert value(report, metric, "kendall_tau_b") == pytest.approx(kendall, abs=6e-4)


@shared
@pytest.mark.parametrize(
    ("average", "metric", "dimension", "expected"),
    [
        ("tanh_mean", "gpt4o_0shot:SC", "sc", 0.4062),
        ("fisher", "gpt4o_0shot:SC", "sc", 0.4544),
        ("mean", "gpt4o_0shot:SC", "sc", 0.4311),
        ("tanh_mean", "gpt4o_0shot:PQ", "pq", 0.4863),
        ("tanh_mean", "gpt4o_0shot:O", "overall", 0.3821),
        ("tanh_mean", "LPIPS", "sc", 0.0956),
        ("tanh_mean", "LPIPS", "pq", 0.2400),
        ("tanh_mean", "LPIPS", "overall", 0.1142),
    ],
)
def test_viescore_whose_published_fisher_average_lacks_the_arctanh(
    average: str, metric: str, dimension: str, expected: float
) -> None:
    options = MetaOptions(
        statistics=("spearman",),
        dimensions=(dimension,),
        metrics=(metric,),
        scheme=Scheme(grouping="per_system", average=average),  # type: ignore[arg-type]
        n_resamples=0,
    )
    report = published("viescore-editing", "viescore", options)
    assert value(report, metric, "spearman") == pytest.approx(expected, abs=1.5e-4)


@shared
def test_viescore_sub_scores_pooled_over_the_edits_that_all_scored() -> None:
    expected = {
        "gpt4o_0shot:SC:s1": 0.622,
        "gpt4o_0shot:SC:s2": 0.179,
        "gpt4o_0shot:SC": 0.652,
        "gpt4o_0shot:SC:geometric": 0.648,
        "LPIPS": 0.208,
    }
    options = MetaOptions(
        statistics=("spearman",), dimensions=("sc",), metrics=tuple(expected), n_resamples=0
    )
    report = published("viescore-editing", "viescore", options)
    assert {r.n for r in report.results} == {1427}
    for metric, rho in expected.items():
        assert value(report, metric, "spearman") == pytest.approx(rho, abs=5e-4)
    assert [r.metric for r in report.results if r.flipped] == ["LPIPS"]


# Joining -------------------------------------------------------------------------------------


def test_rows_that_all_scored_and_how_many_were_not() -> None:
    report = scorekit.meta_evaluate(scores(), ratings(), QUICK, extras=())
    assert {r.metric: (r.n, r.n_unscored) for r in report.results} == {"up": (4, 0), "down": (4, 1)}
    assert value(report, "up", "kendall_tau_b") == pytest.approx(0.912871, abs=1e-6)
    own = scorekit.meta_evaluate(
        scores(), ratings(), MetaOptions(own_rows=True, n_resamples=0), extras=()
    )
    assert {r.metric: r.n for r in own.results} == {"up": 5, "down": 4}
    common, unscored = report.notes
    assert common.startswith(
        "alignment: all is computed on the 4 of 5 rated rows that every metric"
    )
    assert "(down scored 4)" in common
    assert unscored == "down did not score 1 of the rated rows of alignment"
    assert own.notes == (unscored,)


def test_lower_is_better_turns_the_sign_and_says_so() -> None:
    plain = scorekit.meta_evaluate(scores(), ratings(), QUICK, extras=())
    turned = scorekit.meta_evaluate(scores(frozenset({"down"})), ratings(), QUICK, extras=())
    assert value(turned, "down", "pearson") == pytest.approx(-value(plain, "down", "pearson"))
    assert "lower is better, so the sign is turned: down" in turned.notes


def test_by_tag_and_by_system_level() -> None:
    options = MetaOptions(metrics=("up",), by=("skill",), n_resamples=0)
    frame = scorekit.meta_evaluate(scores(), ratings(), options, extras=()).frame()
    assert set(zip(frame["tag"], frame["skill"], strict=True)) == {
        ("", ""),
        ("skill", "even"),
        ("skill", "odd"),
    }
    assert set(frame[frame["skill"] == "even"]["n"]) == {2}
    level = MetaOptions(metrics=("up",), scheme=Scheme(level="system"), n_resamples=0)
    assert value(
        scorekit.meta_evaluate(scores(), ratings(), level, extras=()), "up", "pearson"
    ) == pytest.approx(1)


def test_keys_that_changed_places_are_an_error() -> None:
    frame = scores().frame.rename(columns={"system": "item", "item": "system"})
    with pytest.raises(UsageError, match="system and item in each other's place"):
        join(MetricScores(frame), ratings())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (MetaOptions(metrics=("no",)), "no metric 'no' among the scores; there are up, down"),
        (MetaOptions(dimensions=("no",)), "has no dimension 'no'; it has alignment"),
        (MetaOptions(by=("no",)), "has no tag 'no'; it has skill"),
    ],
)
def test_unknown_names(options: MetaOptions, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        scorekit.meta_evaluate(scores(), ratings(), options)


def test_metrics_without_a_common_row() -> None:
    frame = scores().frame
    half = (frame["metric"] == "up") == frame["item"].isin(["1"])
    with pytest.raises(UsageError, match=r"no row of alignment was scored by all 2 metrics"):
        scorekit.meta_evaluate(MetricScores(frame[half]), ratings(), QUICK)


def test_a_row_has_each_of_several_skills() -> None:
    rated = ratings()
    samples = rated.samples.assign(skill=["odd", "odd", "even|both", "both", None])
    rated = replace(rated, samples=samples)
    options = MetaOptions(
        metrics=("up",), statistics=("pearson",), by=("skill",), own_rows=True, n_resamples=0
    )
    found = scorekit.meta_evaluate(scores(), rated, options, extras=())
    assert {r.skill: r.n for r in found.results if r.tag} == {"": 1, "both": 2, "even": 1, "odd": 2}


def test_raters_are_those_of_the_rows_that_went_in() -> None:
    every = scorekit.meta_evaluate(
        scores(), ratings(), MetaOptions(metrics=("up",), n_resamples=0), extras=("raters",)
    )
    common = scorekit.meta_evaluate(scores(), ratings(), QUICK, extras=("raters",))
    counts = [r.dimensions["alignment"].raters for r in (every, common)]
    assert [(c.n_cells, c.n_ratings) for c in counts if c is not None] == [(5, 10), (4, 8)]


def test_best_of_n_compares_metrics_on_common_rows() -> None:
    options = MetaOptions(own_rows=True, n_resamples=0)
    about = scorekit.meta_evaluate(scores(), ratings(), options, extras=("selection",)).dimensions[
        "alignment"
    ]
    assert {m: (b.metric.n, b.random.value) for m, b in about.selection.items()} == {
        "up": (2, 2.625),
        "down": (2, 2.625),
    }
    assert about.selection["up"].metric.value == 3.75
    assert about.selection["down"].metric.value == 1.5


def test_without_resamples_there_is_no_interval() -> None:
    report = scorekit.meta_evaluate(scores(), ratings(), QUICK)
    assert len(report.results) == 10
    assert all(r.low is None and r.high is None for r in report.results)


# Tables of scores ----------------------------------------------------------------------------


def score_table(system: str, signature: str = "up|v:1") -> ScoreTable:
    rows = [
        {
            "system": s,
            "item": i,
            "index": 0,
            "image": "",
            "text": "",
            "metric": "up",
            "value": up,
            "status": "ok",
            "note": "",
        }
        for s, i, _, _, up, _ in CELLS
        if s == system
    ]
    info = MetricInfo(Signature.parse(signature), True)
    return ScoreTable(pd.DataFrame(rows), {"up": info}, {})


def test_a_table_a_system_is_one_metric_if_the_signatures_agree(tmp_path: Path) -> None:
    files = [score_table(s).save(tmp_path / f"{s}.parquet") for s in "xy"]
    found = scorekit.read_scores(files)
    assert len(found.frame) == 5
    assert str(found.signatures["up"]) == "up|v:1"
    score_table("y", "up|v:2").save(files[1])
    with pytest.raises(UsageError, match="up has another signature than in the tables before: v"):
        scorekit.read_scores(files)


def test_a_row_twice_is_an_error(tmp_path: Path) -> None:
    file = score_table("x").save(tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="3 scores are there twice, first up of system 'x'"):
        scorekit.read_scores([file, file])


def test_a_status_that_is_not_ok_is_unscored_whatever_the_value(tmp_path: Path) -> None:
    table = score_table("x")
    frame = table.frame.assign(status=["ok", "failed", "ok"])
    file = ScoreTable(frame, table.metrics).save(tmp_path / "x.csv")
    assert scorekit.read_scores([file]).frame["value"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_any_table_of_scores(tmp_path: Path, suffix: str) -> None:
    frame = scores().frame
    file = tmp_path / f"s{suffix}"
    {
        ".csv": lambda: frame.to_csv(file, index=False),
        ".jsonl": lambda: frame.to_json(file, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(file, index=False),
    }[suffix]()
    found = scorekit.read_scores([file])
    report = scorekit.meta_evaluate(found, ratings(), QUICK, extras=())
    before = scorekit.meta_evaluate(scores(), ratings(), QUICK, extras=())
    pd.testing.assert_frame_equal(report.frame(), before.frame())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item,metric\n1,up\n", "needs a column value"),
        ("item,metric,value\n1,up,good\n", "line 2: 'good' is no number"),
        ("item,metric,value\n1,up,inf\n", "line 2: the value is infinite"),
        ("item,metric,value\n1,up,1\n2,,1\n", "line 3: metric is empty"),
        ("item,metric,value\n,up,1\n", "line 2: item is empty"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "s.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        scorekit.read_scores([file])


# The command ---------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    cells = [(s, str(i)) for i in range(30) for s in "abc"]
    rating = rng.integers(1, 6, len(cells))
    rows = [
        {"system": s, "item": i, "rater": f"r{k}", "value": min(5, max(1, int(v) + k))}
        for (s, i), v in zip(cells, rating, strict=True)
        for k in (0, 1)
    ]
    rated = tmp_path / "ratings.csv"
    pd.DataFrame(rows).to_csv(rated, index=False)
    table = [
        {"system": s, "item": i, "metric": name, "value": v + spread * rng.normal()}
        for name, spread in (("good_1", 0.5), ("poor", 5.0))
        for (s, i), v in zip(cells, rating, strict=True)
    ]
    scored = tmp_path / "scores.csv"
    pd.DataFrame(table).to_csv(scored, index=False)
    return scored, rated


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["meta", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_command_says_it_all(files: tuple[Path, Path]) -> None:
    out = run(files[0], "-r", files[1], "--resamples", 50, "--influence")
    assert out.index("good_1") < out.index("poor") < out.index("(random)")
    assert "2 raters, 180 ratings of 90 images; Krippendorff's alpha 0.7" in out
    assert "best image of each of 30 items" in out
    assert "good_1 with poor: tau-b" in out
    assert out.count("without item") == 10


def test_lower_is_better_of_a_table_that_does_not_say_so(files: tuple[Path, Path]) -> None:
    out = run(files[0], "-r", files[1], "--fast", "--resamples", 0, "--lower", "good_1")
    assert out.index("poor") < out.index("good_1")
    assert "the sign is turned: good_1" in out
    result = CliRunner().invoke(app, ["meta", str(files[0]), "-r", str(files[1]), "--lower", "no"])
    assert isinstance(result.exception, UsageError)


def test_names_are_shown_as_they_are_in_markdown_and_latex() -> None:
    frame = scores().frame.replace({"metric": {"up": "[a]_b|<*>", "down": "50% \\\\x"}})
    report = scorekit.meta_evaluate(MetricScores(frame), ratings(), QUICK, extras=())
    assert r"| [a]\_b\|&lt;\*> |" in meta_view.as_markdown(report)
    tex = meta_view.as_latex(report)
    assert r"{[}a]\_b\textbar{}\textless{}*\textgreater{} & $0.9" in tex
    assert r"50\% \textbackslash{}\textbackslash{}x & " in tex


def test_command_writes_every_form(files: tuple[Path, Path], tmp_path: Path) -> None:
    outs = [
        tmp_path / f"m{s}" for s in (".csv", ".tsv", ".jsonl", ".parquet", ".json", ".md", ".tex")
    ]
    arguments = [a for out in outs for a in ("-o", out)]
    run(files[0], "-r", files[1], "--resamples", 20, *arguments)
    frame = pd.read_parquet(tmp_path / "m.parquet")
    assert len(frame) == 10
    assert len(pd.read_csv(tmp_path / "m.csv")) == len(
        pd.read_json(tmp_path / "m.jsonl", lines=True)
    )
    everything = json.loads((tmp_path / "m.json").read_text())
    assert everything["dimensions"]["rating"]["significance"]["ranks"] == [1, 2]
    assert everything["results"][0]["value"] == pytest.approx(frame["value"][0])
    markdown = (tmp_path / "m.md").read_text()
    assert "| good_1 | 1 |" in markdown
    latex = (tmp_path / "m.tex").read_text()
    assert r"good\_1 & 1 &" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1


def test_command_as_json(files: tuple[Path, Path]) -> None:
    found = json.loads(run(files[0], "-r", files[1], "--json", "--fast", "--resamples", 0))
    assert found["results"][0]["low"] is None
    assert found["dimensions"]["rating"]["significance"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --ratings NAME or FILE"),
        (["-r", "tifa160"], "give tables of scores, or --published"),
        (["s.csv", "-r", "tifa16"], "no rating set 'tifa16'; did you mean tifa160"),
        (["s.csv", "-r", "tifa160", "--published"], "give tables of scores, or --published"),
        (["s.csv", "-r", "r.csv", "--grouping", "no"], "'no' is none of global, per_item"),
        (["s.csv", "-r", "r.csv", "-s", "no"], "no statistic 'no'; there are pearson"),
        (["s.csv", "-r", "r.csv", "-o", "x.doc"], "x.doc must end in .csv"),
        (["s.csv", "-r", "r.csv", "--resamples", "-1"], "--resamples must be 0 or more"),
    ],
)
def test_wrong_use(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        CliRunner().invoke(app, ["meta", *arguments], catch_exceptions=False)


def test_no_torch(files: tuple[Path, Path]) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from scorekit.cli import app\n"
        f"r = CliRunner().invoke(app, ['meta', {str(files[0])!r}, '-r', {str(files[1])!r},"
        " '--resamples', '20'], catch_exceptions=False)\n"
        "assert r.exit_code == 0 and 'torch' not in sys.modules, sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
