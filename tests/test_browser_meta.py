"""The page of `scorekit meta --report` in a real browser: opened from disk, sorted, switched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Open, check_silent, chromium, needs_chromium, visit

import scorekit
from scorekit.joined import MetricScores
from scorekit.meta import MetaOptions
from scorekit.ratings import rating_set
from scorekit.reporting.meta import meta_page

pytestmark = needs_chromium
EVIL = '</script><a href="https://example.org/">%{x} <b>'
METRICS = ("good", EVIL, "noise")


def column(opened: Open, number: int) -> list[str]:
    rows = opened.page.locator("#d0 table").first.locator("tbody tr")
    return [
        row.locator("th, td").nth(number).inner_text().split("\n")[0].split(" [")[0].strip()
        for row in rows.all()
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows, samples, scores = [], [], []
    for i in range(30):
        for system in ("x", "y", "z"):
            key = {"system": system, "item": f"item {i}"}
            samples.append({**key, "skill": ["colour", EVIL][i % 2]})
            for dimension in ("match", "look"):
                rows += [
                    {**key, "rater": r, "dimension": dimension, "value": int(rng.integers(1, 6))}
                    for r in "ab"
                ]
            good = sum(row["value"] for row in rows[-4:])
            values = (good + rng.normal(), good + 3 * rng.normal(), rng.normal())
            scores += [
                {**key, "index": 0, "metric": m, "value": float(v)}
                for m, v in zip(METRICS, values, strict=True)
            ]
    rated = rating_set(rows, samples, name="small")
    options = MetaOptions(n_resamples=20, by=("skill",))
    found = scorekit.meta_evaluate(MetricScores(pd.DataFrame(scores)), rated, options)
    file = tmp_path_factory.mktemp("page") / "meta.html"
    file.write_text(meta_page(found, options), "utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    found = visit(browser, report, getattr(request, "param", 1400))
    yield found
    check_silent(found, report)
    found.page.close()


@pytest.mark.parametrize("opened", [1400, 390], ids=["wide", "narrow"], indirect=True)
def test_every_plot_is_drawn_and_nothing_is_wider_than_the_window(opened: Open) -> None:
    page = opened.page
    plots = page.locator("#d0 .plot").evaluate_all("all => all.map((one) => one.id)")
    assert len(plots) == 5 + 1 + 2 + 2 + 1
    for plot in plots:
        opened.drawn(plot)
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]
    # an evil name is a label, not a link or a field
    assert page.locator(".plot a").count() == 0
    assert "%{x} <b>" in page.locator("#d0-dots .ytick text").nth(1).inner_html().replace(
        "&lt;", "<"
    ).replace("&gt;", ">")


def test_sort_by_click_and_by_keyboard(opened: Open) -> None:
    head = opened.page.locator("#d0 table").first.locator("thead th").nth(2)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    *falling, random = column(opened, 2)
    assert falling == sorted(falling, key=float, reverse=True)
    assert random == "0.000"
    head.get_by_role("button").focus()
    opened.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(opened, 2) == [*reversed(falling), random]
    names = opened.page.locator("#d0 table").first.locator("thead th").nth(0)
    names.get_by_role("button").click()
    assert column(opened, 0) == [EVIL, "good", "noise", "(random)"]


def test_choose_metric_and_dimension(opened: Open) -> None:
    page = opened.page
    opened.drawn("d0-scatter")
    first = page.evaluate("document.querySelector('#d0-scatter').data[0].x")
    page.select_option("#d0-metric", label="noise")
    second = page.evaluate("document.querySelector('#d0-scatter').data[0].x")
    assert len(first) == len(second) == 90
    assert first != second
    opened.drawn("d0-tag0")
    page.select_option("#d0-tag0-statistic", label="Pearson")
    title = "document.querySelector('#d0-tag0').layout.xaxis.title.text"
    assert page.evaluate(title) == "Pearson"
    assert page.locator("#d1").is_hidden()
    page.select_option("#dimension", label="look")
    assert page.locator("#d0").is_hidden()
    opened.drawn("d1-dots")


def test_switch_theme(opened: Open) -> None:
    page = opened.page
    opened.drawn("d0-dots")
    colours = (
        "[getComputedStyle(document.body).backgroundColor,"
        " document.querySelector('#d0-dots').layout.paper_bgcolor]"
    )
    light = page.evaluate(colours)
    button = page.get_by_role("button", name="Dark theme")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    dark = page.evaluate(colours)
    assert light == ["rgb(246, 247, 249)", "rgb(255, 255, 255)"]
    assert dark == ["rgb(20, 23, 28)", "rgb(29, 33, 40)"]
    button.click()
    assert page.evaluate(colours) == light
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colours)[0] == light[0]


def test_a_plot_can_be_saved(opened: Open) -> None:
    opened.drawn("d0-dots")
    opened.page.locator("#d0-dots").hover()
    with opened.page.expect_download() as saved:
        opened.page.locator("#d0-dots").get_by_role("button", name="Download plot").click()
    assert saved.value.suggested_filename == "d0-dots.svg"


def test_the_policy_stops_what_the_page_did_not_bring(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    stopped: list[str] = []
    page.on("console", lambda message: stopped.append(message.text))
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "https://example.org/x.png";
          document.body.append(image);
        }"""
    )
    for _ in range(100):  # the page tells of it when it has the time
        page.wait_for_timeout(200)
        if len(stopped) >= 2:
            break
    assert page.evaluate("window.ran") is None
    assert len([text for text in stopped if "Content Security Policy" in text]) == 2
    page.close()
