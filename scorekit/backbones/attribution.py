"""Which tokens of a text a CLIP score hangs on: exact, batched, without attention maps.

Nam et al., "Extract Free Dense Misalignment from CLIP", AAAI 2025 (arXiv:2412.18404), multiply
each attention weight of the end token's row with the score's gradient. With z the row's
attention output before its projection, g = ds/dz and v the values, that product is
``A_j <g, v_j>``: no map need be kept. And of a causal tower only the end token's row carries any
gradient, so that the last K layers are gone through again for one row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from scorekit.types import UsageError

Module = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Layer:
    """A pre-norm transformer layer taken apart.

    Attributes
    ----------
    norm, mlp_norm, mlp, out
        Of (..., d); `out` projects the attention's output, scaled where the layer scales it.
    qkv
        (..., d) to queries, keys and values (..., d).
    kv
        The same without the queries.
    mlp_scale
        Of the second branch.
    heads
        How many.
    """

    norm: Module
    qkv: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    kv: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    out: Module
    mlp_norm: Module
    mlp: Module
    mlp_scale: Module
    heads: int

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """(n, t, d) to (n, heads, t, d / heads)."""
        n, t, d = x.shape
        return x.view(n, t, self.heads, d // self.heads).transpose(1, 2)

    def finish(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The layer's output from its input and its attention's output (..., d)."""
        x = x + self.out(z)
        return x + self.mlp_scale(self.mlp(self.mlp_norm(x)))


@dataclass(frozen=True)
class TextTower:
    """A causal text tower that reads its embedding off the end token.

    Attributes
    ----------
    embed
        Token ids (n, t) to states (n, t, d).
    layers
        In their order.
    project
        The end token's last state (n, d) to the embedding (n, e).
    """

    embed: Module
    layers: tuple[Layer, ...]
    project: Module


@dataclass(frozen=True)
class Attribution:
    """What a text's tokens contribute to its cosine with an image.

    Attributes
    ----------
    tokens
        (t,) the mean over the last layers and over the heads, for each token between the first
        and the end token.
    cosine
        Of image and text.
    heads, layers
        What the means are over.
    rest
        What the first token and the end token contribute.
    total
        The sum over layers and heads of <g, z>: (sum of `tokens` + `rest`) * heads * layers.
    """

    tokens: torch.Tensor
    cosine: float
    heads: int
    layers: int
    rest: float
    total: float


def attribute(
    tower: TextTower,
    ids: Sequence[Sequence[int]],
    images: torch.Tensor,
    last: int = 3,
    pad: int = 0,
) -> list[Attribution]:
    """Token attributions of texts, each against its own image.

    Parameters
    ----------
    tower
        The text tower.
    ids
        Token ids of n texts, first and end token included.
    images
        (n, e) image embeddings, of any length.
    last
        So many of the last layers are looked at.
    pad
        A token id to fill up with: what stands after the end token changes nothing.

    Raises
    ------
    UsageError
        If the tower has fewer layers.
    """
    check_last(tower, last)
    # A text that several images share is gone through once; from there on each pair has a row.
    texts = list(dict.fromkeys(map(tuple, ids)))
    number = {text: k for k, text in enumerate(texts)}
    own = torch.tensor([number[tuple(row)] for row in ids], device=images.device)
    padded = torch.full((len(texts), max(map(len, texts))), pad, dtype=torch.long)
    for k, text in enumerate(texts):
        padded[k, : len(text)] = torch.tensor(text)
    ends = torch.tensor([len(row) - 1 for row in ids], device=images.device)
    looked_at = tower.layers[-last:]
    with torch.no_grad():
        x = tower.embed(padded.to(images.device))
        for layer in tower.layers[:-last]:
            x = whole_layer(layer, x)[0]
        start = x[own, ends]
        stored = []
        for layer in looked_at[:-1]:
            x, keys, values = whole_layer(layer, x)
            stored.append((keys, values))
        # Of the last layer, only the end token's row goes anywhere.
        keys, values = (
            looked_at[-1].split(part) for part in looked_at[-1].kv(looked_at[-1].norm(x))
        )
        stored.append((keys, values))
    with torch.enable_grad():
        row = start.detach().requires_grad_()
        kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for layer, (keys, values) in zip(looked_at, stored, strict=True):
            row, weights, z, seen = end_row(layer, row, keys[own], values[own], ends)
            kept.append((weights, z, seen))
        embedded = tower.project(row)
        exact = torch.promote_types(embedded.dtype, torch.float32)
        cosine = F.cosine_similarity(embedded.to(exact), images.to(exact), dim=-1)
        gradients = torch.autograd.grad(cosine.sum(), [z for _, z, _ in kept])
    with torch.no_grad():
        # (n, t): sums over layers and heads.
        relevance = torch.zeros_like(kept[0][0][:, 0])
        total = torch.zeros_like(cosine)
        for (weights, z, seen), g in zip(kept, gradients, strict=True):
            relevance += (weights * torch.einsum("nhd,nhtd->nht", g, seen)).sum(1)
            total += (g * z).sum((1, 2))
    heads = looked_at[0].heads
    out = []
    for k, end in enumerate(ends.tolist()):
        mine = relevance[k] / (heads * last)
        out.append(
            Attribution(
                mine[1:end].cpu(),
                float(cosine[k].detach()),
                heads,
                last,
                float(mine[0] + mine[end]),
                float(total[k]),
            )
        )
    return out


def check_last(tower: TextTower, last: int) -> None:
    """Raise a UsageError unless the tower has so many layers."""
    if not 1 <= last <= len(tower.layers):
        raise UsageError(f"the text tower has {len(tower.layers)} layers, not {last}")


def whole_layer(layer: Layer, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All rows of a layer: its output, and its keys and values."""
    queries, keys, values = (layer.split(part) for part in layer.qkv(layer.norm(x)))
    z = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return layer.finish(x, z.transpose(1, 2).reshape(x.shape)), keys, values


def end_row(
    layer: Layer,
    row: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    ends: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The end token's row of a layer: its output, weights (n, h, t), z and the values it saw.

    Its own key and value come from the row itself, so that the gradient goes through them.
    """
    n, d = row.shape
    heads, size = layer.heads, d // layer.heads
    query, key, value = (part.view(n, heads, size) for part in layer.qkv(layer.norm(row)))
    places = torch.arange(keys.shape[2], device=row.device)
    own = (places[None] == ends[:, None])[:, None, :, None]
    keys = torch.where(own, key[:, :, None], keys)
    values = torch.where(own, value[:, :, None], values)
    scores = torch.einsum("nhd,nhtd->nht", query, keys) * size**-0.5
    after = places[None] > ends[:, None]
    weights = scores.masked_fill(after[:, None], float("-inf")).softmax(-1)
    z = torch.einsum("nht,nhtd->nhd", weights, values)
    return layer.finish(row, z.reshape(n, d)), weights.detach(), z, values.detach()


# Towers -------------------------------------------------------------------------------------


def tower_of(model: Any) -> TextTower:
    """The text tower of an OpenCLIP or transformers model, taken apart.

    Raises
    ------
    UsageError
        If it is not causal, or does not read its embedding off the end token.
    """
    if hasattr(model, "text_model") and hasattr(model.text_model, "final_layer_norm"):
        encoder = getattr(model.text_model, "encoder", None)
        layers = getattr(encoder, "layers", ())
        kind = getattr(getattr(model, "config", None), "model_type", "")
        if layers and kind == "clip":
            return _of_transformers(model, layers)
    text = getattr(model, "text", model)
    blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
    plain = blocks is not None and all(
        isinstance(block.attn, torch.nn.MultiheadAttention) for block in blocks
    )
    pooled_at_end = getattr(text, "text_pool_type", getattr(text, "pool_type", "")) == "argmax"
    causal = getattr(text, "attn_mask", None) is not None
    if plain and pooled_at_end and causal and getattr(text, "cls_emb", None) is None:
        return _of_open_clip(text, blocks)
    raise UsageError(
        f"{type(model).__name__} has no causal text tower that ends in its end token, as CLIP's "
        "has: no token attribution"
    )


def _of_transformers(model: Any, layers: Any) -> TextTower:
    text = model.text_model
    return TextTower(
        embed=lambda ids: text.embeddings(input_ids=ids),
        layers=transformers_layers(layers),
        project=lambda x: model.text_projection(text.final_layer_norm(x)),
    )


def _of_open_clip(text: Any, blocks: Any) -> TextTower:
    def embed(ids: torch.Tensor) -> torch.Tensor:
        places = text.positional_embedding[: ids.shape[1]]
        states: torch.Tensor = text.token_embedding(ids) + places
        return states

    def project(x: torch.Tensor) -> torch.Tensor:
        x = text.ln_final(x)
        projection = text.text_projection
        if projection is None:
            return x
        out: torch.Tensor = (
            projection(x) if isinstance(projection, torch.nn.Linear) else x @ projection
        )
        return out

    return TextTower(
        embed=embed,
        layers=open_clip_layers(blocks),
        project=project,
    )


def transformers_layers(layers: Any) -> tuple[Layer, ...]:
    """The layers of a CLIP tower of transformers, of text or vision."""
    return tuple(
        Layer(
            norm=layer.layer_norm1,
            qkv=separate_qkv(layer.self_attn),
            kv=separate_kv(layer.self_attn),
            out=layer.self_attn.out_proj,
            mlp_norm=layer.layer_norm2,
            mlp=layer.mlp,
            mlp_scale=unchanged,
            heads=int(layer.self_attn.num_heads),
        )
        for layer in layers
    )


def open_clip_layers(blocks: Any) -> tuple[Layer, ...]:
    """The layers of an OpenCLIP tower, of text or vision."""
    return tuple(
        Layer(
            norm=block.ln_1,
            qkv=packed_qkv(block.attn),
            kv=packed_kv(block.attn),
            out=chained(block.attn.out_proj, block.ls_1),
            mlp_norm=block.ln_2,
            mlp=block.mlp,
            mlp_scale=block.ls_2,
            heads=int(block.attn.num_heads),
        )
        for block in blocks
    )


def unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def chained(first: Module, second: Module) -> Module:
    return lambda x: second(first(x))


def separate_qkv(attention: Any) -> Any:
    return lambda x: (attention.q_proj(x), attention.k_proj(x), attention.v_proj(x))


def separate_kv(attention: Any) -> Any:
    return lambda x: (attention.k_proj(x), attention.v_proj(x))


def packed_qkv(attention: Any) -> Any:
    return lambda x: F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)


def packed_kv(attention: Any) -> Any:
    d = attention.embed_dim
    return lambda x: F.linear(x, attention.in_proj_weight[d:], attention.in_proj_bias[d:]).chunk(
        2, dim=-1
    )
