"""CLIP-dir: directional similarity in the Emu Edit set of metrics (arXiv:2311.10089)."""

from __future__ import annotations

from dataclasses import dataclass

from scorekit.metrics.directional_clip import DirectionalCLIP


@dataclass(frozen=True)
class CLIPDir(DirectionalCLIP):
    """`directional_clip` by the name that it has beside `clip_out` and `clip_im`."""

    name = "clip_dir"
    title = "CLIP-dir"
    version = DirectionalCLIP.version
