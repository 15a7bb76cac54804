"""Vision transformers without a text tower, of transformers: ViT, DINO, DINOv2 and DINOv3.

``image_embedding`` is the CLS token of the last layer, after its norm, (d,). The record feature
``structure_distance`` compares the self-similarity of two images' keys (Tumanyan et al.,
*Splicing ViT Features*, CVPR 2022, arXiv:2201.00424, equation 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorekit.backbones.dual import DualEncoder, torch_resize
from scorekit.backbones.files import one_line_errors
from scorekit.backbones.hf_dual import HfDual, _spec_for_gradients, agrees, image_spec_of
from scorekit.backbones.hf_seq2seq import checkpoint_info
from scorekit.backbones.loading import load_model, quantize
from scorekit.backbones.pixels_read import EditPixels, edit_content, read_edits
from scorekit.backbones.spec import BackboneOptions
from scorekit.resize import ImageSpec
from scorekit.types import Array, Extracted, Feature, InputError, Sample, UsageError

SHORT, LONG = 224, 480
"""Sides of the image of which the structure is taken; the longer one is cut to this much."""


def load(folder: Path, weights: list[Path], options: BackboneOptions) -> HfVision:
    """Load a vision transformer.

    Raises
    ------
    UsageError
        If it can't be loaded.
    """
    return HfVision(folder, weights, options)


class HfVision(HfDual):
    """A vision transformer behind the common interface; it has no text."""

    def __init__(self, folder: Path, weights: list[Path], options: BackboneOptions) -> None:
        from transformers import AutoImageProcessor, AutoModel

        DualEncoder.__init__(self, options)  # HfDual's own loads two towers
        self.model = quantize(load_model(AutoModel, folder, weights, options, self.device), options)
        with one_line_errors(folder.name):
            self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        spec = image_spec_of(self.processor)
        self.uses_spec = spec is not None and agrees(spec, self.processor)
        if spec is None or not self.uses_spec:
            spec = _spec_for_gradients(self.processor)
        self.image_spec = spec
        self._keys = [
            module
            for name, module in self.model.named_modules()
            if name.endswith((".k_proj", ".attention.key"))
        ]
        image = spec.describe() if self.uses_spec else self.processor.to_dict()
        self.info = checkpoint_info(
            folder,
            weights,
            self.model.config.to_dict(),
            options,
            limit=0,
            image=[image, self.resizer],
            resize=self.resizer,
        )

    def content_of(self, feature: Feature, sample: Sample) -> str:
        """Hash of the content of an edit's images."""
        return edit_content(sample)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLS tokens (n, d) of normalised pixels (n, 3, h, w)."""
        return self._see(pixels)[:, 0]

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """Embeddings of prepared images, or the structure distances of samples.

        Returns
        -------
        list
            Of ``structure_distance``, ``info`` has ``structure_distance`` by region: the mean
            squared difference of the cosines of all pairs of tokens (``whole``, with CLS), of
            the pairs of patches that lie ``inside`` the mask by half or more of their pixels,
            and of those ``outside``; or ``whole`` alone with the reason in ``no_region``.
            Parameters: ``layer``, from 0; ``sizes`` as of `read_edit`; ``pie_compat``: values
            up to 255 where the network knows those up to 1, and regions by images that are
            black elsewhere.
        """
        size = batch_size or self.batch_size
        if feature.kind == "image_embedding":
            return self.each(inputs, self._embed_images, size)
        if feature.kind != "structure_distance":
            raise UsageError(
                f"{feature.backbone} sees images alone: it gives image embeddings and structure "
                f"distances, and no {feature.kind.replace('_', ' ')}"
            )
        params = dict(feature.params)
        layer, pie = int(params["layer"]), bool(params.get("pie_compat"))
        if layer >= len(self._keys):
            raise UsageError(
                f"{feature.backbone} has layers 0 to {len(self._keys) - 1}, and no layer {layer}"
            )
        out: list[Extracted | InputError] = []
        for start in range(0, len(inputs), size):
            some = inputs[start : start + size]
            for edit in read_edits(some, params.get("sizes", "equal")):
                if isinstance(edit, InputError):
                    out.append(edit)
                else:
                    # One at a time: the images of two rows need not be of one size.
                    out += self.each([edit], lambda e: [self._structure(e[0], layer, pie)], 1)
        return out

    def _structure(self, edit: EditPixels, layer: int, pie: bool) -> Extracted:
        if pie:
            found = {}
            for name, kept in edit.pie_regions().items():
                mask = kept[:, :, None]
                apart, _ = self._apart(edit.edited * mask, edit.source * mask, layer, 255.0)
                found[name] = float(apart.mean())
            return Extracted(np.zeros(0, np.float32), {"structure_distance": found, **edit.note()})
        apart, grid = self._apart(edit.edited, edit.source, layer, 1.0)
        found, note = {"whole": float(apart.mean())}, edit.note()
        if not isinstance(edit.region, InputError):
            share = torch.from_numpy(edit.region)[None, None].double().to(self.device)
            share = torch_resize(share.float(), _resized(*edit.region.shape))
            h, w = (side * self._patch for side in grid)
            inside = torch.nn.functional.avg_pool2d(share[..., :h, :w], self._patch).ravel() >= 0.5
            patches = apart[-inside.numel() :, -inside.numel() :]  # after CLS and registers
            for name, where in (("inside", inside), ("outside", ~inside)):
                if where.sum() > 1:
                    found[name] = float(patches[where][:, where].mean())
                else:
                    note = {"no_region": f"fewer than two patches lie {name} the mask"}
        return Extracted(np.zeros(0, np.float32), {"structure_distance": found, **note})

    def _apart(
        self, edited: Array, source: Array, layer: int, top: float
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """Squared differences (t, t) of the keys' cosines, and the grid (h, w) of the patches."""
        pixels = torch.from_numpy(np.stack([edited, source])).to(self.device)
        with torch.inference_mode(), self._exact_convolutions():
            x = pixels.permute(0, 3, 1, 2).float() / 255
            x = torch_resize(x, _resized(*edited.shape[:2]))
            kept: list[torch.Tensor] = []
            hook = self._keys[layer].register_forward_hook(lambda _m, _i, made: kept.append(made))
            try:
                self._see(self._normalise(x * top))
            finally:
                hook.remove()
            keys = torch.nn.functional.normalize(kept[0].float(), dim=-1)
            edited_cos, source_cos = (keys @ keys.transpose(1, 2)).unbind()
        grid = (x.shape[2] // self._patch, x.shape[3] // self._patch)
        return (edited_cos - source_cos).double() ** 2, grid

    @property
    def _patch(self) -> int:
        return int(self.model.config.patch_size)

    def _see(self, pixels: torch.Tensor) -> torch.Tensor:
        """States (n, t, d) of the last layer, after its norm."""
        kind = self.model.config.model_type
        # DINOv3 turns its positions, and DINOv2 always interpolates them.
        more = {"interpolate_pos_encoding": True} if kind == "vit" else {}
        states: torch.Tensor = self.model(pixel_values=pixels, **more).last_hidden_state
        return states


def _resized(h: int, w: int) -> ImageSpec:
    """The resize before the structure is taken: the shorter side to 224, the longer to 480."""
    short, long = min(h, w), max(h, w)
    new_short, new_long = SHORT, int(SHORT * long / short)
    if new_long > LONG:
        new_short, new_long = int(LONG * new_short / new_long), LONG
    size = (new_short, new_long) if h <= w else (new_long, new_short)
    return ImageSpec(size=size, resize_to=size, mode="squash", interpolation="bilinear", crop=False)
