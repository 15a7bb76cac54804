"""ScoreTable: what is written comes back; what may not be compared is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scorekit.console import print_failures, print_scores
from scorekit.stats import summarize
from scorekit.table import COLUMNS, MetricInfo, ScoreTable, recipe_differences
from scorekit.types import Signature, UsageError

SIGNATURE = "clipscore|bb:hf/x|scale:2.5|prefix:A photo depicts |trunc:77(n=1)|v:1"


def table(offset: float = 0.0, signature: str = SIGNATURE, system: str = "s") -> ScoreTable:
    frame = pd.DataFrame(
        {
            "system": [system] * 4,
            "item": ["1", "2", "NA", "04"],
            "index": [0, 0, 0, 1],
            "image": ["a.png", "b.png", "", 'q"uote,.png'],
            "text": ["a dog", "two\nlines", None, "null"],
            "metric": ["clipscore"] * 4,
            "value": [0.5 + offset, 0.25, np.nan, 1 / 3 + offset],
            "status": ["ok", "ok", "missing_text", "ok"],
            "note": ["", "", "the row has no text", "text cut"],
            "skill": ["x", None, "y", "z"],
        }
    )
    return ScoreTable(
        frame, {"clipscore": MetricInfo(Signature.parse(signature), True)}, {"device": "cpu"}
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    before = table()
    file = before.save(tmp_path / f"t{suffix}")
    after = ScoreTable.load(file)
    assert after.signatures == before.signatures
    assert after.metrics == before.metrics
    assert after.run == {"device": "cpu"}
    np.testing.assert_array_equal(after.scores("clipscore"), before.scores("clipscore"))
    for column in ("system", "item", "status", "note", "metric"):
        assert after.frame[column].tolist() == before.frame[column].tolist()
    assert after.frame["index"].tolist() == [0, 0, 0, 1]
    assert after.frame["text"].tolist()[3] == "null"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        {file.name} | ({file.name + ".json"} if suffix != ".parquet" else set())
    )


def test_a_failed_write_leaves_the_old_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = table().save(tmp_path / "t.parquet")
    before = file.read_bytes()

    def fail(frame: pd.DataFrame, path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scorekit.table.write_parquet", fail)
    with pytest.raises(UsageError, match=r"can't write .*: No space"):
        table(1.0).save(file)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_where_a_table_cannot_go(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "t.xlsx", "written as .parquet, .csv or .tsv"),
        (tmp_path / "no" / "t.csv", "no folder"),
        (tmp_path, "written as|is a folder"),
    ]:
        with pytest.raises(UsageError, match=message):
            table().save(path)


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no table"):
        ScoreTable.load(tmp_path / "none.parquet")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    (tmp_path / "y.csv").write_text("a,b\n1,2\n")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "z.parquet")
    table().save(tmp_path / "w.csv")
    (tmp_path / "w.csv").write_text("system,item\n1,2\n")
    for name, message in [
        ("x.parquet", "no score table"),
        ("y.csv", "holds its signatures"),
        ("z.parquet", "holds no signatures"),
        ("w.csv", "no score table"),
    ]:
        with pytest.raises(UsageError, match=message):
            ScoreTable.load(tmp_path / name)


def test_columns_are_the_documented_ones() -> None:
    assert tuple(table().frame.columns[: len(COLUMNS)]) == COLUMNS


def test_mean_counts_what_was_not_scored() -> None:
    estimate = table().mean("clipscore")
    assert (estimate.n, estimate.n_total) == (3, 4)
    assert estimate.value == pytest.approx((0.5 + 0.25 + 1 / 3) / 3)
    with pytest.raises(UsageError, match="no metric 'x'"):
        table().mean("x")
    with pytest.raises(UsageError, match="no system 'x'"):
        table().mean("clipscore", "x")


def many_systems(n: int) -> ScoreTable:
    """Two metrics and a component of n systems; nothing of the first system was scored."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "system": np.tile([f"s{(7 * i) % n}" for i in range(n)], 6),  # interleaved
            "item": np.repeat(["10", "9", "b", "a", "é", "b"], n),
            "index": np.repeat([0, 0, 0, 0, 0, 1], n),
            "image": "",
            "text": "",
            "status": "ok",
            "note": "",
        }
    )
    names = ("clipscore", "retrieval", "retrieval.rank")
    frames = [rows.assign(metric=name, value=rng.normal(size=len(rows))) for name in names]
    frame = pd.concat(frames, ignore_index=True)
    lost = (frame["system"] == "s0") | (rng.random(len(frame)) < 0.1)
    frame.loc[lost, ["value", "status"]] = [np.nan, "undefined"]
    signature = Signature.parse(SIGNATURE)
    infos = {
        "clipscore": MetricInfo(signature, True),
        "retrieval": MetricInfo(signature, True),
        "retrieval.rank": MetricInfo(signature, False, headline=False, aggregate="median"),
    }
    return ScoreTable(frame, infos)


def calls_of(function: Callable[[], Any]) -> int:
    """How many functions of Python a call goes through."""
    count, before = 0, sys.getprofile()

    def see(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(see)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def test_the_summary_is_every_mean_in_the_order_of_the_table() -> None:
    some = many_systems(5)
    systems = ["s0", "s2", "s4", "s1", "s3"]
    assert some.systems == systems
    wanted = [(m, s, some.mean(m, s)) for m in some.metrics for s in systems]
    assert list(some.summary()) == wanted
    assert list(some.summary(headlines=True)) == wanted[:10]
    by_name = {(metric, system): estimate for metric, system, estimate in wanted}
    assert by_name["clipscore", "s0"].n == 0 and by_name["clipscore", "s0"].n_total == 6
    assert by_name["clipscore", "s1"].low is not None
    assert by_name["retrieval.rank", "s1"].statistic == "median"
    lost = ScoreTable(some.frame[: 5 * 6 + 1], some.metrics)  # of the second metric, one row
    with pytest.raises(UsageError, match="no row of system 's2' and metric retrieval"):
        list(lost.summary())


def test_the_summary_goes_through_the_rows_once_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorekit.table.summarize", lambda *_, **__: None)
    few, many = (many_systems(n) for n in (11, 211))
    assert len(list(many.summary())) == 3 * 211
    more = calls_of(lambda: list(many.summary())) - calls_of(lambda: list(few.summary()))
    assert more < 600 * 30


def with_notes(n: int) -> ScoreTable:
    """A component without a value on 2n rows, for a reason of every two."""
    notes = [f"reason {i % n}" for i in range(2 * n)]
    names = [f"{i}.png" for i in range(2 * n)]
    rows = pd.DataFrame(
        {"system": "s", "item": names, "index": 0, "image": names, "text": "", "status": "ok"}
    )
    parts = [
        rows.assign(metric="mse", value=0.5, note=""),
        rows.assign(metric="mse.locality", value=np.nan, note=notes, status="undefined"),
        rows.assign(metric="mse.share", value=np.nan, note=notes, status="undefined"),
    ]
    infos = {
        name: MetricInfo(Signature(name, (("v", "1"),)), True, headline=name == "mse")
        for name in ("mse", "mse.locality", "mse.share")
    }
    return ScoreTable(pd.concat(parts, ignore_index=True), infos)


def test_many_reasons_are_told_by_the_first_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_failures(with_notes(60))
    title, *lines = capsys.readouterr().err.strip().splitlines()
    assert title == "components without a value, of rows that were scored:"
    assert lines == [
        *(f"  locality, share: reason {i} ({i}.png and 1 more)" for i in range(5)),
        "  ... and for 55 more reasons",
    ]
    # Only what is shown is looked at: frames of all reasons took seconds.
    few, many = with_notes(60), with_notes(600)
    more = calls_of(lambda: print_failures(many)) - calls_of(lambda: print_failures(few))
    assert more < 540 * 20


def test_headlines_compute_no_components(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []

    def counted(values: Any, *given: Any, **more: Any) -> Any:
        computed.append(len(values))
        return summarize(values, *given, **more)

    monkeypatch.setattr("scorekit.table.summarize", counted)
    print_scores(with_notes(2), None, headlines=True)
    assert computed == [4]
    assert "mse.locality" not in capsys.readouterr().out
    print_scores(with_notes(2), None)
    assert computed[1:] == [4, 0, 0]
    assert "mse.locality" in capsys.readouterr().out


def test_compare_pairs_rows_by_key_not_by_position() -> None:
    a, b = table(), table(0.1)
    shuffled = ScoreTable(b.frame.iloc[::-1].reset_index(drop=True), b.metrics)
    r = a.compare(shuffled, "clipscore")
    assert (r.n, r.wins, r.ties, r.losses) == (3, 2, 1, 0)
    assert r.difference == pytest.approx(0.2 / 3)


def test_compare_refuses_other_recipes() -> None:
    other = SIGNATURE.replace("scale:2.5", "scale:100").replace("v:1", "v:2")
    with pytest.raises(UsageError, match=r"scale: 2\.5 against 100; v: 1 against 2"):
        table().compare(table(signature=other), "clipscore")
    more_cut = SIGNATURE.replace("n=1", "n=3")
    assert table().compare(table(signature=more_cut), "clipscore").n == 3
    with pytest.raises(UsageError, match="no row was scored"):
        table().compare(table(system="t"), "clipscore")


def test_recipe_differences_keep_the_limit() -> None:
    a, b = (Signature.parse(f"m|trunc:{limit}(n=0)|v:1") for limit in (77, 64))
    assert recipe_differences(a, b) == ["trunc: 77 against 64"]


def test_compare_two_systems_of_one_table() -> None:
    both = pd.concat([table().frame, table(0.1, system="t").frame], ignore_index=True)
    one = ScoreTable(both, table().metrics)
    r = one.compare_systems("s", "t", "clipscore")
    assert (r.n, r.difference) == (3, pytest.approx(0.2 / 3))
    with pytest.raises(UsageError, match="no system 'u'"):
        one.compare_systems("s", "u", "clipscore")


def test_signatures_with_every_awkward_letter() -> None:
    prefix = 'a|b:c%7C\n"d,e é'
    signature = Signature("m", (("prefix", prefix), ("v", "1")))
    assert Signature.parse(str(signature)) == signature
    assert "\n" not in str(signature)
    assert json.loads(json.dumps(str(signature))) == str(signature)


def test_a_column_of_several_types_is_kept_as_json(tmp_path: Path) -> None:
    mixed = table()
    mixed.frame["seed"] = pd.Series([1, "abc", None, 2.5], dtype=object)
    back = ScoreTable.load(mixed.save(tmp_path / "t.parquet"))
    assert back.frame["seed"].tolist() == ["1", '"abc"', "null", "2.5"]


def test_duplicate_keys_cannot_be_compared() -> None:
    twice = pd.concat([table().frame, table().frame], ignore_index=True)
    with pytest.raises(UsageError, match="several rows have the same key"):
        ScoreTable(twice, table().metrics).compare(table(), "clipscore")
