"""VQAScore: scorekit beside a plain loop and beside t2v-metrics' way, in one run.

The real architectures of LLaVA-1.5-7B and Qwen2.5-VL-3B at their full width and reduced depth,
with random weights: nothing is downloaded. Every way scores the same images and texts with the
same weights in a process of its own, warms up on another image, and then times the scoring
alone. All run once, then all again; ratios are taken within a round. What was measured is in
``docs/performance.md``. On a GPU: ``--device cuda --dtype bf16 --layers full``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import HERE, load, machine, print_table, run, spread

WAYS = ("plain loop", "t2v-metrics' way", "scorekit")
FORWARD = "forward pass alone"
MODELS = ("llava", "qwen")
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
SUBJECTS = ("dog", "cat", "tree", "circle", "square", "user", "figure", "photo")
PLACES = ("on the tree", "of the circle", "and a cat", "on a square", "of no dog")
COLOURS = ("red", "blue", "green")


def texts_of(image: int, n: int) -> list[str]:
    """Texts of 6 to 15 words, different for each image."""
    out = []
    for k in range(n):
        subject, place = SUBJECTS[(image + k) % 8], PLACES[(image + 3 * k) % 5]
        words = f"a {COLOURS[k % 3]} {subject} {place}"
        out.append(words if k % 2 else words + f" and the {COLOURS[(k + 1) % 3]} {subject} {place}")
    return out


def build(model: str, work: Path, layers: str) -> Path:
    """Write a checkpoint with random weights."""
    import torch
    import transformers as tf

    sys.path.insert(0, str(HERE.parent))
    from tiny_vlm import CHAT, tokenizer

    folder = work / f"{model}-{layers}"
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    if model == "llava":
        deep, seen = (32, 24) if layers == "full" else (1, 2)
        words = tokenizer("<image>", named={"image_token": "<image>"})
        config: Any = tf.LlavaConfig(
            vision_config=tf.CLIPVisionConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=seen,
                num_attention_heads=16,
                image_size=336,
                patch_size=14,
            ),
            text_config=tf.LlamaConfig(
                vocab_size=32064,
                hidden_size=4096,
                intermediate_size=11008,
                num_hidden_layers=deep,
                num_attention_heads=32,
                max_position_embeddings=4096,
            ),
            image_token_id=words.convert_tokens_to_ids("<image>"),
        )
        processor: Any = tf.LlavaProcessor(
            image_processor=tf.CLIPImageProcessor(
                size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
            ),
            tokenizer=words,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=CHAT.replace("IMAGE", "<image>\n"),
        )
        cls: Any = tf.LlavaForConditionalGeneration
    else:
        deep, seen = (36, 32) if layers == "full" else (2, 2)
        marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
        words = tokenizer(*marks)
        text = {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": deep,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "max_position_embeddings": 128000,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        }
        full_attention = [7, 15, 23, 31] if layers == "full" else [1]
        config = tf.Qwen2_5_VLConfig(
            text_config=text,
            vision_config={
                "depth": seen,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "out_hidden_size": 2048,
                "fullatt_block_indexes": full_attention,
            },
            tie_word_embeddings=True,
            image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
            video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
            vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
            vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
        )
        processor = tf.Qwen2_5_VLProcessor(
            image_processor=tf.Qwen2VLImageProcessor(
                size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
            ),
            tokenizer=words,
            video_processor=tf.Qwen2VLVideoProcessor(),
            chat_template=CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
        )
        cls = tf.Qwen2_5_VLForConditionalGeneration
    dtype = torch.bfloat16 if layers == "full" else torch.float32
    torch.set_default_dtype(dtype)
    made = cls(config)
    torch.set_default_dtype(torch.float32)
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def images_of(n: int) -> list[Any]:
    """Smooth pictures of 448 x 448, PNG files' worth of detail."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize((448, 448), Image.Resampling.BICUBIC) for each in small]


def score(way: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and scores of one way; run in a process of its own."""
    import torch

    torch.manual_seed(0)
    images = images_of(args.images + 1)
    pairs = [(k, text) for k in range(args.images) for text in texts_of(k, args.texts)]
    warm_up = [(args.images, text) for text in texts_of(99, args.texts)]
    run_pairs = {
        "scorekit": _scorekit,
        "plain loop": _loop,
        "t2v-metrics' way": _batches,
        FORWARD: _forward,
    }[way](folder, args)
    run_pairs(images, warm_up)
    _wait(args.device)
    started = time.perf_counter()
    values = run_pairs(images, pairs)
    _wait(args.device)
    return {"seconds": time.perf_counter() - started, "values": values}


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _scorekit(folder: Path, args: argparse.Namespace) -> Any:
    from scorekit.backbones.handle import get_handle
    from scorekit.backbones.spec import BackboneOptions
    from scorekit.types import Pair, answer_probability

    options = BackboneOptions(device=args.device, dtype=args.dtype)
    model = get_handle(f"hf:{folder}", options).model()
    feature = answer_probability("vlm", preset="generic", pad="none")

    def score_pairs(images: list[Any], pairs: list[tuple[int, str]]) -> list[float]:
        seen = {k: model.prepare(feature, images[k]) for k in dict.fromkeys(k for k, _ in pairs)}
        asked = [Pair(seen[k], text) for k, text in pairs]
        return [float(r.array[0]) for r in model.extract(feature, asked)]

    return score_pairs


def _plain(folder: Path, args: argparse.Namespace) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    return model.to(args.device).eval(), AutoProcessor.from_pretrained(folder)


def _prompt(processor: Any, text: str) -> str:
    question = f'Does this figure show "{text}"? Please answer Yes or No.'
    content = [{"type": "image"}, {"type": "text", "text": question}]
    said: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return said


def _loop(folder: Path, args: argparse.Namespace) -> Any:
    """One pair at a time, as the model cards show it."""
    import torch

    model, processor = _plain(folder, args)
    (yes,) = processor.tokenizer.encode("Yes", add_special_tokens=False)

    @torch.inference_mode()
    def score_pairs(images: list[Any], pairs: list[tuple[int, str]]) -> list[float]:
        out = []
        for k, text in pairs:
            inputs = processor(
                images=images[k], text=_prompt(processor, text), return_tensors="pt"
            ).to(args.device)
            logits = model(**_cast(inputs, model.dtype)).logits[0, -1].float()
            out.append(float(torch.log_softmax(logits, -1)[yes]))
        return out

    return score_pairs


def _batches(folder: Path, args: argparse.Namespace) -> Any:
    """Batches of pairs, each with its image: the vision tower runs once a pair."""
    import torch

    model, processor = _plain(folder, args)
    processor.tokenizer.padding_side = "left"
    (yes,) = processor.tokenizer.encode("Yes", add_special_tokens=False)

    @torch.inference_mode()
    def score_pairs(images: list[Any], pairs: list[tuple[int, str]]) -> list[float]:
        out: list[float] = []
        for start in range(0, len(pairs), args.batch):
            part = pairs[start : start + args.batch]
            inputs = processor(
                images=[images[k] for k, _ in part],
                text=[_prompt(processor, text) for _, text in part],
                padding=True,
                return_tensors="pt",
            ).to(args.device)
            logits = model(**_cast(inputs, model.dtype)).logits[:, -1].float()
            out += torch.log_softmax(logits, -1)[:, yes].tolist()
        return out

    return score_pairs


def _forward(folder: Path, args: argparse.Namespace) -> Any:
    """The model's forward on ready inputs: what no way of calling it can beat."""
    import torch

    model, processor = _plain(folder, args)
    ready: dict[tuple[int, str], Any] = {}

    @torch.inference_mode()
    def score_pairs(images: list[Any], pairs: list[tuple[int, str]]) -> list[float]:
        for k, text in pairs:
            if (k, text) not in ready:
                continue
            model.model(**ready[k, text], use_cache=False)
        return []

    images = images_of(args.images + 1)
    for k in range(args.images):
        for text in texts_of(k, args.texts):
            inputs = processor(
                images=images[k], text=_prompt(processor, text), return_tensors="pt"
            ).to(args.device)
            ready[k, text] = _cast(inputs, model.dtype)
    return score_pairs


def _cast(inputs: Any, dtype: Any) -> dict[str, Any]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def limit(folder: Path, texts: int) -> float:
    """The most that sharing can give, by operation counts.

    A pair alone costs the vision tower once and the decoder over all its tokens; `texts` texts
    of one image need the tower and the shared tokens once.
    """
    from transformers import AutoProcessor

    config = json.loads((folder / "config.json").read_text())
    processor = AutoProcessor.from_pretrained(folder)
    image = images_of(1)[0]
    prompts = [_prompt(processor, text) for text in texts_of(0, texts)]
    rows = [processor(images=image, text=p)["input_ids"][0] for p in prompts]
    shared = 0
    while len({row[shared] for row in rows}) == 1 and shared < min(map(len, rows)) - 1:
        shared += 1
    text, vision = config["text_config"], config["vision_config"]
    wide, inner = text["hidden_size"], text["intermediate_size"]
    heads = text.get("num_key_value_heads", text["num_attention_heads"])
    small = wide * heads // text["num_attention_heads"]
    layer = 2 * wide * wide + 2 * wide * small + 3 * wide * inner
    decoder = layer * text["num_hidden_layers"]
    depth = vision.get("depth") or vision["num_hidden_layers"]
    across = vision["hidden_size"]
    gates = 3 if "depth" in vision else 2
    patches = 577 if "depth" not in vision else 1024
    tower = (4 * across**2 + gates * across * vision["intermediate_size"]) * depth * patches
    whole = sum(tower + decoder * len(row) for row in rows)
    once = tower + decoder * (shared + sum(len(row) - shared for row in rows))
    return whole / once


def main() -> int:
    """Measure, print, and check that all ways agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--texts", type=int, default=8, help="texts an image")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="pairs a batch, for t2v-metrics' way")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=TOLERANCE)
    parser.add_argument("--layers", default="reduced", choices=("reduced", "full"))
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--work", type=Path, help="folder of the checkpoints; kept")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(score(args.way, args.folder, args)))
        return 0
    if args.folder:
        build(args.folder.name, args.work, args.layers)
        return 0
    work = args.work or Path(tempfile.gettempdir()) / "scorekit-bench-vqa"
    work.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; {load()}\n")
    ok = True
    for model in args.model or MODELS:
        folder = work / f"{model}-{args.layers}"
        given = [sys.executable, HERE / "vqascore.py"]
        for name in ("images", "texts", "batch", "device", "dtype", "layers"):
            given += [f"--{name}", str(getattr(args, name))]
        run([*given, "--work", work, "--folder", Path(model)])
        results: dict[str, list[Any]] = {way: [] for way in (*WAYS, FORWARD)}
        for number in range(args.repeat):
            for way in results:
                done = run([*given, "--way", way, "--folder", folder]).json()
                results[way].append(done)
                print(f"{model}: round {number + 1}: {way}: {done['seconds']:.1f} s, {load()}")
        ok &= report(model, folder, results, args)
    return 0 if ok else 1


def report(
    model: str, folder: Path, results: dict[str, list[Any]], args: argparse.Namespace
) -> bool:
    """Print one model's table; whether all ways gave the same numbers."""
    pairs = args.images * args.texts
    base = [r["seconds"] for r in results["plain loop"]]
    rows, agree = [], True
    for way, done in results.items():
        seconds = [r["seconds"] for r in done]
        ratios = [b / s for b, s in zip(base, seconds, strict=True)]
        apart = ""
        if done[0]["values"]:
            theirs = results["plain loop"][0]["values"]
            largest = max(abs(a - b) for a, b in zip(theirs, done[0]["values"], strict=True))
            agree &= largest < TOLERANCE[args.dtype]
            apart = f"{largest:.1e}"
        rate = spread([pairs / s for s in seconds])
        rows.append([way, rate, spread(ratios), apart])
    ours = statistics.median(r["seconds"] for r in results["scorekit"])
    pure = statistics.median(r["seconds"] for r in results[FORWARD])
    print()
    print_table([f"{model}, {args.images} x {args.texts}", "pairs/s", "x loop", "apart"], rows)
    print(f"\narithmetic limit {limit(folder, args.texts):.2f} x the loop without its overhead;")
    print(f"the forward pass alone takes {pure / ours:.2f} times scorekit's time\n")
    return agree


if __name__ == "__main__":
    raise SystemExit(main())
