"""How near a run comes to the bare forward pass, on a GPU or a CPU.

Image towers with random weights, so that nothing is downloaded. Measured, each in a process of its
own: the tower alone on pixels that are on the device already, at several batch sizes (eager, and
on CUDA compiled and as a CUDA graph); a run over images in memory, of the model's own size; a run
over JPEG files of half a megapixel; both again with a model that does nothing, which is the bound
that reading, hashing, resizing and scorekit itself set; and the files with several processes on
the one device (``--device cuda:0,cuda:0``), which is how to get past one process's reading.

``python tests/bench/throughput.py --device cuda --dtype bf16`` on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import HERE, load, machine, print_table, run, spread

MODELS = ("ViT-B-32", "ViT-L-14")
TEXT = "two children reading a newspaper under a flowering cherry tree"
WARMUP = 64


def prepare(work: Path, models: list[str], files: int) -> None:
    """In a process of its own: write checkpoints and files."""
    import _data
    import open_clip
    import torch
    from safetensors.torch import save_file

    for arch in models:
        if not weights_of(work, arch).exists():
            torch.manual_seed(0)
            model = open_clip.model.CLIP(**open_clip.get_model_config(arch))
            state = {name: value.contiguous() for name, value in model.state_dict().items()}
            save_file(state, str(weights_of(work, arch)))
    folder = work / "files"
    folder.mkdir(exist_ok=True)
    for i in range(len(list(folder.iterdir())), files):
        _data.picture(i).save(folder / f"{i:05}.jpg", quality=_data.QUALITY)


def weights_of(work: Path, arch: str) -> Path:
    """Where a checkpoint lies."""
    return work / f"{arch}.safetensors"


# In the measured processes --------------------------------------------------------------------


def forward(args: argparse.Namespace) -> dict[str, Any]:
    """Images a second of the tower alone, by batch size and way."""
    import torch

    model = loaded(args)
    side = model.image_spec.size[0]
    found: dict[str, dict[str, float]] = {}
    for size in args.batch_sizes:
        pixels = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8)
        batch = model.normalise(pixels.to(model.device))
        ways: dict[str, Callable[[], Any]] = {"eager": lambda b=batch: model.encode_images(b)}
        if model.device.type == "cuda":
            ways["compiled"] = compiled(model.encode_images, batch)
            ways["graph"] = as_graph(model.encode_images, batch)
        with torch.inference_mode():
            for way, call in ways.items():
                found.setdefault(way, {})[str(size)] = size / seconds_of(call, args.seconds)
    return {"rates": found, "peak_device_mb": peak_of(model.device)}


def compiled(encode: Callable[[Any], Any], batch: Any) -> Callable[[], Any]:
    """The tower through torch.compile."""
    import torch

    faster = torch.compile(encode)
    return lambda: faster(batch)


def as_graph(encode: Callable[[Any], Any], batch: Any) -> Callable[[], Any]:
    """The tower as a CUDA graph."""
    import torch

    with torch.inference_mode():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                encode(batch)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            encode(batch)
    return graph.replay


def seconds_of(call: Callable[[], Any], least: float) -> float:
    """Seconds a call, over so many calls that they take `least` seconds."""
    import torch

    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    for _ in range(2):
        call()
    wait()
    calls, started = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        wait()
        if (passed := time.perf_counter() - started) >= least:
            return passed / calls


def scored(args: argparse.Namespace) -> dict[str, Any]:
    """Images a second of a whole run, loading left out."""
    import numpy as np

    from scorekit.io import samples_from
    from scorekit.run import RunOptions, score_samples

    devices = ",".join([args.device] * args.processes)
    options = RunOptions(
        device=devices,
        dtype=args.dtype,
        cache=False,
        batch_size=args.batch,
        workers=args.workers,
    )
    if args.way == "memory":
        rng = np.random.default_rng(0)
        shape = (args.images + WARMUP, args.side, args.side, 3)
        images: list[Any] = list(rng.integers(0, 256, shape, dtype=np.uint8))
    else:
        images = sorted((args.work / "files").iterdir())[: args.images + WARMUP]
    if args.without_model:
        without_model(args)
    began: list[float] = []
    seen: list[tuple[float, int]] = []

    def progress(done: int, _: int) -> None:
        if not began or done <= WARMUP:
            began.append(time.perf_counter())
        seen.append((time.perf_counter(), done))

    def timed(part: list[Any]) -> float:
        started = time.perf_counter()
        samples = samples_from(part, TEXT)
        score_samples(samples, "clipscore", backbone=args.backbone, options=options,
                      progress=progress)  # fmt: skip
        return time.perf_counter() - started

    if args.processes == 1:
        timed(images[:WARMUP])
        rate = (len(images) - WARMUP) / timed(images[WARMUP:])
    else:
        # Every run starts its processes anew: what is counted is what follows their start.
        timed(images)
        (first, at), (last, end) = seen[0], seen[-1]
        rate = (end - at) / (last - first)
    return {"rate": rate, "peak_device_mb": peak_of(loaded(args).device)}


def without_model(args: argparse.Namespace) -> None:
    """Let the loaded model give zeros at once."""
    import torch

    model = loaded(args)
    width = model.encode_images(torch.zeros(1, 3, args.side, args.side, device=model.device,
                                            dtype=model.dtype)).shape[1]  # fmt: skip
    model.encode_images = lambda pixels: torch.ones(len(pixels), width)
    model.normalise = lambda pixels: pixels
    model.device = torch.device("cpu")


def loaded(args: argparse.Namespace) -> Any:
    """The model, as a run of this process has it."""
    from scorekit.backbones.handle import get_handle
    from scorekit.backbones.spec import BackboneOptions

    options = BackboneOptions(device=args.device, dtype=args.dtype)
    return get_handle(args.backbone, options).model()


def peak_of(device: Any) -> float:
    """Largest memory that torch held on a CUDA device, in MB; 0 elsewhere."""
    import torch

    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


# The program ----------------------------------------------------------------------------------


def measure(way: str, arch: str, args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--work", args.work, "--measure", way, "--models", arch]
    for name in ("device", "dtype", "images", "seconds", "workers"):
        if (value := getattr(args, name)) is not None:
            command += [f"--{name}", str(value)]
    command += ["--batch-sizes", *map(str, args.batch_sizes)]
    for name, value in more.items():
        option = f"--{name.replace('_', '-')}"
        command += [option] if value is True else [option, str(value)] if value else []
    process = run(command)
    return {**process.json(), "peak_mb": process.peak_mb}


def show(arch: str, args: argparse.Namespace) -> None:
    """Measure a model and print its tables."""
    rounds = [measure("forward", arch, args) for _ in range(args.repeat)]
    ways = list(rounds[0]["rates"])
    print(f"\n{arch}: images/s of the tower alone, {args.dtype}\n")
    print_table(
        ["batch", *ways],
        [
            [str(b), *(spread([r["rates"][way][str(b)] for r in rounds], 1) for way in ways)]
            for b in args.batch_sizes
        ],
    )
    medians = {b: statistics.median(r["rates"]["eager"][str(b)] for r in rounds)
               for b in args.batch_sizes}  # fmt: skip
    best = max(medians, key=lambda b: medians[b])
    alone = medians[best]
    print(f"\n{arch}: whole runs of {args.images} images, batch {best}\n")
    rows = []
    for name, way, more in (
        ("images in memory", "memory", {}),
        ("images in memory, no model", "memory", {"without_model": True}),
        ("JPEG files", "files", {}),
        ("JPEG files, no model", "files", {"without_model": True}),
        *((f"JPEG files, {n} processes", "files", {"processes": n}) for n in args.several),
    ):
        found = [measure(way, arch, args, batch=best, **more) for _ in range(args.repeat)]
        rates = [one["rate"] for one in found]
        share = "-" if more.get("without_model") else f"{statistics.median(rates) / alone:.0%}"
        device = max(one["peak_device_mb"] for one in found)
        rows.append(
            [name, spread(rates, 1), share, f"{max(one['peak_mb'] for one in found):.0f}",
             f"{device:.0f}" if device and "processes" not in more else "-"]
        )  # fmt: skip
    print_table(["", "images/s", "of the tower alone", "peak MB", "peak MB of the device"], rows)


def main() -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder [a temporary one]")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="OpenCLIP architectures")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--several", type=int, nargs="*", default=[2], help="processes")
    parser.add_argument("--workers", type=int, help="threads that read, a process")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each forward measurement")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--measure", dest="way", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--without-model", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        (arch,) = args.models
        args.backbone = f"open_clip:{arch}/{weights_of(args.work, arch)}"
        args.side = 224  # of both architectures
        print(json.dumps(forward(args) if args.way == "forward" else scored(args)))
        return
    with tempfile.TemporaryDirectory(prefix="scorekit-bench-") as temporary:
        args.work = (args.work or Path(temporary)).resolve()
        args.work.mkdir(parents=True, exist_ok=True)
        run(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
                f"from throughput import *; "
                f"prepare(Path({str(args.work)!r}), {args.models!r}, {args.images + WARMUP})",
            ]
        )
        print(f"{machine()}; {load()}; device {args.device}", flush=True)
        for arch in args.models:
            show(arch, args)


if __name__ == "__main__":
    main()
