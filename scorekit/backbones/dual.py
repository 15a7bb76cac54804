"""What all dual encoders share: batches, long texts, resizing, features and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from scorekit.backbones.files import short_hash
from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.int8 import NO_GRADIENT, ROWS, check_machine, most_rows, round_layers
from scorekit.backbones.spec import DTYPES, BackboneOptions
from scorekit.backbones.texts import Texts, Tokens
from scorekit.images import check_size
from scorekit.resize import ImageSpec
from scorekit.types import Array, Extracted, Feature, InputError, UsageError

CPU_BATCH = 16  # at 32, the memory of a layer goes back to the system and is zeroed each time
GPU_BATCH = 128
PAD_TO = 8  # tokens, with 8-bit layers
PROBE = (
    "a red circle",
    "two small blue squares above a large green triangle, and no circle",
    "Ünïcode – 日本語  “quotes” &amp; MORE 12,345 ☂",
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image ready for the forward pass: uint8 (h, w, 3), and what was seen of it."""

    pixels: Array
    info: dict[str, Any]


class DualEncoder:
    """Base of the backbones with an image and a text tower in one space.

    A family gives `info`, `image_spec`, `tokenize`, `encode_images` and `encode_tokens`. One that
    takes ``--dtype int8`` has a `model`, and calls `settle` when it is loaded.

    Attributes
    ----------
    info : BackboneInfo
    image_spec : ImageSpec
    takes_int8 : bool
        Whether the family has ``--dtype int8``.
    trims : bool
        Whether padding may be cut to the batch's longest text. Found by trying
        (`find_trimming`), since it depends on mask and pooling, not on a name.
    """

    info: BackboneInfo
    image_spec: ImageSpec
    takes_int8: bool = False
    trims: bool = False

    def __init__(self, options: BackboneOptions) -> None:
        self.options = options
        self.device = pick_device(options.device)
        self.rounds = options.dtype == "int8" and self.takes_int8
        if self.rounds:
            check_machine(self.device)
        self.dtype: torch.dtype = (
            torch.float32 if self.rounds else getattr(torch, DTYPES[options.dtype])
        )
        self.batch_size = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        self._mean: torch.Tensor | None = None
        self._images_at_once: int | None = None  # all

    # What a family gives ------------------------------------------------------------------

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of texts, cut to the limit with the end token kept."""
        raise NotImplementedError

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, d) of normalised pixels (n, 3, h, w)."""
        raise NotImplementedError

    def encode_tokens(self, ids: Sequence[Sequence[int]], length: int) -> torch.Tensor:
        """Embeddings (n, d) of token ids, padded to `length`."""
        raise NotImplementedError

    # The protocol -------------------------------------------------------------------------

    @property
    def resizer(self) -> str:
        """What resizes the images, for signatures."""
        how = "torch-uint8" if self.options.resize == "fast" else "pil"
        return f"{how}-{self.image_spec.interpolation}"

    @property
    def fingerprint(self) -> str:
        """Architecture, weights, preprocessing and dtype, as one short hash."""
        return self.info.fingerprint

    def prepare(self, feature: Feature, image: Image.Image) -> Prepared:
        """Resize and crop one decoded image; safe to call from several threads."""
        if self.options.resize == "fast":
            pixels = fast_resize(np.asarray(image), self.image_spec)
        else:
            pixels = self.image_spec.apply(image)
        info: dict[str, Any] = {}
        if self.info.domain == "scenes" and not looks_drawn(pixels):
            info["off_domain"] = "a photograph or painting, not a scene"
        return Prepared(pixels, info)

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """Features of prepared images or of texts, one an input, in their order.

        An input that fails gives an `InputError` in its place and costs no other. Parameters
        of texts: ``prefix``, and ``long_text`` as in `BackboneOptions`.
        """
        size = batch_size or self.batch_size
        params = dict(feature.params)
        if feature.kind == "image_embedding":
            return self.each(inputs, self._embed_images, size)
        if feature.kind == "text_embedding":
            texts = Texts(self, str(params.get("prefix", "")), size)
            return texts.embed(inputs, params.get("long_text", "truncate"))
        if feature.kind == "token_attribution":
            self._check_gradients()
            from scorekit.backbones.attributed import Attributor  # it builds on this module

            return Attributor(self, params).attribute(inputs, size)
        raise UsageError(
            f"{feature.backbone} embeds images and texts and gives no "
            f"{feature.kind.replace('_', ' ')}; that takes another kind of model, such as "
            "scenes-vqa or hf:llava-hf/llava-1.5-7b-hf"
        )

    # Images -------------------------------------------------------------------------------

    def _embed_images(self, images: Sequence[Prepared]) -> list[Extracted]:
        pixels = torch.from_numpy(np.stack([image.pixels for image in images]))
        with torch.inference_mode(), self._exact_convolutions():
            parts = torch.split(pixels.to(self.device), self._images_at_once or len(pixels))
            out = torch.cat([self.encode_images(self.normalise(part)) for part in parts])
        arrays = out.float().cpu().numpy()
        return [Extracted(a, i.info) for a, i in zip(arrays, images, strict=True)]

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, h, w, 3) to the model's normalised floats (n, 3, h, w)."""
        return self._normalise(pixels.permute(0, 3, 1, 2).float() * self.image_spec.rescale)

    def embed_differentiably(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, d) of float images (n, 3, h, w) in 0 to 1, with gradients.

        The resize is torch's antialiased one on floats, so that it has a gradient.
        """
        self._check_gradients()
        spec = self.image_spec
        x = images.to(self.device, torch.float32)
        x = torch_resize(x, spec)
        return self.encode_images(self._normalise(x * (255 * spec.rescale)))

    def _normalise(self, x: torch.Tensor) -> torch.Tensor:
        if self._mean is None:
            # A tensor made in inference mode could never take part in a gradient.
            with torch.inference_mode(False):
                shape = (1, 3, 1, 1)
                self._std = torch.tensor(self.image_spec.std, device=self.device).reshape(shape)
                self._mean = torch.tensor(self.image_spec.mean, device=self.device).reshape(shape)
        return ((x - self._mean) / self._std).to(self.dtype)

    def tokenizer_hash(self) -> str:
        """Hash of the ids of some texts: tells two vocabularies or cleanings apart."""
        return short_hash([tokens.ids for tokens in self.tokenize(PROBE)])

    def find_trimming(self) -> bool:
        """Try whether trimmed padding gives the same embeddings as full padding.

        True for causal towers and for those that mask their padding; False for SigLIP, which
        pools a padded position.
        """
        ids = [tokens.ids for tokens in self.tokenize(PROBE)]
        with torch.inference_mode():
            full = self.encode_tokens(ids, self.info.text_limit).float()
            try:
                trimmed = self.encode_tokens(ids, max(len(i) for i in ids)).float()
            except (RuntimeError, ValueError):
                return False  # the tower wants its full length
        cos = torch.nn.functional.cosine_similarity(full, trimmed)
        tolerance = 1e-5 if self.dtype == torch.float32 else 1e-2
        return bool((1 - cos).max() < tolerance)

    def settle(self) -> None:
        """What is left to do with a loaded model: find out what it allows, and round it."""
        self.trims = self.find_trimming()
        if not self.rounds:
            return
        model: torch.nn.Module = self.model  # type: ignore[attr-defined]
        round_layers(model)
        blank = torch.zeros((1, 3, *self.image_spec.size), dtype=self.dtype)
        with torch.inference_mode():
            rows = most_rows(model, lambda: self.encode_images(blank))
        self._images_at_once = max(1, ROWS // rows) if rows else None

    def embed_tokens(self, tokens: Sequence[Tokens]) -> list[Extracted]:
        """Features of texts within the limit or cut to it; `info` says which were cut."""
        ids, limit = [t.ids for t in tokens], self.info.text_limit
        with torch.inference_mode():
            if self.rounds:
                encoded = self._encode_apart(ids, limit)
            else:
                encoded = [
                    self.encode_tokens(part, max(map(len, part)) if self.trims else limit)
                    for part in (_alike(ids) if self.trims else [ids])
                ]
            arrays = torch.cat(encoded).float().cpu().numpy()
        infos: list[dict[str, Any]] = [
            {"tokens": t.full_length, "limit": limit} if t.full_length > limit else {}
            for t in tokens
        ]
        return [Extracted(array, info) for array, info in zip(arrays, infos, strict=True)]

    def _encode_apart(self, ids: Sequence[Sequence[int]], limit: int) -> list[torch.Tensor]:
        """Embeddings (1, d) of texts, each padded by its own length alone.

        Attention over more padding differs in its last bit, which 8-bit layers can make a level
        of: a text's neighbours must not decide on its padding.
        """
        lengths = [min(limit, -(-len(i) // PAD_TO) * PAD_TO) if self.trims else limit for i in ids]
        out: dict[int, torch.Tensor] = {}
        for length in dict.fromkeys(lengths):
            places = [k for k, own in enumerate(lengths) if own == length]
            for part in _few(places, length):
                rows = self.encode_tokens([ids[k] for k in part], length)
                out.update(zip(part, torch.split(rows, 1), strict=True))
        return [out[k] for k in range(len(ids))]

    def _exact_convolutions(self) -> Any:
        """Without TF32, which CUDA would use for float32 convolutions: 10 bits of mantissa."""
        if self.device.type != "cuda" or self.dtype != torch.float32:
            return nullcontext()
        return torch.backends.cudnn.flags(
            enabled=True, benchmark=torch.backends.cudnn.benchmark, allow_tf32=False
        )

    def _check_gradients(self) -> None:
        if self.rounds:
            raise UsageError(NO_GRADIENT)

    # Batches ------------------------------------------------------------------------------

    def each(
        self, inputs: Sequence[Any], embed: Callable[[Any], list[Extracted]], size: int
    ) -> list[Extracted | InputError]:
        """Run batches; halve them where memory is short; then one by one where one fails."""
        out: list[Extracted | InputError] = []
        start = 0
        while start < len(inputs):
            batch = inputs[start : start + size]
            try:
                out.extend(embed(batch))
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise UsageError(
                        "one input alone does not fit into the device's memory; "
                        "try --dtype bf16 or --device cpu"
                    ) from None
                size = len(batch) // 2
                self.batch_size = min(self.batch_size, size)
                torch.cuda.empty_cache()
                continue
            except Exception as error:
                if len(batch) == 1:
                    out.append(InputError("failed", f"{type(error).__name__}: {error}"))
                else:
                    for single in batch:
                        out.extend(self.each([single], embed, 1))
            start += len(batch)
        return out


def _alike(ids: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    """Cut a batch where lengths differ more than twofold: padding costs as much as text does."""
    parts: list[Sequence[Sequence[int]]] = []
    start = 0
    for end in range(1, len(ids) + 1):
        lengths = [len(i) for i in ids[start : end + 1]]
        if end == len(ids) or max(lengths) > 2 * min(lengths):
            parts.append(ids[start:end])
            start = end
    return parts


def _few(places: Sequence[int], length: int) -> list[Sequence[int]]:
    """Cut a batch of texts of one length into parts that 8-bit layers make fast work of."""
    size = max(1, ROWS // length)
    return [places[start : start + size] for start in range(0, len(places), size)]


def pick_device(name: str) -> torch.device:
    """The device of a name; ``auto`` takes CUDA, else MPS, else the CPU.

    Raises
    ------
    UsageError
        If the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    return device


def torch_resize(x: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """Resize and crop a batch (n, 3, h, w) with torch's antialiased interpolation."""
    h, w = x.shape[-2:]
    target = spec.resized(h, w)
    check_size(target[1], target[0], f"{w} x {h} would be resized to ")
    if target != (h, w):
        mode = "nearest-exact" if spec.interpolation == "nearest" else spec.interpolation
        if mode == "lanczos":
            raise UsageError("torch has no lanczos resize; use --resize exact")
        kwargs: dict[str, Any] = {}
        if mode in ("bicubic", "bilinear"):
            kwargs = {"antialias": True, "align_corners": False}
        x = torch.nn.functional.interpolate(x, size=target, mode=mode, **kwargs)
        if x.is_floating_point():
            x = x.clamp(0, 1)  # bicubic overshoots; PIL's clips as well
    return _centre(x, spec) if spec.crop else x


def _centre(x: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """Cut the centre out of a batch (n, 3, h, w), padded where it is smaller."""
    margins = [side - size for side, size in zip(x.shape[-2:], spec.size, strict=True)]
    if min(margins) < 0:
        before = [max(0, -m) // 2 for m in margins]
        after = [max(0, -m) - b for m, b in zip(margins, before, strict=True)]
        fill = spec.fill if isinstance(spec.fill, int) else spec.fill[0]
        level = fill / 255 if x.is_floating_point() else fill
        x = torch.nn.functional.pad(x, (before[1], after[1], before[0], after[0]), value=level)
        margins = [max(0, m) for m in margins]
    half = round if spec.crop_rounding == "round" else int
    top, left = (half(m / 2) for m in margins)
    return x[..., top : top + spec.size[0], left : left + spec.size[1]]


def fast_resize(pixels: Array, spec: ImageSpec) -> Array:
    """`ImageSpec.apply` by torch on uint8: at most 1 level off in 0.4% of values."""
    x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
    return np.ascontiguousarray(torch_resize(x, spec)[0].permute(1, 2, 0).numpy())


def looks_drawn(pixels: Array) -> bool:
    """Whether an image is flat enough to be a scene: most neighbouring pixels are alike.

    On 180 scenes at 64 pixels the share is .77 to .95; on 16 photographs and paintings, .04
    to .52.
    """
    x = pixels.astype(np.int16)
    steps = [np.abs(np.diff(x, axis=axis)).max(axis=-1).ravel() for axis in (0, 1)]
    return bool(np.mean(np.concatenate(steps) <= 2) > 0.65)


__all__ = ["DualEncoder", "Prepared", "Tokens", "pick_device"]
