"""One ViT-B/32 with random weights in the two forms that the peers load.

Run as a script: ``python _weights.py FOLDER``. It writes ``vit-b-32.safetensors`` (OpenCLIP's
names, architecture ``ViT-B-32-quickgelu``, which is that of OpenAI's weights) and
``openai/clip-vit-base-patch32/`` (transformers' names, tokenizer and preprocessor files laid out
as in the repository of that name, the vocabulary from OpenCLIP's own merges file).
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

ARCH = "ViT-B-32-quickgelu"
OPEN_CLIP_FILE = "vit-b-32.safetensors"
HF_FOLDER = "openai/clip-vit-base-patch32"
GAIN = 3.0
"""Weights of the usual scale give nearly equal embeddings; larger ones tell inputs apart."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_N_MERGES = 49152 - 256 - 2
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def write(folder: Path) -> None:
    """Write both forms."""
    import open_clip
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    config = open_clip.get_model_config(ARCH)
    model = open_clip.model.CLIP(**config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "resblocks" in name and parameter.ndim == 2:
                parameter.mul_(GAIN)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, str(folder / OPEN_CLIP_FILE))

    vision, text = config["vision_cfg"], config["text_cfg"]
    hf = CLIPModel(
        CLIPConfig(
            projection_dim=config["embed_dim"],
            vision_config=_tower(vision["width"], vision["width"] // 64, vision["layers"])
            | {"image_size": vision["image_size"], "patch_size": vision["patch_size"]},
            text_config=_tower(text["width"], text["heads"], text["layers"])
            | {
                "vocab_size": text["vocab_size"],
                "max_position_embeddings": text["context_length"],
                "bos_token_id": 49406,
                "eos_token_id": 49407,
                "pad_token_id": 1,
            },
        )
    )
    missing, unexpected = hf.load_state_dict(convert(state), strict=False)
    if unexpected or any("position_ids" not in name for name in missing):
        raise SystemExit(f"keys do not fit: missing {missing}, unexpected {unexpected}")
    target = folder / HF_FOLDER
    hf.save_pretrained(target)
    write_processors(target)


def _tower(width: int, heads: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu",
        "projection_dim": 512,
    }


def convert(state: dict[str, Any]) -> dict[str, Any]:
    """OpenCLIP's state under transformers' names.

    The only values that change form: the fused query, key and value are cut apart, and the two
    projections, which OpenCLIP multiplies from the right, are transposed.
    """
    out = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
    }
    plain = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.": "text_model.final_layer_norm.",
    }
    parts = {
        "ln_1.": "layer_norm1.",
        "ln_2.": "layer_norm2.",
        "attn.out_proj.": "self_attn.out_proj.",
        "mlp.c_fc.": "mlp.fc1.",
        "mlp.c_proj.": "mlp.fc2.",
    }
    for name, value in state.items():
        for old, new in plain.items():
            if name.startswith(old):
                out[new + name.removeprefix(old)] = value
        for tower, layers in (("visual.", "vision_model"), ("", "text_model")):
            head = f"{tower}transformer.resblocks."
            if not name.startswith(head):
                continue
            number, _, rest = name.removeprefix(head).partition(".")
            layer = f"{layers}.encoder.layers.{number}."
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    out[f"{layer}self_attn.{letter}_proj.{kind}"] = part.contiguous()
            for old, new in parts.items():
                if rest.startswith(old):
                    out[layer + new + rest.removeprefix(old)] = value
    return out


def write_processors(folder: Path) -> None:
    """Tokenizer and preprocessor files, as they lie in the hub's repository of this model."""
    import open_clip.tokenizer as oc

    packed = Path(oc.default_bpe()).read_bytes()
    merges = gzip.decompress(packed).decode().split("\n")[1 : _N_MERGES + 1]
    letters = list(oc.bytes_to_unicode().values())
    words = [*letters, *(c + "</w>" for c in letters), *("".join(m.split()) for m in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, _START, _END])}
    special = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
    files: dict[str, Any] = {
        "vocab.json": vocabulary,
        "special_tokens_map.json": special,
        "tokenizer_config.json": {
            **special,
            "do_lower_case": True,
            "model_max_length": 77,
            "tokenizer_class": "CLIPTokenizer",
            "errors": "replace",
            "add_prefix_space": False,
        },
        "preprocessor_config.json": {
            "crop_size": 224,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": _MEAN,
            "image_std": _STD,
            "resample": 3,
            "size": 224,
        },
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    text = "\n".join(["#version: 0.2", *merges, ""])
    (folder / "merges.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
