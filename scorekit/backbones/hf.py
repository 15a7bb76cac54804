"""``hf:NAME`` and ``hf:FOLDER``: which kind of transformers checkpoint it is."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from scorekit.backbones.files import checkpoint_folder, one_line_errors, weight_files
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.types import UsageError


def load(spec: BackboneSpec, options: BackboneOptions) -> Any:
    """Load a checkpoint of transformers by the loader of its kind.

    Raises
    ------
    UsageError
        If it can't be had.
    """
    folder = checkpoint_folder(spec.name, allow_pickle=options.allow_pickle)
    with one_line_errors(folder.name):
        path = folder / "config.json"
        config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    module = kind_of(config)
    if module == "hf_dual":
        from scorekit.backbones import hf_dual

        return hf_dual.load(spec, options)
    weights = weight_files(folder, allow_pickle=options.allow_pickle)
    if not weights:
        raise UsageError(f"{folder} is no transformers checkpoint: it lacks weights")
    return import_module(f"scorekit.backbones.{module}").load(folder, weights, options)


def kind_of(config: dict[str, Any]) -> str:
    """The module that loads a checkpoint with this configuration."""
    from transformers.models.auto import modeling_auto as auto

    architecture = str((config.get("architectures") or [""])[0])
    kind = str(config.get("model_type", ""))
    if config.get("mm_vision_tower") and kind.startswith(("t5", "clip_t5", "clipt5")):
        return "clip_flant5"
    if architecture.endswith("ForImageTextRetrieval"):
        return "hf_blip2"
    if kind in ("owlvit", "owlv2", "grounding-dino"):
        return "hf_detector"
    if kind in ("vit", "dinov2", "dinov3_vit"):
        return "hf_vision"
    if kind in ("instructblip", "blip-2"):
        return "hf_blip_vlm"
    if kind in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "hf_vlm"
    if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "hf_seq2seq"
    return "hf_dual"
