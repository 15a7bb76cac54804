"""Does memory grow with the number of rows? And does a long run slow down?

A table that pairs 200 small images with 500 texts, cut to 1,000, 10,000 and 100,000 rows, is
scored by the ``scorekit`` command with a tiny random checkpoint, so that the rows cost next to
nothing in the model and what is measured is scorekit's own. The features are 700 in all cases:
the cache can't be what grows.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from _common import HERE, load, machine, print_table, run, scorekit_command

sys.path.insert(0, str(HERE.parent))

IMAGES, TEXTS = 200, 500


def prepare(work: Path, sizes: list[int]) -> None:
    """Write the checkpoint, the images and a table a size."""
    from tiny import WORDS, make_clip, picture

    make_clip(work / "tiny-clip")
    (work / "images").mkdir(exist_ok=True)
    for i in range(IMAGES):
        picture(i).save(work / "images" / f"{i:03}.png")
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 10))) + f" {i}" for i in range(TEXTS)]
    pairs = list(itertools.product(range(IMAGES), range(TEXTS)))
    rng.shuffle(pairs)
    for size in sizes:
        with table_of(work, size).open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["image", "text", "item", "system"])
            for image, text in pairs[:size]:
                item, system = f"{text}-{image // 4}", f"model-{image % 4}"
                out.writerow([f"images/{image:03}.png", texts[text], item, system])


def table_of(work: Path, size: int) -> Path:
    """Where the table of a size lies."""
    return work / f"rows-{size}.csv"


def tenths(work: Path, size: int) -> None:
    """In a process of its own: rows a second in the first and the last tenth of a cached run."""
    import scorekit

    seen: list[tuple[int, float]] = [(0, time.perf_counter())]
    scorekit.score(
        table_of(work, size),
        backbone=f"hf:{work / 'tiny-clip'}",
        cache=work / f"cache-{size}",
        device="cpu",
        progress=lambda done, _: seen.append((done, time.perf_counter())),
    )
    seen = seen[1:]  # what comes before the first image is no matter of rows

    def rate(low: float, high: float) -> float:
        part = [(done, at) for done, at in seen if low * size <= done <= high * size]
        return (part[-1][0] - part[0][0]) / (part[-1][1] - part[0][1])

    print(json.dumps([rate(0, 0.1), rate(0.9, 1)]))


def main() -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--work", type=Path, help="folder [a temporary one]")
    parser.add_argument("--tenths", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tenths:
        tenths(args.work, args.tenths)
        return
    with tempfile.TemporaryDirectory(prefix="scorekit-bench-") as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        run(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
                f"from memory import *; prepare(Path({str(work)!r}), {args.rows!r})",
            ]
        )
        print(f"{machine()}; {load()}\n", flush=True)
        rows = []
        for size in args.rows:
            cache, out = work / f"cache-{size}", work / f"out-{size}.parquet"
            command = [
                *scorekit_command(),
                "score",
                table_of(work, size),
                "--quiet",
                "--out",
                out,
                "--device",
                "cpu",
                "--backbone",
                f"hf:{work / 'tiny-clip'}",
                "--cache",
                cache,
            ]
            first = run(command)
            again = run(command)
            speeds = run([sys.executable, __file__, "--work", work, "--tenths", str(size)]).json()
            rows.append(
                [
                    f"{size:,}",
                    f"{first.peak_mb:.0f}",
                    f"{again.peak_mb:.0f}",
                    f"{first.seconds:.1f}",
                    f"{again.seconds:.1f}",
                    *(f"{s:,.0f}" for s in speeds),
                ]
            )
        print_table(
            [
                "rows",
                "peak MB",
                "peak MB, cached",
                "s",
                "s, cached",
                "rows/s, first tenth",
                "rows/s, last tenth",
            ],
            rows,
        )


if __name__ == "__main__":
    main()
