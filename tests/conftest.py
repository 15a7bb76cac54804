"""Small checkpoints of the real architectures with random weights, and small image sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# No test may reach a hub by accident, nor touch the user's own cache.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = (
    "a photo depicts the red blue green small large circle square triangle dog cat chases tree "
    "around window rain asleep one two three and with on of . , word end first second"
).split()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "hub" in (config.getoption("-m") or "") and "not hub" not in config.getoption("-m"):
        os.environ.pop("HF_HUB_OFFLINE", None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREKIT_CACHE", str(tmp_path / "user-cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real files beside a checkout; a test that needs them skips without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder


def save_tokenizer(folder: Path, *, limit: int, start: bool = True, end: bool = True,
                   mask: bool = True) -> int:
    """A word-level tokenizer with the special tokens that a tower wants; its vocabulary size."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    vocab = {word: i for i, word in enumerate([*special[:2], *WORDS, *special[2:]])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = " ".join(filter(None, ["<bos>" if start else "", "$A", "<eos>" if end else ""]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(t, vocab[t]) for t in special[2:]]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>",
        eos_token="<eos>", model_max_length=limit,
        model_input_names=["input_ids", "attention_mask"] if mask else ["input_ids"],
    ).save_pretrained(folder)
    return len(vocab)


def make_clip(folder: Path, *, seed: int = 0, limit: int = 16, size: int = 32) -> Path:
    """A tiny CLIPModel with random weights, saved as any checkpoint is."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    n = save_tokenizer(folder, limit=limit)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": n, "max_position_embeddings": limit,
                     "bos_token_id": n - 2, "eos_token_id": n - 1, "pad_token_id": 0},
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


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The backbone's name of a tiny random CLIP."""
    return f"hf:{make_clip(tmp_path_factory.mktemp('ckpt') / 'tiny-clip')}"


def picture(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """A small smooth picture, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


TEXTS = (
    "a red circle", "the blue square and a green triangle", "a dog chases the cat around the tree",
    "two large circle on a small square",
)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two systems, four items each, with a prompts.csv."""
    folder = tmp_path / "images"
    lines = ["image,text,item,system"]
    for s, system in enumerate(("good", "bad")):
        (folder / system).mkdir(parents=True)
        for i, text in enumerate(TEXTS):
            picture(10 * s + i).save(folder / system / f"{i}.png")
            lines.append(f'{system}/{i}.png,"{text}",{i},{system}')
    (folder / "prompts.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def count_forwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, int]]]:
    """How many images and texts went through a model."""
    from scorekit.backbones import hf_dual

    counts = {"images": 0, "texts": 0}
    images, tokens = hf_dual.HfDual.encode_images, hf_dual.HfDual.encode_tokens

    def encode_images(self: Any, pixels: Any) -> Any:
        counts["images"] += len(pixels)
        return images(self, pixels)

    def encode_tokens(self: Any, ids: Any, length: int) -> Any:
        counts["texts"] += len(ids)
        return tokens(self, ids, length)

    monkeypatch.setattr(hf_dual.HfDual, "encode_images", encode_images)
    monkeypatch.setattr(hf_dual.HfDual, "encode_tokens", encode_tokens)
    yield lambda: dict(counts)
