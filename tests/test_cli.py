"""The command line as a user meets it: output, exit codes, and one clear line when it is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import picture

from scorekit.cache import FILE_NAME
from scorekit.table import ScoreTable


def test_the_main_job(run: Any, image_folder: Path, tiny_clip: str, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    code, shown, errors = run("score", image_folder, "--backbone", tiny_clip, "-o", out)
    assert (code, errors) == (0, "")
    table = ScoreTable.load(out)
    estimate = table.mean("clipscore", "good")
    assert f"{estimate.value:.4f}" in shown
    assert f"{estimate.low:.4f} to {estimate.high:.4f}" in shown
    assert "4/4" in shown
    assert str(table.signatures["clipscore"]) in shown
    assert table.run["input"] == str(image_folder)


def test_json_is_json_and_nothing_else(run: Any, image_folder: Path, tiny_clip: str) -> None:
    code, shown, _ = run(
        "score", image_folder, "-m", f"clipscore@{tiny_clip}", "-m", f"clip_t@{tiny_clip}", "--json"
    )
    value = json.loads(shown)
    assert code == 0
    assert list(value["metrics"]) == ["clipscore", "clip_t"]
    assert value["metrics"]["clipscore"]["systems"]["good"]["n"] == 4
    assert value["failed"] == 0


def test_a_bad_file_is_exit_code_1(run: Any, image_folder: Path, tiny_clip: str) -> None:
    (image_folder / "bad" / "2.png").write_bytes(b"")
    code, shown, errors = run("score", image_folder, "--backbone", tiny_clip)
    assert code == 1
    assert "3/4" in shown
    assert "1 of 8 rows were not scored" in errors
    assert "2.png: zero bytes" in errors.replace("the file has ", "")


def test_a_component_without_a_value_is_told_and_is_no_failure(
    run: Any, image_folder: Path, tmp_path: Path
) -> None:
    good, bad = image_folder / "good", image_folder / "bad"
    lines = [f"{good / f'{k}.png'},{bad / f'{k}.png'}" for k in range(3)]
    table = tmp_path / "edits.csv"
    table.write_text("\n".join(["image,source_image", *lines]) + "\n")
    code, shown, errors = run("score", table, "-m", "mse", "-o", tmp_path / "mse.parquet")
    assert code == 0
    assert "3/3" in shown
    assert "modification, preservation, locality: the row has no mask" in errors
    assert "and 2 more" in errors
    assert "were not scored" not in errors


def test_two_metadata_files_of_one_folder_are_told_apart_from_another_folders(
    run: Any, image_folder: Path, tiny_clip: str
) -> None:
    (image_folder / "prompts.csv").unlink()
    line = '{"file_name": "0.png", "text": "a dog"}\n'
    (image_folder / "bad" / "metadata.jsonl").write_text(line)
    (image_folder / "good" / "metadata.jsonl").write_text(line)
    _, _, errors = run("score", image_folder, "--backbone", tiny_clip, "-q")
    assert "sources of prompts" not in errors
    (image_folder / "good" / "metadata.csv").write_text("file_name,text\n0.png,a dog\n")
    _, _, errors = run("score", image_folder, "--backbone", tiny_clip, "-q")
    assert "the folder has 2 sources of prompts" in errors
    assert "is used: good/metadata.csv, good/metadata.jsonl\n" in errors


def test_strict_makes_findings_fatal(run: Any, image_folder: Path, tiny_clip: str) -> None:
    picture(50).save(image_folder / "good" / "extra.png")
    code, _, errors = run("score", image_folder, "--backbone", tiny_clip)
    assert code == 1
    assert "extra.png" in errors
    code, shown, errors = run("score", image_folder, "--backbone", tiny_clip, "--strict")
    assert (code, shown) == (2, "")
    assert "--strict" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "no/such/folder"], "no/such/folder"),
        (["score", ".", "--out", "x.txt"], "written as .parquet"),
        (["score", "{images}", "--backbone", "hf:no/such"], "offline: give a folder"),
        (["score", "{images}"], "open_clip:ViT-B-32/openai"),
        (["score", "{images}", "-m", "clipscor"], "did you mean clipscore"),
        (["score", "{images}", "--dtype", "fp8"], "dtype is one of"),
        (["score", "{images}", "--cache", "x", "--no-cache"], "exclude each other"),
        (["score", "{images}", "--text", "a", "--prompts", "p.csv"], "--text"),
        (["score", "{images}", "--workers", "-1"], "workers must be at least 1"),
        (["score", "{images}", "--backbone", "hf:~nouser/x"], "no such path"),
        (["compare", "a.parquet", "b.parquet"], "no table a.parquet"),
        (["metrics", "nothing"], "unknown metric"),
        (["cache", "info"], "no cache at"),
        (["scenes", "make", "{images}"], ""),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    run: Any, image_folder: Path, arguments: list[str], message: str
) -> None:
    code, shown, errors = run(*[a.format(images=image_folder) for a in arguments])
    assert code == 2
    assert shown == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert "Traceback" not in errors


def test_compare(run: Any, image_folder: Path, tiny_clip: str, tmp_path: Path) -> None:
    a, b, c = (tmp_path / f"{n}.parquet" for n in "abc")
    run("score", image_folder, "--backbone", tiny_clip, "-o", a)
    run("score", image_folder, "--backbone", tiny_clip, "-o", b)
    run("score", image_folder, "-m", f"clipscore:scale=100@{tiny_clip}", "-o", c)
    code, shown, _ = run("compare", a, b)
    assert code == 0
    assert "+0.0000" in shown
    assert "8 (4)" in shown
    code, _, errors = run("compare", a, c)
    assert code == 2
    assert "scale: 2.5 against 100" in errors
    code, shown, _ = run("compare", a, "--systems", "good,bad", "--json")
    result = json.loads(shown)["metrics"]["clipscore"]
    table = ScoreTable.load(a)
    want = float(table.mean("clipscore", "bad")) - float(table.mean("clipscore", "good"))
    assert result["difference"] == pytest.approx(want)
    assert result["n"] == 4
    assert run("compare", a)[0] == 2
    assert run("compare", a, b, "--systems", "good,bad")[0] == 2


def test_compare_what_can_be_compared(
    run: Any, image_folder: Path, tiny_clip: str, tmp_path: Path
) -> None:
    """A gallery of another size makes retrieval incomparable, not the cosine beside it."""
    whole, part = tmp_path / "whole.parquet", tmp_path / "part.parquet"
    metrics = ["-m", f"clip_t@{tiny_clip}", "-m", f"retrieval@{tiny_clip}"]
    run("score", image_folder, *metrics, "-o", whole)
    lines = (image_folder / "prompts.csv").read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(x for x in lines if ",3," not in x))
    run("score", image_folder, "--prompts", tmp_path / "fewer.csv", *metrics, "-o", part)
    code, shown, errors = run("compare", whole, part)
    assert code == 0
    assert "clip_t" in shown
    assert "note: retrieval can't be compared" in errors
    assert run("compare", whole, part, "-m", "retrieval")[0] == 2


def test_lists_and_cards(run: Any) -> None:
    code, shown, _ = run("metrics")
    assert code == 0
    assert "clipscore" in shown
    assert "retrieval" in shown
    code, shown, _ = run("metrics", "clipscore")
    assert shown.startswith("# clipscore: CLIPScore")
    code, shown, _ = run("backbones", "--json")
    rows = {row["name"]: row for row in json.loads(shown)}
    assert rows["scenes-clip"]["on_disk"] is True
    assert rows["open_clip:ViT-B-32/openai"]["text_limit"] == 77
    assert rows["open_clip:ViT-B-32/openai"]["on_disk"] is False
    assert run("backbones")[0] == 0
    assert run("--version")[1].startswith("scorekit 0.")


def test_cache_commands(run: Any, image_folder: Path, tiny_clip: str, tmp_path: Path) -> None:
    folder = tmp_path / "features"
    run("score", image_folder, "--backbone", tiny_clip, "--cache", folder)
    code, shown, _ = run("cache", "info", "--cache", folder)
    assert code == 0
    assert "12 features" in shown
    assert run("cache", "clear", "--cache", folder, "--backbone", "other")[0] == 2
    code, shown, _ = run("cache", "clear", "--cache", folder, "--backbone", "hf/tiny-clip")
    assert shown.startswith("removed 12 features")
    run("score", image_folder, "--backbone", tiny_clip, "--no-cache")
    assert "0 features" in run("cache", "info", "--cache", folder)[1]


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, tiny_clip: str) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(400):
        picture(i % 50).save(folder / f"{i}.png", compress_level=i % 9)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "scorekit.cli",
            "score",
            str(folder),
            "--text",
            "a dog",
            "--backbone",
            tiny_clip,
            "--batch-size",
            "1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        # A shell's background job ignores interrupts, and what it starts inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    cache = Path(os.environ["SCOREKIT_CACHE"])
    deadline = time.monotonic() + 60
    while not (cache / FILE_NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: what was computed is in the cache" in errors
    assert "Traceback" not in errors


def test_help_names_every_command(run: Any) -> None:
    code, shown, _ = run("--help")
    assert code == 0
    for command in ("score", "compare", "metrics", "backbones", "cache", "scenes"):
        assert command in shown
    assert "default: clipscore" in run("score", "--help")[1]
