"""``--dtype int8`` beside float32 on this CPU: how much faster, and how far its scores are off.

Speed is that of random weights (no download): single matrix products, whole towers, and scores of
JPEG files. It is told in processor time, summed over cores, which other programs disturb less than
the clock; the dtypes take turns. The error is measured on random weights, on the small checkpoint
of scenes, whose weights are trained, and on any other with ``--backbone NAME --images FOLDER``.
What was measured is in ``docs/performance.md`` and ``docs/precision.md``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _common import load, machine, print_table, spread
from clipscore import prepare

ARCHS = {"ViT-B-32-quickgelu": 16, "ViT-L-14-quickgelu": 4}
"""Architectures of OpenCLIP, and how many images a batch."""
SCENES, HELD_OUT = "scenes-clip", 2000
SMALL = "ViT-B-32-quickgelu"
TEXTS = 64
PREFIX = "A photo depicts "


def rounds(ways: Mapping[str, Callable[[], Any]], repeat: int) -> dict[str, list[float]]:
    """Processor seconds of each way, which take turns; one call each to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeat + 1):
        for name, call in ways.items():
            started = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - started)
    return seconds


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


# Speed ------------------------------------------------------------------------------------------


def products(width: int, tokens: int, batch: int, repeat: int) -> dict[str, list[float]]:
    """The matrix products of one block, a batch of rows each: fp32, bf16 and int8."""
    import torch

    from scorekit.backbones.int8 import ROWS, Int8Product, round_rows

    rows = batch * tokens
    some = max(1, ROWS // tokens) * tokens
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    layers = []
    for k, n in shapes:
        x, weight = torch.randn(rows, k), torch.randn(n, k)
        parts = [round_rows(part)[0] for part in x.split(some)]
        layers.append(
            (x, weight, x.bfloat16(), weight.bfloat16(), Int8Product(weight, None), parts)
        )
    linear = torch.nn.functional.linear
    times = 4
    with torch.inference_mode():
        return rounds(
            {
                "fp32": lambda: [linear(x, w) for x, w, *_ in layers * times],
                "bf16": lambda: [linear(x, w) for _, _, x, w, *_ in layers * times],
                "int8": lambda: [p.multiply(x) for *_, p, xs in layers * times for x in xs],
            },
            repeat,
        )


def towers(arch: str, batch: int, folder: Path, repeat: int) -> list[list[str]]:
    """Lines of the table: both towers of an architecture, behind the backbone's interface."""
    from scorekit.backbones.dual import Prepared
    from scorekit.types import image_embedding, text_embedding

    rng = np.random.default_rng(0)
    file = folder / f"{arch}.safetensors"
    name = f"open_clip:{arch}/{file}"
    models = {dtype: load_model(name, dtype) for dtype in ("fp32", "bf16", "int8")}
    size = models["fp32"].image_spec.size
    levels = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(batch)]
    texts = [" ".join(["word"] * int(n)) for n in rng.integers(5, 40, TEXTS)]
    images = [Prepared(pixels, {}) for pixels in levels]
    lines = []
    for label, feature, inputs in (
        ("images", image_embedding(name), images),
        ("texts", text_embedding(name), texts),
    ):
        found = rounds(
            {
                dtype: lambda m=model, f=feature, x=inputs: m.extract(f, x)
                for dtype, model in models.items()
            },
            repeat,
        )
        each = [spread([1e3 * s / len(inputs) for s in found[d]], 1) for d in found]
        gain = ratios(found["fp32"], found["int8"])
        limit = "-"
        if label == "images":
            blocks = models["fp32"].model.visual.transformer
            tokens = (size[0] // models["fp32"].model.visual.patch_size[0]) ** 2 + 1
            own = products(blocks.width, tokens, batch, repeat)
            per = {d: statistics.median(s) / 4 * blocks.layers for d, s in own.items()}
            whole = statistics.median(found["fp32"])
            limit = f"{whole / (whole - per['fp32'] + per['int8']):.2f}"
            lines.append(
                [
                    f"{arch}: products of {batch} images",
                    *(
                        spread([1e3 * s / 4 * blocks.layers / batch for s in own[d]], 1)
                        for d in own
                    ),
                    spread(ratios(own["fp32"], own["int8"])),
                    "",
                ]
            )
        lines.append([f"{arch}: {label}", *each, spread(gain), limit])
    return lines


def write_weights(arch: str, file: Path) -> None:
    """Random weights of an OpenCLIP architecture."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    if not file.exists():
        torch.manual_seed(0)
        model = open_clip.model.CLIP(**open_clip.get_model_config(arch))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, str(file))


def load_model(name: str, dtype: Any) -> Any:
    """A backbone on the CPU."""
    from scorekit.backbones.handle import get_handle
    from scorekit.backbones.spec import BackboneOptions

    return get_handle(name, BackboneOptions(device="cpu", dtype=dtype)).model()


def whole(work: Path, images: int, repeat: int) -> list[list[str]]:
    """Lines of the table: `scorekit.score` of JPEG files, reading and resizing included."""
    import scorekit

    name = f"open_clip:{SMALL}/{work / SMALL}.safetensors"

    def score(dtype: Any) -> Any:
        return scorekit.score(
            work / "data/images",
            prompts=work / "data/prompts.csv",
            metrics="clipscore",
            backbone=name,
            dtype=dtype,
            device="cpu",
            cache=False,
        )

    found = rounds({d: lambda d=d: score(d) for d in ("fp32", "bf16", "int8")}, repeat)
    each = [spread([1e3 * s / images for s in found[d]], 1) for d in found]
    return [[f"{SMALL}: score files", *each, spread(ratios(found["fp32"], found["int8"])), ""]]


# Error ------------------------------------------------------------------------------------------


def embeddings(name: str, dtype: Any, images: list[Any], texts: list[str]) -> tuple[Any, Any]:
    """Unit embeddings of images and texts."""
    from scorekit.scenes.evaluate import unit
    from scorekit.types import image_embedding, text_embedding

    model = load_model(name, dtype)
    feature = image_embedding(name)
    ready = [model.prepare(feature, image) for image in images]
    made = [
        model.extract(feature, ready),
        model.extract(text_embedding(name, prefix=PREFIX), texts),
    ]
    seen, read = (unit(np.stack([e.array for e in part]).astype(np.float64)) for part in made)
    return seen, read


def compare(name: str, label: str, images: list[Any], texts: list[str]) -> list[list[str]]:
    """Lines of the table: how far cosines of rows (image, its text) are from float32's."""
    from scipy.stats import spearmanr

    exact = embeddings(name, "fp32", images, texts)
    cosines = (exact[0] * exact[1]).sum(1)
    lines = []
    for dtype in ("bf16", "int8"):
        seen, read = embeddings(name, dtype, images, texts)
        off = (seen * read).sum(1) - cosines
        apart = [1 - (a * b).sum(1).mean() for a, b in zip(exact, (seen, read), strict=True)]
        lines.append(
            [
                f"{label}, {dtype}",
                str(len(off)),
                *(f"{value:.1e}" for value in (*apart, off.mean(), off.std(), abs(off).max())),
                f"{cosines.std():.3f}",
                f"{spearmanr(cosines, cosines + off).statistic:.5f}",
            ]
        )
    return lines


def held_out(n: int) -> tuple[list[list[str]], list[list[str]]]:
    """The checkpoint of scenes on held-out pairs: its cosines, and its AUC by dtype."""
    from scorekit.scenes.draw import render
    from scorekit.scenes.evaluate import RANDOM, auc
    from scorekit.scenes.evaluate import held_out as draw

    lines, areas = [], []
    for kind in (RANDOM, ("attribute", "colour")):
        pairs = draw(*kind, n)
        images = [render(pair.scene, 224) for pair in pairs]
        true, false = ([getattr(p, side).text for p in pairs] for side in ("true", "false"))
        if kind == RANDOM:
            lines = compare(SCENES, f"{SCENES}, held-out scenes", images, true)
        row = [" ".join(kind), str(n)]
        for dtype in ("fp32", "bf16", "int8"):
            seen, read = embeddings(SCENES, dtype, images, [*true, *false])
            scores = [(seen * part).sum(1) for part in (read[:n], read[n:])]
            row.append(f"{auc(*scores):.4f}")
        areas.append(row)
    return lines, areas


def pairs_of(folder: Path, prompts: Path | None = None) -> tuple[list[Any], list[str]]:
    """Images of a folder with their texts."""
    from PIL import Image

    from scorekit.io import read_samples

    samples = read_samples(folder, prompts=prompts).samples
    return [Image.open(s.image).convert("RGB") for s in samples], [s.text or "" for s in samples]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scorekit-bench-int8"
    parser.add_argument("--work", type=Path, default=default, help="folder [%(default)s]")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--files", type=int, default=64, help="JPEG files")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="pairs of scenes")
    parser.add_argument("--only", choices=("speed", "error"), help="one half")
    parser.add_argument("--backbone", help="measure the error of this one, and nothing else")
    parser.add_argument("--images", type=Path, help="folder with prompts, for --backbone")
    args = parser.parse_args()
    print(f"{machine()}; {load()}\n", flush=True)
    heads = [
        "",
        "n",
        "image 1-cos",
        "text 1-cos",
        "mean",
        "std",
        "largest",
        "cos std",
        "rank corr.",
    ]
    if args.backbone:
        print_table(heads, compare(args.backbone, args.backbone, *pairs_of(args.images)))
        return 0
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, args.files, args.files // 4)
    for arch in ARCHS:
        write_weights(arch, work / f"{arch}.safetensors")
    if args.only != "error":
        lines = [line for a, n in ARCHS.items() for line in towers(a, n, work, args.repeat)]
        lines += whole(work, args.files, args.repeat)
        print("processor ms an input; times fp32, in int8's favour; limit by the products\n")
        print_table(["", "fp32", "bf16", "int8", "fp32 / int8", "limit"], lines)
    if args.only != "speed":
        found = pairs_of(work / "data/images", work / "data/prompts.csv")
        weights = f"open_clip:{SMALL}/{work}"
        lines = compare(f"{weights}/{SMALL}.safetensors", "ViT-B/32, random", *found)
        lines += compare(
            f"{weights}/vit-b-32.safetensors", "the same, three times as large", *found
        )
        demo = Path(__file__).resolve().parents[2] / "data/demo"
        lines += compare(SCENES, f"{SCENES}, its demo", *pairs_of(demo))
        more, areas = held_out(args.held_out)
        print("\ndifferences of cosines from fp32's\n")
        print_table(heads, [*lines, *more])
        print("\nAUC of scenes-clip\n")
        print_table(["false captions", "n", "fp32", "bf16", "int8"], areas)
    print(f"\n{load()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
