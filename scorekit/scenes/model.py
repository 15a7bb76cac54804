"""scenes-clip: its configuration, and writing and reading its checkpoint."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorekit.scenes.examples import IMAGE_SIZE, PATCH_SIZE
from scorekit.scenes.tokens import BOS, EOS, MAX_LENGTH, PAD, build_tokenizer, vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import CLIPConfig, CLIPModel

# The mean and deviation of OpenAI's CLIP.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

RECIPE = "scenes-clip/1"


def build_config() -> CLIPConfig:
    """The configuration of scenes-clip."""
    from transformers import CLIPConfig

    text = {
        "vocab_size": len(vocabulary()),
        "hidden_act": "gelu",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "projection_dim": 256,
    }
    vision = {
        "hidden_act": "gelu",
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "projection_dim": 256,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=256)
    config.scorekit = {"domain": "scenes", "recipe": RECIPE}
    return config


def build_model(attention: str = "eager") -> CLIPModel:
    """A fresh scenes-clip.

    On processors the fused attention is several times slower than "eager" in bfloat16.
    """
    from transformers import CLIPModel

    config = build_config()
    config._attn_implementation = attention
    model = CLIPModel(config)
    _initialise(model)
    return model


def _initialise(model: CLIPModel) -> None:
    """Give positions, words and attention the scale that a short training needs.

    CLIP's own start makes positions so faint, and attention so even, that neither tower leaves
    the plateau of counting words and colours within thousands of steps.
    """
    import torch

    with torch.no_grad():
        vision, text = model.vision_model, model.text_model
        spread_positions(vision.embeddings.position_embedding.weight, IMAGE_SIZE // PATCH_SIZE)
        text.embeddings.token_embedding.weight.normal_(std=0.5)
        text.embeddings.position_embedding.weight.normal_(std=0.25)
        for tower in (vision, text):
            for layer in tower.encoder.layers:
                attention = layer.self_attn
                for part in (attention.q_proj, attention.k_proj):
                    part.weight.normal_(std=1.4 * part.in_features**-0.5)
                attention.v_proj.weight.normal_(std=attention.v_proj.in_features**-0.5)


def spread_positions(places: torch.Tensor, side: int) -> None:
    """Fill position embeddings, past the class token's, with waves of rows and columns."""
    import torch

    rows = torch.arange(side).repeat_interleave(side)
    columns = torch.arange(side).repeat(side)
    quarter = places.shape[1] // 4
    rates = torch.pi / side * 1.5 ** torch.linspace(0, 5, quarter)
    waves = [f(axis[:, None] * rates) for axis in (rows, columns) for f in (torch.sin, torch.cos)]
    places[1:] = 0.4 * torch.cat(waves, dim=1)


def build_processor() -> Any:
    """The image processor: shortest edge to the model's size (bicubic), centre crop, normalise."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=3,
        image_mean=list(MEAN),
        image_std=list(STD),
    )


def save(model: CLIPModel, out: str | os.PathLike[str]) -> None:
    """Write a checkpoint: weights in float16, tokenizer, image processor."""
    folder = Path(out)
    half = copy.deepcopy(model).half()
    half.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    # Stored in half precision, but to be loaded in full by default.
    amend(folder / "config.json", dtype="float32")
    # The one name of this class that all releases of transformers know.
    amend(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def amend(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    record = json.loads(path.read_text(encoding="utf-8"))
    record.update(changes)
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
