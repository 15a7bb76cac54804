"""What others wrote: tables, scores and replies made to break, to leak, or to run something."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from scorekit import cli
from scorekit.delimited import FORMULA, frame_of, neutralised
from scorekit.entities import entities_of, size_of
from scorekit.images import decode
from scorekit.io import read_samples
from scorekit.parquet_files import arrow_table
from scorekit.prompts import read_table
from scorekit.ratings import RatingSet, rating_set
from scorekit.run import score_samples
from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import InputError, Sample, Signature, UsageError

FUZZ = Path(__file__).parent / "fuzz"
HARNESSES = sorted(path.stem for path in FUZZ.glob("fuzz_*.py"))

examples = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
AWKWARD = (
    *("\0", "\r", "a\rb", "\r\n", "\n", "\t", '"', '""', "'", ",", ";", "\\", "\x1a", "\x85"),
    *("\ufeff", "\u2028", "\u202eabc", "caf\udce9", "\ud83d", "NA", "nan", "null", "-1", "1e5"),
    *("=1+1", "+1", "-x", "@x", "'=1", "''", "＝1", "=cmd|' /C calc'!A0", "x" * 200_000),
)
texts = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(), max_size=12))


def whole(text: str) -> str:
    """A text as it comes back: no file can hold half of a surrogate pair."""
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


# The harnesses ------------------------------------------------------------------------------


@pytest.fixture
def harness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FUZZ))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("harness", HARNESSES, indirect=True)
def test_seeds_and_damaged_seeds_give_no_other_error(harness: ModuleType) -> None:
    damaged = importlib.import_module("harness").damaged
    source = random.Random(0)
    for seed in harness.SEEDS:
        harness.check(seed)
        for data in damaged(seed, 6, source):
            harness.check(data)


# What the fuzzers found -----------------------------------------------------------------------


def test_a_box_with_a_number_too_large_for_a_float() -> None:
    with pytest.raises(InputError, match="four numbers"):
        entities_of('[{"text": "a", "box": [0, 0, 1, ' + "9" * 400 + "]}]")


def test_a_rating_too_large_for_a_float(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"item": "1", "value": ' + "9" * 400 + "}\n")
    with pytest.raises(UsageError, match=r"line 1: .* is no number"):
        RatingSet.load(path)


def test_an_index_that_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("item,index,value\n1,s,4\n")
    with pytest.raises(UsageError, match="the column index must hold whole numbers"):
        RatingSet.load(path)


@pytest.mark.parametrize(
    "header",
    [
        "[]", '{"format": 1}', '{"format": 1, "scales": []}', '{"format": 1, "scales": {"x": 1}}',
        '{"format": 1, "scales": {}, "odd": ""}', '{"format": 1, "scales": {}, "kind": "x"}',
        '{"format": 1, "scales": {}, "name": 1}', '{"format": 1, "scales": {}, "notes": 1}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_ratings_with_a_wrong_header(header: str, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("item,value\n1,4\n")
    (tmp_path / "r.csv.json").write_text(header)
    with pytest.raises(UsageError, match=r"r\.csv (can't be read|was written as something other)"):
        RatingSet.load(tmp_path / "r.csv")


@pytest.mark.parametrize("text", ["m|", "m|x", "m|a:1|b"])
def test_a_signature_with_a_part_that_is_no_pair(text: str) -> None:
    with pytest.raises(UsageError, match="is no key:value"):
        Signature.parse(text)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_in_a_header_is_that_after_turning(kind: str, orientation: int) -> None:
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.new("RGB", (5, 6)).save(out, kind, exif=exif)
    assert size_of(out.getvalue()) == decode(out.getvalue()).size


def test_parquet_metadata_that_pyarrow_aborts_over() -> None:
    """A C++ exception in `RowGroupMetaData.column` ends the process: it must not be called."""
    import inspect

    from scorekit import parquet_files

    assert ".column(" not in inspect.getsource(parquet_files._read).replace("schema.column(", "")


# Tables of scores ---------------------------------------------------------------------------


def scores(text: str = "a dog", /, **changed: Any) -> ScoreTable:
    cells = {
        "system": ["s"], "item": ["1"], "index": [0], "image": ["a.png"], "text": [text],
        "metric": ["m"], "value": [0.5], "status": ["ok"], "note": [""], "skill": ["x"],
    }  # fmt: skip
    signature = Signature.parse("m|scale:2.5|v:1")
    return ScoreTable(frame_of({**cells, **changed}), {"m": MetricInfo(signature, True)}, {})


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", "safe.csv", "safe.tsv"])
@examples
@given(texts, texts, texts, st.sampled_from(["ok", "failed", "missing_image"]))
@example("a\rb", "\r", "caf\udce9", "ok")
@example("=1", "'=1", "＝", "ok")
def test_what_a_table_says_comes_back(
    tmp_path: Path, suffix: str, text: str, item: str, note: str, status: str
) -> None:
    value = 0.1 + 0.2 if status == "ok" else np.nan
    table = scores(text, item=[item], note=[note], image=[text], status=[status], value=[value])
    path = table.save(tmp_path / f"t{suffix}", spreadsheet_safe=suffix.startswith("safe"))
    rows = ScoreTable.load(path).frame
    assert len(rows) == 1
    found = rows.iloc[0]
    assert (found["text"], found["image"]) == (whole(text), whole(text))
    assert (found["item"], found["note"], found["status"]) == (whole(item), whole(note), status)
    np.testing.assert_equal(found["value"], value)


@examples
@given(texts, st.lists(st.tuples(st.sampled_from(["bb", "v", "prefix"]), texts), max_size=3))
def test_a_signature_comes_back(metric: str, pairs: list[tuple[str, str]]) -> None:
    signature = Signature(metric, tuple(pairs))
    assert Signature.parse(str(signature)) == signature


@examples
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_a_prompt_table_reads_the_same_in_every_format(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    plain = [
        {"text": whole(a).replace("\0", "0")[:99], "note": whole(b).replace("\0", "0")[:99]}
        for a, b in rows
    ]
    for suffix, sep in ((".csv", ","), (".tsv", "\t")):
        with (tmp_path / f"t{suffix}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "note"], delimiter=sep, quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(plain)
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in plain)
    (tmp_path / "t.jsonl").write_text(lines, "utf-8")
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "t.parquet")
    found = [
        read_table(tmp_path / f"t{suffix}").columns
        for suffix in (".csv", ".tsv", ".jsonl", ".parquet")
    ]
    wanted = {name: [row[name] or None for row in plain] for name in ("text", "note")}
    assert found == [wanted] * 4


def test_an_image_whose_name_is_not_utf8_costs_no_table(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (9, 9)).save(tmp_path / name)
    sample = Sample("1", "s", "x", str(tmp_path / name), source_image=str(tmp_path / name))
    table = score_samples([sample], "l1")
    assert table.scores("l1").tolist() == [0.0]
    assert set(table.frame["image"]) == {f"{tmp_path}/caf\ufffd.png"}
    for suffix in (".csv", ".parquet"):
        again = ScoreTable.load(table.save(tmp_path / f"t{suffix}"))
        assert again.frame["image"].tolist() == table.frame["image"].tolist()


def changed_header(**changed: Any) -> dict[str, Any]:
    info = {"signature": "m|v:1", "higher_is_better": True, "headline": True, "aggregate": "mean"}
    return {"format": 1, "metrics": {"m": info}, "run": {}, **changed}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "no metrics"),
        (changed_header(metrics=[]), "no metrics"),
        (changed_header(metrics={"m": 1}), "what is not said of a metric"),
        (changed_header(metrics={"m": {"signature": 1, "higher_is_better": True}}), "not said"),
        (changed_header(metrics={"m": {"signature": "m|x", "higher_is_better": True}}), "no key"),
        (changed_header(metrics={}), "no signature of 'm'"),
        (changed_header(run=[]), "run record is no JSON object"),
    ],
)
def test_scores_with_a_wrong_header(header: Any, message: str, tmp_path: Path) -> None:
    path = scores().save(tmp_path / "t.csv")
    (tmp_path / "t.csv.json").write_text(json.dumps(header))
    with pytest.raises(UsageError, match=message):
        ScoreTable.load(path)


def test_a_header_nested_without_end(tmp_path: Path) -> None:
    path = scores().save(tmp_path / "t.csv")
    (tmp_path / "t.csv.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="nested too deeply"):
        ScoreTable.load(path)
    (tmp_path / "t.jsonl").write_text('{"image": ' + "[" * 100_000)
    with pytest.raises(UsageError, match="line 1: nested too deeply"):
        read_samples(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("value", ["x"], "value holds something other than numbers"),
        ("index", [1.5], "index holds something other than numbers"),
        ("item", [5], "item holds 5, no text"),
        ("status", [None], "status has an empty cell"),
        ("text", [b"x"], "text holds b'x', no text"),
    ],
)
def test_scores_of_another_type(
    column: str, cells: list[Any], message: str, tmp_path: Path
) -> None:
    path = scores().save(tmp_path / "t.parquet")
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(cells)), path)
    if column == "index":  # whole numbers in floats are an index still
        table = pq.read_table(path).set_column(place, column, pa.array([float("nan")]))
        pq.write_table(table, path)
    with pytest.raises(UsageError, match=message):
        ScoreTable.load(path)


def test_rows_with_more_cells_than_the_header(tmp_path: Path) -> None:
    path = scores().save(tmp_path / "t.csv")
    head, row = path.read_text().splitlines()
    path.write_text(f"{head}\n{row},more\n")
    with pytest.raises(UsageError, match="more cells than its first line"):
        ScoreTable.load(path)


def test_no_header_has_a_nan(tmp_path: Path) -> None:
    table = scores()
    odd = ScoreTable(table.frame, table.metrics, {"cost": float("nan"), "most": [float("inf")]})
    path = odd.save(tmp_path / "t.csv")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    header = json.loads((tmp_path / "t.csv.json").read_text(), parse_constant=refuse)
    assert header["run"] == {"cost": None, "most": [None]}
    assert ScoreTable.load(path).run == header["run"]


# Parquet that unpacks without end ------------------------------------------------------------


def bomb(kind: str) -> pa.Table:
    long, many = "x" * 1_000_000, pa.array([0] * 5_000, pa.int32())
    repeated = pa.DictionaryArray.from_arrays(many, pa.array([long]))
    if kind == "texts":
        return pa.table({"image": repeated})
    if kind == "bytes":
        return pa.table({"image": pa.DictionaryArray.from_arrays(many, pa.array([long.encode()]))})
    if kind == "lists":
        offsets = pa.array(range(5_001), pa.int32())
        return pa.table({"references": pa.ListArray.from_arrays(offsets, repeated)})
    return pa.table({"image": pa.nulls(30_000_000, pa.string())})


@pytest.mark.parametrize("kind", ["texts", "bytes", "lists", "rows"])
@pytest.mark.parametrize("typed", [True, False])
def test_a_parquet_bomb_is_not_unpacked(kind: str, typed: bool, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(bomb(kind), path, compression="zstd", store_schema=typed)
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError, match=r"unpacks to more than|claims 30,000,000 rows"):
        read_samples(path)


def test_bounds_leave_usual_parquet_alone(tmp_path: Path) -> None:
    texts = [f"a long prompt that is repeated {i % 7} times" for i in range(3000)]
    table = pa.table(
        {
            "text": texts,
            "references": [[text, text] for text in texts],
            "image": [{"bytes": b"x", "path": None}] * 3000,
            "kind": pa.array(texts).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert arrow_table(tmp_path / "t.parquet").to_pylist() == table.to_pylist()


def test_a_folder_like_a_equal_b_makes_no_column(tmp_path: Path) -> None:
    (tmp_path / "seed=1").mkdir()
    path = scores().save(tmp_path / "seed=1" / "t.parquet")
    assert "seed" not in ScoreTable.load(path).frame.columns


# Formulas -----------------------------------------------------------------------------------


def test_cells_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    risky = [f"{start}cmd" for start in FORMULA]
    cells = dict.fromkeys(("system", "item", "image", "text", "note", "=1+1"), risky)  # fmt: skip
    many = {name: [value] * len(risky) for name, value in (("metric", "m"), ("status", "ok"))}
    numbers = {"index": list(range(len(risky))), "value": [-0.5] * len(risky)}
    table = scores(**{**cells, **many, **numbers, "skill": ["'quoted"] * len(risky)})
    path = table.save(tmp_path / "t.csv", spreadsheet_safe=True)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    for place, name in enumerate(rows[0]):
        column = [row[place] for row in rows[1:]]
        if name == "value":
            assert column == ["-0.5"] * len(risky)
        elif name != "index":
            assert not any(cell.startswith(FORMULA) for cell in (name, *column))
    assert "'=1+1" in rows[0]
    again = ScoreTable.load(path).frame
    assert again[list(table.frame.columns)].to_dict("list") == table.frame.to_dict("list")
    assert neutralised("'x") == "''x"


def test_ratings_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    given = rating_set([{"item": "=1", "system": "@x", "rater": "'ann", "value": -1.0}])
    path = given.save(tmp_path / "r.csv", spreadsheet_safe=True)
    assert '"\'=1"' in path.read_text() and ",-1.0" in path.read_text()
    again = RatingSet.load(path)
    assert again.frame.to_dict("list") == given.frame.to_dict("list")


def test_spreadsheet_safe_is_for_text_files(tmp_path: Path) -> None:
    for name in ("t.parquet", "t.csv"):
        args = ["score", "x", "--spreadsheet-safe", *(["-o", name] if name == "t.parquet" else [])]
        found = CliRunner().invoke(cli.app, args)
        assert isinstance(found.exception, UsageError)
        assert "spreadsheet-safe texts go into a file of .csv or .tsv" in str(found.exception)
