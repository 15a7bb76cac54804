"""The report of scores: what it says, what it never does, and what it does of too many rows."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs
from tiny import picture
from typer.testing import CliRunner

from scorekit.cli import app
from scorekit.reporting import cells
from scorekit.reporting.cells import plain, words_of
from scorekit.reporting.heat import Mapped, fitting, map_of
from scorekit.reporting.record import number, signed
from scorekit.reporting.scores import write_report
from scorekit.reporting.thumbnails import FEWEST_BYTES, LADDER, thumbnails
from scorekit.samples import samples_from
from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import Signature, UsageError

EVIL = '</script><script>window.hacked = 1</script><img src="x" onerror="window.hacked = 2">\'"'
RTL = "قطة حمراء \u202e على <b>السجادة</b>"
LONG = "very " * 2000 + "long"

Table = Callable[..., ScoreTable]


class Page(HTMLParser):
    """A page's elements, its data, and its text outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = self._data = ""
        self._inside = ""
        self.feed(path.read_text("utf-8").replace(get_plotlyjs(), ""))
        self.data: dict[str, Any] = json.loads(self._data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = "data" if dict(attrs).get("id") == "data" else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self._data += data
        elif self._inside not in ("script", "style"):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Makes tables: a row for each item, system and metric, all values given."""

    def make(
        values: dict[str, Any],
        systems: tuple[str, ...] = ("good", "bad"),
        texts: tuple[str, ...] = ("a cat", "a dog", "a bird"),
        recipe: str = "v:1",
        items: tuple[str, ...] = (),
        **columns: Any,
    ) -> ScoreTable:
        keys = [(s, i) for s in range(len(systems)) for i in range(len(texts))]
        for n, _ in enumerate(keys):
            if not (tmp_path / f"{n}.png").exists():
                picture(n).save(tmp_path / f"{n}.png")
        base = pd.DataFrame(
            {
                "system": [systems[s] for s, _ in keys],
                "item": [items[i] if items else f"item {i}" for _, i in keys],
                "index": 0,
                "image": [str(tmp_path / f"{n}.png") for n, _ in enumerate(keys)],
                "text": [texts[i] for _, i in keys],
            }
        )
        frames = [
            base.assign(metric=name, value=np.asarray(v, float), status="ok", note="").assign(
                **columns
            )
            for name, v in values.items()
        ]
        infos = {
            name: MetricInfo(
                Signature.parse(f"{name}|{recipe}"), name != "lpips", headline="." not in name
            )
            for name in values
        }
        return ScoreTable(pd.concat(frames, ignore_index=True), infos, {"device": "cpu"})

    return make


def written(path: Path, *tables: ScoreTable, **options: Any) -> Page:
    write_report({"abc"[i]: table for i, table in enumerate(tables)}, path, **options)
    return Page(path)


def test_the_data_hold_each_row_with_its_scores(table: Table, tmp_path: Path) -> None:
    scores = table({"clipscore": [0.9, 0.8, 0.7, 0.1, 0.2, 0.3], "lpips": range(6)})
    data = written(tmp_path / "out.html", scores).data
    assert [m["up"] for m in data["metrics"]] == [True, False]
    assert data["rows"]["values"] == [[0.9, 0.8, 0.7, 0.1, 0.2, 0.3], [0, 1, 2, 3, 4, 5]]
    assert [data["systems"][s] for s in data["rows"]["system"]] == ["good"] * 3 + ["bad"] * 3
    assert [data["texts"][t] for t in data["rows"]["text"]] == ["a cat", "a dog", "a bird"] * 2
    assert data["rows"]["path"] == [f"{i}.png" for i in range(6)]
    mean = next(line for line in data["summary"] if line[1:3] == ["good", "clipscore"])
    assert mean[3] == 0.8 and mean[4] < 0.8 < mean[5] and mean[6:] == [3, 3]


def test_summary_failures_and_record_are_in_the_page_itself(table: Table, tmp_path: Path) -> None:
    scores = table({"clipscore": [0.9, 0.8, 0.7, 0.1, 0.2, 0.3]})
    scores.frame.loc[5, ["value", "status", "note"]] = [np.nan, "unreadable_image", "cut short"]
    page = written(tmp_path / "out.html", scores)
    for words in ("0.8", "2 of 3 scored", "unreadable_image", "cut short", "clipscore|v:1", "cpu"):
        assert words in page.text, words
    assert page.text.count("★ best") == 1
    good = scores.mean("clipscore", "good")
    assert good.low is not None and good.high is not None and good.low < 0.8 < good.high
    assert f"{number(good.low)} to {number(good.high)}" in page.text
    assert page.data["rows"]["values"][0][5] is None
    assert page.data["notes"] == {"5": [[0, "unreadable_image", "cut short"]]}


def test_reasons_of_failures_are_shown_with_their_numbers(table: Table, tmp_path: Path) -> None:
    scores = table({"clipscore": range(6), "lpips": range(6)})
    lost = scores.frame["image"].str.contains("/[0-3].png")
    reasons = scores.frame["image"].map(lambda path: f"tower {path[-5] in '12'} fell")
    scores.frame.loc[lost, ["value", "status"]] = [np.nan, "failed"]
    scores.frame.loc[lost, "note"] = reasons[lost]
    text = " ".join(written(tmp_path / "out.html", scores).text.split())
    # Of two metrics one reason; two rows each.
    assert "failed: 4 rows" in text and "by clipscore, lpips" in text
    assert "tower True fell (2 rows)" in text and "tower False fell (2 rows)" in text


def test_a_run_that_warned_says_so_above_all(table: Table, tmp_path: Path) -> None:
    scores = table({"clipscore": range(6)})
    warned = ScoreTable(scores.frame, scores.metrics, {"warnings": [f"<b>{EVIL}</b>", *"23456"]})
    page = written(tmp_path / "out.html", warned)
    assert f"Warning: <b>{EVIL}</b>" in page.text and not page.named("b")
    assert "Warning: 5" in page.text and "Warning: 6" not in page.text
    two = written(tmp_path / "two.html", scores, warned)
    assert "Warning in b: 2" in two.text and "Warning in a" not in two.text
    odd = ScoreTable(scores.frame, scores.metrics, {"warnings": "not a list"})
    assert "Warning" not in written(tmp_path / "odd.html", odd).text


def test_scores_that_mean_nothing_come_with_the_warning(tmp_path: Path) -> None:
    from scorekit.run import RunOptions, score_samples

    noise(tmp_path / "photo.png", 0)
    samples = samples_from([str(tmp_path / "photo.png")], ["a red circle"])
    with pytest.warns(UserWarning, match="mean nothing") as caught:
        scores = score_samples(
            samples, "clip_t", backbone="scenes-clip", options=RunOptions(cache=False)
        )
    assert scores.run["warnings"] == [str(caught[0].message)]
    page = written(tmp_path / "out.html", scores)
    assert "Warning: a model of the scenes" in page.text
    assert "1 of 1 images are no scenes" in page.text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        # Below 0.001: Number(x.toPrecision(3)).toExponential().
        (-5.95e-4, "-5.95e-4"),
        (8.3e-6, "8.3e-6"),
        (0.00099951, "1e-3"),
        (1.2345e-10, "1.23e-10"),
        (5e-324, "5e-324"),
        # Else Number(x.toPrecision(4)).toString().
        (0.001, "0.001"),
        (0.00123456, "0.001235"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-0.5, "-0.5"),
        (2.0625, "2.063"),  # a tie, away from 0
        (-2.0625, "-2.063"),
        (99999, "100000"),
        (123456, "123500"),
        (1.23456e20, "123500000000000000000"),
        (1.23456e21, "1.235e+21"),
        (None, "–"),
    ],
)
def test_numbers_are_written_as_the_script_writes_them(value: float | None, shown: str) -> None:
    assert number(value) == shown
    if value is not None:
        assert signed(value) == (f"+{shown}" if value > 0 else shown)


def test_a_text_of_the_record_cannot_turn_around_what_stands_beside_it(
    table: Table, tmp_path: Path
) -> None:
    scores = table({"clipscore": range(6)})
    out = "a\u2069\u202eb"  # would end an isolate, then turn around the rest
    record = {"input": {"folder": out, RTL: "x"}, "names": [out, "y"], "path": "plain"}
    page = written(tmp_path / "out.html", ScoreTable(scores.frame, scores.metrics, record))
    kept = "\u2068a\u202eb\u2069"
    assert f"folder {kept}, \u2068{RTL}\u2069 x" in page.text
    assert f"- {kept}\n- y" in page.text and "\u2068plain" not in page.text
    assert plain({"q": out, "n": [1]}) == f"q: {kept}\nn:\n  - 1"


def test_systems_of_different_items_have_no_best(table: Table, tmp_path: Path) -> None:
    scores = table({"clipscore": range(6)})
    scores.frame.loc[5, "item"] = "another"
    page = written(tmp_path / "out.html", scores)
    assert "★ best" not in page.text and "the systems have different items" in page.text


def test_nothing_untrusted_becomes_markup(table: Table, tmp_path: Path) -> None:
    scores = table(
        {EVIL.replace("|", ""): range(6)},
        systems=(EVIL, RTL),
        texts=(EVIL, RTL, LONG),
        items=(EVIL, "quote's \"", RTL),
        evidence=json.dumps({"reason": EVIL}),
        **{EVIL: [EVIL, RTL, "x"] * 2},
    )
    scores.frame.loc[0, ["value", "status", "note"]] = [np.nan, "failed", EVIL]
    scores = ScoreTable(scores.frame, scores.metrics, {"input": EVIL, EVIL: {EVIL: [EVIL]}})
    target = tmp_path / "out.html"
    write_report({EVIL: scores, "other": table({"lpips": range(6)})}, target)
    page = Page(target)
    # The data, plotly, page.js and the report's five scripts.
    assert len(page.named("script")) == 8 and not page.named("img") and not page.named("b")
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert {EVIL, RTL, LONG} <= set(page.data["texts"])
    assert page.data["systems"][:2] == [EVIL, RTL]
    assert page.data["evidence"]["1"]["0"] == f"reason: {EVIL}"
    assert EVIL in page.text
    raw = target.read_text("utf-8")
    assert "window.hacked = 1</script>" not in raw and "<b>السجادة" not in raw


def test_no_request_can_leave_the_page(table: Table, tmp_path: Path) -> None:
    page = written(tmp_path / "out.html", table({"clipscore": range(6)}))
    (policy,) = [m["content"] for m in page.named("meta") if "http-equiv" in m]
    assert policy is not None and "default-src 'none'" in policy and "img-src data:" in policy
    assert "unsafe-inline" not in policy.split("style-src")[0] and "unsafe-eval" not in policy
    places = [attrs.get(k) for _, attrs in page.tags for k in ("src", "href", "action")]
    assert all(place.startswith("#") for place in places if place)


def test_texts_that_json_or_utf8_lack(table: Table, tmp_path: Path) -> None:
    scores = table({"clipscore": range(6)}, texts=("a", "nan", "c"))
    texts = pd.Series(["a \ud800 b", "nan", None, np.nan, "\u2028", "\0"], dtype=object)
    table_of_objects = ScoreTable(scores.frame.assign(text=texts), scores.metrics)
    data = written(tmp_path / "out.html", table_of_objects).data
    assert [data["texts"][t] for t in data["rows"]["text"]] == [
        *("a ? b", "nan", "", "", "\u2028", "\0")
    ]


def test_words_and_other_evidence(table: Table, tmp_path: Path) -> None:
    words = [
        {"word": "red", "start": 2, "end": 5, "attribution": -0.2, "misaligned": True},
        {"word": "cat", "start": 6, "end": 9, "attribution": 0.1, "misaligned": False},
    ]
    proof = [json.dumps(words), json.dumps({"answer": "no"}), "not json", "", "[]", "{}"]
    scores = table({"clip4dm": range(6)}, texts=("a red cat", "b", "c"), evidence=proof)
    data = written(tmp_path / "out.html", scores).data
    assert data["words"] == {"0": {"0": [[2, 5, -1000, 1], [6, 9, 500, 0]]}}
    assert data["evidence"]["1"] == {"0": "answer: no"}
    assert data["evidence"]["2"] == {"0": "not json"}


HEAT = {"rows": 2, "columns": 2, "patches": [99, -99, 0, 7], "largest": 0.1, "seen": [0, 0, 1, 1]}


def test_heat_maps_of_words(table: Table, tmp_path: Path) -> None:
    other = {**HEAT, "patches": [1, 2, 3, 4], "seen": [0.125, -0.5, 0.875, 1.5]}
    words = [
        {"start": 0, "end": 1, "attribution": -0.1, "misaligned": True, "heat": other},
        {"start": 2, "end": 5, "attribution": -0.2, "misaligned": True, "heat": HEAT},
        {"start": 6, "end": 9, "attribution": 0.1, "misaligned": False},
    ]
    scores = table(
        {"clip4dm": range(6), "f_clipscore": range(6)},
        texts=("a red cat", "b", "c"),
        evidence=[json.dumps(words), *[""] * 5],
    )
    data = written(tmp_path / "out.html", scores).data
    # The lowest word's comes first; both metrics have the same maps.
    rows = [[0, 1, -500, 1, 1], [2, 5, -1000, 1, 0], [6, 9, 500, 0]]
    assert data["words"] == {"0": {"0": rows, "1": 0}}
    assert [each[:3] for each in data["maps"]] == [
        [2, 2, [0, 0, 1000, 1000]],
        [2, 2, [125, -500, 875, 1500]],
    ]
    packed = [np.frombuffer(base64.b64decode(each[3]), np.int8).tolist() for each in data["maps"]]
    assert packed == [[99, -99, 0, 7], [1, 2, 3, 4]]
    assert data["colours"]["down"][-1] == [178, 24, 43] and data["colours"]["levels"] == 99


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 3},
        {"rows": "two"},
        {"rows": -2, "columns": -2},
        {"patches": [1, 2, 3, None]},
        {"patches": "1234"},
        {"patches": [[1, 2], [3, 4]]},
        {"patches": []},
        {"seen": [0, 0, 1]},
        {"seen": [1, 0, 0, 1]},
        {"seen": [0, 0, 1, float("inf")]},
    ],
)
def test_a_malformed_heat_map_is_none(wrong: dict[str, Any]) -> None:
    assert map_of({"heat": HEAT}) is not None
    assert map_of({"heat": {**HEAT, **wrong}}) is None and map_of({"heat": 3}) is None


def test_heat_maps_keep_to_their_budget() -> None:
    def mapped(row: int, nth: int) -> Mapped:
        return Mapped([], row, nth, [1, 1, [0, 0, 1, 1], f"{row}{nth}"])

    words = [mapped(row, nth) for row in range(10) for nth in range(3)]
    size = len(str(words[0].heat))
    kept, left_out = fitting(words, 15 * size)
    assert (len(kept), left_out) == (15, 15)
    # Of every row the lowest, of half of them the second.
    assert [len(word.entry) for word in words] == [1, 1, 0] * 5 + [1, 0, 0] * 5
    assert all(kept[word.entry[0]] == word.heat for word in words if word.entry)


def test_the_page_says_that_heat_maps_are_left_out(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = {"start": 0, "end": 1, "attribution": 1, "misaligned": True, "heat": HEAT}
    scores = table({"clip4dm": range(6)}, evidence=json.dumps([word]))
    assert "left out" not in written(tmp_path / "out.html", scores).text
    monkeypatch.setattr(cells, "MAP_BYTES", 120)
    page = written(tmp_path / "out.html", scores)
    assert "3 heat maps of words are left out" in page.text and len(page.data["maps"]) == 3


def test_malformed_words_are_shown_as_they_are() -> None:
    assert words_of([{"start": "x", "end": 2, "attribution": 1, "misaligned": 0}], "a") is None
    assert words_of(3, "a") is None and words_of([], "a") is None


def test_a_component_does_not_repeat_its_metric(table: Table, tmp_path: Path) -> None:
    scores = table({"judge": range(6), "judge.look": range(6)})
    lost = scores.frame["image"].str.endswith("/0.png")
    scores.frame.loc[lost, ["value", "status", "note"]] = [np.nan, "failed", "no answer"]
    data = written(tmp_path / "out.html", scores).data
    assert data["notes"] == {"0": [[0, "failed", "no answer"]]}


def test_too_much_text_is_cut_at_an_equal_share(table: Table, tmp_path: Path) -> None:
    texts = (*(f"{i:02}" + "<" * 30_000 for i in range(40)), "short")
    page = written(tmp_path / "out.html", table({"clipscore": range(82)}, texts=texts))
    data = page.data
    assert "cut, so that the page stays small: 40 of the prompts." in page.text
    # Cut at 20,000 letters, a text has 20,012 with the mark, in 2 + 19,998 * 6 + 14 bytes and two
    # quotes; of 4,000,000 bytes it may have a 41st: 20,012 * 97,560 / 120,006 letters.
    *cut, short = data["texts"]
    assert {len(text.removesuffix("… [cut here]")) for text in cut} == {16_268}
    assert short == "short"
    long = table({"clipscore": range(6)}, texts=("a" * 30_000, "b", "c"))
    assert len(written(tmp_path / "long.html", long).data["texts"][0]) == 20_012
    plain = written(tmp_path / "plain.html", table({"clipscore": range(6)}))
    assert "so that the page stays small" not in plain.text


# Several tables -----------------------------------------------------------------------------


def test_other_metrics_of_the_same_images_are_one_run(table: Table, tmp_path: Path) -> None:
    two = (table({"clipscore": range(6)}), table({"lpips": range(6)}))
    data = written(tmp_path / "out.html", *two).data
    assert data["runs"] == ["a + b"] and len(data["rows"]["system"]) == 6
    assert [m["name"] for m in data["metrics"]] == ["clipscore", "lpips"]


def test_two_runs_are_compared(table: Table, tmp_path: Path) -> None:
    one = table({"clipscore": [0.5, 0.5, 0.5, 0.1, 0.2, 0.3]})
    two = table({"clipscore": [0.6, 0.1, 0.5, 0.1, 0.2, np.nan]})
    two.frame.loc[5, "status"] = "failed"
    page = written(tmp_path / "out.html", one, two)
    assert page.data["runs"] == ["a", "b"] and len(page.data["rows"]["system"]) == 12
    (change,) = page.data["changes"]
    # The second run's rows come after the first's six; the largest change is first.
    assert change == {"metric": "clipscore", "b": 1, "pairs": [[1, 7, -0.4], [0, 6, 0.1]]}
    assert "-0.06" in page.text  # (0.1 - 0.4) / 5


def test_scores_of_other_recipes_are_not_compared(table: Table, tmp_path: Path) -> None:
    two = (table({"clipscore": range(6)}), table({"clipscore": range(6)}, recipe="w:x|v:1"))
    page = written(tmp_path / "out.html", *two)
    assert page.data["changes"] == []
    assert "the signatures differ in w: (none) against x" in page.text


def test_too_many_rows_are_sampled_by_item_and_paged(table: Table, tmp_path: Path) -> None:
    texts = tuple(f"text {i}" for i in range(20))
    values = [1.0] * 40
    values[7] = -1.0  # of the first system, for item 7
    scores = table({"clipscore": values}, texts=texts)
    lost = scores.frame.index[[3, 5, 9, 11, 30, 32, 34, 36]]
    scores.frame.loc[lost, ["value", "status"]] = [np.nan, "failed"]
    done = write_report({"a": scores}, tmp_path / "out.html", max_rows=13)
    assert (done.rows, done.shown, len(done.pages)) == (40, 12, 4)
    page = Page(done.path)
    shown = [page.data["items"][i] for i in page.data["rows"]["item"]]
    assert "item 7" in shown and all(shown.count(item) == 2 for item in shown)
    assert "a sample of 12 of 40 rows" in page.text
    assert [a["href"] for a in page.named("a") if ".pages/" in str(a["href"])] == [
        f"out.pages/00{i}.html" for i in (1, 2, 3, 4)
    ]
    failed = {row for row, notes in page.data["notes"].items() if notes[0][1] == "failed"}
    assert 0 < len(failed) < 8 and f"it has {len(failed)} of 8 failed." in page.text
    # By item, each with both of its systems.
    parts = [Page(path) for path in done.pages]
    assert [len(part.data["rows"]["path"]) for part in parts] == [12, 12, 12, 4]
    paths = [name for part in parts for name in part.data["rows"]["path"]]
    assert paths == [f"{i + j}.png" for i in range(20) for j in (0, 20)]
    assert "Page 2 of 4: images 13 to 24 of 40" in parts[1].text
    again = write_report({"a": scores}, tmp_path / "again.html", max_rows=13)
    assert Page(again.path).data["rows"] == page.data["rows"]


def test_only_pages_with_plots_hold_plotly(table: Table, tmp_path: Path) -> None:
    done = write_report({"a": table({"clipscore": range(6)})}, tmp_path / "out.html", max_rows=4)
    whole, *parts = (path.read_text("utf-8") for path in (done.path, *done.pages))
    assert get_plotlyjs() in whole and 'id="plots"' in whole
    for part in parts:
        assert "plotly.js v" not in part and 'id="plots"' not in part
        assert len(part) < 200_000


def test_pages_of_an_earlier_report_go(table: Table, tmp_path: Path) -> None:
    scores, target = table({"clipscore": range(6)}), tmp_path / "out.html"
    folder = tmp_path / "out.pages"
    write_report({"a": scores}, target, max_rows=1)
    assert [p.name for p in sorted(folder.iterdir())] == [f"00{i}.html" for i in range(1, 7)]
    # What a person put there stays: whatever its name, and whatever it links to.
    (folder / "note.txt").write_text("mine")
    (folder / "007.html").write_text("<p>mine, of scorekit</p>")
    (folder / "008.html").symlink_to(target)
    (folder / "009.html").mkdir()
    write_report({"a": scores}, target, max_rows=4)
    left = ["001.html", "002.html", "007.html", "008.html", "009.html", "note.txt"]
    assert [p.name for p in sorted(folder.iterdir())] == left
    write_report({"a": scores}, target)
    assert [p.name for p in sorted(folder.iterdir())] == left[2:]
    for path in (folder / "note.txt", folder / "007.html", folder / "008.html"):
        path.unlink()
    (folder / "009.html").rmdir()
    write_report({"a": scores}, target, max_rows=3)
    write_report({"a": scores}, target)
    assert not folder.exists() and target.exists()


def test_a_page_has_whole_items_and_parts_of_those_that_are_larger(
    table: Table, tmp_path: Path
) -> None:
    items = ("big", "a", "big", "b", "big")
    scores = table({"clipscore": range(10)}, texts=tuple("vwxyz"), items=items)
    done = write_report({"a": scores}, tmp_path / "out.html", max_rows=4)
    pages = [Page(path).data for path in done.pages]
    held = [[data["items"][i] for i in data["rows"]["item"]] for data in pages]
    assert held == [["big"] * 4, ["big"] * 2 + ["a"] * 2, ["b"] * 2]
    # A table of one item that no sample has room for is shown by its first rows.
    one = table({"clipscore": range(10)}, texts=tuple("vwxyz"), items=("big",) * 5)
    assert write_report({"a": one}, tmp_path / "one.html", max_rows=4).shown == 4


def test_a_table_of_nothing_is_refused(table: Table, tmp_path: Path) -> None:
    whole = table({"clipscore": range(6)})
    empty = ScoreTable(whole.frame.iloc[:0], whole.metrics)
    with pytest.raises(UsageError, match="a has no rows"):
        write_report({"a": empty}, tmp_path / "out.html")
    with pytest.raises(UsageError, match="no table"):
        write_report({}, tmp_path / "out.html")


# Pictures -----------------------------------------------------------------------------------


def noise(path: Path, seed: int, size: int = 300) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_thumbnails_are_small_and_keep_the_shape(tmp_path: Path) -> None:
    picture(1, 1000, 500).save(tmp_path / "wide.png")
    picture(2, 40, 30).save(tmp_path / "small.png")
    wide, small = thumbnails([str(tmp_path / f"{n}.png") for n in ("wide", "small")], 10**7)
    sizes = []
    for made in (wide, small):
        (tmp_path / "made.webp").write_bytes(made.data)
        with Image.open(tmp_path / "made.webp") as image:
            assert image.format == "WEBP"
            sizes.append(image.size)
    assert sizes == [(512, 256), (40, 30)] and wide.size == (1000, 500)


def test_thumbnails_keep_to_their_budget(tmp_path: Path) -> None:
    files = [noise(tmp_path / f"{i}.png", i) for i in range(30)]
    free = thumbnails(files, 10**9)
    tight = thumbnails(files, 30 * 5000)
    assert sum(len(t.data) for t in free) > 30 * 5000
    assert 30 * 1500 < sum(len(t.data) for t in tight) <= 30 * 5000
    assert LADDER[-1] == (48, 20) and len(thumbnails(files[:1], 0)[0].data) <= FEWEST_BYTES


def test_no_picture_takes_the_bytes_of_those_that_come_after(tmp_path: Path) -> None:
    # The worst of all to compress, after plain ones that let the pictures begin large.
    images = []
    probed = {i * 600 // 16 for i in range(16)}
    for i in range(600):
        images.append(str(tmp_path / f"{i}.png"))
        if i in probed:
            Image.new("RGB", (64, 64), (i % 256, 0, 0)).save(images[-1])
        else:
            dots = np.random.default_rng(i).integers(0, 2, (64, 64, 3), dtype=np.uint8) * 255
            Image.fromarray(dots).save(images[-1], compress_level=0)
    budget = FEWEST_BYTES * len(images)
    assert 0 < sum(len(t.data) for t in thumbnails(images, budget)) <= budget


def test_the_same_content_is_one_thumbnail(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    picture(2).save(tmp_path / "c.png")
    a, b, c = thumbnails([str(tmp_path / f"{n}.png") for n in "abc"], 10**6)
    assert a is b and a is not c and a.data != c.data


def test_an_image_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    (tmp_path / "cut.png").write_bytes(Path(noise(tmp_path / "n.png", 0)).read_bytes()[:5000])
    images = [str(tmp_path / "broken.png"), str(tmp_path / "cut.png"), "gone.png"]
    made = thumbnails([*images, "<Image 4x4>", "", str(tmp_path)], 10**6)
    assert all(not t.data and t.size is None for t in made)
    reasons = ("not an image", "cut short", "no file gone.png", "in memory", "no image", "folder")
    for one, reason in zip(made, reasons, strict=True):
        assert reason in one.why


def test_a_hostile_file_name_is_text(table: Table, tmp_path: Path) -> None:
    scores = table({"clipscore": range(6)})
    name = "\"'><img src=x onerror=alert(1)>\u202e{{ 7 * 7 }} & .png"
    (tmp_path / "0.png").rename(tmp_path / name)
    there = scores.frame["image"].replace(str(tmp_path / "0.png"), str(tmp_path / name))
    gone = there.replace(str(tmp_path / "1.png"), str(tmp_path / f"no {name}"))
    target = tmp_path / f"{name}.html"
    page = written(target, ScoreTable(scores.frame.assign(image=gone), scores.metrics))
    assert page.data["rows"]["path"][:3] == [name, f"no {name}", "2.png"]
    found, lost, _ = (page.data["pictures"][i] for i in page.data["rows"]["picture"][:3])
    assert "src" in found and f"no {name}"[:20] in lost["why"]
    assert not page.named("img") and "<img" not in target.read_text("utf-8").split("</style>")[-1]


def test_a_relative_path_is_found_beside_the_table(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    assert not thumbnails(["a.png"], 10**6)[0].data
    assert thumbnails(["a.png"], 10**6, roots=[tmp_path / "other", tmp_path])[0].data


# The command line ---------------------------------------------------------------------------


def test_a_report_needs_no_torch(table: Table, tmp_path: Path) -> None:
    table({"clipscore": range(6)}).save(tmp_path / "t.csv")
    code = (
        "import sys; from scorekit.cli import app\n"
        f"app(['report', {str(tmp_path / 't.csv')!r}, '-o', {str(tmp_path / 'o.html')!r}],"
        " standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "report written" in done.stderr
    assert Page(tmp_path / "o.html").data["rows"]["values"] == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t.csv", "-o", "out.pdf"], "must end in .html"),
        (["t.csv", "-o", "gone/out.html"], "no folder gone"),
        (["gone.csv", "-o", "out.html"], "no table gone.csv"),
        (["t.csv", "t.csv", "-o", "out.html"], "given twice"),
        (["t.csv", "-o", "out.html", "--images", "gone"], "no folder gone"),
    ],
)
def test_wrong_use(
    arguments: list[str],
    message: str,
    table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table({"clipscore": range(6)}).save(tmp_path / "t.csv")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", *arguments])
    assert isinstance(result.exception, UsageError) and message in str(result.exception)
    assert not (tmp_path / "out.html").exists()


def test_score_writes_a_report(image_folder: Path, tiny_clip: str, tmp_path: Path) -> None:
    target = tmp_path / "out.html"
    arguments = ["score", str(image_folder), "--backbone", tiny_clip, "--report", str(target)]
    result = CliRunner().invoke(app, [*arguments, "-q", "--json", "--no-cache"])
    assert result.exit_code == 0, result.output
    page = Page(target)
    assert len(page.data["rows"]["system"]) == 8 and page.data["systems"] == ["good", "bad"]
    assert all("src" in p for p in page.data["pictures"])


def test_headlines_alone_are_printed(image_folder: Path, tiny_clip: str) -> None:
    arguments = ["score", str(image_folder), "-m", "clip4dm:last=2", "--backbone", tiny_clip]
    arguments += ["-q", "--no-cache"]
    whole, short = (
        CliRunner().invoke(app, [*arguments, *more]).stdout for more in ([], ["--headlines"])
    )
    assert "clip4dm.cosine" in whole and "clip4dm.misaligned" in whole
    assert "clip4dm." not in short and "clip4dm|bb:" in short
    lines = [[li.split() for li in out.splitlines() if " clip4dm " in li] for out in (whole, short)]
    assert lines[0] == lines[1] and lines[0][0][1] == "good"
    result = CliRunner().invoke(app, [*arguments, "--headlines", "--json"])
    assert "clip4dm.cosine" in json.loads(result.stdout)["metrics"]


def test_edits_keep_their_source(tiny_clip: str, tmp_path: Path) -> None:
    from scorekit.run import RunOptions, score_samples

    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    samples = samples_from(
        [str(tmp_path / "0.png"), str(tmp_path / "1.png")],
        ["a cat", "a dog"],
        source_image=[str(tmp_path / "2.png"), None],
        source_text=["a tree", None],
    )
    scores = score_samples(
        samples, ["clipscore"], backbone=tiny_clip, options=RunOptions(cache=False)
    )
    scores.save(tmp_path / "t.csv")
    loaded = ScoreTable.load(tmp_path / "t.csv")
    assert list(loaded.frame["source_image"]) == [str(tmp_path / "2.png"), ""]
    data = written(tmp_path / "out.html", loaded).data
    kinds = ["src" in data["pictures"][i] for i in data["rows"]["source"]]
    assert kinds == [True, False]
    assert [data["texts"][t] for t in data["rows"]["sourceText"]] == ["a tree", ""]
