"""One peer in its own process: load, warm up on other pairs, then time the scoring alone.

Run as a script: ``python _peers.py NAME WORK BATCH``. The last line of its output is JSON:
``seconds``, ``cosines`` (one a pair, in the order of the rows, where the peer gives them), ``mean``
(where it gives their mean) and whatever else the peer has to tell.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _weights import ARCH, HF_FOLDER, OPEN_CLIP_FILE

Pairs = list[tuple[Path, str]]


def read_pairs(folder: Path) -> Pairs:
    """Images and texts of the benchmark, in order."""
    with (folder / "prompts.csv").open(newline="", encoding="utf-8") as file:
        return [(folder / "images" / row["image"], row["text"]) for row in csv.DictReader(file)]


def batches(pairs: Pairs, size: int) -> Iterator[Pairs]:
    """Consecutive pairs."""
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call took, and its result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


# scorekit ---------------------------------------------------------------------------------------


def _scorekit(work: Path, family: str = "open_clip", **options: Any) -> dict[str, Any]:
    import scorekit
    from scorekit.metrics.clipscore import CLIPScore

    backbone = {
        "open_clip": f"open_clip:{ARCH}/{work / OPEN_CLIP_FILE}",
        "hf": f"hf:{work / HF_FOLDER}",
    }[family]
    metric = CLIPScore(backbone=backbone, prefix="", scale=1, clamp="none")

    def score(folder: Path) -> Any:
        return scorekit.score(
            folder / "images",
            prompts=folder / "prompts.csv",
            metrics=metric,
            device="cpu",
            **options,
        )

    score(work / "warmup")
    seconds, table = timed(lambda: score(work / "data"))
    out = {"seconds": seconds, "cosines": table.scores("clipscore").tolist()}
    if options["cache"] is not False:
        again = [timed(lambda: score(work / "data")) for _ in range(5)]
        out["warm_seconds"] = sorted(s for s, _ in again)[2]
        if again[0][1].scores("clipscore").tolist() != out["cosines"]:
            raise SystemExit("scores from the cache differ")
    return out


def scorekit_exact(work: Path, batch: int) -> dict[str, Any]:
    """`scorekit.score` on the folder as it is without options, but nothing cached."""
    return _scorekit(work, cache=False)


def scorekit_batch(work: Path, batch: int) -> dict[str, Any]:
    """The same in the others' batches."""
    return _scorekit(work, cache=False, batch_size=batch)


def scorekit_fast(work: Path, batch: int) -> dict[str, Any]:
    """The same with the fast resize."""
    return _scorekit(work, cache=False, resize="fast")


def scorekit_hf(work: Path, batch: int) -> dict[str, Any]:
    """The same with transformers' model in place of OpenCLIP's."""
    return _scorekit(work, "hf", cache=False)


def scorekit_cache(work: Path, batch: int) -> dict[str, Any]:
    """With a new cache; then again from it."""
    folder = tempfile.mkdtemp(prefix="bench-cache-", dir=work)
    try:
        return _scorekit(work, cache=folder)
    finally:
        shutil.rmtree(folder)


# The others -------------------------------------------------------------------------------------


def torchmetrics(work: Path, batch: int) -> dict[str, Any]:
    """`CLIPScore.update` on lists of decoded images; `update_seconds` is without the decoding."""
    from torchmetrics.multimodal.clip_score import CLIPScore
    from torchvision.io import ImageReadMode, decode_image

    metric = CLIPScore(model_name_or_path=str(work / HF_FOLDER))

    def score(pairs: Pairs) -> float:
        metric.reset()
        inside = 0.0
        for part in batches(pairs, batch):
            images = [decode_image(str(path), mode=ImageReadMode.RGB) for path, _ in part]
            inside += timed(lambda i=images, p=part: metric.update(i, [t for _, t in p]))[0]
        return inside

    score(read_pairs(work / "warmup"))
    pairs = read_pairs(work / "data")
    seconds, inside = timed(lambda: score(pairs))
    return {
        "seconds": seconds,
        "update_seconds": inside,
        "mean": float(metric.score / metric.n_samples) / 100,
        "processor": type(metric.processor.image_processor).__name__,
    }


def clip_score(work: Path, batch: int) -> dict[str, Any]:
    """The command's own `main`, its scoring loop timed.

    Its data loader stacks token ids without padding, so that a batch of texts of different
    lengths ends with an error; it is then run as one has to, a pair at a time.
    """
    import contextlib
    import io

    import clip_score.clip_score as command

    original = command.calculate_clip_score
    result: dict[str, Any] = {}

    def calculate(loader: Any, model: Any, *flags: str) -> Any:
        result["seconds"], value = timed(lambda: original(loader, model, *flags))
        result["mean"] = float(value)
        return value

    def main(folder: Path, size: int) -> None:
        sys.argv = [
            "clip-score",
            "--clip-model",
            str(work / HF_FOLDER),
            "--batch-size",
            str(size),
            str(folder / "images"),
            str(folder / "texts"),
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            command.main()

    command.calculate_clip_score = calculate
    try:
        main(work / "warmup", batch)
        main(work / "data", batch)
        size = batch
    except RuntimeError as error:
        result["error"] = f"batch size {batch}: {str(error).strip().splitlines()[-1][:200]}"
        size = 1
        main(work / "warmup", size)
        main(work / "data", size)
    return {**result, "batch": size}


def _open_clip(work: Path, size: int) -> dict[str, Any]:
    import open_clip
    import torch
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms(
        ARCH, pretrained=str(work / OPEN_CLIP_FILE)
    )
    model.eval()
    tokenizer = open_clip.get_tokenizer(ARCH)

    @torch.no_grad()
    def score(pairs: Pairs) -> list[float]:
        out: list[float] = []
        for part in batches(pairs, size):
            pixels = torch.stack([preprocess(Image.open(path)) for path, _ in part])
            images = model.encode_image(pixels, normalize=True)
            texts = model.encode_text(tokenizer([t for _, t in part]), normalize=True)
            out += (images * texts).sum(-1).tolist()
        return out

    score(read_pairs(work / "warmup"))
    pairs = read_pairs(work / "data")
    seconds, cosines = timed(lambda: score(pairs))
    return {"seconds": seconds, "cosines": cosines}


def open_clip_single(work: Path, batch: int) -> dict[str, Any]:
    """A plain loop, a pair at a time, texts padded to 77."""
    return _open_clip(work, 1)


def open_clip_batched(work: Path, batch: int) -> dict[str, Any]:
    """A plain loop over batches, texts padded to 77."""
    return _open_clip(work, batch)


def forward(work: Path, batch: int) -> dict[str, Any]:
    """The towers alone: batches of images that are tensors already, each text once, trimmed."""
    import numpy as np
    import torch
    from PIL import Image

    from scorekit.backbones.handle import get_handle
    from scorekit.backbones.spec import BackboneOptions

    name = f"open_clip:{ARCH}/{work / OPEN_CLIP_FILE}"
    model = get_handle(name, BackboneOptions(device="cpu")).model()
    batch = model.batch_size  # scorekit's own

    def tensors(folder: Path) -> tuple[list[Any], list[list[list[int]]]]:
        pairs = read_pairs(folder)
        images = []
        for part in batches(pairs, batch):
            arrays = [model.image_spec.apply(Image.open(p).convert("RGB")) for p, _ in part]
            images.append(model.normalise(torch.from_numpy(np.stack(arrays))))
        ids = [t.ids for t in model.tokenize(list(dict.fromkeys(t for _, t in pairs)))]
        ids.sort(key=len)
        return images, [ids[i : i + batch] for i in range(0, len(ids), batch)]

    def run(inputs: tuple[list[Any], list[list[list[int]]]]) -> None:
        with torch.inference_mode():
            for pixels in inputs[0]:
                model.encode_images(pixels)
            for ids in inputs[1]:
                model.encode_tokens(ids, max(map(len, ids)))

    run(tensors(work / "warmup"))
    inputs = tensors(work / "data")
    seconds, _ = timed(lambda: run(inputs))
    rows = model.tokenize([text for _, text in read_pairs(work / "data")])
    return {"seconds": seconds, "lengths": [len(row.ids) for row in rows]}


PEERS = {
    "scorekit": scorekit_exact,
    "scorekit, the others' batch": scorekit_batch,
    "scorekit, --resize fast": scorekit_fast,
    "scorekit, hf: backbone": scorekit_hf,
    "scorekit, cache on": scorekit_cache,
    "torchmetrics": torchmetrics,
    "clip-score": clip_score,
    "open_clip loop, 1 pair": open_clip_single,
    "open_clip loop, batches": open_clip_batched,
    "forward pass alone": forward,
}
ELSEWHERE = ("torchmetrics", "clip-score")
"""Those that run in the second environment."""

if __name__ == "__main__":
    print(json.dumps(PEERS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
