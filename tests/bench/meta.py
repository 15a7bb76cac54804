"""Meta-evaluation at n rows: the exact best eps, and tau-b with a clustered bootstrap.

    python tests/bench/meta.py [--n 10000] [--resamples 1000]

Each line is a process of its own. Peers: all pairs listed and sorted in numpy, for the best eps;
a loop over `scipy.stats.kendalltau`, for the bootstrap, timed on 20 resamples and multiplied.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import load, machine, print_table, run

SCIPY_RESAMPLES = 20


def data(n: int, kind: str) -> tuple[Any, Any, Any]:
    """Metric, ratings 1 to 5, and items of five rows each."""
    import numpy as np

    rng = np.random.default_rng(0)
    ratings = rng.choice(5, n, p=[0.05, 0.05, 0.1, 0.2, 0.6]) + 1.0
    metric = ratings + 0.7 * rng.normal(size=n)
    if kind == "skewed":
        metric = np.exp(5 * metric)
    if kind == "steps":
        metric = np.round(metric * 12) / 12
    if kind == "no ties":
        ratings = ratings + 0.1 * rng.normal(size=n)
    return metric, ratings, np.arange(n) // 5


def eps_scorekit(n: int, resamples: int, kind: str) -> str:
    import numpy as np

    from scorekit.tie_search import best_eps

    x, y, _ = data(n, kind)
    return "{:.9g}, {}".format(*best_eps(x, y, [np.arange(n)]))


def eps_pairs(n: int, resamples: int, kind: str) -> str:
    import numpy as np

    x, y, _ = data(n, kind)
    i, j = np.triu_indices(n, 1)
    apart = np.abs(x[i] - x[j])
    order = np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
    gain = (y[i] == y[j]).astype(np.int64) - (order > 0)
    right = int((order > 0).sum())
    by_size = np.argsort(apart, kind="stable")
    apart, counts = apart[by_size], right + np.cumsum(gain[by_size])
    ends = np.flatnonzero(np.append(apart[1:] != apart[:-1], True))
    best = ends[np.argmax(counts[ends])]
    if counts[best] <= right:  # no eps above 0 gains a pair
        return f"0, {right}"
    return f"{apart[best]:.9g}, {counts[best]}"


def accuracy_scorekit(n: int, resamples: int, kind: str) -> str:
    from scorekit.ties import pairwise_accuracy

    x, y, items = data(n, kind)
    return str(pairwise_accuracy(x, y, clusters=items, n_resamples=resamples).accuracy)


def tau_scorekit(n: int, resamples: int, kind: str) -> str:
    from scorekit.correlation import correlate

    x, y, items = data(n, kind)
    return str(correlate(x, y, "kendall_tau_b", items, n_resamples=resamples))


def tau_scipy(n: int, resamples: int, kind: str) -> str:
    import numpy as np
    from scipy.stats import kendalltau

    x, y, _ = data(n, kind)
    rng, rows = np.random.default_rng(0), np.split(np.arange(n), np.arange(5, n, 5))
    for _ in range(SCIPY_RESAMPLES):
        drawn = np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))])
        kendalltau(x[drawn], y[drawn])
    return f"{kendalltau(x, y).statistic:.4f}"


def permutation_scorekit(n: int, resamples: int, kind: str) -> str:
    import numpy as np

    from scorekit.significance import permutation_test

    x, y, items = data(n, kind)
    other = x + np.random.default_rng(1).normal(size=n)
    return f"p = {permutation_test(x, other, y, items=items, n_resamples=resamples).p_value:.4f}"


def influence_scorekit(n: int, resamples: int, kind: str) -> str:
    from scorekit.complementarity import influence

    return str(influence(*data(n, kind)).strongest(1)[0])


PARTS: list[tuple[str, Callable[[int, int, str], str], str]] = [
    *(("best eps", part, kind) for kind in ("plain", "skewed", "steps", "no ties")
      for part in (eps_scorekit, eps_pairs)),
    ("accuracy, eps by halves, interval", accuracy_scorekit, "plain"),
    *(("tau-b, bootstrap", part, kind) for kind in ("plain", "no ties")
      for part in (tau_scorekit, tau_scipy)),
    ("permutation test, tau-b", permutation_scorekit, "plain"),
    ("influence of each item, tau-b", influence_scorekit, "plain"),
]  # fmt: skip


def measure(index: int, n: int, resamples: int) -> None:
    """One part, imports left out."""
    import scipy.stats  # noqa: F401

    _, part, kind = PARTS[index]
    started = time.perf_counter()
    result = part(n, resamples, kind)
    seconds = time.perf_counter() - started
    if part is tau_scipy:
        seconds *= resamples / SCIPY_RESAMPLES
    print(json.dumps([seconds, result]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part is not None:
        measure(args.part, args.n, args.resamples)
        return
    print(f"{machine()}; {load()}; n = {args.n:,}, {args.resamples:,} resamples\n", flush=True)
    rows = []
    for index, (name, part, kind) in enumerate(PARTS):
        command = [sys.executable, Path(__file__), "--part", str(index)]
        done = run([*command, "--n", str(args.n), "--resamples", str(args.resamples)])
        seconds, result = done.json()
        who = part.__name__.rsplit("_", 1)[1]
        rows.append([name, kind, who, f"{seconds:.2f}", f"{done.peak_mb:.0f}", result])
    print_table(["", "metric", "by", "s", "peak MB", "result"], rows)


if __name__ == "__main__":
    main()
