"""Misaligned words: scorekit's token attributions beside a loop over single pairs, in one run.

A ViT-B/32 with random weights, 256 pairs of image and text. The loop is what a user of the public
method runs: transformers' model with eager attention, the attention maps of the last three text
layers kept, a gradient for each, one pair at a time. Every way scores the same pairs with the same
weights in a process of its own, warms up on others, and is then timed on the scoring alone. All
run once, then all again; ratios are taken within a round. What was measured is in
``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _gemm
from _common import HERE, load, machine, print_table, run, spread
from _peers import read_pairs
from _weights import ARCH, HF_FOLDER, OPEN_CLIP_FILE
from clipscore import prepare

PREFIX, EPS, LAST = "A photo depicts ", -5e-5, 3
TOLERANCE = 1e-4
"""Largest difference of an attribution, relative to the largest one of its text; of a cosine a
tenth of it. The loop with and without padding differs by 3e-5 from itself."""

LOOP, SHORT = "loop", "loop, no padding"
CLIP, WORDS, BOTH = "clipscore", "f_clipscore", "clipscore and f_clipscore"
CACHED = ", images cached"
WAYS = (*(way + CACHED for way in (LOOP, SHORT, CLIP, WORDS, BOTH)), LOOP, SHORT, WORDS)
EMBEDDED = "embedded"
"""Folder of a cache that has the images' embeddings."""

Result = dict[str, Any]


def score(way: str, work: Path) -> Result:
    """Seconds, and each pair's cosine and word attributions; run in a process of its own."""
    name, cached = way.removesuffix(CACHED), way.endswith(CACHED)
    make = _loop if name in (LOOP, SHORT) else _scorekit
    ready = make(work, name, cached)
    ready(work / "warmup")()
    timed = ready(work / "data")
    started = time.perf_counter()
    read = timed()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, **read()}


# scorekit ---------------------------------------------------------------------------------------


def _scorekit(work: Path, name: str, cached: bool) -> Callable[[Path], Callable[[], Any]]:
    import scorekit
    from scorekit.metrics.clipscore import CLIPScore
    from scorekit.metrics.f_clipscore import FCLIPScore

    backbone = f"open_clip:{ARCH}/{work / OPEN_CLIP_FILE}"
    metrics = {CLIP: [CLIPScore(backbone)], WORDS: [FCLIPScore(backbone)]}
    metrics[BOTH] = metrics[CLIP] + metrics[WORDS]

    def score_folder(folder: Path, cache: Path, **more: Any) -> Any:
        return scorekit.score(folder / "images", device="cpu", cache=cache, **more)

    def ready(folder: Path) -> Callable[[], Any]:
        cache = Path(tempfile.mkdtemp(prefix="bench-cache-", dir=work))
        if cached:  # the images' embeddings, and that of a text which is none of the prompts
            score_folder(folder, work / EMBEDDED, texts="-", metrics=metrics[CLIP])
            shutil.copytree(work / EMBEDDED, cache, dirs_exist_ok=True)

        def timed() -> Callable[[], Result]:
            prompts = folder / "prompts.csv"
            table = score_folder(folder, cache, prompts=prompts, metrics=metrics[name])
            shutil.rmtree(cache)
            return lambda: _of_table(table)

        return timed

    return ready


def _of_table(table: Any) -> Result:
    if "f_clipscore" not in table.metrics:
        return {"scores": None}
    rows = table.frame[table.frame["metric"] == "f_clipscore"]
    return {
        "scores": rows["value"].tolist(),
        "cosines": table.scores("f_clipscore.cosine").tolist(),
        "words": [[w["attribution"] for w in json.loads(row)] for row in rows["evidence"]],
        "spans": [[[w["start"], w["end"]] for w in json.loads(row)] for row in rows["evidence"]],
    }


# The loop ---------------------------------------------------------------------------------------


def _loop(work: Path, name: str, cached: bool) -> Callable[[Path], Callable[[], Any]]:
    """One pair at a time, from attention maps and their gradients."""
    import open_clip
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPTokenizerFast

    folder = work / HF_FOLDER
    model = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    preprocess = open_clip.image_transform(224, is_train=False)
    padding = {"padding": "max_length", "max_length": 77} if name == LOOP else {}

    def embedding(path: Path) -> torch.Tensor:
        pixels = preprocess(Image.open(path))[None]
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)

    def attribute(image: torch.Tensor, text: str) -> tuple[list[float], float]:
        ids = tokenizer(PREFIX + text, truncation=True, return_tensors="pt", **padding)["input_ids"]
        # No mask of the padding: the tower is causal, and the public code gives none.
        out = model.text_model(input_ids=ids, output_attentions=True)
        embedded = model.text_projection(out.pooler_output)
        cosine = torch.nn.functional.cosine_similarity(image, embedded).sum()
        end = int((ids[0] == tokenizer.eos_token_id).nonzero()[0])
        relevance = torch.zeros(ids.shape[1], ids.shape[1])
        for maps in out.attentions[-LAST:]:
            (gradient,) = torch.autograd.grad(cosine, [maps], retain_graph=True)
            relevance += (gradient[0] * maps.detach()[0]).mean(0)
        return (relevance[end, 1:end] / LAST).tolist(), float(cosine.detach())

    def ready(data: Path) -> Callable[[], Any]:
        pairs = read_pairs(data)
        known: dict[Path, torch.Tensor] = {}
        if cached:
            with torch.no_grad():
                known = {path: embedding(path) for path, _ in pairs}

        def timed() -> Callable[[], Result]:
            found = [attribute(known[p] if cached else embedding(p), t) for p, t in pairs]
            return lambda: _of_tokens(found, [t for _, t in pairs], tokenizer)

        return timed

    return ready


def _of_tokens(found: list[tuple[list[float], float]], texts: list[str], tokenizer: Any) -> Result:
    """The loop's tokens as words; not timed, so that it costs the loop nothing."""
    import numpy as np

    from scorekit.metrics._words import word_attributions, words_of

    out: Result = {"scores": [], "cosines": [], "words": [], "spans": []}
    for (tokens, cosine), text in zip(found, texts, strict=True):
        offsets = tokenizer(PREFIX + text, truncation=True, return_offsets_mapping=True)
        skip = len(PREFIX)
        spans = [(a - skip, b - skip) for a, b in offsets["offset_mapping"][1:-1]]
        words = words_of(text)
        values = word_attributions(words, spans, np.asarray(tokens))
        read = [(w, v) for w, v in zip(words, values.tolist(), strict=True) if v == v]
        flagged = sum(v for _, v in read if v < EPS)
        out["scores"].append((1 - max(cosine, 0.0)) * flagged)
        out["cosines"].append(cosine)
        out["words"].append([v for _, v in read])
        out["spans"].append([[w.start, w.end] for w, _ in read])
    return out


# The report -------------------------------------------------------------------------------------


def apart(one: Result, two: Result) -> tuple[float, float, float]:
    """Largest differences of a word's attribution (of its text's largest), cosine and score."""
    if one["spans"] != two["spans"]:
        raise SystemExit("the ways see different words")
    words = max(
        abs(a - b) / max(map(abs, ours))
        for ours, theirs in zip(one["words"], two["words"], strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )
    cosines, scores = (
        max(abs(a - b) for a, b in zip(one[k], two[k], strict=True)) for k in ("cosines", "scores")
    )
    return words, cosines, scores


def limits(lengths: list[int], distinct: list[int]) -> dict[str, float]:
    """Multiply-adds of all pairs by way, the images left out.

    Parameters
    ----------
    lengths, distinct
        Tokens of each pair's text, prefix included; of each different text.
    """
    return {
        LOOP: len(lengths) * _gemm.attribution_loop(77, LAST),
        SHORT: sum(_gemm.attribution_loop(n, LAST) for n in lengths),
        CLIP: sum(_gemm.text(n) for n in distinct),
        WORDS: sum(_gemm.attribution_states(n, LAST) for n in distinct)
        + sum(_gemm.attribution_row(n, LAST) for n in lengths),
    }


def lengths_of(work: Path) -> tuple[list[int], list[int]]:
    """Tokens of each pair's text and of each different text."""
    from transformers import CLIPTokenizerFast

    tokenizer = CLIPTokenizerFast.from_pretrained(work / HF_FOLDER)
    texts = [text for _, text in read_pairs(work / "data")]
    ids = tokenizer([PREFIX + text for text in texts], truncation=True)["input_ids"]
    each = dict(zip(texts, map(len, ids), strict=True))
    return [each[text] for text in texts], list(each.values())


def report(results: dict[str, list[Result]], work: Path, pairs: int) -> bool:
    """Print all of it; whether all ways gave the same numbers."""
    rows, agree = [], True
    for way, done in results.items():
        base = results[LOOP + CACHED if way.endswith(CACHED) else LOOP]
        ratios = [b["seconds"] / d["seconds"] for b, d in zip(base, done, strict=True)]
        differences = ""
        if done[0]["scores"] is not None:
            found = apart(results[LOOP + CACHED][0], done[0])
            agree &= found[0] <= TOLERANCE and found[1] <= TOLERANCE / 10
            differences = ", ".join(f"{value:.1e}" for value in found)
        rate = spread([pairs / d["seconds"] for d in done])
        peak = max(d["peak_mb"] for d in done)
        rows.append([way, rate, spread(ratios), f"{peak:.0f}", differences])
    print()
    header = ["", "pairs/s", "x loop", "peak MB", "apart: attribution, cosine, score"]
    print_table(header, rows)
    lengths, distinct = lengths_of(work)
    needed, images = limits(lengths, distinct), pairs * _gemm.image()
    print(f"\ntexts: {min(lengths)} to {max(lengths)} tokens, mean {statistics.fmean(lengths):.1f}")
    print("in 1e9 multiply-adds a pair, the image left out:")
    for way, value in needed.items():
        print(f"  {way}: {value / pairs / 1e9:.2f}")
    print(f"  an image: {_gemm.image() / 1e9:.2f}\n")
    both = needed[CLIP] + needed[WORDS]
    lines = [
        ("(a) images cached: f_clipscore", LOOP + CACHED, WORDS + CACHED, LOOP, WORDS, 0),
        ("    the loop without padding", SHORT + CACHED, WORDS + CACHED, SHORT, WORDS, 0),
        ("(b) nothing cached: f_clipscore", LOOP, WORDS, LOOP, WORDS, images),
        ("    the loop without padding", SHORT, WORDS, SHORT, WORDS, images),
    ]
    table = []
    for label, slow, fast, theirs, ours, more in lines:
        ratios = _ratios(results, slow, fast)
        limit = (needed[theirs] + more) / (needed[ours] + more)
        table.append([label, spread(ratios), f"{limit:.2f}"])
    ratios = _ratios(results, BOTH + CACHED, CLIP + CACHED)
    label = "(c) images cached: both beside clipscore alone"
    table.append([label, spread(ratios), f"{both / needed[CLIP]:.2f}"])
    print_table(["", "measured", "by arithmetic"], table)
    return agree


def _ratios(results: dict[str, list[Result]], over: str, under: str) -> list[float]:
    pairs = zip(results[over], results[under], strict=True)
    return [a["seconds"] / b["seconds"] for a, b in pairs]


def main() -> int:
    """Measure, print, and check that all ways agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scorekit-bench-misalignment"
    parser.add_argument("--work", type=Path, default=default, help="folder [%(default)s]")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--texts", type=int, default=256, help="different texts")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    work = args.work.resolve()
    if args.way:
        print(json.dumps(score(args.way, work)))
        return 0
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, args.pairs, args.texts)
    shutil.rmtree(work / EMBEDDED, ignore_errors=True)
    print(f"{machine()}; {load()}")
    print(f"{args.pairs} pairs, {args.texts} texts, fp32\n", flush=True)
    results: dict[str, list[Result]] = {way: [] for way in WAYS}
    for number in range(args.repeat):
        for way in WAYS:
            done = run([sys.executable, HERE / "misalignment.py", "--work", work, "--way", way])
            results[way].append({**done.json(), "peak_mb": done.peak_mb})
            seconds = results[way][-1]["seconds"]
            print(f"round {number + 1}: {way}: {args.pairs / seconds:.2f} pairs/s, {load()}")
            sys.stdout.flush()
    return 0 if report(results, work, args.pairs) else 1


if __name__ == "__main__":
    raise SystemExit(main())
