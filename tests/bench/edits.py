"""Edit metrics on cached embeddings: all seven together beside a plain loop over triples.

1,000 triples of random embeddings of 512 numbers, ten source and nine target attributes each, that
lie apart as CLIP's images and texts do. scorekit's formulas get them in chunks of 128, as a run
hands them over. The loop takes one triple at a time, with scikit-learn's `LogisticRegression` on
the full rows, its solver and tolerance as they come, and numpy for the cosines; it is timed on the
first 200. Reading, embedding and the table are in neither. Both use one thread: matrices this small
gain nothing by more. What was measured is in ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy

import numpy as np
from _common import load, machine, print_table, spread

from scorekit.metrics._hyperplane import fit_plane
from scorekit.registry import load_metric

N, LOOPED, DIM, SOURCE, TARGET, CHUNK = 1000, 200, 512, 10, 9, 128
PLAIN = (
    "directional_clip", "clip_dir", "clip_out", "clip_im", "edit_baseline", "lambda_harmonic",
)  # fmt: skip


def triples(n: int, distinct: int, seed: int = 0) -> dict[str, Any]:
    """Features of n triples that have `distinct` pairs of attribute lists between them."""
    rng = np.random.default_rng(seed)
    gap = rng.standard_normal(DIM)

    def unit(*shape: int, shift: Any = 0.0) -> Any:
        x = rng.standard_normal((*shape, DIM)) + shift
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    source, target = unit(distinct, SOURCE, shift=-gap), unit(distinct, TARGET, shift=-gap)
    return {
        "image": unit(n, shift=gap),
        "source": unit(n, shift=gap),
        "text": unit(n, shift=-gap),
        "source_text": unit(n, shift=-gap),
        "source_attributes": [source[i % distinct] for i in range(n)],
        "target_attributes": [target[i % distinct] for i in range(n)],
        "change": [{"locality": 0.5}] * n,
    }


def scorekit_way(names: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Scores by scorekit's formulas, a chunk at a time."""
    params = {"lambda_harmonic": {"against": "source"}}
    metrics = {name: load_metric(name)(**params.get(name, {})) for name in names}
    scores: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, N, CHUNK):
        chunk = {key: rows[start : start + CHUNK] for key, rows in given.items()}
        for name, metric in metrics.items():
            scores[name].append(metric.score(chunk).value)
    return {name: np.concatenate(parts) for name, parts in scores.items()}


def loop(names: tuple[str, ...], given: dict[str, Any], **fit: Any) -> dict[str, Any]:
    """The same, one triple at a time."""
    from sklearn.linear_model import LogisticRegression

    def cos(a: Any, b: Any) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    def augclip(i: int, image: Any, source: Any) -> float:
        sides = given["source_attributes"][i], given["target_attributes"][i]
        rows = np.concatenate(sides).astype(np.float64)
        labels = [-1] * len(sides[0]) + [1] * len(sides[1])
        model = LogisticRegression(**fit).fit(rows, labels)
        w, side = model.coef_[0], model.decision_function(source[None])[0]
        return cos(image, source + max(-side, 0.0) / (w @ w) * w)

    scores: dict[str, list[float]] = {name: [] for name in names}
    keys = ("image", "source", "text", "source_text")
    for i in range(len(given["image"])):
        image, source, text, old = (given[key][i].astype(np.float64) for key in keys)
        ways: dict[str, Callable[[], float]] = {
            "augclip": lambda i=i, a=image, b=source: augclip(i, a, b),
            "directional_clip": lambda a=image, b=source, c=text, d=old: cos(a - b, c - d),
            "clip_out": lambda a=image, c=text: cos(a, c),
            "clip_im": lambda a=image, b=source: cos(a, b),
            "edit_baseline": lambda a=image, b=source, c=text: cos(a, c) + 0.5 * cos(a, b),
            "lambda_harmonic": lambda a=image, b=source, c=text: (
                1 / (0.6 / (cos(a, b) + 1) + 1.4 / (cos(a, c) + 1))
            ),
        }
        ways["clip_dir"] = ways["directional_clip"]
        for name in names:
            scores[name].append(ways[name]())
    return {name: np.array(values) for name, values in scores.items()}


def clock(way: Callable[[], dict[str, Any]]) -> float:
    """Milliseconds of processor time a triple: on one thread, what an idle machine takes."""
    started = time.process_time()
    scores = way()
    return (time.process_time() - started) * 1000 / len(next(iter(scores.values())))


def first(given: dict[str, Any], n: int) -> dict[str, Any]:
    """Features of the first n triples."""
    return {key: rows[:n] for key, rows in given.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{machine()}, scikit-learn {version('scikit-learn')}; {load()}")
    own, shared = triples(N, N), triples(N, 20)
    every = ("augclip", *PLAIN)
    ways: dict[str, Callable[[], Any]] = {
        "augclip, attributes of its own a triple": lambda: scorekit_way(("augclip",), own),
        "augclip, 50 triples share attributes": lambda: scorekit_way(("augclip",), shared),
        "the six others together": lambda: scorekit_way(PLAIN, own),
        "all seven, attributes of its own a triple": lambda: scorekit_way(every, own),
        "all seven, 50 triples share attributes": lambda: scorekit_way(every, shared),
        "plain loop, all seven": lambda: loop(every, first(own, LOOPED)),
    }
    for way in ways.values():  # imports and caches
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(clock(way))
    peer = times["plain loop, all seven"]
    print_table(
        ("", "ms a triple", "the loop takes"),
        [
            (
                name,
                spread(values, 3),
                spread([p / v for p, v in zip(peer, values, strict=True)], 1) + " times"
                if name.startswith("all")
                else "",
            )
            for name, values in times.items()
        ],
    )
    agree(every, own)


def agree(names: tuple[str, ...], given: dict[str, Any]) -> None:
    """Print how far both ways are apart: the loop's solver as it comes, and run to the end."""
    from sklearn.linear_model import LogisticRegression

    mine, plain = scorekit_way(names, given), loop(names, first(given, LOOPED))
    print(f"largest difference from the loop, {LOOPED} triples:")
    for name in names:
        print(f"  {name}: {np.abs(mine[name][:LOOPED] - plain[name]).max():.1e}")
    few, ended = 20, {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 1000}
    exact = loop(("augclip",), first(given, few), **ended)["augclip"]
    print(f"  augclip, {few} triples, tol 1e-10: {np.abs(mine['augclip'][:few] - exact).max():.1e}")
    worst = 0.0
    for source, target in zip(
        given["source_attributes"][:few], given["target_attributes"][:few], strict=True
    ):
        rows = np.concatenate([source, target]).astype(np.float64)
        full = LogisticRegression(**ended).fit(rows, np.repeat([-1, 1], [SOURCE, TARGET]))
        normal = fit_plane(source, target, "logistic", 1.0).normal
        worst = max(worst, float(np.abs(normal - full.coef_[0]).max()))
    print(f"  the normal, {few} triples, tol 1e-10: {worst:.1e}")


if __name__ == "__main__":
    main()
