"""The report of scores in a real browser: opened from disk, sorted, filtered, scrolled, opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import picture

from scorekit.reporting.scores import write_report
from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import Signature

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
EVIL = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked=1">\'"'
RTL = "قطة حمراء \u202e على السجادة"
LONG = "very " * 2000 + "long"
both_widths = pytest.mark.parametrize("opened", [1400, 390], indirect=True)
ITEMS, SYSTEMS = 200, ("good", "bad", EVIL)


@dataclass
class Open:
    """A page, and what it complained of or asked for."""

    page: Any
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def shown(self) -> list[str]:
        """What the cards in the document say, in their order."""
        return [card.inner_text() for card in self.page.locator("#grid > li").all()]

    def found(self, text: str) -> None:
        """Wait until the gallery says how many rows it found."""
        self.until(f"document.getElementById('found').textContent === {text!r}")

    def until(self, condition: str) -> None:
        """Wait; as a function, since the page's policy lets no text be run."""
        self.page.wait_for_function(f"() => {condition}")


def one_table(folder: Path, shift: float, edits: bool = True) -> ScoreTable:
    """600 rows with awkward texts, statuses, words, a judge's reasons and sources."""
    for i in range(6):
        picture(i).save(folder / f"{i}.png")
    texts = [EVIL, RTL, LONG, *(f"a text of {i} words" for i in range(3, ITEMS))]
    keys = [(s, i) for i in range(ITEMS) for s in range(len(SYSTEMS))]
    base = pd.DataFrame(
        {
            "system": [SYSTEMS[s] for s, _ in keys],
            "item": [f"item {i:03}" for _, i in keys],
            "index": 0,
            "image": [str(folder / f"{i % 5}.png") for _, i in keys],
            "text": [texts[i] for _, i in keys],
            "kind": [("photo", EVIL)[i % 2] for _, i in keys],
            "status": "ok",
            "note": "",
            "evidence": "",
        }
    )
    if edits:
        base = base.assign(source_image=str(folder / "5.png"), source_text="as it was")
    word = {"word": "a", "start": 0, "end": 1, "attribution": -0.1, "misaligned": True}
    value = np.arange(len(base), dtype=float)
    value[6:9] += shift
    first = base.assign(metric="clipscore", value=value, evidence=json.dumps([word]))
    first.loc[0, ["value", "status", "note"]] = [np.nan, "unreadable_image", EVIL]
    second = base.assign(metric="lpips", value=value[::-1], evidence=json.dumps({"why": EVIL}))
    part = base.assign(metric="lpips.inside", value=1.0)
    part.loc[3, ["value", "status", "note"]] = [np.nan, "undefined", "no mask"]
    infos = {
        "clipscore": MetricInfo(Signature.parse("clipscore|v:1"), True),
        "lpips": MetricInfo(Signature.parse("lpips|v:1"), False),
        "lpips.inside": MetricInfo(Signature.parse("lpips.inside|v:1"), True, headline=False),
    }
    return ScoreTable(pd.concat([first, second, part], ignore_index=True), infos, {"input": EVIL})


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    one, two = one_table(folder, 0.0), one_table(folder, 50.0)
    write_report({EVIL: one}, folder / "one.html")
    write_report({"before": one, "after": two}, folder / "two.html")
    return {"one": folder / "one.html", "two": folder / "two.html"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


def visit(browser: Any, path: Path, width: int) -> Open:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
    opened = Open(page)
    page.on("console", lambda message: opened.console.append(message.text))
    page.on("pageerror", lambda error: opened.console.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(path.as_uri())
    page.locator("#gallery").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('gallery').scrollIntoView()")
    page.wait_for_selector("#grid > li")
    return opened


@pytest.fixture
def opened(browser: Any, reports: dict[str, Path], request: Any) -> Iterator[Open]:
    """The report of one run, on a window of this width; silent to the end."""
    found = visit(browser, reports["one"], getattr(request, "param", 1400))
    yield found
    overflow = found.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    hacked = found.page.evaluate("window.hacked")
    found.page.close()
    assert found.console == [] and hacked is None and overflow == 0
    asked = [url for url in found.requests if not url.startswith("data:")]
    assert asked == [reports["one"].as_uri()]


@both_widths
def test_worst_first_and_only_what_is_in_view(opened: Open) -> None:
    cards = opened.shown()
    assert "item 000" in cards[0] and "bad" in cards[0]  # the row before it has no score
    assert 2 < len(cards) < 80
    opened.found("600 images of 600")


def test_sort_by_another_metric_and_order(opened: Open) -> None:
    opened.page.select_option("#sort", label="lpips (lower is better)")
    opened.until("document.querySelector('#grid .by').textContent.startsWith('lpips')")
    assert opened.page.locator("#grid .by dd").first.inner_text() == "599"
    opened.page.select_option("#order", "best")
    opened.until("document.querySelector('#grid .by dd').textContent === '0'")


@both_widths
def test_filters_add_up(opened: Open) -> None:
    page = opened.page
    page.fill("#find", "WORDS of")
    opened.found("591 images of 600")
    page.locator("#more summary").click()
    page.select_option("#by-system", label="good")
    opened.found("197 images of 600")
    page.select_option("#by-tag", label="kind")
    page.select_option("#by-value", label="photo")
    opened.found("98 images of 600")
    page.fill("#low", "100")
    page.fill("#high", "200")
    # Of item i, good's score is 3 i: the even items from 34 to 66.
    opened.found("17 images of 600")
    page.fill("#by-item", "item 04")
    opened.found("5 images of 600")
    assert "(5 in use)" in page.locator("#active").inner_text()
    page.locator("#controls button[type=reset]").click()
    opened.found("600 images of 600")


def test_what_failed_is_a_click_away(opened: Open) -> None:
    opened.page.locator("#failures button").click()
    opened.found("1 image of 600")
    (card,) = opened.shown()
    assert "unreadable_image" in card
    # A component that has no value is no failure.
    statuses = [o.get_attribute("value") for o in opened.page.locator("#by-status option").all()]
    assert statuses == ["", "unreadable_image", "ok"]


@both_widths
def test_scrolling_renders_the_rows_that_come(opened: Open) -> None:
    page = opened.page
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_selector("#grid > li[aria-posinset='600']")
    # Those without a score are last; the first cards are gone.
    assert "unreadable_image" in opened.shown()[-1]
    assert page.locator("#grid > li[aria-posinset='1']").count() == 0
    assert page.locator("#grid > li").count() < 80


@both_widths
def test_a_row_opens_by_the_keyboard(opened: Open) -> None:
    page = opened.page
    button = page.locator("#grid button.open").first
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    head = page.locator("#row-head")
    assert head.inner_text() == "item 000 · bad"
    assert EVIL in dialog.inner_text() and "why: " in dialog.inner_text()
    page.keyboard.press("ArrowRight")
    assert head.inner_text() == f"item 000 · {EVIL}"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    assert page.evaluate("document.activeElement.textContent") == "item 000"


def test_misaligned_words_are_marked_for_all(opened: Open) -> None:
    opened.page.fill("#find", '"of 3 words"')
    opened.found("3 images of 600")
    word = opened.page.locator("#grid .prompt .flagged").first
    assert word.text_content() == "a (misaligned)"
    assert "wavy" in word.evaluate(
        "e => getComputedStyle(e).textDecorationLine + getComputedStyle(e).textDecorationStyle"
    )


@both_widths
def test_the_slider_shows_source_and_edit(opened: Open) -> None:
    page = opened.page
    page.locator("#grid button.open").first.click()
    slider = page.locator("dialog input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    over = page.locator("dialog .over")
    assert "100%" in over.evaluate("e => getComputedStyle(e).clipPath")
    page.locator("dialog input[type=checkbox]").check()
    assert over.evaluate("e => getComputedStyle(e).mixBlendMode") == "difference"
    assert "as it was" in page.locator("#row-body").inner_text()


@both_widths
def test_an_item_across_systems_and_its_winner(opened: Open) -> None:
    page = opened.page
    page.select_option("#view", "items")
    opened.found("600 images of 600, 200 items with all their images")
    first = page.locator("#grid > li").first
    assert first.locator(".strip > div").count() == 3
    # By clipscore the last system has the most; by lpips, lower is better, too.
    stars = [d.locator(".best").count() for d in first.locator(".strip > div").all()]
    assert stars == [0, 0, 2]


def test_odd_texts_are_shown_as_they_are(opened: Open) -> None:
    for text, word in ((RTL, "السجادة"), (LONG, "very long"), (EVIL, "</script><script>")):
        opened.page.fill("#find", word)
        opened.page.wait_for_function(
            "t => document.querySelector('#grid .prompt')?.textContent.includes(t)", arg=text[1:]
        )


def test_themes(opened: Open) -> None:
    page = opened.page
    background = "getComputedStyle(document.querySelector('.card')).backgroundColor"
    light = page.evaluate(background)
    page.locator("#theme").click()
    assert page.evaluate(background) != light


def test_plots_are_drawn_and_a_point_opens_its_row(opened: Open) -> None:
    page = opened.page
    for plot in ("means", "spread", "cross"):
        page.locator(f"#{plot}").scroll_into_view_if_needed()
        opened.until(f"document.getElementById('{plot}').data?.length > 0")
    page.select_option("#plot-metric", label="lpips")
    opened.until(
        "document.getElementById('means').layout.xaxis.title.text.includes('lower is better')"
    )
    points = "document.getElementById('cross').data[0].customdata"
    assert page.evaluate(f"{points}.length") == 199
    page.evaluate(
        f"document.getElementById('cross').emit('plotly_click', {{points: [{{customdata: "
        f"{points}[0]}}]}})"
    )
    assert page.locator("#row-head").inner_text() == "item 001 · good"


def test_plots_keep_their_places_when_the_window_narrows(opened: Open) -> None:
    page = opened.page
    for width in (1400, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        for plot in ("means", "spread", "cross"):
            page.locator(f"#{plot}").scroll_into_view_if_needed()
            opened.until(f"document.getElementById('{plot}').data?.length > 0")
            drawn = page.locator(f"#{plot} .main-svg").first.bounding_box()
            room = page.locator("figure", has=page.locator(f"#{plot}")).bounding_box()
            assert drawn["y"] + drawn["height"] <= room["y"] + room["height"]
            assert drawn["x"] + drawn["width"] <= room["x"] + room["width"] <= width


def test_two_runs_show_what_changed_most(browser: Any, reports: dict[str, Path]) -> None:
    found = visit(browser, reports["two"], 1400)
    page = found.page
    changed = page.locator("#changed > li")
    assert changed.count() == 3
    assert "+50 ▲ better" in changed.first.inner_text()
    assert "6 → 56" in changed.first.inner_text()
    changed.first.locator("button").click()
    assert page.locator("#row-head").inner_text() == "item 002 · after · good"
    assert page.locator("dialog .across thead th").count() == 6
    assert found.console == []
    page.close()
