"""``pixels:lpips-NET``: the LPIPS map of an edited image and its source.

The network and its linear heads are torchmetrics' (the authors' version 0.1); the trunk's weights
are torchvision's, which are downloaded once, or given as ``pixels:lpips-NET/FILE``.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorekit.backbones.dual import pick_device
from scorekit.backbones.files import SIGN_OF_LIFE_SECONDS, one_line_errors, sha256_of, short_hash
from scorekit.backbones.handle import BackboneInfo, states_of
from scorekit.backbones.pixels import EMPTY, EditRecords
from scorekit.backbones.pixels_read import EditPixels, read_edits
from scorekit.backbones.spec import BackboneOptions
from scorekit.types import Array, Extracted, Feature, InputError, UsageError

WEIGHTS: Mapping[str, str] = {
    "alex": "AlexNet_Weights",
    "vgg": "VGG16_Weights",
    "squeeze": "SqueezeNet1_1_Weights",
}
SMALLEST: Mapping[str, int] = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Side of the smallest image of which a trunk's last features have a pixel."""


def load(name: str, weights: str, options: BackboneOptions) -> Lpips:
    """Load LPIPS with one of its networks.

    Parameters
    ----------
    name : str
        ``lpips-alex``, ``lpips-vgg`` or ``lpips-squeeze``.
    weights : str
        A file of torchvision's state dict (.pth or .safetensors); empty for torchvision's own.

    Raises
    ------
    UsageError
        If the weights are neither on disk nor to be had, or are another network's.
    """
    net = name.removeprefix("lpips-")
    path = Path(weights) if weights else _downloaded(net)
    if not path.is_file():
        raise UsageError(f"no file {path} to load the weights of pixels:{name} from")
    return Lpips(net, path, options)


class Lpips(EditRecords):
    """LPIPS (Zhang et al., CVPR 2018) of RGB images, with its map for the regions of a mask."""

    def __init__(self, net: str, weights: Path, options: BackboneOptions) -> None:
        from torchmetrics.functional.image import lpips

        self.device = pick_device(options.device)
        self.batch_size = 8 if self.device.type == "cpu" else 32
        self.net = net
        with one_line_errors(f"pixels:lpips-{net}"):
            self.model: Any = lpips._LPIPS(net=net, pnet_rand=True)
            _fill_trunk(self.model.net, weights)
        self.model.to(self.device)
        self._normalised = lpips._normalize_tensor
        heads = Path(lpips.__file__).parent / "lpips_models" / f"{net}.pth"
        identity = short_hash([f"pixels:lpips-{net}", 1, sha256_of([weights]), sha256_of([heads])])
        files = states_of([weights, heads])
        self.info = BackboneInfo(identity, identity, 0, {}, "any", "", files, remote=True)

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """LPIPS of samples' images, computed in float32.

        Returns
        -------
        list
            ``info`` has ``lpips``: the distance of the ``whole`` image, and the means of its
            map ``inside`` and ``outside`` the mask, or ``whole`` alone with the reason in
            ``no_region``. Parameters: ``sizes`` and ``pie_compat`` as of ``pixel_distances``.
        """
        if feature.kind != "lpips":
            raise UsageError(f"pixels:lpips-{self.net} gives no {feature.kind}")
        params = dict(feature.params)
        measure = self._masked if params.get("pie_compat") else self._regional
        out: list[Extracted | InputError] = []
        size = batch_size or self.batch_size
        for start in range(0, len(inputs), size):
            edits = read_edits(inputs[start : start + size], params.get("sizes", "equal"))
            out.extend(self._each(edits, measure))
        return out

    def _each(
        self,
        edits: Sequence[EditPixels | InputError],
        measure: Callable[[list[EditPixels]], list[dict[str, float]]],
    ) -> list[Extracted | InputError]:
        """Measure those of one size together."""
        out: dict[int, Extracted | InputError] = {}
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, edit in enumerate(edits):
            if isinstance(edit, InputError):
                out[i] = edit
                continue
            h, w = edit.edited.shape[:2]
            if min(h, w) < SMALLEST[self.net]:
                least = SMALLEST[self.net]
                note = f"{w} x {h} pixels, and LPIPS ({self.net}) takes {least} or more a side"
                out[i] = InputError("invalid_image", note)
            else:
                alike.setdefault((h, w), []).append(i)
        for rows in alike.values():
            for i, result in zip(rows, self._tried([edits[i] for i in rows], measure), strict=True):
                out[i] = result
        return [out[i] for i in range(len(edits))]

    def _tried(self, edits: Any, measure: Any) -> list[Extracted | InputError]:
        """Halve a batch where memory is short; what fails alone is that row's error."""
        try:
            found = measure(edits)
        except RuntimeError as error:
            if len(edits) == 1:
                return [InputError("failed", f"{type(error).__name__}: {error}")]
            half = len(edits) // 2
            return [*self._tried(edits[:half], measure), *self._tried(edits[half:], measure)]
        return [
            Extracted(EMPTY, {"lpips": values, **edit.note()})
            for values, edit in zip(found, edits, strict=True)
        ]

    def _regional(self, edits: list[EditPixels]) -> list[dict[str, float]]:
        """The distance, and means over the regions of its map at the images' resolution."""
        layers = self._layers([e.edited for e in edits], [e.source for e in edits])
        whole = sum(layer.mean(dim=(1, 2, 3)) for layer in layers)
        size = edits[0].edited.shape[:2]
        upsampled = sum(
            torch.nn.functional.interpolate(layer, size=size, mode="bilinear")[:, 0]
            for layer in layers
        )
        assert isinstance(whole, torch.Tensor) and isinstance(upsampled, torch.Tensor)
        out = []
        for edit, value, pixels in zip(edits, whole.tolist(), upsampled, strict=True):
            found = {"whole": float(value)}
            for name in ("inside", "outside"):
                if name in edit.regions():
                    where = torch.from_numpy(edit.regions()[name]).to(self.device)
                    found[name] = float(pixels[where].double().mean())
            out.append(found)
        return out

    def _masked(self, edits: list[EditPixels]) -> list[dict[str, float]]:
        """The distance of the images, and of images that are black outside a region."""
        out: list[dict[str, float]] = [{} for _ in edits]
        for name in ("whole", "inside", "outside"):
            rows = [i for i, edit in enumerate(edits) if name in edit.regions()]
            if not rows:
                continue
            kept = [edits[i].pie_regions()[name][:, :, None] for i in rows]
            layers = self._layers(
                [edits[i].edited * k for i, k in zip(rows, kept, strict=True)],
                [edits[i].source * k for i, k in zip(rows, kept, strict=True)],
            )
            values = sum(layer.mean(dim=(1, 2, 3)) for layer in layers)
            assert isinstance(values, torch.Tensor)
            for i, value in zip(rows, values.tolist(), strict=True):
                out[i][name] = value
        return out

    def _layers(self, edited: list[Array], source: list[Array]) -> list[torch.Tensor]:
        """Each layer's weighted squared distance, n maps (n, 1, h, w)."""
        pixels = torch.from_numpy(np.stack([*edited, *source])).to(self.device)
        cudnn = torch.backends.cudnn
        # TF32, which CUDA would use for convolutions, has 10 bits of mantissa.
        exact = cudnn.flags(enabled=True, benchmark=cudnn.benchmark, allow_tf32=False)
        with torch.inference_mode(), exact:
            x = pixels.permute(0, 3, 1, 2).float() / 255 * 2 - 1
            features = self.model.net(self.model.scaling_layer(x))
            out = []
            for found, head in zip(features, self.model.lins, strict=True):
                a, b = self._normalised(found).chunk(2)
                out.append(head((a - b) ** 2))
        return out


def _fill_trunk(trunk: Any, weights: Path) -> None:
    """Load torchvision's state dict into the slices that LPIPS cuts the network into."""
    if weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(weights)
    else:
        # Tensors alone: such a file can run no code.
        state = torch.load(weights, map_location="cpu", weights_only=True)
    names = {own: re.sub(r"^slices?\.?\d+\.", "features.", own) for own in trunk.state_dict()}
    lacking = [name for name in names.values() if name not in state]
    if lacking:
        raise UsageError(f"{weights.name} is not this network's state dict: it lacks {lacking[0]}")
    trunk.load_state_dict({own: state[name] for own, name in names.items()})


def _downloaded(net: str) -> Path:
    """The file of torchvision's weights, downloaded only if it is not on disk."""
    import torchvision

    url: str = getattr(torchvision.models, WEIGHTS[net]).DEFAULT.url
    folder: str = torch.hub.get_dir()
    path = Path(folder) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        try:
            # torch's own download waits for ever where nothing answers.
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=SIGN_OF_LIFE_SECONDS).close()
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = re.findall(r"-([a-f0-9]+)\.", path.name)
            torch.hub.download_url_to_file(url, str(path), digest[0], progress=False)
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"LPIPS needs torchvision's {path.name}: it is not in {path.parent} and can't be "
                f"downloaded ({str(error)[:120]}); offline: copy it there, or give weights=FILE"
            ) from None
    return path
