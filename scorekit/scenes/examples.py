"""Training examples of the small models as numpy arrays, made in shards from seeds.

A shard holds scenes with several true captions each, several foils a caption, and what the truth
offers beyond them: counts of every describable thing (so that a caption of another scene that
happens to hold is not taken for a negative), and targets for the auxiliary losses.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scorekit.scenes.captions import sample_caption
from scorekit.scenes.draw import render
from scorekit.scenes.foils import KINDS, sample_foil
from scorekit.scenes.language import Caption, Relation, Thing, counts_of
from scorekit.scenes.tokens import PREFIXES, UNK, build_tokenizer
from scorekit.scenes.world import COLOURS, SHAPES, SIZES, Scene, sample_scene, stream

IMAGE_SIZE = 48
PATCH_SIZE = 8
SHARD = 4000
CAPTIONS = 4
FOILS = 4
LENGTH = 40
MAX_COUNTS = 6
THINGS = len(SHAPES) * len(COLOURS)
# Size at which a scene is drawn before it is scaled to the model's; the tail covers real use.
DRAWN = ((48, 50), (64, 10), (96, 15), (128, 15), (224, 10))
# Relative weight of a foil kind where a caption offers it.
WEIGHTS = {
    ("object", "shape"): 4,
    ("attribute", "colour"): 4,
    ("attribute", "size"): 4,
    ("relation", "direction"): 5,
    ("relation", "order"): 4,
    ("count", "number"): 3,
    ("swap", "colour"): 3,
    ("swap", "size"): 4,
    ("negation", "denied"): 2,
    ("negation", "asserted"): 3,
    ("negation", "named"): 3,
}


@dataclass
class Shard:
    """Arrays of `n` scenes, `CAPTIONS` captions a scene and `1 + FOILS` texts a caption.

    Attributes
    ----------
    images
        (n, size, size, 3) uint8.
    ids
        (n, captions, 1 + foils, length) uint8 token ids, 0 after the end; the first of each
        row of texts is true, the others are foils.
    asked, numbers
        (n, captions, 1 + foils, counts): the counts a text states, as an index into `table` and
        a number; index 0 with number 255 where there are fewer.
    table
        (n, things and partial things) uint8: how many objects of a scene fit each.
    patches
        (n, patches, 3) int8: shape, colour, size of the object at a patch, -1 for background.
    seen
        (n, things, 5) float16: present, number, x, y, size of each thing.
    told
        (n, captions, 1 + foils, things, 4) int8: number, horizontal and vertical side, size.
    """

    images: np.ndarray
    ids: np.ndarray
    asked: np.ndarray
    numbers: np.ndarray
    table: np.ndarray
    patches: np.ndarray
    seen: np.ndarray
    told: np.ndarray


ANY_COLOUR, ANY_SIZE = len(COLOURS), len(SIZES)
TABLE = len(SHAPES) * (ANY_COLOUR + 1) * (ANY_SIZE + 1)


def _place(shape: int, colour: int, size: int) -> int:
    return (shape * (ANY_COLOUR + 1) + colour) * (ANY_SIZE + 1) + size


def _place_of(thing: Thing) -> int:
    colour = ANY_COLOUR if thing.colour is None else COLOURS.index(thing.colour)
    size = ANY_SIZE if thing.size is None else SIZES.index(thing.size)
    return _place(SHAPES.index(thing.shape), colour, size)


def _thing(shape: str, colour: str) -> int:
    return SHAPES.index(shape) * len(COLOURS) + COLOURS.index(colour)


def _scene_targets(scene: Scene, table: np.ndarray, patches: np.ndarray, seen: np.ndarray) -> None:
    side = round(len(patches) ** 0.5)
    centres = (np.arange(side) + 0.5) / side
    near = np.full((side, side), 1.0)
    view = patches.reshape(side, side, 3)
    for each in scene.objects:
        look = (SHAPES.index(each.shape), COLOURS.index(each.colour), SIZES.index(each.size))
        for colour in (look[1], ANY_COLOUR):
            for size in (look[2], ANY_SIZE):
                table[_place(look[0], colour, size)] += 1
        far = np.hypot(centres[None, :] - each.x, centres[:, None] - each.y) / each.radius
        # Small objects may miss every centre, so the reach is never under half a patch.
        mine = (far < max(0.9, 0.6 / side / each.radius)) & (far / 8 < near)
        near[mine] = far[mine] / 8
        view[mine] = look
    for group in scene.groups:
        first = group[0]
        seen[_thing(first.shape, first.colour)] = (
            1,
            len(group) / 2,
            sum(o.x for o in group) / len(group) * 2 - 1,
            sum(o.y for o in group) / len(group) * 2 - 1,
            1 if first.size == "large" else -1,
        )


SIDES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def _text_targets(
    caption: Caption, asked: np.ndarray, numbers: np.ndarray, told: np.ndarray
) -> None:
    k = 0
    for statement in caption.statements:
        for side, count in enumerate(counts_of(statement)):
            if k < MAX_COUNTS:
                asked[k], numbers[k] = _place_of(count.thing), count.number
                k += 1
            if count.thing.colour is None:
                continue
            across, down = 0, 0
            if isinstance(statement, Relation):
                across, down = SIDES[statement.relation]
            sign = -1 if side else 1
            size = {None: 0, "small": -1, "large": 1}[count.thing.size]
            told[_thing(count.thing.shape, count.thing.colour)] = (
                count.number or -1,
                sign * across,
                sign * down,
                size,
            )


def make_shard(
    index: int,
    easy: bool = False,
    n: int = SHARD,
    image_size: int = IMAGE_SIZE,
    bare: bool = False,
) -> Shard:
    """Make one shard; it depends on the arguments alone.

    Parameters
    ----------
    index
        Names the seeds.
    easy
        Scenes of at most two groups and three objects.
    n
        The number of scenes.
    image_size
        Pixels of an image's side, a multiple of `PATCH_SIZE`.
    bare
        The texts are captions as they are, without a prefix or a full stop.
    """
    tokenizer = build_tokenizer()
    texts_shape = (n, CAPTIONS, 1 + FOILS)
    shard = Shard(
        images=np.empty((n, image_size, image_size, 3), np.uint8),
        ids=np.zeros((*texts_shape, LENGTH), np.uint8),
        asked=np.zeros((*texts_shape, MAX_COUNTS), np.uint8),
        numbers=np.full((*texts_shape, MAX_COUNTS), 255, np.uint8),
        table=np.zeros((n, TABLE), np.uint8),
        patches=np.full((n, (image_size // PATCH_SIZE) ** 2, 3), -1, np.int8),
        seen=np.zeros((n, THINGS, 5), np.float16),
        told=np.zeros((*texts_shape, THINGS, 4), np.int8),
    )
    rng = stream("examples", index)
    texts: list[str] = []
    blanks: list[bool] = []
    for k in range(n):
        seed = f"train:{index}:{k}"
        scene = sample_scene(seed, *((2, 3) if easy else ()))
        drawn = rng.choices([size for size, _ in DRAWN], [weight for _, weight in DRAWN])[0]
        drawn = max(drawn, image_size)
        picture = render(scene, drawn)
        if drawn != image_size:
            picture = picture.resize((image_size, image_size), Image.Resampling.BICUBIC)
        shard.images[k] = np.asarray(picture)
        _scene_targets(scene, shard.table[k], shard.patches[k], shard.seen[k])
        for c in range(CAPTIONS):
            caption = sample_caption(scene, f"{seed}:{c}")
            prefix = rng.choices([p for p, _ in PREFIXES], [w for _, w in PREFIXES])[0]
            stop = "." if rng.random() < 0.4 else ""
            blank = bool(prefix) and rng.random() < 0.03
            if bare:
                prefix, stop, blank = "", "", False
            said = [caption, *_foils(scene, caption, seed, c)]
            for t, each in enumerate(said):
                _text_targets(
                    each, shard.asked[k, c, t], shard.numbers[k, c, t], shard.told[k, c, t]
                )
                texts.append(prefix + each.text + stop)
                blanks.append(blank)
    flat = shard.ids.reshape(len(texts), LENGTH)
    for row, ids, blank in zip(flat, tokenizer(texts)["input_ids"], blanks, strict=True):
        if len(ids) > LENGTH:
            raise AssertionError(f"a caption of {len(ids)} tokens does not fit in {LENGTH}")
        row[: len(ids)] = ids
        if blank:
            row[1] = UNK
    return shard


def _foils(scene: Scene, caption: Caption, seed: str, c: int) -> list[Caption]:
    rng = stream("foils of", seed, c)
    kinds = list(KINDS)
    found: list[Caption] = []
    while kinds and len(found) < FOILS:
        kind = rng.choices(kinds, [WEIGHTS[each] for each in kinds])[0]
        kinds.remove(kind)
        foil = sample_foil(scene, caption, *kind, seed=f"{seed}:{c}", tries=4)
        if foil is not None:
            found.append(foil.foil)
    tries = 0
    while len(found) < FOILS:
        # A short caption offers few kinds: further foils of those it has.
        tries += 1
        kind = rng.choice((("object", "shape"), ("attribute", "colour"), ("negation", "asserted")))
        foil = sample_foil(scene, caption, *kind, seed=f"{seed}:{c}:{tries}")
        if foil is not None:
            found.append(foil.foil)
    return found


def save_shard(shard: Shard, path: Path) -> None:
    """Write a shard so that a reader never sees half of one."""
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as stream_:
        arrays: dict[str, Any] = {f.name: getattr(shard, f.name) for f in fields(shard)}
        np.savez(stream_, **arrays)
    part.replace(path)


def load_shard(path: Path) -> Shard:
    """Read a shard that `save_shard` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Shard(**{f.name: arrays[f.name] for f in fields(Shard)})
