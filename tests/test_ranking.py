"""Best of n: order, ties, margins, rows that were not scored, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import scorekit
from scorekit.cli import app
from scorekit.ranking import Ranking
from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import Signature, UsageError

ROWS = [  # item, system, value, status
    ("a", "x", 0.2, "ok"),
    ("a", "y", 0.9, "ok"),
    ("a", "z", 0.5, "ok"),
    ("b", "x", 0.7, "ok"),
    ("b", "y", 0.7, "ok"),
    ("b", "z", None, "unreadable_image"),
    ("c", "x", 0.1, "ok"),
    ("d", "x", None, "missing_image"),
    ("d", "y", None, "missing_image"),
]


def make_table(higher_is_better: bool = True, **more: MetricInfo) -> ScoreTable:
    info = MetricInfo(Signature("m", (("v", "1"),)), higher_is_better)
    frame = pd.DataFrame(
        [
            {
                "system": system,
                "item": item,
                "index": 0,
                "image": f"{system}/{item}.png",
                "text": item,
                "metric": metric,
                "value": value,
                "status": status,
                "note": "" if status == "ok" else "why",
            }
            for metric in ("m", *more)
            for item, system, value, status in ROWS
        ]
    )
    return ScoreTable(frame.astype({"value": "float64"}), {"m": info, **more})


def order_of(ranking: Ranking, item: str) -> list[str]:
    return list(ranking.frame[ranking.frame["item"] == item]["system"])


def test_best_first_with_margins() -> None:
    ranking = scorekit.rank(make_table())
    assert order_of(ranking, "a") == ["y", "z", "x"]
    rows = ranking.frame[ranking.frame["item"] == "a"]
    assert list(rows["rank"]) == [1, 2, 3]
    assert list(rows["margin"]) == pytest.approx([0.4, 0.4, 0.7])
    assert list(rows["tied"]) == [1, 1, 1]


def test_lower_is_better() -> None:
    ranking = scorekit.rank(make_table(higher_is_better=False))
    assert order_of(ranking, "a") == ["x", "z", "y"]
    assert ranking.best()["margin"][0] == pytest.approx(0.3)


def test_a_tie_for_the_first_place_is_said() -> None:
    ranking = scorekit.rank(make_table())
    rows = ranking.frame[ranking.frame["item"] == "b"]
    assert list(rows["rank"][:2]) == [1, 1]
    assert list(rows["margin"][:2]) == [0.0, 0.0]
    assert list(rows["tied"]) == [2, 2, 0]
    assert (ranking.n_tied, ranking.n_unscored) == (1, 1)
    assert list(ranking.best()["system"]) == ["y", "x", "x", "x"]


def test_what_was_not_scored_comes_last_and_has_no_rank() -> None:
    ranking = scorekit.rank(make_table())
    last = ranking.frame[ranking.frame["item"] == "b"].iloc[-1]
    assert (last["system"], last["status"]) == ("z", "unreadable_image")
    assert pd.isna(last["rank"])
    assert pd.isna(ranking.frame[ranking.frame["item"] == "c"]["margin"]).all()


def test_top_k_leaves_out_the_unscored() -> None:
    top = scorekit.rank(make_table()).top(2)
    assert list(zip(top["item"], top["system"], strict=True)) == [
        ("a", "y"),
        ("a", "z"),
        ("b", "x"),
        ("b", "y"),
        ("c", "x"),
    ]


def test_a_metric_is_named_where_there_are_several() -> None:
    table = make_table(other=MetricInfo(Signature("other", (("v", "1"),)), True))
    with pytest.raises(UsageError, match="name a metric to rank by: m, other"):
        scorekit.rank(table)
    with pytest.raises(UsageError, match="no metric 'n' in the table"):
        scorekit.rank(table, "n")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_command(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / "t.parquet", tmp_path / f"best{suffix}"
    make_table().save(source)
    result = CliRunner().invoke(app, ["rank", str(source), "-o", str(target)])
    assert result.exit_code == 1  # item d has no image
    assert "4 items, 1 with a tie for the first place" in result.stdout
    assert "missing_image: why" in result.stdout
    read = {
        ".csv": pd.read_csv,
        ".tsv": lambda p: pd.read_csv(p, sep="\t"),
        ".jsonl": lambda p: pd.read_json(p, lines=True),
        ".parquet": pd.read_parquet,
    }
    written = read[suffix](target)
    assert list(written["system"]) == ["y", "x", "x", "x"]
    assert written["margin"][0] == pytest.approx(0.4)


def test_command_as_json(tmp_path: Path) -> None:
    source = tmp_path / "t.parquet"
    make_table().save(source)
    result = CliRunner().invoke(app, ["rank", str(source), "--json", "--top", "0"])
    found = json.loads(result.stdout)
    assert (found["tied"], found["unscored"], len(found["rows"])) == (1, 1, len(ROWS))
    assert found["rows"][-1]["rank"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "-1"], "--top must be 0 or more"),
        (["-o", "best.xlsx"], "best.xlsx must end in .csv, .tsv, .jsonl, .parquet"),
        (["-o", "no/such/best.csv"], "no folder no/such"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: list[str], message: str) -> None:
    source = tmp_path / "t.parquet"
    make_table().save(source)
    with pytest.raises(UsageError, match=re.escape(message)):
        CliRunner().invoke(app, ["rank", str(source), *arguments], catch_exceptions=False)
