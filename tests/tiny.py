"""Tiny checkpoints of real architectures, and small pictures, for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WORDS = [
    *("a", "photo", "depicts", "the", "red", "blue", "green", "small", "large", "circle", "square"),
    *("triangle", "dog", "cat", "chases", "tree", "around", "window", "rain", "asleep", "one"),
    *("two", "three", "and", "with", "on", "of", ".", ",", "word", "end", "first", "second"),
]


def save_tokenizer(
    folder: Path,
    *,
    limit: int,
    start: bool = True,
    end: bool = True,
    mask: bool = True,
    pad_last: bool = False,
) -> int:
    """A word-level tokenizer with the special tokens that a tower wants; its vocabulary size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    if pad_last:
        special[:2] = ["<unk>", "<pad>"]
    vocab = {word: i for i, word in enumerate([*special[:2], *WORDS, *special[2:]])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = " ".join(filter(None, ["<bos>" if start else "", "$A", "<eos>" if end else ""]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(t, vocab[t]) for t in special[2:]]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=limit,
        model_input_names=["input_ids", "attention_mask"] if mask else ["input_ids"],
    ).save_pretrained(folder)
    return len(vocab)


def make_clip(folder: Path, *, seed: int = 0, limit: int = 16, size: int = 32) -> Path:
    """A tiny CLIPModel with random weights, saved as any checkpoint is."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    n = save_tokenizer(folder, limit=limit)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": n,
            "max_position_embeddings": limit,
            "bos_token_id": n - 2,
            "eos_token_id": n - 1,
            "pad_token_id": 0,
        },
        vision_config={**tower, "image_size": size, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(seed)
    # Weights of the usual scale give nearly equal embeddings; these tell inputs apart.
    model = CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
    return folder


def picture(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """A small smooth picture, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


TEXTS = (
    "a red circle",
    "the blue square and a green triangle",
    "a dog chases the cat around the tree",
    "two large circle on a small square",
)
