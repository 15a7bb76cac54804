"""The report of scores in a real browser: opened from disk, sorted, filtered, scrolled, opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Open, check_silent, chromium, found_rows, gallery, needs_chromium
from tiny import picture

from scorekit.heat_maps import compact
from scorekit.reporting.scores import write_report
from scorekit.table import MetricInfo, ScoreTable
from scorekit.types import Signature

pytestmark = needs_chromium
EVIL = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked=1">\'"'
RTL = "قطة حمراء \u202e على السجادة"
LONG = "very " * 2000 + "long"
both_widths = pytest.mark.parametrize("opened", [1400, 390], indirect=True)
ITEMS, SYSTEMS = 200, ("good", "bad", EVIL)


def shown(opened: Open) -> list[str]:
    """What the cards in the document say, in their order."""
    return [card.inner_text() for card in opened.page.locator("#grid > li").all()]


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


def heated_table(folder: Path) -> ScoreTable:
    """Two systems' images of 80 x 40, of which the middle half is seen, with maps of two words."""
    patches = np.zeros((4, 4))
    patches[0, 0], patches[3, 3] = -1.0, 0.5  # against: top left of the middle
    seen = (0.25, 0, 0.75, 1)
    maps = [compact(patches, seen), compact(-patches.T[::-1], seen)]
    rows = []
    for i, system in enumerate(("one", "two")):
        picture(i, 80, 40).save(folder / f"heat{i}.png")
        words = [
            {"start": 2, "end": 5, "attribution": -0.2, "misaligned": True, "heat": maps[i]},
            {"start": 6, "end": 9, "attribution": -0.1, "misaligned": i == 0, "heat": maps[1 - i]},
            {"start": 0, "end": 1, "attribution": 0.1, "misaligned": False},
        ]
        rows.append(
            {"system": system, "item": "it", "index": 0, "image": str(folder / f"heat{i}.png")}
            | {"text": "a red cat", "metric": "clip4dm", "value": float(i), "status": "ok"}
            | {"note": "", "evidence": json.dumps(words)}
        )
    return ScoreTable(
        pd.DataFrame(rows), {"clip4dm": MetricInfo(Signature.parse("clip4dm|v:1"), True)}
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    one, two = one_table(folder, 0.0), one_table(folder, 50.0)
    write_report({EVIL: one}, folder / "one.html")
    write_report({"before": one, "after": two}, folder / "two.html")
    write_report({"heat": heated_table(folder)}, folder / "heat.html")
    write_report({"paged": one}, folder / "paged.html", max_rows=300)
    return {name: folder / f"{name}.html" for name in ("one", "two", "heat", "paged")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser: Any, reports: dict[str, Path], request: Any) -> Iterator[Open]:
    """The report of one run, on a window of this width; silent to the end."""
    found = gallery(browser, reports["one"], getattr(request, "param", 1400))
    yield found
    overflow = found.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    hacked = found.page.evaluate("window.hacked")
    found.page.close()
    assert hacked is None and overflow == 0
    check_silent(found, reports["one"])


@both_widths
def test_worst_first_and_only_what_is_in_view(opened: Open) -> None:
    cards = shown(opened)
    assert "item 000" in cards[0] and "bad" in cards[0]  # the row before it has no score
    assert 2 < len(cards) < 80
    found_rows(opened, "600 images of 600")


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
    found_rows(opened, "591 images of 600")
    page.locator("#more summary").click()
    page.select_option("#by-system", label="good")
    found_rows(opened, "197 images of 600")
    page.select_option("#by-tag", label="kind")
    page.select_option("#by-value", label="photo")
    found_rows(opened, "98 images of 600")
    page.fill("#low", "100")
    page.fill("#high", "200")
    # Of item i, good's score is 3 i: the even items from 34 to 66.
    found_rows(opened, "17 images of 600")
    page.fill("#by-item", "item 04")
    found_rows(opened, "5 images of 600")
    assert "(5 in use)" in page.locator("#active").inner_text()
    page.locator("#controls button[type=reset]").click()
    found_rows(opened, "600 images of 600")


def test_what_failed_is_a_click_away(opened: Open) -> None:
    opened.page.locator("#failures button").click()
    found_rows(opened, "1 image of 600")
    (card,) = shown(opened)
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
    assert "unreadable_image" in shown(opened)[-1]
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
    found_rows(opened, "3 images of 600")
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
    found_rows(opened, "600 images of 600, 200 items with all their images")
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
        opened.drawn(plot)
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
        for plot in ("means", "spread", "cross"):
            opened.drawn(plot)
            # They are drawn anew a moment after the window has another width, and then stay.
            opened.until(
                f"document.querySelector('#{plot} .main-svg').getBoundingClientRect().right"
                f" <= innerWidth && innerWidth === {width}"
            )
            page.wait_for_timeout(300)
            drawn = page.locator(f"#{plot} .main-svg").first.bounding_box()
            room = page.locator("figure", has=page.locator(f"#{plot}")).bounding_box()
            assert drawn["y"] + drawn["height"] <= room["y"] + room["height"]
            assert drawn["x"] + drawn["width"] <= room["x"] + room["width"] <= width


def test_two_runs_show_what_changed_most(browser: Any, reports: dict[str, Path]) -> None:
    found = gallery(browser, reports["two"], 1400)
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


# Heat maps ----------------------------------------------------------------------------------


@pytest.fixture
def heated(browser: Any, reports: dict[str, Path], request: Any) -> Iterator[Open]:
    """The report with heat maps; silent to the end. On a narrow window, fingers touch it."""
    width = getattr(request, "param", 1400)
    found = gallery(browser, reports["heat"], width, has_touch=width < 500)
    yield found
    overflow = found.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    found.page.close()
    assert overflow == 0
    check_silent(found, reports["heat"])


def pixels(opened: Open, *places: tuple[float, float]) -> list[list[int]]:
    """Of the heat map, at shares of its width and height: red, green, blue, alpha."""
    colours: list[list[int]] = opened.page.evaluate(
        """(places) => {
          const { width, height } = document.querySelector("canvas.heat");
          const context = document.querySelector("canvas.heat").getContext("2d");
          const { data } = context.getImageData(0, 0, width, height);
          return places.map(([x, y]) => {
            const at = 4 * (Math.floor(y * height) * width + Math.floor(x * width));
            return [...data.slice(at, at + 4)];
          });
        }""",
        [list(place) for place in places],
    )
    return colours


def test_pointing_at_a_word_draws_its_map_over_the_picture(heated: Open) -> None:
    page = heated.page
    page.locator("#grid .card .mapped", has_text="red").first.hover()
    canvas = page.locator("canvas.heat")
    assert canvas.count() == 1
    # It has the picture's shape and place.
    shape = canvas.evaluate("e => [e.width / e.height, getComputedStyle(e).objectFit]")
    assert shape[0] == pytest.approx(2, rel=0.02) and shape[1] == "contain"
    frame = "e => JSON.stringify(e.getBoundingClientRect())"
    picture_at = page.locator("#grid .card img").first.evaluate(frame)
    assert canvas.evaluate(frame) == picture_at
    # The model sees the middle half; there, red is at the top left, teal at the bottom right.
    places = (0.1, 0.5), (0.9, 0.5), (0.27, 0.03), (0.73, 0.97), (0.5, 0.5)
    left, right, against, favour, middle = pixels(heated, *places)
    assert left == right == [0, 0, 0, 153]
    assert against[0] > against[1] + 100 and favour[1] > favour[0] + 50
    assert min(middle[:3]) > 250 and 100 < middle[3] < 180
    assert page.locator(".heated .tab").inner_text() == "“red”: − against, + for"
    page.mouse.move(1, 1)
    assert canvas.count() == 0 and page.locator(".heated").count() == 0


def test_a_click_on_a_word_of_a_card_opens_its_row_with_the_map(heated: Open) -> None:
    page = heated.page
    page.locator("#grid .card .mapped", has_text="cat").first.click()
    assert page.locator("#row-head").inner_text() == "it · one"
    pressed = page.locator("dialog .mapped[aria-pressed=true]")
    assert pressed.text_content() == "cat (misaligned)"
    assert page.locator("dialog .large canvas.heat").count() == 1
    assert pressed.evaluate("e => e === document.activeElement")
    page.locator("#next").click()  # another row begins without one
    assert page.locator("#row-head").inner_text() == "it · two"
    assert page.locator("canvas.heat").count() == 0
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.row") == "1"


def test_arrow_keys_go_on_from_a_row_that_a_word_opened(heated: Open) -> None:
    page = heated.page
    page.locator("#grid .card .mapped", has_text="cat").first.click()
    head = page.locator("#row-head")
    for key, name in (("ArrowRight", "two"), ("ArrowLeft", "one"), ("ArrowRight", "two")):
        page.keyboard.press(key)
        assert head.inner_text() == f"it · {name}"
        assert page.evaluate("document.activeElement.closest('dialog') !== null")


def test_heat_maps_by_the_keyboard(heated: Open) -> None:
    page = heated.page
    page.locator("#grid button.open").first.focus()
    page.keyboard.press("Enter")
    legend = page.locator("dialog [role=status]")
    assert "framed word" in legend.inner_text()
    words = page.locator("dialog .full .mapped")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.mapped')"):
            break
    assert words.first.evaluate("e => e === document.activeElement")
    said = "red against it, strongest at the top left; + teal for it, strongest at the bottom right"
    assert "“red”" in legend.inner_text() and said in legend.inner_text()
    assert legend.inner_text().endswith("Dark: not seen by the model.")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # the next word has the focus, so that its map is shown
    assert "“cat”" in legend.inner_text()
    page.keyboard.press("Tab")
    assert "“red”" in legend.inner_text()  # the pinned one's is back
    page.keyboard.press("Escape")
    assert page.locator("canvas.heat").count() == 0 and page.locator("dialog[open]").count() == 1
    assert words.first.get_attribute("aria-pressed") == "false"
    assert "framed word" in legend.inner_text()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


@pytest.mark.parametrize("heated", [390], indirect=True)
def test_heat_maps_by_touch(heated: Open) -> None:
    page = heated.page
    word = page.locator("#grid .card .mapped", has_text="red").first
    canvas = page.locator("canvas.heat")
    word.tap()
    assert canvas.count() == 1 and page.locator("dialog[open]").count() == 0
    word.tap()
    assert canvas.count() == 0
    word.tap()
    page.locator("#grid button.open").first.tap()
    assert page.locator("dialog[open]").count() == 1 and canvas.count() == 0
    page.locator("dialog .full .mapped").first.tap()
    assert page.locator("dialog canvas.heat").count() == 1
    page.locator("dialog .full .mapped").first.tap()
    assert canvas.count() == 0


def test_side_by_side_each_image_has_its_own_words(heated: Open) -> None:
    page = heated.page
    page.select_option("#view", "items")
    page.wait_for_selector("#grid .side")
    boxes = page.locator("#grid .beside").all()
    assert [box.locator(".missed").inner_text() for box in boxes] == [
        "misaligned: red, cat",
        "misaligned: red",
    ]
    boxes[1].locator(".mapped").hover()
    assert [box.locator("canvas.heat").count() for box in boxes] == [0, 1]
    boxes[0].locator(".mapped").first.hover()
    assert [box.locator("canvas.heat").count() for box in boxes] == [1, 0]


def test_pages_without_plots_work_as_well(browser: Any, reports: dict[str, Path]) -> None:
    path = reports["paged"].with_name("paged.pages") / "002.html"
    found = gallery(browser, path, 1400)
    found_rows(found, "300 images of 300")
    found.page.locator("#grid button.open").first.click()
    found.page.locator("#theme").evaluate("e => e.click()")
    assert found.page.locator("dialog[open]").count() == 1
    found.page.close()
    check_silent(found, path)
