"""A report of n rows: how large its page is, how long it takes to write, to open, sort and filter.

    python tests/bench/report.py [--rows 10000] [--heat-maps] [--edits] [--side 384]

The table has an image of its own for each row, of four systems, five metrics, misaligned words
(with a heat map for each row's three lowest) and a judge's reasons. The page is written by
`scorekit report` in a process of its own, and opened in a headless Chromium where there is one.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _common import HERE, load, machine, print_table, run, scorekit_command

sys.path.insert(0, str(HERE.parent))

SYSTEMS = 4
METRICS = ("clipscore", "clip4dm", "f_clipscore", "lpips", "viescore")
LOWER = ("lpips",)
WORDS = "a large green triangle right of small yellow circles on wet grass under two purple birds"
TIMES = 5

# In the page: milliseconds from an input's change to the second frame after it.
CHANGE = """([id, value]) => new Promise((done) => {
  const field = document.getElementById(id);
  const start = performance.now();
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  const drawn = () => done(performance.now() - start);
  const wait = field.tagName === "SELECT" ? 1 : 151; // a typed word waits for the next one
  setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(drawn)), wait);
})"""
HEAP = "performance.memory.usedJSHeapSize"
OPEN_ROW = """() => new Promise((done) => {
  const start = performance.now();
  document.querySelector("#grid button.open").click();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})"""


def prepare(work: Path, rows: int, side: int, heat: bool, edits: bool) -> None:
    """Write the images and the table; a process of its own, so that its memory is not measured."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    from scorekit.heat_maps import compact
    from scorekit.table import MetricInfo, ScoreTable
    from scorekit.types import Signature

    rng = np.random.default_rng(0)

    def image(name: str) -> str:
        # Smooth colours with some noise, about as large as a photograph.
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        fine = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(fine + rng.integers(-12, 13, fine.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(work / name, quality=85)
        return str(work / name)

    def judged(text: str) -> str:
        words, start = [], 0
        for word in text.split():
            share = float(rng.normal(0.02, 0.05))
            found = {"word": word, "start": start, "end": start + len(word), "attribution": share}
            words.append({**found, "misaligned": share < -0.03})
            start += len(word) + 1
        for word in sorted(words, key=lambda each: each["attribution"])[: 3 if heat else 0]:
            word["heat"] = compact(rng.normal(size=(14, 14)), (0, 0, 1, 1))
        return json.dumps(words)

    vocabulary = WORDS.split()
    items = -(-rows // SYSTEMS)
    texts = [" ".join(rng.permutation(vocabulary)[: rng.integers(6, 15)]) for _ in range(items)]
    base = pd.DataFrame(
        {
            "system": [f"system-{row % SYSTEMS}" for row in range(rows)],
            "item": [f"prompt-{row // SYSTEMS:05}" for row in range(rows)],
            "index": 0,
            "image": [image(f"{row:05}.jpg") for row in range(rows)],
            "text": [texts[row // SYSTEMS] for row in range(rows)],
            "kind": [("animals", "shapes", "people", "text")[row % 4] for row in range(rows)],
            "status": "ok",
            "note": "",
            "evidence": "",
        }
    )
    if edits:
        base["source_image"] = [image(f"{row:05}-source.jpg") for row in range(rows)]
        base["source_text"] = "as it was"
    frames = []
    for name in METRICS:
        frame = base.assign(metric=name, value=rng.normal(0.6, 0.15, rows))
        if name in ("clip4dm", "f_clipscore"):
            frame["evidence"] = [judged(text) for text in frame["text"]]
        if name == "viescore":
            why = "most of it is there, but the last of what the prompt names is not"
            frame["evidence"] = [json.dumps({"reason": f"{why}: {t}"}) for t in frame["text"]]
        lost = rng.random(rows) < 0.01
        frame.loc[lost, ["value", "status", "note"]] = [float("nan"), "failed", "no answer"]
        frames.append(frame)
    infos = {n: MetricInfo(Signature.parse(f"{n}|v:1"), n not in LOWER) for n in METRICS}
    ScoreTable(pd.concat(frames, ignore_index=True), infos).save(work / "table.parquet")


def timed(times: int, act: Callable[[int], Any]) -> str:
    """Median and largest of what some calls return, in milliseconds."""
    values = [act(i) for i in range(times)]
    return f"{statistics.median(values):.0f} (largest {max(values):.0f}) ms"


def has_browser() -> bool:
    """Whether playwright and a Chromium are there; the tests' module skips where one is not."""
    if find_spec("playwright") is None or find_spec("pytest") is None:
        return False
    from browser import CHROMIUM

    return CHROMIUM is not None


def in_browser(path: Path) -> list[list[str]]:
    """What the page costs whoever reads it."""
    from browser import chromium, visit

    rows = []
    with chromium() as running:
        for width in (1400, 390):
            started = time.perf_counter()
            opened = visit(running, path, width)
            opened.page.evaluate("document.getElementById('gallery').scrollIntoView()")
            opened.page.wait_for_selector("#grid > li")
            ready = time.perf_counter() - started
            change = opened.page.evaluate

            def changed(field: str, *values: str, change: Any = change) -> str:
                return timed(TIMES, lambda i: change(CHANGE, [field, values[i % len(values)]]))

            rows += [
                [f"open, {width} px wide", f"{ready:.1f} s"],
                ["sort by a metric", changed("sort", "1", "2")],
                ["order", changed("order", "best", "worst")],
                ["side by side", changed("view", "items", "images")],
                ["find words", changed("find", "green bird", "purple", "")],
                ["filter by system", changed("by-system", "1", "")],
                ["open a row", timed(1, lambda _, change=change: change(OPEN_ROW))],
                ["memory of scripts", f"{change(HEAP) / 1e6:.0f} MB"],
                ["complaints", str(len(opened.console))],
            ]
            opened.page.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=384, help="of the images, in pixels")
    parser.add_argument("--heat-maps", action="store_true")
    parser.add_argument("--edits", action="store_true", help="a source image for each row")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare is not None:
        prepare(args.prepare, args.rows, args.side, args.heat_maps, args.edits)
        return
    print(f"{machine()}; {load()}; {args.rows:,} rows\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        flags = [f for f in ("--heat-maps", "--edits") if getattr(args, f[2:].replace("-", "_"))]
        numbers = ["--rows", str(args.rows), "--side", str(args.side)]
        run([sys.executable, Path(__file__), "--prepare", work, *numbers, *flags])
        target = work / "report.html"
        done = run([*scorekit_command(), "report", work / "table.parquet", "-o", target])
        pages = [target, *sorted((work / "report.pages").glob("*.html"))]
        data = r'<script type="application/json" id="data">.*?</script>'
        found = re.search(data, target.read_text("utf-8"))
        assert found is not None
        rows = [
            ["write", f"{done.seconds:.1f} s, peak {done.peak_mb:.0f} MB"],
            ["size", ", ".join(f"{path.stat().st_size / 1e6:.1f}" for path in pages) + " MB"],
            ["of it rows and pictures", f"{len(found[0].encode()) / 1e6:.1f} MB"],
        ]
        rows += in_browser(target) if has_browser() else [["browser", "none here"]]
        print_table(["", "measured"], rows)


if __name__ == "__main__":
    main()
