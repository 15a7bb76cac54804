"""A saved table of scores is scored again: by its samples, each once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from scorekit.io import read_samples
from scorekit.run import RunOptions, score_samples
from scorekit.table import ScoreTable

METRICS = ["clipscore", "retrieval"]
SAMPLE = ["system", "item", "index", "text"]


@pytest.fixture
def scored(
    image_folder: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ScoreTable:
    """Two metrics on eight images, by paths relative to the current folder."""
    monkeypatch.chdir(tmp_path)
    (image_folder / "bad" / "3.png").write_bytes(b"")
    samples = read_samples("images").samples
    options = RunOptions(cache=tmp_path / "cache")
    return score_samples(samples, METRICS, backbone=tiny_clip, options=options)


@pytest.mark.parametrize("name", ["scores.csv", "scores.tsv", "scores.parquet"])
def test_each_sample_is_listed_once(scored: ScoreTable, name: str, image_folder: Path) -> None:
    scored.save(name)
    listing = read_samples(name)
    given = read_samples("images").samples
    assert [(s.system, s.item, s.index, s.text, s.image) for s in listing.samples] == [
        (s.system, s.item, s.index, s.text, s.image) for s in given
    ]
    assert [s.meta for s in listing.samples] == [{}] * 8
    assert listing.findings == []


def test_its_scores_are_the_same_again(scored: ScoreTable, tiny_clip: str, tmp_path: Path) -> None:
    scored.save("scores.csv")
    options = RunOptions(cache=tmp_path / "cache")
    samples = read_samples("scores.csv").samples
    again = score_samples(samples, METRICS, backbone=tiny_clip, options=options)
    pd.testing.assert_frame_equal(again.frame, scored.frame)
    assert (again.mean("clipscore").n, again.mean("clipscore").n_total) == (7, 8)


def test_own_columns_stay_and_odd_texts_come_back(scored: ScoreTable, image_folder: Path) -> None:
    frame = scored.frame.assign(seed="=7", text="=1+1")
    ScoreTable(frame, scored.metrics, scored.run).save("scores.csv", spreadsheet_safe=True)
    assert "'=1+1" in Path("scores.csv").read_text()
    samples = read_samples("scores.csv").samples
    assert {s.text for s in samples} == {"=1+1"}
    assert [s.meta for s in samples] == [{"seed": "=7"}] * 8


@pytest.mark.parametrize("beside", ["", "{", "[]", json.dumps({"metrics": 1})])
def test_no_signatures_are_needed(scored: ScoreTable, beside: str) -> None:
    scored.save("scores.csv")
    Path("scores.csv.json").write_text(beside)
    assert len(read_samples("scores.csv").samples) == 8


def test_paths_may_be_relative_to_the_table(
    scored: ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored.save("scores.parquet")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    listing = read_samples("../scores.parquet")
    assert [Path(str(s.image)).is_file() for s in listing.samples] == [True] * 8
    assert listing.findings == []
    shutil.move(tmp_path / "scores.parquet", elsewhere)
    (finding,) = read_samples("scores.parquet").findings
    assert (finding.kind, finding.count) == ("missing_image", 8)


def test_a_table_that_lacks_a_column_is_taken_as_it_stands(scored: ScoreTable) -> None:
    scored.frame.drop(columns="note").to_csv("scores.csv", index=False)
    samples = read_samples("scores.csv").samples
    assert len(samples) == 8 * scored.frame["metric"].nunique()
    assert samples[0].meta["metric"] == "clipscore"


def test_a_run_does_not_write_over_what_it_scores(
    scored: ScoreTable, run: Callable[..., tuple[int, str, str]], tiny_clip: str
) -> None:
    scored.save("scores.csv")
    Path("link.csv").symlink_to("scores.csv")
    scored.save("next.partial.csv")
    shutil.copytree("images", "meta")
    Path("meta/prompts.csv").rename("meta/metadata.csv")
    files = ["scores.csv", "next.partial.csv", "images/prompts.csv", "meta/metadata.csv"]
    before = [Path(file).read_bytes() for file in files]
    for source, out in [
        *[("scores.csv", name) for name in ("scores.csv", "./scores.csv", "link.csv")],
        ("next.partial.csv", "next.csv"),  # whose partial table a finished run removes
        ("images", "images/prompts.csv"),
        ("meta", "meta/metadata.csv"),
    ]:
        code, _, said = run("score", source, "--backbone", tiny_clip, "--out", out)
        assert code == 2
        assert f"{out} is what is scored; write the scores to another file" in said
    prompts = ("--prompts", "images/prompts.csv", "--out", "images/prompts.csv")
    assert run("score", "images", *prompts, "--backbone", tiny_clip)[0] == 2
    assert [Path(file).read_bytes() for file in files] == before
    assert not Path("images/prompts.csv.json").exists()


def test_rows_of_a_table_of_scores_that_leave_its_folder_are_told(scored: ScoreTable) -> None:
    Path("runs").mkdir()
    scored.save("runs/scores.csv")
    (finding,) = read_samples("runs/scores.csv").findings
    assert (finding.kind, finding.count) == ("outside_folder", 8)
