"""Train the small models of the scenes: ``python -m scorekit.scenes.train clip``.

The loss compares each image with true captions and foils of its own and of the others in the
batch; which of the others' captions hold by chance is known, and those are left out. Auxiliary
targets, all from the scenes' known truth, make it learn in minutes rather than hours: what lies
at each patch, and linear read-outs of both embeddings. Their heads are dropped at the end.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scorekit.scenes.examples import THINGS, Shard
from scorekit.scenes.loop import Recipe, train
from scorekit.scenes.model import MEAN, STD, build_model, save
from scorekit.scenes.world import COLOURS, SHAPES, SIZES

BATCH = 64
ASKED = 2
AGAINST = 3
SHARDS = 24
EASY_SHARDS = 3
MUON_LR = 0.02
ADAM_LR = 1e-3
SAMPLES = 140_000
"""What the checkpoint in `data/checkpoints` was trained on: half an hour on two cores."""
# The share of the run in which the image tower learns alone, from the auxiliary targets: until
# it can tell shapes apart, comparing it with texts teaches neither tower much.
ALONE = 0.2
CHUNKS = 4
SHIFT = 2
# CLIPScore has no bias: this cosine is where the absolute loss parts true from false.
THRESHOLD = 0.25


class Trainee(nn.Module):
    """The model, and the heads that are used in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = build_model()
        config = self.clip.config
        vision, dim = config.vision_config.hidden_size, config.projection_dim
        self.patch = nn.Sequential(
            nn.LayerNorm(vision), nn.Linear(vision, len(SHAPES) + 1 + len(COLOURS) + len(SIZES))
        )
        self.seen = nn.Linear(dim, THINGS * 5)
        self.told = nn.Linear(dim, THINGS * 4)
        for head in (self.seen, self.told):
            nn.init.zeros_(head.weight)
        self.certainty = nn.Parameter(torch.tensor(math.log(10.0)))

    def images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image embeddings (not normalised) and the patch states after half of the layers."""
        out = self.clip.vision_model(pixel_values=pixels, output_hidden_states=True)
        middle = out.hidden_states[len(out.hidden_states) // 2]
        return self.clip.visual_projection(out.pooler_output), self.patch(middle[:, 1:])

    def texts(self, ids: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
        """Text embeddings (not normalised), run in chunks of like length to save padding."""
        order = np.argsort(lengths, kind="stable")
        parts = []
        for rows in np.array_split(order, CHUNKS):
            piece = ids[torch.from_numpy(rows)][:, : int(lengths[rows].max())]
            parts.append(self.clip.text_model(input_ids=piece).pooler_output)
        back = torch.from_numpy(np.argsort(order))
        found: torch.Tensor = self.clip.text_projection(torch.cat(parts))
        return found[back]


@dataclass
class Batch:
    """One step's arrays; texts are in the order image, caption, true one and its foils."""

    images: np.ndarray
    ids: np.ndarray
    maybe: np.ndarray
    patches: np.ndarray
    seen: np.ndarray
    told: np.ndarray


def jittered(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift a batch by up to `SHIFT` pixels: nothing a caption says changes, every pixel does."""
    height, width = images.shape[1:3]
    edges = ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0))
    down, across = rng.integers(0, 2 * SHIFT + 1, 2)
    wide = np.pad(images, edges, mode="edge")
    return wide[:, down : down + height, across : across + width]


def pick(shard: Shard, rows: np.ndarray, rng: np.random.Generator) -> Batch:
    """Take rows of a shard, with `ASKED` captions of each and `AGAINST` foils of each caption."""
    n = len(rows)
    which = np.argsort(rng.random((n, shard.ids.shape[1])), axis=1)[:, :ASKED]
    foils = 1 + np.sort(rng.permutation(shard.ids.shape[2] - 1)[:AGAINST])
    take = (rows[:, None, None], which[:, :, None], np.array([0, *foils]))
    ids = shard.ids[take].reshape(-1, shard.ids.shape[-1])
    asked = shard.asked[take].reshape(len(ids), -1)
    numbers = shard.numbers[take].reshape(len(ids), -1)
    # True by its counts alone: true, or a relation that may be.
    maybe = ((shard.table[rows][:, asked] == numbers) | (numbers == 255)).all(-1)
    texts = len(ids) // n
    own = np.repeat(np.eye(n, dtype=bool), texts, axis=1)
    foil = np.arange(len(ids)) % (1 + AGAINST) > 0
    maybe = np.where(own, ~foil[None, :], maybe)
    told = shard.told[take].reshape(len(ids), THINGS, 4)
    return Batch(
        jittered(shard.images[rows], rng), ids, maybe, shard.patches[rows], shard.seen[rows], told
    )


def losses(
    model: Trainee, batch: Batch, device: torch.device, alone: bool = False
) -> dict[str, torch.Tensor]:
    """The parts of the loss; of the image tower's own if `alone`."""
    raw = torch.from_numpy(np.ascontiguousarray(batch.images)).to(device)
    pixels = raw.permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(STD, device=device).view(3, 1, 1)
    if alone:
        with torch.autocast(device.type, torch.bfloat16):
            raw_images, patch = model.images((pixels - mean) / std)
            seen = model.seen(raw_images)
        return _of_image(patch.float(), seen.float(), batch, device)
    ids = torch.from_numpy(batch.ids.astype(np.int64)).to(device)
    lengths = (batch.ids > 0).sum(-1)
    # bfloat16 where it pays; scores and losses stay in float32.
    with torch.autocast(device.type, torch.bfloat16):
        raw_images, patch = model.images((pixels - mean) / std)
        raw_texts = model.texts(ids, lengths)
        seen, told = model.seen(raw_images), model.told(raw_texts)
    images = F.normalize(raw_images.float(), dim=-1)
    texts = F.normalize(raw_texts.float(), dim=-1)
    cosine = images @ texts.T
    n, m = cosine.shape
    own = m // n
    size = own // ASKED
    scale = model.clip.logit_scale.exp().clamp(max=100)
    maybe = torch.from_numpy(batch.maybe).to(device)
    logits = (cosine * scale).masked_fill(maybe, float("-inf"))
    mine = cosine.view(n, n, own)[torch.arange(n), torch.arange(n)].view(n, ASKED, size)
    true = mine[..., 0] * scale
    to_text = F.softplus(logits.logsumexp(1)[:, None] - true).mean()
    columns = logits.view(n, n, ASKED, size)[..., 0].logsumexp(0)
    to_image = F.softplus(columns - true).mean()
    against = F.softplus((mine[..., 1:] * scale).logsumexp(-1) - true).mean()
    margin = (mine - THRESHOLD) * model.certainty.exp()
    absolute = F.softplus(-margin[..., 0]).mean() + F.softplus(margin[..., 1:]).mean()
    return {
        "to_text": to_text,
        "to_image": to_image,
        "against": against,
        "absolute": absolute,
        **_of_image(patch.float(), seen.float(), batch, device),
        **_of_text(told.float(), batch, device),
    }


def _of_image(
    patch: torch.Tensor, seen: torch.Tensor, batch: Batch, device: torch.device
) -> dict[str, torch.Tensor]:
    looks = torch.from_numpy(batch.patches.astype(np.int64)).to(device)
    shape, colour, size = torch.split(patch, [len(SHAPES) + 1, len(COLOURS), len(SIZES)], dim=-1)
    there = looks[..., 0] >= 0
    at_patch = F.cross_entropy(shape.flatten(0, 1), (looks[..., 0] + 1).flatten())
    at_patch = at_patch + 0.3 * F.cross_entropy(shape[there], looks[..., 0][there] + 1)
    at_patch = at_patch + 0.3 * F.cross_entropy(colour[there], looks[..., 1][there])
    at_patch = at_patch + 0.3 * F.cross_entropy(size[there], looks[..., 2][there])
    target = torch.from_numpy(batch.seen.astype(np.float32)).to(device)
    seen = seen.view(-1, THINGS, 5)
    present = target[..., 0]
    found = F.binary_cross_entropy_with_logits(
        seen[..., 0], present, pos_weight=torch.tensor(4.0, device=device)
    )
    placed = ((seen[..., 1:] - target[..., 1:]) ** 2).sum(-1)
    placed = (placed * present).sum() / present.sum()
    return {"patch": at_patch, "found": found, "placed": placed}


def _of_text(told: torch.Tensor, batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    said = torch.from_numpy(batch.told.astype(np.float32)).to(device)
    heard = ((told.view(-1, THINGS, 4) - said) ** 2).sum((-1, -2)).mean()
    return {"heard": heard}


PARTS = {
    "to_text": 1.0,
    "to_image": 0.5,
    "against": 1.0,
    "absolute": 0.7,
    "patch": 0.5,
    "found": 1.0,
    "placed": 0.3,
    "heard": 0.05,
}


def _losses(
    model: Any,
    shard: Shard,
    rows: np.ndarray,
    rng: np.random.Generator,
    device: torch.device,
    alone: bool,
) -> dict[str, torch.Tensor]:
    return losses(model, pick(shard, rows, rng), device, alone)


RECIPE = Recipe(
    name="scenes-clip",
    build=Trainee,
    core=lambda model: model.clip,
    losses=_losses,
    weights=PARTS,
    save=save,
    batch=BATCH,
    shards=SHARDS,
    easy=EASY_SHARDS,
    alone=ALONE,
    muon=MUON_LR,
    adam=ADAM_LR,
)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m scorekit.scenes.train", description=__doc__)
    parser.add_argument("model", choices=["clip", "vqa"])
    parser.add_argument("--out", type=Path, help="default: data/checkpoints/scenes-MODEL")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--work", type=Path, help="folder of rendered shards and the state")
    given = parser.parse_args(arguments)
    out = given.out or Path(f"data/checkpoints/scenes-{given.model}")
    # Imported here: scenes-vqa's recipe builds on this module.
    from scorekit.scenes import train_vqa

    recipe, usual = RECIPE, SAMPLES
    if given.model == "vqa":
        recipe, usual = train_vqa.RECIPE, train_vqa.SAMPLES
    if given.minutes is None and given.samples is None:
        given.samples = usual
    try:
        train(recipe, out, given.minutes, given.samples, given.device, given.resume, given.work)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
