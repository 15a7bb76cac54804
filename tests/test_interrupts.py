"""What an interrupted run leaves beside its table, and what of it is never touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from scorekit.cli import compare
from scorekit.interrupts import INTERRUPTED, Interrupted, ends_in_order, remove_partial
from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import Signature


def table_of(statuses: list[str], **run: Any) -> ScoreTable:
    n = len(statuses)
    frame = pd.DataFrame(
        {
            "system": ["s"] * n,
            "item": [str(i) for i in range(n)],
            "index": [0] * n,
            "image": [f"{i}.png" for i in range(n)],
            "text": ["=1+1"] * n,
            "metric": ["l1"] * n,
            "value": [1.0 if status == "ok" else None for status in statuses],
            "status": statuses,
            "note": [""] * n,
        }
    )
    return ScoreTable(frame, {"l1": MetricInfo(Signature("l1", (("v", "1"),)), False)}, run)


def end(out: Path, table: ScoreTable | None, **options: Any) -> int:
    """The exit code of a command that was interrupted with this table."""

    @ends_in_order
    def command(**_: Any) -> None:
        raise Interrupted(table)

    given = {"engine": "local", "no_cache": False, "spreadsheet_safe": False, **options}
    with pytest.raises(typer.Exit) as stop:
        command(out=str(out), **given)
    return stop.value.exit_code


def test_the_rows_so_far_and_their_removal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, partial = tmp_path / "s.csv", tmp_path / "s.partial.csv"
    for rows in (["ok", INTERRUPTED], ["ok", "ok", INTERRUPTED]):  # the second over the first
        assert end(out, table_of(rows, interrupted=True)) == 130
        said = capsys.readouterr().err
        assert f"the {len(rows) - 1} of {len(rows)} rows so far are in {partial}" in said
        assert "the same command goes on from there" in said
    assert ScoreTable.load(partial).frame["status"].tolist() == ["ok", "ok", INTERRUPTED]
    remove_partial(out)
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_merely_has_the_name_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, partial = tmp_path / "s.csv", tmp_path / "s.partial.csv"
    table_of(["ok"] * 3).save(partial)
    before = partial.read_bytes()
    assert end(out, table_of(["ok", INTERRUPTED], interrupted=True)) == 130
    assert f"the rows so far are not kept: {partial} is another table" in capsys.readouterr().err
    remove_partial(out)
    assert partial.read_bytes() == before


def test_compare_says_that_rows_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end(tmp_path / "s.csv", table_of(["ok", "ok", INTERRUPTED], interrupted=True))
    table_of(["ok"] * 3).save(tmp_path / "t.csv")
    capsys.readouterr()
    compare(str(tmp_path / "s.partial.csv"), str(tmp_path / "t.csv"))
    assert capsys.readouterr().err == (
        f"note: {tmp_path / 's.partial.csv'} is what an interrupted run left: 1 of 3 rows are not "
        "scored\n"
    )


def test_the_rows_so_far_are_as_safe_as_the_table(tmp_path: Path) -> None:
    table = table_of(["ok", INTERRUPTED], interrupted=True)
    end(tmp_path / "s.csv", table, spreadsheet_safe=True)
    assert "'=1+1" in (tmp_path / "s.partial.csv").read_text()
    assert ScoreTable.load(tmp_path / "s.partial.csv").frame["text"].tolist() == ["=1+1"] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "ray"}, "what Ray's actors finished is in the shards"),
        ({"no_cache": True}, "nothing was kept (--no-cache)"),
        ({}, "what was computed is in the cache"),
    ],
)
def test_what_it_says(
    options: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(tmp_path / "s.csv", None, **options) == 130
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
