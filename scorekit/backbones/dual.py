"""What all dual encoders share: batches, long texts, resizing, features and gradients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.spec import DTYPES, BackboneOptions
from scorekit.cache import Extracted
from scorekit.resize import ImageSpec
from scorekit.types import Array, Feature, InputError, UsageError

CPU_BATCH = 32
GPU_BATCH = 128
PROBE = ("a red circle", "two small blue squares above a large green triangle, and no circle")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as a model reads it.

    Attributes
    ----------
    ids : list of int
        Special tokens included, padding not, at most the model's limit.
    full_length : int
        How many there were before the cut.
    """

    ids: list[int]
    full_length: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image ready for the forward pass: uint8 (h, w, 3), and what was seen of it."""

    pixels: Array
    info: dict[str, Any]


class DualEncoder:
    """Base of the backbones with an image and a text tower in one space.

    A family gives `info`, `image_spec`, `tokenize`, `encode_images` and `encode_tokens`.

    Attributes
    ----------
    info : BackboneInfo
    image_spec : ImageSpec
    trims : bool
        Whether padding may be cut to the batch's longest text. Found by trying
        (`find_trimming`), since it depends on mask and pooling, not on a name.
    """

    info: BackboneInfo
    image_spec: ImageSpec
    trims: bool = False

    def __init__(self, options: BackboneOptions) -> None:
        self.options = options
        self.device = pick_device(options.device)
        self.dtype: torch.dtype = getattr(torch, DTYPES[options.dtype])
        self.batch_size = options.batch_size or (
            CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        )
        self._mean: torch.Tensor | None = None

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

    def extract(self, feature: Feature, inputs: Sequence[Any]) -> list[Extracted | InputError]:
        """Features of prepared images or of texts, one an input, in their order.

        An input that fails gives an `InputError` in its place and costs no other.
        """
        if feature.kind == "image_embedding":
            return self._each(inputs, self._embed_images)
        if feature.kind == "text_embedding":
            prefix = str(dict(feature.params).get("prefix", ""))
            return self._embed_texts([prefix + text for text in inputs], prefix)
        raise UsageError(f"{type(self).__name__} gives no {feature.kind}")

    # Images -------------------------------------------------------------------------------

    def _embed_images(self, images: Sequence[Prepared]) -> list[Extracted]:
        pixels = torch.from_numpy(np.stack([image.pixels for image in images]))
        with torch.inference_mode():
            out = self.encode_images(self.normalise(pixels.to(self.device)))
        arrays = out.float().cpu().numpy()
        return [Extracted(a, i.info) for a, i in zip(arrays, images, strict=True)]

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, h, w, 3) to the model's normalised floats (n, 3, h, w)."""
        return self._normalise(pixels.permute(0, 3, 1, 2).float() * self.image_spec.rescale)

    def embed_differentiably(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, d) of float images (n, 3, h, w) in 0 to 1, with gradients.

        The resize is torch's antialiased one on floats, so that it has a gradient.
        """
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

    # Texts --------------------------------------------------------------------------------

    def embed_texts(self, texts: Sequence[str], *, grad: bool = False) -> torch.Tensor:
        """Embeddings (n, d) of texts within the limit or cut to it, as one tensor."""
        ids = [tokens.ids for tokens in self.tokenize(texts)]
        with nullcontext() if grad else torch.inference_mode():
            return self._encode_ids(ids)

    def _embed_texts(self, texts: Sequence[str], prefix: str) -> list[Extracted | InputError]:
        """Embed texts by length, so that a batch's padding is short."""
        tokens = self.tokenize(texts)
        out: list[Extracted | InputError | None] = [None] * len(texts)
        limit = self.info.text_limit
        plain: list[int] = []
        for i, token in enumerate(tokens):
            too_long = token.full_length > limit
            if too_long and self.options.long_text == "error":
                out[i] = InputError(
                    "text_too_long", f"{token.full_length} tokens, the model reads {limit}"
                )
            elif too_long and self.options.long_text == "window":
                out[i] = self._embed_windows(texts[i], prefix, token.full_length)
            else:
                plain.append(i)
        plain.sort(key=lambda i: len(tokens[i].ids))
        done = self._each([tokens[i] for i in plain], self._embed_tokens)
        for i, result in zip(plain, done, strict=True):
            out[i] = result
        return [result for result in out if result is not None]

    def _embed_tokens(self, tokens: Sequence[Tokens]) -> list[Extracted]:
        with torch.inference_mode():
            arrays = self._encode_ids([t.ids for t in tokens]).float().cpu().numpy()
        limit = self.info.text_limit
        return [
            Extracted(
                array,
                {"tokens": t.full_length, "limit": limit} if t.full_length > limit else {},
            )
            for array, t in zip(arrays, tokens, strict=True)
        ]

    def _encode_ids(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        longest = max(len(i) for i in ids)
        return self.encode_tokens(ids, longest if self.trims else self.info.text_limit)

    def _embed_windows(self, text: str, prefix: str, length: int) -> Extracted | InputError:
        """Mean of the unit embeddings of a long text's windows."""
        windows = self.split_windows(text.removeprefix(prefix), prefix)
        parts = self._each(self.tokenize(windows), self._embed_tokens)
        arrays = []
        for part in parts:
            if isinstance(part, InputError):
                return part
            arrays.append(part.array / np.linalg.norm(part.array))
        info = {"tokens": length, "limit": self.info.text_limit, "windows": len(windows)}
        mean: Array = np.stack(arrays).mean(axis=0, dtype=np.float32)
        return Extracted(mean, info)

    def split_windows(self, text: str, prefix: str = "") -> list[str]:
        """Split a text into windows within the limit, at sentence ends where it can.

        A sentence that is too long alone is split at words, a word at letters. Every window
        gets the prefix.
        """
        windows: list[str] = []
        current = ""
        for sentence in re.findall(r".+?(?:[.!?。！？]+[\"')\]]*\s*|\n+|$)", text, re.DOTALL):
            if self._fits(prefix + current + sentence):
                current += sentence
                continue
            if current.strip():
                windows.append(prefix + current.strip())
            current = ""
            for piece in self._pieces(sentence, prefix):
                if self._fits(prefix + current + piece):
                    current += piece
                else:
                    if current.strip():
                        windows.append(prefix + current.strip())
                    current = piece
        if current.strip():
            windows.append(prefix + current.strip())
        return windows

    def _pieces(self, sentence: str, prefix: str) -> list[str]:
        if self._fits(prefix + sentence):
            return [sentence]
        words = re.findall(r"\S+\s*", sentence)
        step = max(1, self.info.text_limit // 8)  # a letter is 4 tokens at most, mostly 1
        return [
            piece
            for word in words
            for piece in (
                [word]
                if self._fits(prefix + word)
                else [word[i : i + step] for i in range(0, len(word), step)]
            )
        ]

    def _fits(self, text: str) -> bool:
        return self.tokenize([text])[0].full_length <= self.info.text_limit

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

    # Batches ------------------------------------------------------------------------------

    def _each(self, inputs: Sequence[Any], embed: Any) -> list[Extracted | InputError]:
        """Run batches; halve them where memory is short; then one by one where one fails."""
        out: list[Extracted | InputError] = []
        start = 0
        while start < len(inputs):
            batch = inputs[start : start + self.batch_size]
            try:
                out.extend(embed(batch))
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise UsageError(
                        "one input alone does not fit into the device's memory; "
                        "try --dtype bf16 or --device cpu"
                    ) from None
                self.batch_size = max(1, len(batch) // 2)
                torch.cuda.empty_cache()
                continue
            except Exception as error:
                if len(batch) == 1:
                    out.append(InputError("failed", f"{type(error).__name__}: {error}"))
                else:
                    for single in batch:
                        out.extend(self._each([single], embed))
            start += len(batch)
        return out


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
    """Cut the centre out of a batch (n, 3, h, w), padded with black where it is smaller."""
    margins = [side - size for side, size in zip(x.shape[-2:], spec.size, strict=True)]
    if min(margins) < 0:
        before = [max(0, -m) // 2 for m in margins]
        after = [max(0, -m) - b for m, b in zip(margins, before, strict=True)]
        x = torch.nn.functional.pad(x, (before[1], after[1], before[0], after[0]))
        margins = [max(0, m) for m in margins]
    half = round if spec.crop_rounding == "round" else int
    top, left = (half(m / 2) for m in margins)
    return x[..., top : top + spec.size[0], left : left + spec.size[1]]


def fast_resize(pixels: Array, spec: ImageSpec) -> Array:
    """`ImageSpec.apply` by torch on uint8: at most 1 level off in 0.3% of values."""
    x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
    return np.ascontiguousarray(torch_resize(x, spec)[0].permute(1, 2, 0).numpy())


def looks_drawn(pixels: Array) -> bool:
    """Whether an image is flat enough to be a scene: most neighbouring pixels are alike."""
    steps = np.abs(np.diff(pixels.astype(np.int16), axis=1)).max(axis=-1)
    return bool(np.mean(steps <= 6) > 0.6)


__all__ = ["DualEncoder", "Prepared", "Tokens", "pick_device"]
