"""What the tests of faults share: a run as a process, an end at a moment, tables compared."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tiny import WORDS, make_clip

from scorekit.cache import FILE_NAME
from scorekit.io import read_samples
from scorekit.run import RunOptions, score_samples

METRICS = ("clipscore", "retrieval")
PATIENCE = 280.0
"""Seconds after which a run that should have ended or come to a moment counts as hung."""


@dataclass(frozen=True)
class Work:
    """Something to score, and what an undisturbed run made of it.

    Attributes
    ----------
    images : path
    backbone : str
    table : path
        scores.csv.
    features : int
        How many there are in all.
    """

    images: Path
    backbone: str
    table: Path
    features: int

    @property
    def options(self) -> tuple[str, ...]:
        """Of the command line."""
        return "--backbone", self.backbone


def undisturbed(folder: Path, n: int, *, alone: bool) -> Work:
    """Make images and a checkpoint, and score them: in a process alone, or, quicker, in this one.

    Bits may depend on the number of threads, so that only the former is the same to the bit.
    """
    images = make_images(folder / "images", n)
    backbone = f"hf:{make_clip(folder / 'tiny-clip')}"
    cache, table = folder / "cache", folder / "scores.csv"
    if alone:
        score(images, "--backbone", backbone, "--cache", cache, "--out", table)
    else:
        samples, options = read_samples(images).samples, RunOptions(cache=cache)
        score_samples(samples, METRICS, backbone=backbone, options=options).save(table)
    return Work(images, backbone, table, features_in(cache))


def make_images(folder: Path, n: int, seed: int = 0) -> Path:
    """A folder of small images of two systems with prompts, some of both being duplicates."""
    rng = np.random.default_rng(seed)
    lines = ["image,text,item,system"]
    for system in ("good", "bad"):
        (folder / system).mkdir(parents=True)
    for i in range(n):
        system, item = ("good", "bad")[i % 2], i // 2
        name = f"{system}/{item}.png"
        path = folder / name
        if i and i % 20 == 0:  # of an image in this chunk of the run, or one long done
            there = lines[int(rng.integers(max(1, i - 300), i + 1))].split(",")[0]
            path.write_bytes((folder / there).read_bytes())
        else:
            coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
            coarse.resize((36, 33)).save(path, compress_level=1)
        words = np.random.default_rng(item).choice(WORDS[:21], 1 + item % 4)
        lines.append(f"{name},{' '.join(words)},{item},{system}")
    (folder / "prompts.csv").write_text("\n".join(lines) + "\n")
    return folder


# Runs -------------------------------------------------------------------------------------------


def start(images: Path, *options: Any, metrics: tuple[str, ...] = METRICS) -> subprocess.Popen[str]:
    """Start ``scorekit score``, on one thread of torch: these models gain nothing from more."""
    chosen = [part for name in metrics for part in ("-m", name)]
    return subprocess.Popen(
        [sys.executable, "-m", "scorekit.cli", "score", images, *chosen, *map(str, options), "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        # A shell's background job ignores interrupts, and what it starts inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and error stream of a run; one that hangs is killed and fails the test."""
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert "Traceback" not in errors, errors
    return process.returncode, errors


def score(images: Path, *options: Any, metrics: tuple[str, ...] = METRICS) -> str:
    """Run to a good end; the error stream."""
    code, errors = ended(start(images, *options, metrics=metrics))
    assert code == 0, errors
    return errors


def wait_until(process: subprocess.Popen[str], come: Callable[[], bool]) -> bool:
    """Wait until a run has come to a moment; False if it ended before."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        if come():
            return True
        assert time.monotonic() < deadline, "the run never came to the moment"
        time.sleep(0.002)
    return False


def features_in(cache: Path) -> int:
    """How many features a cache has; 0 before there is one."""
    place = f"file:{cache / FILE_NAME}?mode=ro"
    try:
        with closing(sqlite3.connect(place, uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM features").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def is_sound(cache: Path) -> bool:
    """Whether SQLite finds nothing wrong with a cache."""
    with closing(sqlite3.connect(cache / FILE_NAME)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)])


# Tables -----------------------------------------------------------------------------------------


def sorted_lines(path: Path) -> list[bytes]:
    """The lines of a CSV table, byte for byte."""
    return sorted(path.read_bytes().splitlines())


def assert_close(path: Path, undisturbed: Path) -> None:
    """Assert that two CSV tables are the same, values to 1e-5."""
    a, b = (
        pd.read_csv(p, keep_default_na=False, na_values={"value": [""]})
        for p in (path, undisturbed)
    )
    pd.testing.assert_frame_equal(a, b, check_exact=False, rtol=0, atol=1e-5)


def beside(path: Path) -> set[str]:
    """The names of all files in a table's folder."""
    return {p.name for p in path.parent.iterdir()}
