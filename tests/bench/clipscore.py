"""CLIPScore of a folder: scorekit beside what people use today, in one run.

Every peer scores the same images and prompts with the same ViT-B/32 weights (random: no download
is needed) in a process of its own, which warms up on other pairs and then times the scoring
alone. All peers run once, then all again, so that a change in the machine's speed meets all of
them; ratios are taken within a round.

torchmetrics 1.9 needs transformers below 5: it and `clip-score` get an environment of their own
in the work folder, made by the first run (several GB). What was measured is in
``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _gemm
from _common import HERE, Failed, load, machine, print_table, run, scorekit_command, spread
from _peers import ELSEWHERE, PEERS
from _weights import ARCH, HF_FOLDER, OPEN_CLIP_FILE

PACKAGES = ("torchmetrics==1.9.*", "transformers<5", "torch", "torchvision", "clip-score")
OURS, CACHED, FORWARD = "scorekit", "scorekit, cache on", "forward pass alone"
TOLERANCE = 1e-5
"""Largest difference of a cosine from scorekit's for a peer that does the same computation."""


def prepare(work: Path, images: int, prompts: int) -> None:
    """Write weights, images and prompts where they are not there already."""
    if not (work / HF_FOLDER / "merges.txt").exists():
        run([sys.executable, HERE / "_weights.py", work])
    stamp = work / f"data-{images}-{prompts}"
    if not stamp.exists():
        for name in ("data", "warmup"):
            shutil.rmtree(work / name, ignore_errors=True)
        for old in work.glob("data-*"):
            old.unlink()
        run([sys.executable, HERE / "_data.py", work, str(images), str(prompts)])
        stamp.touch()


def second_environment(work: Path) -> Path:
    """The interpreter of the environment that has torchmetrics and `clip-score`."""
    folder = work / "peers"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "installed"
    if not stamp.exists():
        print(f"installing {', '.join(PACKAGES)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
        stamp.touch()
    return python


def measure(names: list[str], work: Path, other: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Results of each peer, one a round; the text of the error for a peer that can't run."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    errors: dict[str, str] = {}
    for number in range(args.repeat):
        for name in names:
            if name in errors:
                continue
            python = other if name in ELSEWHERE else sys.executable
            try:
                done = run([python, HERE / "_peers.py", name, work, str(args.batch)])
            except Failed as error:
                errors[name] = str(error)
                continue
            result = {**done.json(), "peak_mb": done.peak_mb}
            results[name].append(result)
            rate = args.images / result["seconds"]
            print(f"round {number + 1}: {name}: {rate:.2f} pairs/s, {load()}", flush=True)
    return {"results": {k: v for k, v in results.items() if k not in errors}, "errors": errors}


def whole_processes(work: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the command itself with an empty cache, and again with a full one."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(args.repeat):
        cache = tempfile.mkdtemp(prefix="bench-cache-", dir=work)
        command = [
            *scorekit_command(),
            "score",
            work / "data/images",
            "--quiet",
            "--device",
            "cpu",
            "--prompts",
            work / "data/prompts.csv",
            "--cache",
            cache,
            "--backbone",
            f"open_clip:{ARCH}/{work / OPEN_CLIP_FILE}",
        ]
        for kind in seconds:
            seconds[kind].append(run(command).seconds)
        shutil.rmtree(cache)
    return seconds


def report(found: dict[str, Any], args: argparse.Namespace) -> None:
    """Print the main table."""
    results, n = found["results"], args.images
    columns: dict[str, tuple[list[float], list[dict[str, Any]]]] = {}
    for name, rounds in results.items():
        columns[name] = ([n / r["seconds"] for r in rounds], rounds)
        if "update_seconds" in rounds[0]:
            rates = [n / r["update_seconds"] for r in rounds]
            columns[f"{name}, images decoded before"] = (rates, rounds)
    ours = columns[OURS][0]
    rows = []
    for name, (rates, rounds) in columns.items():
        ratios = [a / b for a, b in zip(ours, rates, strict=False)]
        share = "-"
        if FORWARD in columns:
            pairs = zip(rates, columns[FORWARD][0], strict=False)
            share = f"{statistics.median(a / b for a, b in pairs):.0%}"
        peak = max(r["peak_mb"] for r in rounds)
        rows.append(
            [
                name,
                spread(rates),
                spread(ratios),
                share,
                f"{peak:.0f}",
                difference(rounds[0], results[OURS][0]),
            ]
        )
    print()
    print_table(
        [
            "",
            "pairs/s",
            "scorekit is faster by",
            "of the forward pass",
            "peak MB",
            "largest difference of a cosine",
        ],
        rows,
    )
    for name, error in found["errors"].items():
        print(f"{name} could not run: {error}")
    for name, rounds in results.items():
        if "error" in rounds[0]:
            print(f"{name} failed at {rounds[0]['error']}; measured at batch {rounds[0]['batch']}")
        if "processor" in rounds[0]:
            print(f"{name} used {rounds[0]['processor']}")


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """How far a peer's cosines, or their mean, are from scorekit's."""
    mine = ours["cosines"]
    if theirs.get("cosines"):
        value = max(abs(a - b) for a, b in zip(theirs["cosines"], mine, strict=True))
        what = ""
    elif "mean" in theirs:
        value, what = abs(theirs["mean"] - statistics.fmean(mine)), " (of the mean)"
    else:
        return "-"
    return f"{value:.1e}{what}" + ("" if value <= TOLERANCE else f" (over {TOLERANCE:g})")


def report_limits(found: dict[str, Any], args: argparse.Namespace) -> None:
    """Print what arithmetic allows against torchmetrics."""
    results = found["results"]
    if FORWARD not in results:
        return
    lengths = results[FORWARD][0]["lengths"]
    each = args.images // args.prompts
    image = args.images * _gemm.image()
    theirs = image + _gemm.every_row(lengths, args.batch)
    full = image + args.images * _gemm.text(77)
    mine = image + _gemm.each_once(lengths[::each])
    print(f"\ntexts: {min(lengths)} to {max(lengths)} tokens, mean {statistics.fmean(lengths):.1f}")
    print("multiply-adds, in 1e9 a pair:")
    for name, value in (
        ("each text once, no padding", mine),
        ("torchmetrics", theirs),
        ("all texts padded to 77", full),
    ):
        print(f"  {name}: {value / args.images / 1e9:.2f} ({value / mine:.2f} x)")
    if "torchmetrics" in results:
        ratios = [
            a["seconds"] / b["seconds"]
            for a, b in zip(results["torchmetrics"], results[FORWARD], strict=False)
        ]
        print(f"torchmetrics beside the forward pass alone: {spread(ratios)} x")


def main() -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scorekit-bench"
    parser.add_argument("--work", type=Path, default=default, help="folder [%(default)s]")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32, help="of the peers")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--only", nargs="+", metavar="PEER", choices=list(PEERS), help="peers")
    parser.add_argument("--peers-python", type=Path, help="interpreter with torchmetrics")
    parser.add_argument("--no-processes", action="store_true", help="leave the command out")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, args.images, args.prompts)
    names = [name for name in PEERS if not args.only or name in args.only or name == OURS]
    other = Path(sys.executable)
    if any(name in ELSEWHERE for name in names):
        other = args.peers_python or second_environment(work)
    print(f"{machine()}; {load()}")
    print(f"{args.images} images, {args.prompts} prompts, batch {args.batch}, fp32\n", flush=True)
    found = measure(names, work, other, args)
    report(found, args)
    report_limits(found, args)
    if cached := found["results"].get(CACHED):
        rates = [args.images / r["warm_seconds"] for r in cached]
        times = [r["seconds"] / r["warm_seconds"] for r in cached]
        print(
            f"\nfrom the cache, in process: {spread(rates, 0)} pairs/s, "
            f"{spread(times, 0)} x of computing them"
        )
    if not args.no_processes:
        seconds = whole_processes(work, args)
        print(f"`scorekit score`, empty cache: {spread(seconds['cold'])} s as a whole process")
        print(
            f"`scorekit score`, full cache: {spread(seconds['warm'])} s, "
            f"{spread([args.images / s for s in seconds['warm']], 0)} pairs/s"
        )


if __name__ == "__main__":
    main()
