"""``pixels:rgb``: how far an edited image is from its source. No torch here.

Squared and absolute differences, and scikit-image's SSIM (Wang et al., IEEE TIP 2004).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from scorekit.backbones.files import short_hash
from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.pixels_read import EditPixels, each_edit, edit_content
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.inputs import missing_field
from scorekit.types import Array, Extracted, Feature, InputError, Sample, UsageError

MODULES: Mapping[str, str] = {
    "rgb": "pixels",
    "lpips-alex": "pixels_lpips",
    "lpips-vgg": "pixels_lpips",
    "lpips-squeeze": "pixels_lpips",
}
EMPTY: Array = np.zeros(0, np.float32)


def load(spec: BackboneSpec, options: BackboneOptions) -> Any:
    """Load what measures the distance of two images.

    Raises
    ------
    UsageError
        If there is no such measure, or its weights can't be had.
    """
    name, _, weights = spec.name.partition("/")
    if name not in MODULES:
        raise UsageError(f"no backbone pixels:{name}; there are {', '.join(MODULES)}")
    if name == "rgb":
        return PixelDistances()
    module = import_module(f"scorekit.backbones.{MODULES[name]}")
    return module.load(name, weights, options)


class EditRecords:
    """What the backbones of this family share: record features of an edit's images."""

    batch_size = 16
    device: Any = "cpu"
    info: BackboneInfo

    @property
    def fingerprint(self) -> str:
        """Hash of what it computes, with the weights where there are any."""
        return self.info.fingerprint

    def content_of(self, feature: Feature, sample: Sample) -> str:
        """Hash of the content of the sample's images.

        Raises
        ------
        InputError
            If the row lacks one that is needed, or one can't be read.
        """
        return edit_content(sample)


class PixelDistances(EditRecords):
    """Squared and absolute differences of RGB values in 0 to 1, and their SSIM."""

    def __init__(self) -> None:
        identity = short_hash(["pixels:rgb", 1])
        self.info = BackboneInfo(identity, identity, 0, {}, "any", "", (), remote=True)

    def content_of(self, feature: Feature, sample: Sample) -> str:
        """Hash of the content of the sample's images; ``pixel_change`` needs a mask."""
        if feature.kind == "pixel_change" and sample.mask is None:
            raise missing_field("mask")
        return super().content_of(feature, sample)

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """Distances of samples' images.

        Returns
        -------
        list
            Of ``pixel_change``, ``info`` has ``locality``, the share of the squared change
            that lies inside the mask. Of ``pixel_distances``, it has ``mse`` and ``l1``, each
            a mapping with ``whole``, ``inside`` and ``outside``, or ``whole`` alone with the
            reason in ``no_region``; of ``ssim``, it has ``ssim`` in the same form. Parameters:
            ``sizes``, as of `read_edit`; ``pie_compat``, whether what lies outside a region
            counts as equal instead of not at all; of ``ssim`` also ``sigma``, the standard
            deviation of the Gaussian window in pixels.
        """
        params = dict(feature.params)
        measures = {"pixel_change": _change, "pixel_distances": _distances, "ssim": _similarity}
        if feature.kind not in measures:
            raise UsageError(f"pixels:rgb gives no {feature.kind}")
        measure = measures[feature.kind]
        return each_edit(inputs, params.get("sizes", "equal"), lambda e: measure(e, params))


def _squared(edit: EditPixels) -> Array:
    """Squared difference of each value in levels, exact; (h, w, 3) int32."""
    difference = edit.edited.astype(np.int32) - edit.source
    return difference * difference


def _change(edit: EditPixels, params: Mapping[str, Any]) -> Extracted:
    if isinstance(edit.region, InputError):
        raise edit.region
    squared = _squared(edit)
    whole = int(squared.sum(dtype=np.int64))
    if not whole:
        raise InputError("undefined", "the edited image is identical to its source")
    return Extracted(EMPTY, {"locality": int(squared[edit.region].sum(dtype=np.int64)) / whole})


def _distances(edit: EditPixels, params: Mapping[str, Any]) -> Extracted:
    pie = bool(params.get("pie_compat"))
    levels = {"mse": (_squared(edit), 255**2), "l1": (_absolute(edit), 255)}
    info: dict[str, Any] = {}
    for name, (difference, top) in levels.items():
        found = info[name] = {}
        for region, where in (edit.pie_regions() if pie else edit.regions()).items():
            total = int(difference[where].sum(dtype=np.int64))
            count = difference.size if pie else 3 * int(where.sum())
            found[region] = total / (top * count)
    return Extracted(EMPTY, {**info, **edit.note()})


def _absolute(edit: EditPixels) -> Array:
    return np.abs(edit.edited.astype(np.int32) - edit.source)


def _similarity(edit: EditPixels, params: Mapping[str, Any]) -> Extracted:
    radius = int(3.5 * params["sigma"] + 0.5)
    h, w = edit.edited.shape[:2]
    if min(h, w) < 2 * radius + 1:
        raise InputError(
            "invalid_image", f"{w} x {h} pixels, and SSIM's window has {2 * radius + 1} on a side"
        )
    # Where the window leaves the image, there is no SSIM.
    valid = slice(radius, h - radius), slice(radius, w - radius)
    found: dict[str, float] = {}
    note = edit.note()
    if params.get("pie_compat"):
        for region, where in edit.pie_regions().items():
            found[region] = float(_ssim_map(edit, params["sigma"], where)[valid].mean())
    else:
        pixels = _ssim_map(edit, params["sigma"])[valid]
        for region, where in edit.regions().items():
            if where[valid].any():
                found[region] = float(pixels[where[valid]].mean())
            else:
                note = {"no_region": f"all that is {region} the mask is too near to the edge"}
    return Extracted(EMPTY, {"ssim": found, **note})


def _ssim_map(edit: EditPixels, sigma: float, kept: Array | None = None) -> Array:
    """The mean over the channels of the SSIM map (h, w); black where it is not `kept`."""
    from skimage.metrics import structural_similarity

    images = (edit.edited, edit.source)
    if kept is not None:
        images = (images[0] * kept[:, :, None], images[1] * kept[:, :, None])
    _, found = structural_similarity(
        *(image / 255 for image in images),
        gaussian_weights=True,
        sigma=sigma,
        use_sample_covariance=False,
        data_range=1.0,
        channel_axis=2,
        full=True,
    )
    out: Array = found.mean(axis=2)
    return out
