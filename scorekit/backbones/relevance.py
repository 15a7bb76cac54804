"""Which patches of an image a word's attribution hangs on: the image side of `attribution`.

A word's attribution r_w (the mean of its tokens' attributions) is linear in the unit image
embedding, r_w = <I, c_w>: the attention and the values of the text tower know nothing of the
image, and the score's gradient is linear in I. A second backward gives c_w = d r_w / d I. Then
<I, c_w> is a score like any other, and the vision tower's last K layers are asked which patches
it hangs on, by the same identity: with A the class token's row of a layer's attention, z that
row's output before its projection, g = d r_w / dz and v the values,

    relevance_p = mean over the K layers and their heads of A_p <g, v_p> = A_p * d r_w / d A_p.

No ReLU, no rollout. Unlike in a causal text tower, a layer's class row also reaches the score
through the patches of later layers; g has those ways in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from scorekit.backbones.attributed import token_spans
from scorekit.backbones.attribution import (
    Layer,
    Module,
    TextTower,
    check_last,
    end_row,
    open_clip_layers,
    tower_of,
    transformers_layers,
    whole_layer,
)
from scorekit.types import Array, UsageError, image_embedding

Span = tuple[int, int]


@dataclass(frozen=True)
class VisionTower:
    """A vision transformer that reads its embedding off the class token.

    Attributes
    ----------
    embed
        Normalised pixels (n, 3, h, w) to states (n, 1 + rows * columns, d), class token first.
    layers
        In their order.
    project
        The class token's last state (n, d) to the embedding (n, e).
    grid
        Rows and columns of patches.
    """

    embed: Module
    layers: tuple[Layer, ...]
    project: Module
    grid: tuple[int, int]


@dataclass(frozen=True)
class PatchRelevance:
    """What an image's patches contribute to a word's attribution.

    Attributes
    ----------
    patches : array (rows, columns)
        The mean over the last layers and their heads. It does not add up to `attribution`;
        see `total`.
    attribution : float
        The word's own, from the vision tower as it was gone through here.
    heads, layers : int
        What the means are over, in the vision tower.
    rest : float
        What the class token itself contributes.
    total : float
        The sum over layers of <g, z>: (sum of `patches` + `rest`) * heads * layers.
    """

    patches: Array
    attribution: float
    heads: int
    layers: int
    rest: float
    total: float


def relevance_of(
    model: Any, image: Image.Image, text: str, span: Span, *, prefix: str = "", last: int = 3
) -> PatchRelevance:
    """The relevance of an image's patches for a word of a text.

    Parameters
    ----------
    model : DualEncoder
        Its text tower as in `attribution.tower_of`, its vision tower as in `vision_tower_of`.
    image : PIL image in mode RGB
    text : str
    span : (start, end)
        The word's place in the text's characters.
    prefix, last
        As in `scorekit.types.token_attribution`; `last` layers of the vision tower as well.

    Raises
    ------
    UsageError
        If a tower is of another kind or has fewer layers, or the word has no token.
    """
    return relevances_of(model, image, text, [span], prefix=prefix, last=last)[0]


def relevances_of(
    model: Any,
    image: Image.Image,
    text: str,
    spans: Sequence[Span],
    *,
    prefix: str = "",
    last: int = 3,
) -> list[PatchRelevance]:
    """The same for several words of a text, which go through both towers once.

    Raises
    ------
    UsageError
        As `relevance_of`.
    """
    text_tower, vision_tower = towers_of(model, last)
    ids = model.tokenize([prefix + text])[0].ids
    places = token_spans(model, prefix + text)[: len(ids) - 2]
    words = []
    for span in spans:
        start, end = (place + len(prefix) for place in span)
        # The first token of `ids` is the start token, which has no span.
        own = [k for k, (a, b) in enumerate(places, 1) if b > a and a < end and b > start]
        if not own:
            raise UsageError(f"the model does not read {text[slice(*span)]!r}: no heat map")
        words.append(own)
    directions = directions_of(text_tower, ids, words, last, model.device)
    prepared = model.prepare(image_embedding(""), image)
    pixels = model.normalise(torch.from_numpy(np.stack([prepared.pixels])).to(model.device))
    return patch_relevances(vision_tower, pixels, directions, last)


def towers_of(model: Any, last: int) -> tuple[TextTower, VisionTower]:
    """Both towers of a dual encoder, taken apart.

    Raises
    ------
    UsageError
        If a tower is of another kind or has fewer layers than `last`, or it is not known what
        part of an image the model sees.
    """
    text_tower = tower_of(getattr(model, "model", model))
    vision_tower = vision_tower_of(model.model)
    if model.resizer == "processor":
        raise UsageError(
            "the checkpoint prepares images by a processor of its own, which does not tell what "
            "it cuts off: no heat map"
        )
    check_last(text_tower, last)
    if len(vision_tower.layers) < last:
        raise UsageError(f"the vision tower has {len(vision_tower.layers)} layers, not {last}")
    return text_tower, vision_tower


def directions_of(
    tower: TextTower,
    ids: Sequence[int],
    words: Sequence[Sequence[int]],
    last: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """c_w (w, e) of words: the attribution of each is its product with the unit image embedding.

    Parameters
    ----------
    tower
        The text tower.
    ids
        Token ids, first and end token included.
    words
        The places in `ids` of each word's tokens, whose attributions' mean is the word's.
    last
        So many of the last layers are looked at.
    device
        Of the tower.
    """
    check_last(tower, last)
    ends = torch.tensor([len(ids) - 1], device=device)
    with torch.no_grad():
        x = tower.embed(torch.tensor([list(ids)], device=device))
        first, looked_at = tower.layers[:-last], tower.layers[-last:]
        for layer in first:
            x = whole_layer(layer, x)[0]
        start = x[:, -1]
        stored = []
        for layer in looked_at:
            x, keys, values = whole_layer(layer, x)
            stored.append((keys, values))
    with torch.enable_grad():
        row = start.detach().requires_grad_()
        kept = []
        for layer, (keys, values) in zip(looked_at, stored, strict=True):
            row, weights, z, seen = end_row(layer, row, keys, values, ends)
            kept.append((weights, z, seen))
        text = tower.project(row)[0]
        text = F.normalize(text.to(torch.promote_types(text.dtype, torch.float32)), dim=0)
        # r_w is linear in the image, so that its gradient is the same at any image.
        image = torch.zeros_like(text).requires_grad_()
        gradients = torch.autograd.grad(text @ image, [z for _, z, _ in kept], create_graph=True)
        tokens = torch.zeros(len(ids), dtype=text.dtype, device=device)
        for (weights, _, seen), g in zip(kept, gradients, strict=True):
            tokens = tokens + (weights * torch.einsum("nhd,nhtd->nht", g, seen)).mean(1)[0] / last
        directions = [
            torch.autograd.grad(tokens[list(own)].mean(), image, retain_graph=True)[0]
            for own in words
        ]
    return torch.stack(directions).detach()


def patch_relevances(
    tower: VisionTower, pixels: torch.Tensor, directions: torch.Tensor, last: int = 3
) -> list[PatchRelevance]:
    """Which patches <unit image embedding, direction> hangs on, for each direction.

    Parameters
    ----------
    tower
        The vision tower.
    pixels
        (1, 3, h, w) normalised.
    directions
        (w, e), see `directions_of`.
    last
        So many of the last layers are looked at.
    """
    with torch.no_grad():
        x = tower.embed(pixels)
        for layer in tower.layers[:-last]:
            x = _layer(layer, x)[0]
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        kept = []
        for layer in tower.layers[-last:]:
            x, weights, z, values = _layer(layer, x)
            kept.append((weights, z, values))
        image = tower.project(x[:, 0])[0]
        scores = directions @ F.normalize(image.to(directions.dtype), dim=0)
        each = [
            torch.autograd.grad(score, [z for _, z, _ in kept], retain_graph=True)
            for score in scores
        ]
    rows, columns = tower.grid
    out = []
    for score, gradients in zip(scores.detach(), each, strict=True):
        relevance, total = torch.zeros_like(kept[0][0][0, 0]), torch.zeros_like(score)
        for (weights, z, values), g in zip(kept, gradients, strict=True):
            own = g[:, :, 0]  # of the class token's row; the others' are not looked at
            weighed = weights * torch.einsum("nhd,nhtd->nht", own, values)
            relevance += weighed.mean(1)[0].detach() / last
            total += (own * z[:, :, 0].detach()).sum()
        out.append(
            PatchRelevance(
                patches=relevance[1:].view(rows, columns).float().cpu().numpy(),
                attribution=float(score),
                heads=tower.layers[-1].heads,
                layers=last,
                rest=float(relevance[0]),
                total=float(total),
            )
        )
    return out


def _layer(
    layer: Layer, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer's output, its class row's weights (n, h, t), all rows' z, and the values."""
    queries, keys, values = (layer.split(part) for part in layer.qkv(layer.norm(x)))
    z = F.scaled_dot_product_attention(queries, keys, values)
    scores = torch.einsum("nhd,nhtd->nht", queries[:, :, 0], keys) * queries.shape[-1] ** -0.5
    out = layer.finish(x, z.transpose(1, 2).reshape(x.shape))
    return out, scores.softmax(-1).detach(), z, values.detach()


# Towers -------------------------------------------------------------------------------------


def vision_tower_of(model: Any) -> VisionTower:
    """The vision tower of an OpenCLIP or transformers model, taken apart.

    Raises
    ------
    UsageError
        If it is no transformer of patches that reads its embedding off the class token.
    """
    vision = getattr(model, "vision_model", None)
    if vision is not None and getattr(model.config, "model_type", "") == "clip":
        return _of_transformers(model, vision)
    vision = getattr(model, "visual", None)
    blocks = getattr(getattr(vision, "transformer", None), "resblocks", None)
    plain = blocks is not None and all(
        isinstance(block.attn, torch.nn.MultiheadAttention) for block in blocks
    )
    pooled = getattr(vision, "pool_type", "") == "tok"
    if plain and pooled and getattr(vision, "attn_pool", None) is None:
        return _of_open_clip(vision, blocks)
    raise UsageError(
        f"{type(model).__name__} has no vision transformer that ends in its class token, as "
        "CLIP's ViT has: no heat map"
    )


def _of_transformers(model: Any, vision: Any) -> VisionTower:
    config = vision.config
    side = int(config.image_size) // int(config.patch_size)
    return VisionTower(
        embed=lambda pixels: vision.pre_layrnorm(vision.embeddings(pixels)),
        layers=transformers_layers(vision.encoder.layers),
        project=lambda x: model.visual_projection(vision.post_layernorm(x)),
        grid=(side, side),
    )


def _of_open_clip(vision: Any, blocks: Any) -> VisionTower:
    def project(x: torch.Tensor) -> torch.Tensor:
        x = vision.ln_post(x)
        return x if vision.proj is None else x @ vision.proj

    rows, columns = vision.grid_size
    return VisionTower(
        embed=vision._embeds,
        layers=open_clip_layers(blocks),
        project=project,
        grid=(int(rows), int(columns)),
    )
