"""The gallery in a real browser: its order, its cards and the row that is open."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import Open, check_silent, chromium, found_rows, gallery, needs_chromium
from edit_table import EDITS, LONG, NOTE, PARTS, edits
from PIL import Image

from scorekit.reporting.scores import write_report

pytestmark = needs_chromium
AT = "getBoundingClientRect()"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    return write_report({"one": edits(folder)}, folder / "one.html").path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser: Any, report: Path, request: Any) -> Iterator[Open]:
    """The report of one run, on a window of this width; silent to the end."""
    found = gallery(browser, report, getattr(request, "param", 1400))
    yield found
    console = found.console
    found.page.close()
    assert console == []


both_widths = pytest.mark.parametrize("opened", [1400, 390], indirect=True)


def makers(opened: Open) -> list[str]:
    """System and item of each card, short."""
    cards = opened.page.locator("#grid > li").all()
    names = [card.locator(".maker").inner_text()[0] for card in cards]
    items = [card.locator(".open").inner_text().split()[-1] for card in cards]
    return [f"{name} {item}" for name, item in zip(names, items, strict=True)]


def head(opened: Open) -> str:
    return str(opened.page.locator("#row-head").inner_text())


# Order and filters --------------------------------------------------------------------------


def test_sorted_by_each_column_and_worst_first_at_first(opened: Open) -> None:
    page = opened.page
    assert makers(opened) == ["b y", "b 9", "b 10", "a y", "a 10", "a 9"]  # a 9 has no score
    assert page.locator("#order option").all_inner_texts() == ["worst first", "best first"]
    falls = {
        "system": ["a 10", "a 9", "a y", "b 10", "b 9", "b y"],
        "item": ["a 9", "b 9", "a 10", "b 10", "a y", "b y"],  # 9 before 10
        "status": ["a 9", "a 10", "a y", "b 10", "b 9", "b y"],
        "kind": ["a y", "b y", "a 9", "b 9", "a 10", "b 10"],
        "order of the table": ["a 10", "a 9", "a y", "b 10", "b 9", "b y"],
    }
    rises = {
        "system": ["b 10", "b 9", "b y", "a 10", "a 9", "a y"],
        "item": ["a y", "b y", "a 10", "b 10", "a 9", "b 9"],
        "status": ["a 10", "a y", "b 10", "b 9", "b y", "a 9"],
        "kind": ["a 10", "b 10", "a 9", "b 9", "a y", "b y"],
        "order of the table": ["b y", "b 9", "b 10", "a y", "a 9", "a 10"],
    }
    for order, expected in (("worst", falls), ("best", rises)):
        page.select_option("#order", order)
        for name, rows in expected.items():
            page.select_option("#sort", label=name)
            opened.until("document.getElementById('order').textContent.startsWith('first to')")
            opened.settled()
            assert makers(opened) == rows, (order, name)


def test_a_range_of_scores_needs_a_metric(opened: Open) -> None:
    page = opened.page
    page.locator("#more summary").click()
    page.fill("#low", "-2")
    found_rows(opened, "2 images of 6")
    page.select_option("#sort", label="order of the table")
    found_rows(opened, "6 images of 6")
    assert page.locator("#low").is_disabled() and page.locator("#high").is_disabled()
    assert page.locator("#active").inner_text() == ""
    page.select_option("#sort", label="ssim")
    found_rows(opened, "3 images of 6")


def test_a_tag_without_a_value_and_an_open_quote(opened: Open) -> None:
    page = opened.page
    page.locator("#more summary").click()
    page.select_option("#by-tag", label="kind")
    opened.settled()
    assert page.locator("#active").inner_text() == ""
    page.select_option("#by-value", label="clay")
    found_rows(opened, "2 images of 6")
    assert page.locator("#active").inner_text() == "(1 in use)"
    page.locator("#controls button[type=reset]").click()
    found_rows(opened, "6 images of 6")
    page.fill("#find", '"9 in gl')
    found_rows(opened, "2 images of 6")


# Cards --------------------------------------------------------------------------------------


def test_cards_of_five_metrics_show_modification_and_preservation(opened: Open) -> None:
    names = opened.page.locator("#grid > li").first.locator("dt").all_inner_texts()
    assert names == [*EDITS[:4], *PARTS]


@both_widths
def test_nothing_lies_over_another_side_by_side(opened: Open) -> None:
    page = opened.page
    page.select_option("#view", "items")
    page.wait_for_selector("#grid .strip")
    boxes = page.evaluate(
        f"""() => [...document.querySelectorAll("#grid .strip")].map((strip) =>
          [...strip.children].map((box) => [box, ...box.querySelectorAll(".open, dt, dd")]
            .map((e) => e.{AT}).map(({{ left, right }}) => [left, right])))"""
    )
    assert len(boxes) == 3
    for strip in boxes:
        assert len(strip) == 2
        for (left, right), *inside in strip:
            assert len(inside) == 1 + 2 * 6
            assert all(left <= a <= b <= right for a, b in inside)
        assert strip[0][0][1] < strip[1][0][0]


@pytest.mark.parametrize("view", ["images", "items"])
def test_pointing_at_a_status_says_why_and_a_click_opens_the_row(opened: Open, view: str) -> None:
    page = opened.page
    page.select_option("#view", view)
    lost = page.locator("#grid .none")
    opened.until(
        f"Boolean(document.querySelector('#grid .strip')) === {str(view == 'items').lower()}"
    )
    lost.scroll_into_view_if_needed()
    at = lost.bounding_box()
    place = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    told = page.evaluate("([x, y]) => document.elementFromPoint(x, y).title", list(place))
    assert told == NOTE
    page.mouse.click(*place)
    assert head(opened) == f"item 9 · {LONG}"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.row") == "1"


def test_images_have_texts(opened: Open) -> None:
    images = opened.page.locator("#grid > li").first.locator("img")
    texts = [image.get_attribute("alt") for image in images.all()]
    assert texts == ["source", "b: x \u202e y in clay"]


def test_a_name_from_right_to_left_turns_no_other_around(opened: Open) -> None:
    opened.page.locator("#grid button.open").first.click()
    assert opened.page.locator("#row-head bdi").all_inner_texts() == ["x \u202e y", "b"]
    left = [box.bounding_box()["x"] for box in opened.page.locator("#row-head bdi").all()]
    assert left[0] < left[1]


# An open row --------------------------------------------------------------------------------


def test_arrow_keys_go_on_from_the_first_and_the_last_row(opened: Open) -> None:
    page = opened.page
    page.locator("#grid button.open").nth(1).focus()
    page.keyboard.press("Enter")
    order = ["x \u202e y · b", "item 9 · b", "item 10 · b", f"x \u202e y · {LONG}"]
    order += [f"item 10 · {LONG}", f"item 9 · {LONG}"]
    at = 1
    for key in ("ArrowLeft", *["ArrowRight"] * 5, "ArrowLeft"):
        page.keyboard.press(key)
        at += 1 if key == "ArrowRight" else -1
        assert head(opened) == order[at]
        assert page.evaluate("document.activeElement.closest('dialog') !== null")
        assert not page.evaluate("Boolean(document.activeElement.disabled)")
    page.locator("#next").click()  # to the last row: the button goes off under the pointer
    page.keyboard.press("ArrowLeft")
    assert head(opened) == order[4]
    for key in ("Control+ArrowLeft", "Alt+ArrowUp", "Meta+ArrowLeft"):
        page.keyboard.press(key)
        assert head(opened) == order[4]


@both_widths
def test_source_stands_at_the_half_that_shows_it(opened: Open) -> None:
    page = opened.page
    page.locator("#grid button.open").first.click()
    page.locator("dialog .over").evaluate("image => image.decode()")
    picture = Image.open(io.BytesIO(page.locator("dialog .large").screenshot())).convert("RGB")
    middle = picture.height // 2
    halves = [picture.getpixel((picture.width // 2 + side, middle)) for side in (-30, 30)]
    assert [max("red", "green", "blue", key=lambda c: p["rgb".index(c[0])]) for p in halves] == [
        "red",
        "blue",
    ]
    line = page.locator("dialog .slider > *")
    texts = line.evaluate_all("all => all.map((e) => e.textContent.trim())")
    assert texts == ["source", "", "edited", "difference"]
    left = [box.bounding_box()["x"] for box in line.all()[:3]]
    assert left == sorted(left)


def test_the_slider_and_the_difference_stay_from_row_to_row(opened: Open) -> None:
    page = opened.page
    page.locator("#grid button.open").first.click()
    page.locator("dialog input[type=range]").fill("20")
    page.locator("dialog input[type=checkbox]").check()
    page.locator("#next").click()
    assert page.locator("dialog input[type=range]").input_value() == "20"
    assert page.locator("dialog input[type=range]").is_disabled()
    over = page.locator("dialog .over")
    assert over.evaluate("e => getComputedStyle(e).mixBlendMode") == "difference"
    page.locator("dialog input[type=checkbox]").uncheck()
    assert "20%" in over.evaluate("e => getComputedStyle(e).clipPath")


@both_widths
def test_a_long_note_is_read_to_its_end(opened: Open) -> None:
    opened.page.fill("#find", "undefined")
    found_rows(opened, "1 image of 6")
    opened.page.locator("#grid button.open").click()
    note = opened.page.locator("dialog td.text", has_text="xxx").first
    assert note.inner_text().endswith(NOTE)
    assert note.evaluate(f"e => e.{AT}.right <= e.closest('dialog').{AT}.right")


def test_words_of_two_metrics_that_judge_alike_are_listed_once(
    browser: Any, tmp_path: Path
) -> None:
    table = edits(tmp_path, ("clip4dm", "f_clipscore"), lost=())
    same = [{"start": 0, "end": 4, "attribution": -0.5, "misaligned": True}]
    other = [{"start": 0, "end": 4, "attribution": 0.5, "misaligned": False}]
    frame = table.frame.assign(evidence=json.dumps(same))
    last = frame.index[(frame["metric"] == "f_clipscore") & (frame["system"] == "b")]
    frame.loc[last, "evidence"] = json.dumps(other)
    path = write_report({"one": replace(table, frame=frame)}, tmp_path / "one.html").path
    opened = gallery(browser, path)
    page = opened.page
    page.select_option("#sort", label="f_clipscore")
    opened.settled()
    for system, listed in (("b", ["clip4dm", "f_clipscore"]), ("a", ["clip4dm and f_clipscore"])):
        place = [maker[0] for maker in makers(opened)].index(system)
        card = page.locator("#grid > li").nth(place)
        assert card.locator(".word.flagged").count() == (system == "a")
        card.locator(".open").click()
        told = page.locator("dialog summary").all_inner_texts()
        assert [text for text in told if text.startswith("Words by")] == [
            f"Words by {names}" for names in listed
        ]
        page.keyboard.press("Escape")
    page.close()
    check_silent(opened, path)
