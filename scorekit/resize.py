"""The exact resize: PIL with antialias, centre crop, as the checkpoints were evaluated with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from scorekit.images import check_size
from scorekit.types import Array, InputError

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class ImageSpec:
    """How a model wants its images: PIL resize with antialias, centre crop, normalisation.

    Attributes
    ----------
    size : (height, width)
        What `apply` returns and the model takes.
    resize_to : int or (height, width), optional
        What the image is resized to before the crop; `size` by default. An int is the length
        of the side that `mode` names (of both, for ``squash``).
    mode : {"shortest", "longest", "squash", "none"}
        ``shortest`` and ``longest`` keep the aspect ratio: an int as torchvision's ``Resize``,
        a pair as open_clip's ``ResizeKeepRatio``. ``squash`` doesn't keep it. ``none`` doesn't
        resize.
    interpolation : {"bicubic", "bilinear", "nearest", "lanczos"}
    mean, std : tuple of float
        Normalisation of the channels, after `rescale`.
    rescale : float
        Factor from levels to the values that `mean` and `std` refer to.
    crop : bool
        Cut the centre out, and pad where the image is smaller. Without it, resizing must give
        `size`.
    crop_rounding : {"round", "floor"}
        Where an odd margin can't be halved: ``round`` as torchvision and open_clip (half to
        even), ``floor`` as transformers' PIL and numpy processors (which also put the odd
        pixel of a padding on the other side).
    fill : int or (int, int, int)
        Level of the padding.

    Examples
    --------
    >>> from PIL import Image
    >>> spec = ImageSpec(size=(224, 224))
    >>> spec.apply(Image.new("RGB", (640, 480))).shape
    (224, 224, 3)
    >>> spec.describe()
    '224x224,shortest:224,bicubic,crop:round,fill:0,mean:0/0/0,std:1/1/1,rescale:0.00392156863'
    """

    size: tuple[int, int]
    resize_to: int | tuple[int, int] | None = None
    mode: Literal["shortest", "squash", "longest", "none"] = "shortest"
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"] = "bicubic"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    rescale: float = 1 / 255
    crop: bool = True
    crop_rounding: Literal["round", "floor"] = "round"
    fill: int | tuple[int, int, int] = 0

    def __post_init__(self) -> None:
        if self.mode not in ("shortest", "squash", "longest", "none"):
            raise ValueError(f"mode is shortest, squash, longest or none, not {self.mode!r}")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"unknown interpolation {self.interpolation!r}")
        if self.crop_rounding not in ("round", "floor"):
            raise ValueError(f"crop_rounding is round or floor, not {self.crop_rounding!r}")
        if min(self.size) < 1:
            raise ValueError(f"size {self.size} is empty")

    @property
    def _target(self) -> int | tuple[int, int]:
        if self.resize_to is not None:
            return self.resize_to
        return self.size[0] if self.size[0] == self.size[1] else self.size

    def describe(self) -> str:
        """Short stable text of all that changes a pixel, for a model's fingerprint."""
        target = self._target if self.mode != "none" else ""
        parts = [
            f"{self.size[0]}x{self.size[1]}",
            f"{self.mode}:{_short(target)}" if self.mode != "none" else "none",
            self.interpolation,
            f"crop:{self.crop_rounding}" if self.crop else "crop:no",
            f"fill:{_short(self.fill)}",
            f"mean:{_short(self.mean)}",
            f"std:{_short(self.std)}",
            f"rescale:{_short(self.rescale)}",
        ]
        return ",".join(parts)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after resizing, before the crop."""
        target = self._target
        if self.mode == "none":
            return height, width
        if self.mode == "squash":
            return (target, target) if isinstance(target, int) else target
        if self.mode == "shortest" and isinstance(target, int):
            if width <= height:
                return int(target * height / width), target
            return target, int(target * width / height)
        high, wide = (target, target) if isinstance(target, int) else target
        ratios = (height / high, width / wide)
        ratio = min(ratios) if self.mode == "shortest" else max(ratios)
        # A very narrow image would round to nothing, at which the reference fails.
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def apply(self, image: Image.Image | Array) -> Array:
        """Resize and crop an RGB image: equal to the last bit to the reference on PIL images.

        Parameters
        ----------
        image : PIL image in mode RGB, or uint8 array (h, w, 3)

        Returns
        -------
        uint8 array (height, width, 3)

        Raises
        ------
        InputError
            ``oversized_image`` where a very narrow image would be resized to more than
            `MAX_PIXELS`; ``invalid_image`` where there is no crop and the size is not the
            model's.
        """
        if not isinstance(image, Image.Image):
            image = Image.fromarray(image)
        height, width = self.resized(image.height, image.width)
        check_size(width, height, f"{image.width} x {image.height} would be resized to ")
        if (width, height) != image.size:
            image = image.resize((width, height), _FILTERS[self.interpolation])
        if self.crop:
            return self._cut(image)
        if (height, width) != tuple(self.size):
            raise InputError(
                "invalid_image", f"{height} x {width} pixels, the model takes {self.size}"
            )
        return np.asarray(image)

    def _cut(self, image: Image.Image) -> Array:
        """Centre crop; each side separately is cut or padded."""
        round_crop = self.crop_rounding == "round"
        starts, pads = [], []
        for have, want in zip((image.height, image.width), self.size, strict=True):
            margin = max(0, have - want)
            starts.append(round(margin / 2) if round_crop else margin // 2)
            missing = max(0, want - have)
            pads.append(missing // 2 if round_crop else math.ceil(missing / 2))
        (top, left), (pad_top, pad_left) = starts, pads
        high, wide = min(image.height, self.size[0]), min(image.width, self.size[1])
        # PIL crops before numpy copies: the copy is the slower of the two.
        if (high, wide) != (image.height, image.width):
            image = image.crop((left, top, left + wide, top + high))
        if (high, wide) == tuple(self.size):
            return np.asarray(image)
        out = np.empty((*self.size, 3), np.uint8)
        out[:] = self.fill
        out[pad_top : pad_top + high, pad_left : pad_left + wide] = np.asarray(image)
        return out


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(_short(part) for part in value)
    return f"{value:.9g}" if isinstance(value, float) else str(value)
