"""A headless Chromium for the tests of pages, and a page that remembers what it complained of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or CHROMIUM.startswith("/snap/"),
    reason="there is no chromium on the path, or one that can't see the temporary folder",
)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@dataclass
class Open:
    """A page, and what it complained of or asked for."""

    page: Any
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def until(self, condition: str) -> None:
        """Wait; as a function, since the page's policy lets no text be run."""
        self.page.wait_for_function(f"() => {condition}")

    def settled(self) -> None:
        """Wait until the page has answered what was done to its form, and is drawn."""
        # Its timers are over first: they were set before, and are shorter.
        self.page.evaluate(
            """() => new Promise((done) => setTimeout(
              () => requestAnimationFrame(() => requestAnimationFrame(done)), 200))"""
        )

    def drawn(self, plot: str) -> None:
        """Wait until a plot is drawn, which it is when it comes into view."""
        self.page.locator(f"#{plot}").scroll_into_view_if_needed()
        self.until(f"document.getElementById('{plot}').data?.length > 0")


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser."""
    with pytest.MonkeyPatch.context() as patch:
        # A socket's path has some hundred bytes at most, and a TMPDIR may be long.
        if os.access("/tmp", os.W_OK):
            patch.setenv("TMPDIR", "/tmp")
        with playwright.sync_playwright() as driver:
            running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=120_000)
            yield running
            running.close()


def visit(browser: Any, path: Path, width: int = 1400, **context: Any) -> Open:
    """Open a file in a window of this width, in light colours."""
    size = {"width": width, "height": 900}
    page = browser.new_page(viewport=size, color_scheme="light", **context)
    opened = Open(page)
    page.on("console", lambda message: opened.console.append(message.text))
    page.on("pageerror", lambda error: opened.console.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(path.as_uri())
    return opened


def gallery(browser: Any, path: Path, width: int = 1400, **context: Any) -> Open:
    """Open a report of scores at its gallery."""
    opened = visit(browser, path, width, **context)
    opened.page.evaluate("document.getElementById('gallery').scrollIntoView()")
    opened.page.wait_for_selector("#grid > li")
    return opened


def found_rows(opened: Open, text: str) -> None:
    """Wait until the gallery says how many rows it found."""
    opened.until(f"document.getElementById('found').textContent === {text!r}")


def check_silent(opened: Open, path: Path) -> None:
    """Nothing was complained of, and nothing asked for but the file."""
    assert opened.console == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]
