"""Sentinels: which variants are scored, how they are compared, and the command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import picture

from scorekit.metric import BaseMetric
from scorekit.run import RunOptions
from scorekit.scenes.make_edits import make_edits
from scorekit.sentinels import LEANING, PAIRS, read_set, sentinels
from scorekit.types import Feature, Sample, Scores, UsageError, value_of


@dataclass(frozen=True)
class Number(BaseMetric):
    """An image that is a number is its own score; below nought it has none."""

    name = "number"
    title = "Number"
    better: bool = True

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        return self.better

    @property
    def needs(self) -> Mapping[str, Feature]:
        return {"image": value_of("image"), "source": value_of("source_image")}

    def score(self, features: Any) -> Scores:
        x = np.array(features["image"], float)
        undefined = dict.fromkeys(np.flatnonzero(x < 0), "below nought")
        return Scores(x, {"negative": -x}, undefined=undefined)


@dataclass(frozen=True)
class Plain(BaseMetric):
    """An image that is a number is its own score; a file has 0."""

    name = "plain"
    title = "Plain"

    @property
    def needs(self) -> Mapping[str, Feature]:
        return {"image": value_of("image")}

    def score(self, features: Any) -> Scores:
        return Scores(np.array([x if isinstance(x, float) else 0.0 for x in features["image"]]))


@dataclass(frozen=True)
class TextLength(BaseMetric):
    """How long is the source text."""

    name = "text_length"
    title = "Text length"

    @property
    def needs(self) -> Mapping[str, Feature]:
        return {"text": value_of("source_text")}

    def score(self, features: Any) -> Scores:
        return Scores(np.array([float(len(text or "")) for text in features["text"]]))


@pytest.fixture
def options() -> RunOptions:
    return RunOptions(cache=False, device="cpu")


def edit(item: str, image: float | None, source: float, system: str = "m", **meta: Any) -> Sample:
    return Sample(item, system, f"text {item}", image, source_image=source, meta=meta)


def test_variants_and_how_they_rank(options):
    samples = [
        edit("a", 5.0, 1.0, over_edit=4.0, ideal_edit=6.0),
        edit("b", 2.0, 2.0, over_edit=3.0, ideal_edit=7.0),
        edit("c", 0.5, 3.0, over_edit=None),
    ]
    report = sentinels(samples, Number(), options=options)
    assert report.edits == 3
    # b's edit is as good as its source, c's is worse.
    row = report["number", "edit", "unedited"]
    assert (row.wins, row.ties, row.losses) == (1, 1, 1)
    assert row.accuracy.value == 0.5
    assert (row.accuracy.n, row.unscored) == (3, 0)
    assert 0 <= row.accuracy.low <= 0.5 <= row.accuracy.high <= 1
    assert report["number", "edit", "over"].accuracy.value == 0.5
    assert report["number", "ideal", "over"].accuracy.value == 1.0
    assert report["number", "ideal", "over"].accuracy.n == 2
    leaning = report["number", *LEANING]
    assert (leaning.wins, leaning.losses) == (2, 0)
    with pytest.raises(KeyError):
        _ = report["number", "edit", "under"]  # no under-edit is known
    assert not [row for row in report.rows if row.metric == "number.negative"]
    shown = report.table.frame.groupby("item")["system"].agg(sorted)
    assert shown["a"] == sorted(["m", "over", "ideal", "unedited", "unrelated"] * 2)
    assert shown["c"] == sorted(["m", "unedited", "unrelated"] * 2)


def test_the_metrics_own_direction_counts_and_that_of_its_parts(options):
    samples = [edit("a", 5.0, 1.0), edit("b", 6.0, 2.0)]
    up = sentinels(samples, Number(), parts=True, options=options)
    assert up["number", "edit", "unedited"].accuracy.value == 1.0
    assert up["number.negative", "edit", "unedited"].accuracy.value == 0.0
    down = sentinels(samples, Number(better=False), options=options)
    assert down["number", "edit", "unedited"].accuracy.value == 0.0
    assert not down.to_pandas()["higher_is_better"].any()


def test_rows_without_a_value_are_counted(options):
    samples = [edit("a", 5.0, -1.0), edit("b", 6.0, 2.0), edit("c", 1.0, -3.0)]
    row = sentinels(samples, Number(), options=options)["number", "edit", "unedited"]
    assert (row.accuracy.n, row.unscored, row.wins) == (1, 2, 1)
    assert row.accuracy.low is None
    none = sentinels([edit("a", 5.0, -1.0), edit("b", 6.0, -2.0)], Number(), options=options)
    assert none["number", "edit", "unedited"].accuracy.value is None
    assert none.to_pandas()["unscored"].max() == 2


def test_several_edits_of_an_item_share_its_sentinels_and_a_cluster(options):
    samples = [
        edit("a", 5.0, 1.0, "m1"),
        edit("a", 0.0, 1.0, "m2"),
        edit("a", 4.0, 1.0, "over"),
        edit("b", 9.0, 2.0, "m1"),
    ]
    report = sentinels(samples, Number(), options=options)
    assert report.edits == 3
    row = report["number", "edit", "unedited"]
    assert (row.wins, row.losses, row.accuracy.n) == (2, 1, 3)
    assert report["number", "edit", "over"].accuracy.n == 2
    # One item alone gives no interval: its edits are drawn together.
    assert report["number", "edit", "over"].accuracy.low is None
    assert (report.table.frame["system"] == "unedited").sum() == 4  # two items, headline and part


def test_the_unrelated_image_is_of_another_source_and_by_seed(options):
    # Items 0 to 5 share a source: none of their edits is unrelated to another.
    samples = [edit(f"{k}", 100.0 + k, 1.0) for k in range(6)]
    samples += [edit(f"{k}", 200.0 + k, float(k)) for k in range(6, 12)]

    def unrelated(seed: int) -> dict[str, float]:
        frame = sentinels(samples, Number(), seed=seed, options=options).table.frame
        rows = frame[(frame["system"] == "unrelated") & (frame["metric"] == "number")]
        return dict(zip(rows["item"], rows["value"], strict=True))

    first = unrelated(0)
    assert first == unrelated(0) != unrelated(1)
    for item, value in first.items():
        if int(item) < 6:
            assert value >= 200
        else:
            assert value != 200 + int(item)


def test_copies_of_a_source_are_one_source(options, tmp_path):
    # Each system has a copy of its own: the other's edit of it is not unrelated.
    samples = []
    for system in ("m1", "m2"):
        for k in range(3):
            copy = tmp_path / f"{system}-{k}.png"
            picture(k).save(copy)
            samples.append(edit(f"{k}", 100.0 + k, str(copy), system))
    frame = sentinels(samples, Plain(), options=options).table.frame
    rows = frame[frame["system"] == "unrelated"]
    assert len(rows) == 3
    assert (rows["value"] != 100 + rows["item"].astype(int)).all()
    lone = [each for each in samples if each.item == "0"]
    with pytest.raises(UsageError, match="all edits have one source"):
        sentinels(lone, Plain(), options=options)


def test_an_edit_is_scored_with_its_own_columns(options):
    samples = [
        Sample("a", "m1", "t", 5.0, source_image=1.0, source_text="x", meta={"run": 1}),
        Sample("a", "m1", "t", 6.0, source_image=1.0, source_text="xyz", index=1, meta={"run": 2}),
        edit("b", 7.0, 2.0),
    ]
    frame = sentinels(samples, TextLength(), options=options).table.frame
    rows = frame[(frame["item"] == "a") & (frame["system"] == "m1")]
    assert rows[["index", "run", "value"]].to_numpy().tolist() == [[0, 1, 1], [1, 2, 3]]
    assert not frame.duplicated(["system", "item", "index", "metric"]).any()


def test_a_table_that_brings_its_unrelated_images_needs_no_second_source(options):
    samples = [edit("a", 5.0, 1.0), edit("a", 0.0, 1.0, "unrelated")]
    report = sentinels(samples, Number(), options=options)
    assert report["number", "edit", "unrelated"].wins == 1


@pytest.mark.parametrize(
    ("samples", "metric", "message"),
    [
        ([Sample("a", "m", "t", 1.0)], Number(), "no row has a source image"),
        ([edit("a", 5.0, 1.0)], Number(), "all edits have one source"),
        ([edit("a", 5.0, 1.0), edit("b", 5.0, 1.0)], Number(), "all edits have one source"),
        (
            [edit("a", 5.0, 1.0, "over"), edit("b", 1.0, 2.0, "under")],
            Number(),
            "no row is an edit",
        ),
        ([edit("a", None, 1.0), edit("b", None, 2.0)], Number(), "no row is an edit"),
        ([edit("a", 5.0, 1.0), edit("b", 5.0, 2.0)], "retrieval", "retrieval scores a set"),
        ([], Number(), "no row has a source image"),
    ],
)
def test_what_cannot_be_ranked_is_one_clear_line(samples, metric, message, options):
    with pytest.raises(UsageError, match=message):
        sentinels(samples, metric, options=options)


# On scenes, and the command -------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_edits(tmp_path_factory.mktemp("edits") / "set", 12, size=64).table


def test_clip_i_prefers_the_unedited_copy_and_clipscore_the_change(scenes, options):
    report = sentinels(
        read_set(scenes).samples,
        ["clip_i", "clipscore"],
        backbone="scenes-clip",
        options=options,
    )
    # cos(source, source) = 1 is never beaten; nothing is less alike than another scene.
    assert report["clip_i", "ideal", "unedited"].accuracy.value == 0.0
    assert report["clip_i", *LEANING].accuracy.value == 0.0
    assert report["clip_i", "unedited", "unrelated"].accuracy.value == 1.0
    assert report["clipscore", "ideal", "unedited"].accuracy.value >= 0.6
    assert report["clipscore", *LEANING].accuracy.value >= 0.6
    known = [pair for pair in (*PAIRS, LEANING) if "edit" not in pair]
    assert [(r.better, r.worse) for r in report.rows] == known * 2
    assert len(report.table) == 2 * 12 * 5
    # 12 sources, three edits and an unrelated image of each; unedited copies are the sources.
    assert report.table.run["counts"]["features_computed"] == 12 * 5 + 12


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_the_command_writes_the_report(scenes, run, tmp_path, suffix):
    out, scores = tmp_path / f"report{suffix}", tmp_path / "scores.csv"
    code, shown, errors = run(
        *("sentinels", scenes, "-m", "clip_i", "--backbone", "scenes-clip", "--device", "cpu"),
        *("-o", out, "--scores", scores, "-q"),
    )
    assert (code, errors) == (0, "")
    assert "ideal > unedited" in shown
    assert "over > unedited (neither is right)" in shown
    assert "clip_i|bb:scenes-clip" in shown
    if suffix == ".json":
        frame = pd.DataFrame(json.loads(out.read_text())["rows"])
    else:
        frame = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert len(frame) == 7
    first = frame.iloc[0]
    assert (first["better"], first["worse"], first["accuracy"]) == ("ideal", "unedited", 0.0)
    assert (first["n"], first["losses"], first["unscored"]) == (12, 12, 0)
    assert first["signature"].startswith("clip_i|bb:scenes-clip|")
    assert len(pd.read_csv(scores)) == 60


def test_columns_name_sentinels_relative_to_the_table(run, tmp_path):
    lines = ["image,source_image,text,item,over_edit"]
    for k in range(3):
        for name in ("source", "edited", "over"):
            picture(10 * k + len(name)).save(tmp_path / f"{name}{k}.png")
        lines.append(f"edited{k}.png,source{k}.png,a red circle,{k},over{k}.png")
    table = tmp_path / "set.csv"
    table.write_text("\n".join(lines) + "\n")
    arguments = ("sentinels", table, "-m", "clip_i", "--backbone", "scenes-clip", "--no-cache")
    code, shown, _ = run(*arguments, "--json", "-q")
    found = json.loads(shown)
    assert code == 0
    assert found["edits"] == 3
    assert [(r["better"], r["worse"]) for r in found["rows"]] == [
        pair for pair in (*PAIRS, LEANING) if not {"ideal", "under"} & set(pair)
    ]
    assert {row["n"] for row in found["rows"]} == {3}
    (tmp_path / "over1.png").unlink()
    code, _, errors = run(*arguments, "-q")
    assert code == 1
    assert "missing_image: 1" in errors


def test_a_folder_with_its_sources_and_sentinels_has_no_rows_of_these(tmp_path):
    lines = ["image,source_image,text,item,system,over_edit"]
    for k in range(2):
        for name in ("edit", "source", "over"):
            (tmp_path / name).mkdir(exist_ok=True)
            picture(k).save(tmp_path / name / f"{k}.png")
        lines.append(f"edit/{k}.png,source/{k}.png,a text,{k},m,./over/{k}.png")
    (tmp_path / "prompts.csv").write_text("\n".join(lines) + "\n")
    samples = read_set(tmp_path).samples
    assert [(s.item, s.system) for s in samples] == [("0", "m"), ("1", "m")]
    assert Path(samples[1].meta["over_edit"]).is_file()


def test_wrong_use_ends_with_two(run, scenes, tmp_path):
    bare = tmp_path / "bare.csv"
    bare.write_text("image,text\na.png,a star\n")
    code, _, errors = run("sentinels", bare, "-m", "clipscore", "--backbone", "scenes-clip")
    assert code == 2
    assert "error: no row has a source image: sentinels need a column source_image" in errors
    code, _, errors = run("sentinels", scenes, "-m", "clip_i", "-o", tmp_path / "x.txt")
    assert code == 2
    assert "x.txt must end in .csv" in errors
    code, _, errors = run("sentinels", scenes, "-m", "no_such_metric")
    assert code == 2


def test_scenes_edits_writes_a_set(run, tmp_path):
    code, shown, errors = run("scenes", "edits", tmp_path / "s", "--n", 2, "--size", 32)
    assert (code, errors) == (0, "")
    assert "scorekit sentinels" in shown
    assert len((tmp_path / "s" / "edits.jsonl").read_text().splitlines()) == 10
    code, _, errors = run("scenes", "edits", tmp_path / "t", "--kinds", "blur")
    assert (code, errors.strip()) == (
        2,
        "error: unknown kind 'blur'; one or more of recolour, reshape, resize, add, remove, move",
    )


def test_the_table_of_scenes(tmp_path):
    from scorekit.scenes.balance import BEGIN, END, SHOWN, by_loss, main, measure, table

    report = measure(12, ["clip_i", "lambda_harmonic:against=source"], size=64)
    losses = by_loss(report, "clip_i")
    assert sum(found.n_total for found in losses.values()) == 12
    mean = sum(found.value * found.n for found in losses.values() if found.n) / 12
    assert mean == pytest.approx(report["clip_i", "ideal", "over"].accuracy.value)
    lines = table(report).splitlines()
    row = next(line for line in lines if line.startswith("| clip_i |"))
    assert row.endswith("| preservation |")
    assert row.count("|") == len(SHOWN) + 3
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(["--n", "3", "--size", "64", "-m", "clip_i", "--write", str(page)]) == 0
    shown = page.read_text()
    assert shown.startswith(f"before\n{BEGIN}\n3 edits")
    assert shown.endswith(f"{END}\nafter\n")
    assert "old" not in shown
    assert main(["--n", "0", "-m", "clip_i"]) == 2
