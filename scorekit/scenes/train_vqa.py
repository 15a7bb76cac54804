"""Train scenes-vqa: ``python -m scorekit.scenes.train vqa``.

Every image meets true captions, one foil of each, a rating and a description, all as questions
and answers after the same image, whose keys and values are computed once. Yes or no is one bit a
question, so the scenes' known truth is also asked for along the way: what lies at each patch of
the image tower, and, where the decoder has read a noun, how many such things there are and where.
These heads are dropped at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scorekit.scenes.examples import ANY_COLOUR, ANY_SIZE, FOILS, Shard
from scorekit.scenes.language import plural_of
from scorekit.scenes.loop import Recipe
from scorekit.scenes.model import MEAN, STD
from scorekit.scenes.train import jittered
from scorekit.scenes.vqa_model import (
    DESCRIBE,
    IMAGE_SIZE,
    QUESTIONS,
    RATE,
    RATINGS,
    build_model,
    build_tokenizer,
    save,
    words,
)
from scorekit.scenes.world import COLOURS, SHAPES, SIZES

BATCH = 32
SHARDS = 20
EASY_SHARDS = 3
MUON_LR = 0.012
ADAM_LR = 1e-3
SAMPLES = 140_000
"""About what the checkpoint in `data/checkpoints` was trained on; docs/scenes.md tells how."""
# The share of the run in which the image tower learns alone.
ALONE = 0.3
CHUNKS = 4
RATED = 0.06
STOPPED = 0.15
# After so many of the decoder's layers a noun must know what it names, and whether it is so.
FOUND_AT, HOLDS_AT = 3, 4
MOST = 5

PARTS = {
    "answer": 1.0,
    "end": 0.05,
    "rating": 0.1,
    "describe": 0.15,
    "count": 0.5,
    "place": 0.5,
    "colours": 1.5,
    "holds": 1.0,
    "patch": 0.5,
}


class Trainee(nn.Module):
    """The model, and the heads that are used in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.vlm = build_model()
        vision = self.vlm.config.vision_config.hidden_size
        text = self.vlm.config.text_config.hidden_size
        looks = len(SHAPES) + 1 + len(COLOURS) + len(SIZES)
        self.patch = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(vision), nn.Linear(vision, looks)) for _ in range(2)
        )
        self.count = nn.Sequential(nn.LayerNorm(text), nn.Linear(text, MOST))
        self.place = nn.Sequential(nn.LayerNorm(text), nn.Linear(text, 2))
        self.colours = nn.Sequential(nn.LayerNorm(text), nn.Linear(text, len(COLOURS)))
        self.holds = nn.Sequential(nn.LayerNorm(text), nn.Linear(text, 1))

    def images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Image tokens for the decoder, and what the patches say in the middle and at the end."""
        core = self.vlm.model
        states = core.vision_tower(pixels, output_hidden_states=True).hidden_states
        middle = states[len(states) // 2]
        said = [
            head(each[:, 1:]) for head, each in zip(self.patch, (middle, states[-1]), strict=True)
        ]
        return core.multi_modal_projector(states[-1][:, 1:]), said

    def prefix(self, images: torch.Tensor, ids: torch.Tensor) -> list[tuple[Any, Any]]:
        """Keys and values of every layer for the turn's start and the image."""
        from transformers import DynamicCache

        decoder = self.vlm.model.language_model
        start = decoder.embed_tokens(ids).expand(len(images), -1, -1)
        cache = DynamicCache(config=self.vlm.config.text_config)
        decoder(inputs_embeds=torch.cat([start, images], dim=1), cache=cache, use_cache=True)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def read(
        self, prefix: list[tuple[Any, Any]], owner: torch.Tensor, ids: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """States of all layers for texts that follow the images `owner`."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.vlm.config.text_config)
        for k, (keys, values) in enumerate(prefix):
            cache.update(keys[owner], values[owner], k)
        out = self.vlm.model.language_model(
            input_ids=ids, cache=cache, use_cache=True, output_hidden_states=True
        )
        states: tuple[torch.Tensor, ...] = out.hidden_states
        return states


@dataclass
class Batch:
    """One step's arrays: images, and question-and-answer rows that each follow one image.

    Attributes
    ----------
    images
        (n, size, size, 3) uint8.
    patches
        (n, patches, 3) int8.
    owner
        (rows,) the image of each row.
    ids, lengths
        (rows, length) token ids, 0 after the end; and how many there are.
    labels, kinds
        (rows, length): the token that must follow each position, -1 for none; and which part of
        the loss that is, as an index into `ANSWERS`.
    nouns
        (m, 2): row and position of the nouns in questions.
    counts, holds, places
        Of each noun: how many there are, whether that is the stated number, and the mean place
        (x, y from -1 to 1; NaN where none or no colour was said).
    colours
        (m, colours): which colours the things of the noun's shape have, whatever was said.
    """

    images: np.ndarray
    patches: np.ndarray
    owner: np.ndarray
    ids: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    kinds: np.ndarray
    nouns: np.ndarray
    counts: np.ndarray
    holds: np.ndarray
    places: np.ndarray
    colours: np.ndarray


ANSWERS = ("answer", "end", "rating", "describe")


class Rows:
    """Makes batches of a shard's rows."""

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()
        self.index = {word: k for k, word in enumerate(words())}
        self.start = [self.index[w] for w in ("[BOS]", "user", ":")]
        self.yes, self.no, self.eos = (self.index[w] for w in ("yes", "no", "[EOS]"))
        self.stop = self.index["."]
        names = [*SHAPES, *map(plural_of, SHAPES)]
        self.is_noun = np.isin(np.arange(len(self.index)), [self.index[w] for w in names])
        sides = ("left", "right", "above", "below")
        self.is_side = np.isin(np.arange(len(self.index)), [self.index[w] for w in sides])
        self.questions = [self._around(question) for question, _ in QUESTIONS]
        weights = np.array([weight for _, weight in QUESTIONS], float)
        self.weights = weights / weights.sum()
        self.rate = self._around(RATE)
        self.describe = self._around(DESCRIBE + "{}")
        self.ratings = [self.index[word] for word in RATINGS]

    def _around(self, question: str) -> tuple[list[int], list[int]]:
        head, tail = question.split("{}")
        told = [
            self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, tail)
        ]
        told[1] += [self.index["assistant"], self.index[":"]]
        return told[0], told[1]

    def pick(self, shard: Shard, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """Rows of a shard: of each caption the true text and one foil, and a description."""
        texts: list[list[int]] = []
        labels: list[dict[int, tuple[int, int]]] = []
        owner: list[int] = []
        nouns: list[tuple[int, int]] = []
        counts: list[int] = []
        holds: list[bool] = []
        places: list[np.ndarray] = []
        colours: list[np.ndarray] = []
        for k, row in enumerate(rows):
            for c in range(shard.ids.shape[1]):
                for t in (0, int(rng.integers(1, 1 + FOILS))):
                    said = shard.ids[row, c, t]
                    caption = said[1 : int((said > 0).sum()) - 1].tolist()
                    asked, numbers = shard.asked[row, c, t], shard.numbers[row, c, t]
                    there = shard.table[row][asked]
                    stated = numbers != 255
                    if rng.random() < RATED:
                        head, tail = self.rate
                        related = bool(self.is_side[caption].any())
                        true = int((there == numbers)[stated].sum()) + (related and t == 0)
                        share = 1.0 if t == 0 else true / (stated.sum() + related)
                        answer, kind = self.ratings[round(10 * share)], 2
                    else:
                        which = rng.choice(len(self.questions), p=self.weights)
                        head, tail = self.questions[which]
                        answer, kind = (self.yes if t == 0 else self.no), 0
                    stop = [self.stop] if rng.random() < STOPPED else []
                    ids = [*head, *caption, *stop, *tail, answer]
                    last = len(ids) - 2
                    labels.append({last: (answer, kind), last + 1: (self.eos, 1)})
                    at = len(head) + np.flatnonzero(self.is_noun[caption])
                    # The shard keeps the first few counts of a text; the nouns stand in order.
                    for place, thing, number in zip(
                        at, asked[stated], numbers[stated], strict=False
                    ):
                        nouns.append((len(texts), int(place)))
                        found = int(shard.table[row, thing])
                        counts.append(min(found, MOST - 1))
                        holds.append(found == number)
                        shape, rest = divmod(int(thing), (ANY_COLOUR + 1) * (ANY_SIZE + 1))
                        colour = rest // (ANY_SIZE + 1)
                        spot = np.full(2, np.nan, np.float32)
                        if colour < ANY_COLOUR and found:
                            spot[:] = shard.seen[row, shape * len(COLOURS) + colour, 2:4]
                        places.append(spot)
                        every = shard.table[row].reshape(len(SHAPES), ANY_COLOUR + 1, ANY_SIZE + 1)
                        colours.append(every[shape, :ANY_COLOUR, ANY_SIZE] > 0)
                    texts.append(ids)
                    owner.append(k)
            c = int(rng.integers(shard.ids.shape[1]))
            said = shard.ids[row, c, 0]
            caption = said[1 : int((said > 0).sum()) - 1].tolist()
            ask = [*self.describe[0], *self.describe[1]]
            whole = [*ask, *caption, self.eos]
            labels.append({p: (whole[p + 1], 3) for p in range(len(ask) - 1, len(whole) - 1)})
            texts.append(whole[:-1])
            owner.append(k)
        lengths = np.array([len(each) for each in texts])
        size = (len(texts), int(lengths.max()))
        padded = np.zeros(size, np.int64)
        goal, kinds = np.full(size, -1, np.int64), np.zeros(size, np.int64)
        for r, (each, wanted) in enumerate(zip(texts, labels, strict=True)):
            padded[r, : len(each)] = each
            for at_place, (token, part) in wanted.items():
                goal[r, at_place], kinds[r, at_place] = token, part
        return Batch(
            jittered(shard.images[rows], rng),
            shard.patches[rows],
            np.array(owner),
            padded,
            lengths,
            goal,
            kinds,
            np.array(nouns),
            np.array(counts),
            np.array(holds),
            np.stack(places),
            np.stack(colours),
        )


def _patch_loss(said: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
    shape, colour, size = torch.split(
        said.float(), [len(SHAPES) + 1, len(COLOURS), len(SIZES)], dim=-1
    )
    there = looks[..., 0] >= 0
    loss = F.cross_entropy(shape.flatten(0, 1), (looks[..., 0] + 1).flatten())
    loss = loss + 0.3 * F.cross_entropy(shape[there], looks[..., 0][there] + 1)
    loss = loss + 0.3 * F.cross_entropy(colour[there], looks[..., 1][there])
    return loss + 0.3 * F.cross_entropy(size[there], looks[..., 2][there])


def losses(
    model: Trainee, rows: Rows, batch: Batch, device: torch.device, alone: bool = False
) -> dict[str, torch.Tensor]:
    """The parts of the loss; of the image tower's own if `alone`."""
    raw = torch.from_numpy(np.ascontiguousarray(batch.images)).to(device)
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(STD, device=device).view(3, 1, 1)
    pixels = (raw.permute(0, 3, 1, 2).float() / 255 - mean) / std
    looks = torch.from_numpy(batch.patches.astype(np.int64)).to(device)
    parts: dict[str, torch.Tensor] = {}
    # bfloat16 where it pays; losses stay in float32.
    with torch.autocast(device.type, torch.bfloat16):
        images, said = model.images(pixels)
        parts["patch"] = sum((_patch_loss(each, looks) for each in said), torch.zeros(()))
        if alone:
            return parts
        prefix = model.prefix(images, torch.tensor([rows.start], device=device))
        order = np.argsort(batch.lengths, kind="stable")
        states, labels, kinds = [], [], []
        found, held = [], []
        place_of = np.full(batch.ids.shape, -1)
        place_of[batch.nouns[:, 0], batch.nouns[:, 1]] = np.arange(len(batch.nouns))
        noun_order = []
        for chosen in np.array_split(order, CHUNKS):
            width = int(batch.lengths[chosen].max())
            owner = torch.from_numpy(batch.owner[chosen]).to(device)
            ids = torch.from_numpy(batch.ids[chosen, :width]).to(device)
            layers = model.read(prefix, owner, ids)
            goal = torch.from_numpy(batch.labels[chosen, :width]).to(device)
            states.append(layers[-1][goal >= 0])
            labels.append(goal[goal >= 0])
            kinds.append(torch.from_numpy(batch.kinds[chosen, :width]).to(device)[goal >= 0])
            noun = place_of[chosen, :width]
            noun_order.append(noun[noun >= 0])
            at = torch.from_numpy(noun >= 0).to(device)
            found.append(layers[FOUND_AT][at])
            held.append(layers[HOLDS_AT][at])
        logits = model.vlm.lm_head(torch.cat(states))
        nouns = torch.cat(found)
        count, place, seen = model.count(nouns), model.place(nouns), model.colours(nouns)
        holds = model.holds(torch.cat(held))[:, 0]
    kind = torch.cat(kinds)
    each = F.cross_entropy(logits.float(), torch.cat(labels), reduction="none")
    for k, name in enumerate(ANSWERS):
        mine = each[kind == k]
        parts[name] = mine.mean() if len(mine) else torch.zeros((), device=device)
    which = np.concatenate(noun_order)
    counts = torch.from_numpy(batch.counts[which]).to(device)
    parts["count"] = F.cross_entropy(count.float(), counts)
    truth = torch.from_numpy(batch.holds[which].astype(np.float32)).to(device)
    parts["holds"] = F.binary_cross_entropy_with_logits(holds.float(), truth)
    # Without this it sees colours and can name them, but not check one that is said.
    shown = torch.from_numpy(batch.colours[which].astype(np.float32)).to(device)
    parts["colours"] = F.binary_cross_entropy_with_logits(seen.float(), shown)
    spots = torch.from_numpy(batch.places[which]).to(device)
    known = ~torch.isnan(spots[:, 0])
    parts["place"] = ((place.float()[known] - spots[known]) ** 2).sum(-1).mean()
    return parts


def _losses(
    model: Any,
    shard: Shard,
    rows: np.ndarray,
    rng: np.random.Generator,
    device: torch.device,
    alone: bool,
) -> dict[str, torch.Tensor]:
    maker = _rows()
    return losses(model, maker, maker.pick(shard, rows, rng), device, alone)


@cache
def _rows() -> Rows:
    return Rows()


RECIPE = Recipe(
    name="scenes-vqa",
    build=Trainee,
    core=lambda model: model.vlm,
    losses=_losses,
    weights=PARTS,
    save=save,
    batch=BATCH,
    shards=SHARDS,
    easy=EASY_SHARDS,
    alone=ALONE,
    muon=MUON_LR,
    adam=ADAM_LR,
    drawn={"image_size": IMAGE_SIZE, "bare": True},
)
