"""No page of a report is larger than it may be, whatever the table holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_report import Page

from scorekit.reporting import cells, scores
from scorekit.reporting.cells import LeftOut
from scorekit.reporting.paging import fitting
from scorekit.reporting.scores import Written, write_report
from scorekit.reporting.words import Lists
from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import Signature

ROOM = 1_000_000
"""Bytes of a page besides its code."""


def judged(text: str, heat: bool = False) -> str:
    """Evidence of a text's words, every third misaligned and the first three with a map."""
    words, start = [], 0
    for nth, word in enumerate(text.split()):
        words.append(
            {"start": start, "end": start + len(word), "attribution": nth / 99 - 0.3}
            | {"misaligned": nth % 3 == 0}
        )
        if heat and nth < 3:
            patches = np.random.default_rng(nth).integers(-99, 99, 196).tolist()
            box = {"rows": 14, "columns": 14, "seen": [0, 0, 1, 1]}
            words[-1]["heat"] = {**box, "patches": patches}
        start += len(word) + 1
    return json.dumps(words)


def table(
    n: int, *, evidence: dict[str, list[str]], run: dict[str, Any] | None = None, **columns: Any
) -> ScoreTable:
    """Rows of four systems; the metrics are those that have evidence."""
    base = pd.DataFrame(
        {
            "system": [f"s{i % 4}" for i in range(n)],
            "item": [f"item {i // 4}" for i in range(n)],
            "index": 0,
            "image": [f"gone/{i}.png" for i in range(n)],
            "text": "",
            "status": "ok",
            "note": "",
        }
    ).assign(**columns)
    frames = [
        base.assign(metric=name, value=np.arange(n) / n, evidence=proofs)
        for name, proofs in evidence.items()
    ]
    infos = {name: MetricInfo(Signature.parse(f"{name}|v:1"), True) for name in evidence}
    return ScoreTable(pd.concat(frames, ignore_index=True), infos, run or {})


@pytest.fixture
def limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pages may have a megabyte besides the code of the first one."""
    assert scores.MAX_BYTES <= 60_000_000
    small = write_report({"a": table(1, evidence={"m": [""]})}, tmp_path / "small.html")
    most = small.path.stat().st_size + ROOM
    monkeypatch.setattr(scores, "MAX_BYTES", most)
    return most


def check(done: Written, limit: int, n: int) -> list[Page]:
    """No file is too large, and all rows are on the pages."""
    files = [done.path, *done.pages]
    assert max(path.stat().st_size for path in files) <= limit
    pages = [Page(path) for path in files]
    held = [len(page.data["rows"]["system"]) for page in pages]
    assert held[0] == done.shown and (sum(held[1:]) == n if done.pages else held[0] == n)
    return pages


def edits(folder: Path, n: int, side: int = 64) -> ScoreTable:
    """Noise made of noise, with long prompts, notes and reasons, and words by two metrics."""
    rng = np.random.default_rng(0)
    for i in range(2 * n):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png", compress_level=0)
    texts = [" ".join(f"w{i % 97}{k}" for k in range(75)) for i in range(n)]
    words = [judged(text, heat=True) for text in texts]
    return table(
        n,
        evidence={
            "clip4dm": words,
            "f_clipscore": words,
            "viescore": [json.dumps("<" * 600 + str(i)) for i in range(n)],
        },
        image=[str(folder / f"{i}.png") for i in range(n)],
        source_image=[str(folder / f"{n + i}.png") for i in range(n)],
        source_text=[f"before {text}" for text in texts],
        text=texts,
        kind=["<" * 300 + str(i) for i in range(n)],
        note=["n" * 300 + str(i) for i in range(n)],
    )


def test_a_table_that_is_too_large_for_a_page_is_paged(tmp_path: Path, limit: int) -> None:
    done = write_report({"a": edits(tmp_path, 200)}, tmp_path / "out.html")
    whole, *parts = check(done, limit, 200)
    assert 20 < done.shown < 200 and parts
    assert f"a sample of {done.shown} of 200 rows" in whole.text
    for page in (whole, *parts):
        # Whole items, each with its four systems; and every picture is there.
        assert set(np.bincount(page.data["rows"]["item"])) == {4}
        assert all("src" in picture for picture in page.data["pictures"])
    assert f"{done.shown} of the texts of evidence" in whole.text


def test_pictures_take_the_room_that_there_is(tmp_path: Path, limit: int) -> None:
    whole = edits(tmp_path, 24, side=200)
    done = write_report({"a": whole}, tmp_path / "out.html")
    (page,) = check(done, limit, 24)
    assert not done.pages and done.path.stat().st_size > limit - ROOM // 2
    # A list that two metrics have is there once.
    assert page.data["words"]["0"]["1"] == 0 and len(page.data["words"]["0"]["0"]) > 10


N = 60
BULK = "<&'\"\n\\\0é" * 1000
KINDS: dict[str, dict[str, Any]] = {
    "prompts": {"text": [f"{i}{BULK}" for i in range(N)]},
    "items": {"item": [f"{i}{BULK}" for i in range(N)]},
    "systems": {"system": [f"{i}{BULK}" for i in range(N)]},
    "paths": {"image": [f"{i}{BULK}.png" for i in range(N)]},
    "notes": {"note": [f"{i}{BULK}" for i in range(N)]},
    "tags": {f"tag{t}": [f"{i}{BULK[:900]}" for i in range(N)] for t in range(40)},
    "failures": {"status": "failed", "note": [f"{i}{BULK}" for i in range(N)]},
    "evidence": {"evidence": {"m": [json.dumps({"why": f"{i}{BULK}"}) for i in range(N)]}},
    "record": {"run": {BULK: BULK, "more": {str(i): BULK[:999] for i in range(300)}}},
    "warnings": {"run": {"warnings": [BULK] * 99}},
    "words": {
        "evidence": {f"m{m}": [judged("x " * 500 * (m + 1))] * N for m in range(3)},
        "text": "x " * 1500,
    },
    "everything": {
        "text": [f"{i}{BULK}" for i in range(N)],
        "item": [f"{i}{BULK}" for i in range(N)],
        "image": [f"{i}{BULK}.png" for i in range(N)],
        "note": [f"{i}{BULK}" for i in range(N)],
        "evidence": {"m": [judged("x " * 500)] * N, "n": [json.dumps(BULK)] * N},
        **{f"tag{t}": [f"{i}{BULK[:900]}" for i in range(N)] for t in range(40)},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_content_makes_a_page_too_large(kind: str, tmp_path: Path, limit: int) -> None:
    given = {"evidence": {"m": [""] * N}, **KINDS[kind]}
    done = write_report({"a": table(N, **given)}, tmp_path / "out.html")
    check(done, limit, N)


def test_words_are_left_out_of_long_lists_and_counted(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "WORD_BYTES", 800_000)
    texts = ["a b", "x " * 3000]
    proofs = [judged(text) for text in texts]
    page = check(
        write_report(
            {"a": table(2, evidence={"clip4dm": proofs}, text=texts)}, tmp_path / "out.html"
        ),
        limit,
        2,
    )[0]
    short, long = (page.data["words"][row]["0"] for row in "01")
    assert len(short) == 2 and 100 < len(long) < 3000
    # Of the misaligned words, every third, those that are lowest, in the order of the text.
    assert [span[0] for span in long] == list(range(0, 6 * len(long), 6))
    assert f"The shares of {3000 - len(long):,} words are left out" in page.text


def test_a_cut_list_keeps_a_word_and_its_map() -> None:
    heat: list[Any] = [1, 1, [0, 0, 1000, 1000], "Yw=="]
    lists = Lists()
    lists.add(3, 0, [[0, 1, 900, 0], [2, 3, -100, 0], [4, 5, 5, 1]], [None, None, heat])
    lists.add(3, 1, [[0, 1, 900, 0], [2, 3, -100, 0], [4, 5, 5, 1]], [None, None, None])
    lists.add(3, 2, [[0, 1, 900, 0], [2, 3, -100, 0], [4, 5, 5, 1]], [None, None, heat])
    assert lists.cut(10**6) == 0
    # The second list has no map, and so it is another one.
    assert lists.by_row()[3][2] == 0 and lists.by_row()[3][1] != 0
    assert lists.cut(0) == 4
    (mapped,) = lists.mapped()
    assert mapped.entry == [4, 5, 5, 1] and mapped.heat == heat and mapped.row == 3
    assert lists.by_row() == {3: {0: [[4, 5, 5, 1]], 1: [[4, 5, 5, 1]], 2: 0}}


def test_a_choice_of_rows_is_made_smaller_until_it_fits() -> None:
    def cost(rows: np.ndarray) -> int:
        return 100 + 10 * len(rows)

    assert len(fitting(np.arange, 50, cost, 600)) == 50
    fewer = len(fitting(np.arange, 50, cost, 599))
    assert 30 < fewer < 50
    assert len(fitting(np.arange, 50, cost, -5)) == 1


def test_what_is_left_out_is_said() -> None:
    left_out = LeftOut()
    assert left_out.cut("notes", ["short", "x" * 3000, "y" * 3000], 1000) != []
    assert left_out.sentences() == [
        "Long texts are cut, so that the page stays small: 2 of the notes. Where one is cut, it "
        "says so."
    ]
    assert LeftOut().sentences() == []
