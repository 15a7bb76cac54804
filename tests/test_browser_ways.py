"""Reports in a real browser: the way back, themes, paper, screen readers, runs and pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Open, check_silent, chromium, found_rows, gallery, needs_chromium, visit
from edit_table import EDITS, ITEMS, edits

from scorekit.reporting.scores import write_report

pytestmark = needs_chromium
AT = "getBoundingClientRect()"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gallery")
    table = edits(folder)
    write_report({"one": table}, folder / "one.html")
    write_report({"five": table, "two": edits(folder, EDITS[:2])}, folder / "two.html")
    write_report(
        {"many": edits(folder, EDITS[:2], 8, lost=(1, 23))}, folder / "many.html", max_rows=12
    )
    return {name: folder / f"{name}.html" for name in ("one", "two", "many")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser: Any, reports: dict[str, Path], request: Any) -> Iterator[Open]:
    """The report of one run, on a window of this width; silent to the end."""
    found = gallery(browser, reports["one"], getattr(request, "param", 1400))
    yield found
    console = found.console
    found.page.close()
    assert console == []


# The way back -------------------------------------------------------------------------------


def test_back_closes_the_row_and_leaves_no_step_behind(
    browser: Any, reports: dict[str, Path]
) -> None:
    opened = gallery(browser, reports["one"])
    page = opened.page
    row = page.locator("dialog[open]")
    page.locator("#grid button.open").nth(1).click()
    page.evaluate("history.back()")
    row.wait_for(state="detached")
    assert page.url == reports["one"].as_uri()
    assert page.evaluate("document.activeElement.textContent") == "item 9"
    page.evaluate("history.forward()")
    row.wait_for()
    assert page.locator("#row-head").inner_text() == "item 9 · b"
    # Another row at once, while the browser still goes back.
    page.evaluate(
        """() => {
          const again = () => document.querySelector("#grid button.open").click();
          document.getElementById("row").addEventListener("close", again, { once: true });
        }"""
    )
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert row.count() == 1 and page.evaluate("history.state.opened")
    page.keyboard.press("Escape")
    opened.until("history.state === null")
    page.locator("#grid button.open").first.click()
    page.reload()
    opened.until("history.state === null")
    assert row.count() == 0
    # A new window's empty page, the report, and the row ahead of it.
    assert page.evaluate("history.length") == 3
    page.close()
    assert opened.console == []


def test_back_to_a_page_finds_it_as_it_was(browser: Any, reports: dict[str, Path]) -> None:
    opened = gallery(browser, reports["one"])
    page = opened.page
    page.select_option("#plot-metric", label="ssim")
    page.locator("#more summary").click()
    page.select_option("#by-system", label="b")
    page.select_option("#sort", label="item")
    found_rows(opened, "3 images of 6")
    page.goto(reports["two"].as_uri())
    page.go_back()
    found_rows(opened, "3 images of 6")
    assert page.locator("#by-system option:checked").text_content() == "b"
    page.wait_for_selector("#grid > li")
    opened.settled()
    assert page.locator("#grid .open").all_inner_texts() == [ITEMS[1], ITEMS[0], ITEMS[2]]
    assert page.locator("#plot-metric").input_value() == "0"  # the plots begin anew
    page.close()


def test_a_closed_row_leaves_one_where_one_has_come_to(
    browser: Any, reports: dict[str, Path]
) -> None:
    opened = gallery(browser, reports["one"], 390)
    page = opened.page
    before = page.evaluate("scrollY")
    page.locator("#grid button.open").first.click()
    page.keyboard.press("Escape")
    opened.until("history.state === null")
    assert page.evaluate("scrollY") == before
    page.locator("#grid button.open").first.click()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    opened.until("history.state === null")
    opened.settled()
    assert page.evaluate("document.activeElement.dataset.row") == "1"
    place = page.evaluate(f"document.activeElement.{AT}.top")
    assert 0 < place < 900 and page.evaluate("scrollY") > before + 900
    page.close()


# Themes, paper, and those who do not see ----------------------------------------------------


def test_dark_by_the_system_and_by_the_button_on_all_pages(
    browser: Any, reports: dict[str, Path]
) -> None:
    opened = visit(browser, reports["many"])
    page = opened.page
    colour = "getComputedStyle(document.querySelector('.panel')).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(29, 33, 40)"
    assert page.evaluate(colour) == light
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) == dark
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    page.locator("#theme").click()
    assert page.evaluate(colour) == light
    page.locator(".pages a").nth(1).click()
    page.wait_for_url("**/002.html")
    assert page.evaluate(colour) == light
    assert page.locator("#theme").get_attribute("aria-pressed") == "false"
    page.close()
    assert opened.console == []


def test_on_paper_there_are_light_plots_and_all_cards(
    browser: Any, reports: dict[str, Path]
) -> None:
    opened = gallery(browser, reports["many"], 390)
    page = opened.page
    page.emulate_media(color_scheme="dark")
    shown = page.locator("#grid > li").count()
    page.evaluate(
        """() => addEventListener("beforeprint", () => {
          const plots = [...document.querySelectorAll(".plot")];
          window.printed = [
            document.querySelectorAll("#grid > li:not(.unprinted)").length,
            document.getElementById("printed").textContent,
            ...plots.map((plot) => plot.layout.paper_bgcolor),
          ];
        })"""
    )
    assert len(page.pdf()) > 10_000
    light, dark = "rgb(255, 255, 255)", "rgb(29, 33, 40)"
    assert page.evaluate("window.printed") == [8, "8 images of 8", light, light, light]
    assert shown < 8 and page.locator("#grid > li").count() == shown
    assert page.evaluate("document.getElementById('cross').layout.paper_bgcolor") == dark
    assert page.evaluate("document.documentElement.dataset.theme") is None
    page.emulate_media(media="print")
    at = page.locator("#grid > li").evaluate_all(
        f"all => all.map((e) => [getComputedStyle(e).position, e.{AT}.height])"
    )
    assert {position for position, _ in at} == {"static"} and min(h for _, h in at) > 200
    assert page.locator("#controls").is_hidden()
    assert page.locator("#printed").is_visible()
    page.close()


def contrast(ink: str, paper: str, opacity: float) -> float:
    """Of one colour on another, as the WCAG has it."""

    def parts(colour: str) -> list[float]:
        if colour.startswith("#"):
            return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]

    below = parts(paper)
    mixed = [opacity * a + (1 - opacity) * b for a, b in zip(parts(ink), below, strict=True)]

    def luminance(colour: list[float]) -> float:
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in (part / 255 for part in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(mixed), luminance(below)))
    return (high + 0.05) / (low + 0.05)


def test_the_marks_of_all_systems_stand_out_in_both_themes(
    browser: Any, reports: dict[str, Path]
) -> None:
    assert contrast("#000000", "rgb(255, 255, 255)", 1.0) == pytest.approx(21)
    opened = visit(browser, reports["many"])
    for _ in range(2):
        opened.drawn("cross")
        paper = opened.page.evaluate("document.getElementById('cross').layout.paper_bgcolor")
        marks = opened.page.evaluate(
            "document.getElementById('cross').data.map((trace) => trace.marker)"
        )
        assert len(marks) >= 4
        found = [contrast(mark["color"], paper, mark["opacity"]) for mark in marks]
        assert min(found) >= 3, found
        opened.page.locator("#theme").click()
    opened.page.close()


def test_plots_and_tables_have_names_and_tables_can_be_scrolled_by_keys(opened: Open) -> None:
    page = opened.page
    plots = page.locator(".plot").evaluate_all(
        "all => all.map((e) => [e.getAttribute('role'), e.getAttribute('aria-label') ?? ''])"
    )
    assert len({name for _, name in plots}) == 3 and {role for role, _ in plots} == {"group"}
    page.locator("#grid button.open").first.click()
    tables = page.locator(".scroll:has(table)").evaluate_all(
        "all => all.map((e) => [e.tabIndex, e.getAttribute('role'), e.getAttribute('aria-label')])"
    )
    assert len(tables) == 4
    for tab, role, name in tables:
        assert tab == 0 and role == "region" and name.startswith("Table: ")


@pytest.mark.parametrize("opened", [390], indirect=True)
def test_the_button_that_saves_a_plot_lies_over_no_mark(opened: Open) -> None:
    opened.drawn("means")
    opened.page.locator("#means").hover()
    button = opened.page.locator("#means .modebar-btn").bounding_box()
    marks = opened.page.locator("#means .points path, #means .errorbar").all()
    assert len(marks) >= 2
    assert all(mark.bounding_box()["y"] >= button["y"] + button["height"] for mark in marks)


# Runs and pages -----------------------------------------------------------------------------


def test_what_a_run_did_not_score_is_shown_of_that_run(
    browser: Any, reports: dict[str, Path]
) -> None:
    opened = gallery(browser, reports["two"])
    page = opened.page
    assert "-1\n-2 to 0\n2 of 3 scored" in page.locator("#summary td").first.inner_text()
    buttons = page.locator("#failures button")
    assert buttons.all_inner_texts() == ["Show it", "Show it"]
    for i, run in enumerate(("five", "two")):
        buttons.nth(i).click()
        opened.settled()  # the count is the same for both
        found_rows(opened, "1 image of 12")
        assert page.locator("#grid .maker").inner_text().startswith(run)
    # The second run has no ssim at all, which is nothing that went wrong.
    page.locator("#controls button[type=reset]").click()
    page.select_option("#by-run", label="two")
    page.select_option("#sort", label="ssim")
    opened.settled()
    found_rows(opened, "6 images of 12")
    empty = page.locator("#grid > li").first.locator(".by dd")
    assert empty.inner_text() == "–" and empty.get_attribute("class") != "none"
    page.close()
    assert opened.console == []


def test_pages_say_which_they_are(browser: Any, reports: dict[str, Path]) -> None:
    opened = visit(browser, reports["many"])
    assert opened.page.locator("#failures button").inner_text() == "Show the 1 in this sample"
    titles = [opened.page.title()]
    opened.page.close()
    for name in ("001", "002"):
        path = reports["many"].with_name("many.pages") / f"{name}.html"
        opened = visit(browser, path)
        titles.append(opened.page.title())
        assert opened.page.locator(".pages [aria-current=page]").inner_text() == name
        check_silent(opened, path)
        opened.page.close()
    assert len(set(titles)) == 3
