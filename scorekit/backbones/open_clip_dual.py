"""Dual encoders of OpenCLIP: ``open_clip:ARCH/TAG`` and ``open_clip:ARCH/FILE``."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scorekit.backbones.dual import DualEncoder
from scorekit.backbones.files import (
    hub_file,
    one_line_errors,
    sha256_of,
    short_hash,
    weight_files,
)
from scorekit.backbones.handle import BackboneInfo, states_of
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.backbones.texts import Tokens
from scorekit.resize import ImageSpec
from scorekit.types import UsageError

HUB_PREFIX = "hf-hub:"
SAFE_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
PICKLE_NAME = "open_clip_pytorch_model.bin"


@dataclass(frozen=True)
class Checkpoint:
    """What a specification stands for: an architecture and its weights, pinned together."""

    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    weights: Path
    tokenizer_of: str


def load(spec: BackboneSpec, options: BackboneOptions) -> OpenClipDual:
    """Load an OpenCLIP model.

    Raises
    ------
    UsageError
        If there is no such architecture or tag, the weights can't be had, or they don't fit
        the architecture.
    """
    from scorekit.backbones.open_clip_coca import CocaDual, is_coca  # it builds on this module

    checkpoint = resolve(spec.name, allow_pickle=options.allow_pickle)
    kind = CocaDual if is_coca(checkpoint.config) else OpenClipDual
    return kind(checkpoint, options)


def resolve(name: str, *, allow_pickle: bool = False) -> Checkpoint:
    """Find architecture and weights.

    A name is ``ARCH/TAG``, ``ARCH/FILE``, ``ARCH/hf-hub:OWNER/NAME/FILE``,
    ``hf-hub:OWNER/NAME``, or a folder with an ``open_clip_config.json``.

    The tag decides the activation: OpenAI's weights get QuickGELU, whatever the config of
    that architecture says.

    Raises
    ------
    UsageError
        If there is no such architecture or tag, or the weights can't be had.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if name.startswith(HUB_PREFIX):
        return _from_hub(name.removeprefix(HUB_PREFIX), allow_pickle)
    if Path(name, "open_clip_config.json").is_file():
        return _from_folder(Path(name), allow_pickle)
    arch, _, tag = name.partition("/")
    config = open_clip.get_model_config(arch)
    if config is None:
        raise UsageError(_no_architecture(arch))
    if not tag:
        raise UsageError(
            f"open_clip:{arch} lacks its weights: write open_clip:{arch}/TAG with one of "
            f"{', '.join(open_clip.list_pretrained_tags_by_model(arch)) or '(no tags)'}, or "
            f"open_clip:{arch}/FILE.safetensors"
        )
    known = get_pretrained_cfg(arch, tag)
    if known:
        # A tag may ask for QuickGELU where the architecture's config does not; no tag takes it
        # away (roberta-ViT-B-32 has it from its config alone).
        config["quick_gelu"] = bool(config.get("quick_gelu")) or bool(known.get("quick_gelu"))
        weights = _hub_weights(known.get("hf_hub", ""), f"open_clip:{name}", allow_pickle)
        return Checkpoint(f"open_clip:{name}", config, _preprocess(known), weights, arch)
    if tag.startswith(HUB_PREFIX):
        owner, repo, *rest = tag.removeprefix(HUB_PREFIX).split("/")
        file = "/".join(rest)
        if not file:
            raise UsageError(f"write open_clip:{arch}/{HUB_PREFIX}OWNER/NAME/FILE")
        _check_kind(Path(file), allow_pickle)
        weights = _one_file(f"open_clip:{name}", f"{owner}/{repo}", file)
    else:
        weights = Path(tag)
        if not weights.is_file():
            raise UsageError(
                f"no tag and no file {tag!r} for open_clip:{arch}; it has the tags "
                f"{', '.join(open_clip.list_pretrained_tags_by_model(arch)) or '(none)'}"
            )
        _check_kind(weights, allow_pickle)
    return Checkpoint(f"open_clip:{name}", config, _preprocess({}), weights, arch)


class OpenClipDual(DualEncoder):
    """An OpenCLIP model behind the common interface."""

    takes_int8 = True

    def __init__(self, checkpoint: Checkpoint, options: BackboneOptions) -> None:
        super().__init__(options)
        model = _build(checkpoint, options)
        constants = _constants(model)  # before they are cast
        self.model = model.to(self.device, self.dtype).eval()
        self.model.requires_grad_(False)
        self.tokenizer = _tokenizer(checkpoint)
        text = checkpoint.config["text_cfg"]
        self._limit = int(self.tokenizer.context_length or text.get("context_length", 77))
        self._pad_id = int(text.get("pad_id", 0) or 0)
        size = checkpoint.config["vision_cfg"]["image_size"]
        self.image_spec = _image_spec({**checkpoint.preprocess, "size": size})
        with one_line_errors(checkpoint.name):
            identity = short_hash(
                {
                    "arch": checkpoint.config,
                    "weights": sha256_of([checkpoint.weights]),
                    "image": self.image_spec.describe(),
                    "text": [self._limit, self.tokenizer_hash()],
                }
            )
            self.info = BackboneInfo(
                fingerprint=short_hash([identity, self.resizer, options.dtype]),
                identity=identity,
                text_limit=self._limit,
                constants=constants,
                domain="any",
                resize=self.resizer,
                files=states_of([checkpoint.weights]),
            )
            self.settle()

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of texts, cut to the limit with the end token kept."""
        return [self._tokenize(text) for text in texts]

    def _tokenize(self, text: str) -> Tokens:
        if not hasattr(self.tokenizer, "sot_token_id"):
            # A tokenizer that OpenCLIP wraps: it cuts, pads and marks ends in its own way, so
            # its row is taken whole.
            padded = self.tokenizer([text])[0].tolist()
            cleaned = self.tokenizer.clean_fn(text) if self.tokenizer.clean_fn else text
            full = self.tokenizer.tokenizer(cleaned, truncation=False, verbose=False)["input_ids"]
            return Tokens(padded, len(full))
        ids = [
            self.tokenizer.sot_token_id,
            *self.tokenizer.encode(text),
            self.tokenizer.eot_token_id,
        ]
        cut = ids if len(ids) <= self._limit else [*ids[: self._limit - 1], ids[-1]]
        return Tokens(cut, len(ids))

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, d) of normalised pixels (n, 3, h, w)."""
        out: torch.Tensor = self.model.encode_image(pixels)
        return out

    def encode_tokens(self, ids: Sequence[Sequence[int]], length: int) -> torch.Tensor:
        """Embeddings (n, d) of token ids, padded to `length`."""
        padded = torch.full((len(ids), length), self._pad_id, dtype=torch.long)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        padded = padded.to(self.device)
        if length == self._limit or not hasattr(self.model, "token_embedding"):
            out: torch.Tensor = self.model.encode_text(padded)
            return out
        return self._encode_short(padded)

    def _encode_short(self, ids: torch.Tensor) -> torch.Tensor:
        """`CLIP.encode_text` on fewer positions than the tower has, which it can't do itself."""
        from open_clip.transformer import text_global_pool

        model, length = self.model, ids.shape[1]
        x = model.token_embedding(ids).to(self.dtype)
        x = x + model.positional_embedding[:length].to(self.dtype)
        mask = None if model.attn_mask is None else model.attn_mask[:length, :length]
        x = model.ln_final(model.transformer(x, attn_mask=mask))
        x = text_global_pool(x, ids, model.text_pool_type, eos_token_id=model.text_eos_id)
        projection = model.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, torch.nn.Linear) else x @ projection
        out: torch.Tensor = x
        return out


def _build(checkpoint: Checkpoint, options: BackboneOptions) -> Any:
    """The model with its weights, built without a download of any tower."""
    from open_clip.factory import load_checkpoint
    from open_clip.model import CLIP, CustomTextCLIP

    config = copy.deepcopy(checkpoint.config)
    if "multimodal_cfg" in config:
        from open_clip.coca_model import CoCa as Model
    elif config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]:
        Model = CustomTextCLIP
    else:
        Model = CLIP
    config.pop("custom_text", None)
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    with one_line_errors(checkpoint.weights.name):
        model = Model(**config)
        try:
            load_checkpoint(model, str(checkpoint.weights), weights_only=not options.allow_pickle)
        except RuntimeError as error:
            lines = " ".join(line.strip() for line in str(error).splitlines()[1:2])
            raise UsageError(
                f"{checkpoint.weights.name} does not fit {checkpoint.tokenizer_of}: {lines[:160]}"
            ) from None
    return model


def _tokenizer(checkpoint: Checkpoint) -> Any:
    import open_clip

    wrapped = "hf_tokenizer_name" in checkpoint.config["text_cfg"]
    with one_line_errors(f"the tokenizer of {checkpoint.name}"):
        if wrapped:
            try:
                return open_clip.get_tokenizer(checkpoint.tokenizer_of, local_files_only=True)
            except OSError:
                pass  # not on disk
        return open_clip.get_tokenizer(checkpoint.tokenizer_of)


def _from_folder(folder: Path, allow_pickle: bool) -> Checkpoint:
    """A folder with OpenCLIP's own config and weights, as it is published on the hub."""
    name = f"open_clip:{folder.name}"
    with one_line_errors(name):
        config = json.loads((folder / "open_clip_config.json").read_text("utf-8"))
        model, preprocess = config["model_cfg"], config.get("preprocess_cfg", {})
    weights = weight_files(folder, allow_pickle=allow_pickle)
    if not weights:
        raise UsageError(f"{folder} holds no weights")
    return Checkpoint(name, model, _preprocess(preprocess), weights[0], f"local-dir:{folder}")


def _from_hub(repo: str, allow_pickle: bool) -> Checkpoint:
    """A whole OpenCLIP repository: its own config, preprocessing and weights."""
    name = f"open_clip:{HUB_PREFIX}{repo}"
    config = json.loads(_one_file(name, repo, "open_clip_config.json").read_text())
    weights = _hub_weights(repo + "/", name, allow_pickle)
    preprocess = _preprocess(config.get("preprocess_cfg", {}))
    return Checkpoint(name, config["model_cfg"], preprocess, weights, HUB_PREFIX + repo)


def _hub_weights(place: str, name: str, allow_pickle: bool) -> Path:
    """The weights that a tag names, as safetensors where the repository has them."""
    repo, _, file = place.rpartition("/")
    if not repo:
        raise UsageError(f"{name} has no weights on the hub; give open_clip:ARCH/FILE.safetensors")
    wanted = [Path(file).with_suffix(".safetensors").name] if file else list(SAFE_NAMES)
    pickle = file or PICKLE_NAME
    if allow_pickle:
        wanted.append(pickle)
    try:
        return hub_file(name, repo, wanted)
    except FileNotFoundError as error:
        if allow_pickle:
            raise UsageError(f"no checkpoint {name}: {error}") from None
    raise UsageError(
        f"{name} only exists as a pickle ({repo}/{pickle}), which can run code when loaded; "
        "pass --allow-pickle if you trust its source"
    )


def _one_file(name: str, repo: str, file: str) -> Path:
    try:
        return hub_file(name, repo, [file])
    except FileNotFoundError as error:
        raise UsageError(f"no checkpoint {name}: {error}") from None


def _check_kind(weights: Path, allow_pickle: bool) -> None:
    if weights.suffix != ".safetensors" and not allow_pickle:
        raise UsageError(
            f"{weights.name} is no safetensors file, and a pickle can run code when loaded; "
            "pass --allow-pickle if you trust its source"
        )


def _preprocess(known: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    merged: dict[str, Any] = merge_preprocess_dict(asdict(PreprocessCfg()), known)
    return merged


def _image_spec(config: dict[str, Any]) -> ImageSpec:
    """OpenCLIP's evaluation transform as an `ImageSpec`."""
    size = config["size"]
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    mode: Any = config["resize_mode"]
    return ImageSpec(
        size=size,
        mode=mode,
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_rounding="round",
        fill=int(config["fill_color"]),
    )


def _constants(model: Any) -> dict[str, float]:
    constants = {"logit_scale": float(model.logit_scale.detach().float().exp())}
    if getattr(model, "logit_bias", None) is not None:
        constants["logit_bias"] = float(model.logit_bias.detach().float())
    return constants


def _no_architecture(arch: str) -> str:
    import difflib

    import open_clip

    near = difflib.get_close_matches(arch, open_clip.list_models(), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"OpenCLIP has no architecture {arch!r}{hint}"
