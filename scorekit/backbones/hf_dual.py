"""Dual encoders of transformers: ``hf:NAME`` on the hub, or ``hf:FOLDER`` on disk.

Whatever `AutoModel` gives with image and text features works: CLIP, SigLIP, SigLIP 2, ALIGN,
Chinese-CLIP, AltCLIP, MetaCLIP 2 and others. Text limit, padding and preprocessing are read
from the checkpoint, and tried before they are trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from scorekit.backbones.dual import DualEncoder, Prepared
from scorekit.backbones.files import (
    SMALL_FILES,
    checkpoint_folder,
    one_line_errors,
    sha256_of,
    short_hash,
    small_files_folder,
    weight_files,
)
from scorekit.backbones.handle import BackboneInfo, states_of
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.backbones.texts import Tokens
from scorekit.resize import ImageSpec
from scorekit.types import Feature, UsageError

# What a config says of its own history changes no number.
_HISTORY = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
# Checkpoints that are published without a tokenizer and image processor, and whose they use.
_PROCESSORS = {"yuvalkirstain/PickScore_v1": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def load(spec: BackboneSpec, options: BackboneOptions) -> HfDual:
    """Load a transformers dual encoder.

    Raises
    ------
    UsageError
        If it can't be had, or has no image and text features.
    """
    folder = checkpoint_folder(spec.name, allow_pickle=options.allow_pickle)
    weights = weight_files(folder, allow_pickle=options.allow_pickle)
    has_config = (folder / "config.json").is_file()
    if not has_config or not weights:
        lacks = "weights" if has_config else "config.json"
        raise UsageError(f"{folder} is no transformers checkpoint: it lacks {lacks}")
    processors = folder
    if spec.name in _PROCESSORS and not (folder / "preprocessor_config.json").is_file():
        processors = small_files_folder(_PROCESSORS[spec.name])
    return HfDual(folder, weights, processors, options)


class HfDual(DualEncoder):
    """A transformers dual encoder behind the common interface."""

    takes_int8 = True

    def __init__(
        self, folder: Path, weights: list[Path], processors: Path, options: BackboneOptions
    ) -> None:
        super().__init__(options)
        self.model = _load_model(folder, weights, self.dtype, options).to(self.device).eval()
        self.model.requires_grad_(False)
        self.tokenizer, self.processor = _load_processors(processors, options)
        self._limit = _text_limit(self.model, self.tokenizer)
        spec = image_spec_of(self.processor)
        self.uses_spec = spec is not None and agrees(spec, self.processor)
        if not self.uses_spec:
            spec = _spec_for_gradients(self.processor)
        assert spec is not None
        self.image_spec = spec
        config = self.model.config.to_dict()
        files = [*weights, *_small_files(folder, options), *_small_files(processors, options)]
        identity = short_hash(
            {
                "arch": without_history(config),
                "weights": sha256_of(weights),
                "image": spec.describe() if self.uses_spec else self.processor.to_dict(),
                "text": [self._limit, self.tokenizer_hash()],
                "code": sha256_of(p for p in files if p.suffix == ".py"),
            }
        )
        note = config.get("scorekit") or {}
        self.info = BackboneInfo(
            fingerprint=short_hash([identity, self.resizer, options.dtype]),
            identity=identity,
            text_limit=self._limit,
            constants=_constants(self.model, weights),
            domain=str(note.get("domain", "any")),
            resize=self.resizer,
            files=states_of([*files, folder, processors]),
        )
        with one_line_errors(folder.name):
            self.settle()

    @property
    def resizer(self) -> str:
        """What resizes the images, for signatures."""
        return super().resizer if self.uses_spec else "processor"

    def prepare(self, feature: Feature, image: Image.Image) -> Prepared:
        """Resize and crop one decoded image, by the checkpoint's own processor if need be."""
        if self.uses_spec:
            return super().prepare(feature, image)
        return Prepared(_processed(self.processor, image), {})

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, h, w, 3) to normalised floats; what a processor made is already that."""
        if pixels.is_floating_point():
            return pixels.to(self.dtype)
        return super().normalise(pixels)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of texts, cut to the limit with the end token kept."""
        full = self.tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)
        limit = self._limit
        out = [Tokens(list(ids), len(ids)) for ids in full["input_ids"]]
        long = [i for i, tokens in enumerate(out) if tokens.full_length > limit]
        if long:
            cut = self.tokenizer([texts[i] for i in long], truncation=True, max_length=limit)
            for i, ids in zip(long, cut["input_ids"], strict=True):
                out[i] = Tokens(list(ids), out[i].full_length)
        return out

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, d) of normalised pixels (n, 3, h, w)."""
        return _pooled(self.model.get_image_features(pixel_values=pixels))

    def encode_tokens(self, ids: Sequence[Sequence[int]], length: int) -> torch.Tensor:
        """Embeddings (n, d) of token ids, padded to `length`."""
        pad = self.tokenizer.pad_token_id
        padded = torch.full((len(ids), length), 0 if pad is None else pad, dtype=torch.long)
        mask = torch.zeros_like(padded)
        left = self.tokenizer.padding_side == "left"
        for i, tokens in enumerate(ids):
            place = slice(length - len(tokens), length) if left else slice(len(tokens))
            padded[i, place] = torch.tensor(tokens)
            mask[i, place] = 1
        inputs = {"input_ids": padded.to(self.device)}
        if "attention_mask" in self.tokenizer.model_input_names:
            inputs["attention_mask"] = mask.to(self.device)
        return _pooled(self.model.get_text_features(**inputs))


def image_spec_of(processor: Any) -> ImageSpec | None:
    """An image processor's steps as an `ImageSpec`; None where it does something else."""

    def get(name: str, default: Any = None) -> Any:
        return getattr(processor, name, default)

    if not (get("do_rescale", True) and get("do_normalize", True)):
        return None
    size, crop = _as_dict(get("size")), _as_dict(get("crop_size"))
    interpolation = _INTERPOLATIONS.get(int(get("resample", 3)))
    crops = bool(get("do_center_crop", False)) and bool(crop)
    if interpolation is None or not get("do_resize", True) or get("do_pad", False):
        return None
    common: dict[str, Any] = {
        "interpolation": interpolation,
        "mean": tuple(get("image_mean")),
        "std": tuple(get("image_std")),
        "rescale": float(get("rescale_factor", 1 / 255)),
        "crop_rounding": "floor",
    }
    if "shortest_edge" in size and crops:
        return ImageSpec(
            size=(crop["height"], crop["width"]),
            resize_to=size["shortest_edge"],
            mode="shortest",
            **common,
        )
    if "height" in size:
        resize_to = (size["height"], size["width"])
        target = (crop["height"], crop["width"]) if crops else resize_to
        return ImageSpec(size=target, resize_to=resize_to, mode="squash", **common)
    return None


def agrees(spec: ImageSpec, processor: Any) -> bool:
    """Whether an `ImageSpec` does what the checkpoint's processor does, on a test image.

    Two levels of 255 are allowed: the processors resize tensors, `ImageSpec` PIL images.
    """
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    image = coarse.resize((331, 227), Image.Resampling.BICUBIC)
    ours = spec.apply(image).astype(np.float64) * spec.rescale
    ours = ((ours - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)
    theirs = _processed(processor, image)
    if ours.shape != theirs.shape:
        return False
    return bool(np.abs(ours - theirs).max() <= 2.5 * spec.rescale / min(spec.std))


def _processed(processor: Any, image: Image.Image) -> np.ndarray[Any, Any]:
    array = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
    if array.ndim != 3:
        raise UsageError(
            "checkpoints of variable resolution (NaFlex) are not supported; take the "
            "fixed-resolution checkpoint of the same model"
        )
    return array.astype(np.float32)


def _spec_for_gradients(processor: Any) -> ImageSpec:
    """A spec with the processor's size, for images given as tensors with gradients."""
    blank = _processed(processor, Image.new("RGB", (64, 64)))
    white = _processed(processor, Image.new("RGB", (64, 64), "white"))
    low, high = blank.mean(axis=(1, 2)), white.mean(axis=(1, 2))
    std = 1 / (high - low)  # the processor is affine in the pixels: two images tell it
    return ImageSpec(
        size=(blank.shape[1], blank.shape[2]),
        mode="squash",
        mean=tuple((-low * std).tolist()),
        std=tuple(std.tolist()),
    )


def _load_model(
    folder: Path, weights: list[Path], dtype: torch.dtype, options: BackboneOptions
) -> Any:
    from transformers import AutoModel
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    with one_line_errors(folder.name):
        model = AutoModel.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=weights[0].suffix == ".safetensors",
            trust_remote_code=options.trust_remote_code,
        )
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise UsageError(
            f"{folder.name} ({type(model).__name__}) is no dual encoder: it has no image and "
            "text features"
        )
    return model


def _load_processors(folder: Path, options: BackboneOptions) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoTokenizer

    trust = options.trust_remote_code
    with one_line_errors(folder.name):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust
        )
        processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust
        )
    return tokenizer, processor


def _text_limit(model: Any, tokenizer: Any) -> int:
    """Longest text in tokens that both the tokenizer and the tower take."""
    config = getattr(model.config, "text_config", model.config)
    limits = [int(tokenizer.model_max_length)]
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        limits.append(int(positions) - _position_offset(model))
    limit = min(limits)
    if limit > 100_000:
        raise UsageError("neither tokenizer nor config of this checkpoint states a text limit")
    return limit


def _position_offset(model: Any) -> int:
    """RoBERTa-type towers count positions from the padding index on."""
    for name, module in model.named_modules():
        positions = name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
        if positions and module.padding_idx is not None:
            return int(module.padding_idx) + 1
    return 0


def _pooled(output: Any) -> torch.Tensor:
    tensor: torch.Tensor = output if torch.is_tensor(output) else output.pooler_output
    return tensor


def _constants(model: Any, weights: list[Path]) -> dict[str, float]:
    """Scale and bias from the weights themselves: the model's own may be cast to 16 bits."""
    found: dict[str, torch.Tensor] = {}
    for path in weights:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = {"logit_scale", "logit_bias"} & set(file.keys())
                found.update({name: file.get_tensor(name) for name in names})
    for name in ("logit_scale", "logit_bias"):
        if name not in found and getattr(model, name, None) is not None:
            found[name] = getattr(model, name).detach()
    constants = {name: float(value.double().reshape(())) for name, value in found.items()}
    if "logit_scale" in constants:
        constants["logit_scale"] = math.exp(constants["logit_scale"])
    return constants


def _small_files(folder: Path, options: BackboneOptions) -> list[Path]:
    """Configuration and tokenizer; the code as well where it is run."""
    suffixes = (*SMALL_FILES, *((".py",) if options.trust_remote_code else ()))
    return sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.is_file())


def _as_dict(size: Any) -> dict[str, int]:
    """The size of a processor, which is a mapping or an object by its age."""
    if size is None:
        return {}
    items = dict(size) if isinstance(size, dict) else vars(size)
    return {k: int(v) for k, v in items.items() if v is not None}


def without_history(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_history(v) for k, v in value.items() if k not in _HISTORY}
    return value
