"""Faults: a scene changed so that a caption no longer holds, as a careless generator would.

A foil changes the words and keeps the scene; a fault changes the scene and keeps the words. Both
are of the same kinds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from scorekit.scenes.language import Caption, Count, Relation, counts_of, is_true
from scorekit.scenes.world import (
    COLOURS,
    MAX_COUNT,
    RADII,
    SHAPES,
    SIZES,
    Object,
    Scene,
    arrange,
    is_sound,
    new_object,
    place,
    stream,
)

Objects = tuple[Object, ...]
Change = Callable[[random.Random, Scene, Caption], Objects | None]


@dataclass(frozen=True)
class Fault:
    """A scene that breaks a caption.

    Attributes
    ----------
    kind, sub_kind
        From `FAULTS`.
    before, after
        The caption holds in the first and not in the second.
    broken
        The indexes of the caption's statements that no longer hold.
    """

    kind: str
    sub_kind: str
    before: Scene
    after: Scene
    broken: tuple[int, ...]


def _mentioned(scene: Scene, caption: Caption) -> list[Objects]:
    """The groups that the caption speaks of."""
    counts = [count for each in caption.statements for count in counts_of(each) if count.number]
    return [g for g in scene.groups if any(count.thing.matches(g[0]) for count in counts)]


def _with(scene: Scene, old: Objects, new: Objects) -> Objects:
    """The scene's objects with some replaced, one by one, in place."""
    pairs = dict(zip(old, new, strict=True))
    return tuple(pairs.get(each, each) for each in scene.objects)


def resized(item: Object, size: str) -> Object:
    """The same object in another size, at the same place within that size's band."""
    (low, high), (to_low, to_high) = RADII[item.size], RADII[size]
    part = (item.radius - low) / (high - low)
    return replace(item, size=size, radius=round(to_low + part * (to_high - to_low), 4))


def _shape(rng: random.Random, scene: Scene, caption: Caption) -> Objects | None:
    group = rng.choice(_mentioned(scene, caption))
    shape = rng.choice([each for each in SHAPES if each != group[0].shape])
    return _with(scene, group, tuple(replace(each, shape=shape) for each in group))


def _colour(rng: random.Random, scene: Scene, caption: Caption) -> Objects | None:
    group = rng.choice(_mentioned(scene, caption))
    colour = rng.choice([each for each in COLOURS if each != group[0].colour])
    return _with(scene, group, tuple(replace(each, colour=colour) for each in group))


def _size(rng: random.Random, scene: Scene, caption: Caption) -> Objects | None:
    group = rng.choice(_mentioned(scene, caption))
    size = SIZES[1 - SIZES.index(group[0].size)]
    return _with(scene, group, tuple(resized(each, size) for each in group))


def _position(rng: random.Random, scene: Scene, caption: Caption) -> Objects | None:
    relations = [each for each in caption.statements if isinstance(each, Relation)]
    if not relations:
        return None
    asked = rng.choice(relations)
    placed = arrange(rng, scene.objects)
    if placed is None:
        return None
    # Clearly the other way round, not merely a little off.
    turned = Relation(asked.object, asked.relation, asked.subject)
    return placed if is_true(replace(scene, objects=placed), turned) else None


def _number(rng: random.Random, scene: Scene, caption: Caption) -> Objects | None:
    group = rng.choice(_mentioned(scene, caption))
    if (rng.random() < 0.5 and len(scene.objects) > 1) or len(group) == MAX_COUNT:
        gone = rng.choice(group)
        return tuple(each for each in scene.objects if each != gone)
    first = group[0]
    more = place(rng, new_object(rng, first.shape, first.colour, first.size), scene.objects)
    return None if more is None else (*scene.objects, more)


def _swap(rng: random.Random, scene: Scene, caption: Caption, field: str) -> Objects | None:
    groups = _mentioned(scene, caption)
    if len(groups) < 2:
        return None
    one, two = rng.sample(groups, 2)
    here, there = getattr(one[0], field), getattr(two[0], field)
    if here == there:
        return None

    def change(item: Object, value: str) -> Object:
        return resized(item, value) if field == "size" else replace(item, colour=value)

    new = tuple(change(o, there) for o in one) + tuple(change(o, here) for o in two)
    return _with(scene, one + two, new)


def _swap_colour(rng: random.Random, scene: Scene, caption: Caption) -> Objects | None:
    return _swap(rng, scene, caption, "colour")


def _swap_size(rng: random.Random, scene: Scene, caption: Caption) -> Objects | None:
    return _swap(rng, scene, caption, "size")


def _unwanted(rng: random.Random, scene: Scene, caption: Caption) -> Objects | None:
    absences = [c for c in caption.statements if isinstance(c, Count) and c.number == 0]
    if not absences:
        return None
    thing = rng.choice(absences).thing
    # A thing that differs in size alone from what is there would make two groups of one name.
    colour, size = thing.colour or rng.choice(COLOURS), thing.size or rng.choice(SIZES)
    more = place(rng, new_object(rng, thing.shape, colour, size), scene.objects)
    return None if more is None else (*scene.objects, more)


FAULTS: dict[tuple[str, str], Change] = {
    ("object", "shape"): _shape,
    ("attribute", "colour"): _colour,
    ("attribute", "size"): _size,
    ("relation", "position"): _position,
    ("count", "number"): _number,
    ("swap", "colour"): _swap_colour,
    ("swap", "size"): _swap_size,
    ("negation", "present"): _unwanted,
}


def sample_fault(
    scene: Scene, caption: Caption, kind: str, sub_kind: str, seed: int | str, tries: int = 40
) -> Fault | None:
    """Draw a fault of one kind.

    Parameters
    ----------
    scene, caption
        A scene, and a caption that is true of it.
    kind, sub_kind
        A pair from `FAULTS`.
    seed
        The fault depends on this and the arguments above, and on nothing else.
    tries
        So many changes are drawn in search of one that breaks the caption.

    Returns
    -------
    Fault or None
        One statement of the caption is broken (a swap may break two); None where the caption
        cannot be broken in this way.

    Examples
    --------
    >>> from scorekit.scenes.captions import sample_caption
    >>> from scorekit.scenes.world import sample_scene
    >>> scene = sample_scene(7)
    >>> caption = sample_caption(scene, 0)
    >>> fault = sample_fault(scene, caption, "object", "shape", seed=0)
    >>> is_true(fault.before, caption), is_true(fault.after, caption)
    (True, False)
    """
    if (kind, sub_kind) not in FAULTS:
        known = ", ".join("/".join(pair) for pair in FAULTS)
        raise ValueError(f"unknown fault kind {kind}/{sub_kind}; one of {known}")
    rng = stream("fault", kind, sub_kind, seed)
    if not _mentioned(scene, caption) and kind != "negation":
        return None
    for _ in range(tries):
        objects = FAULTS[kind, sub_kind](rng, scene, caption)
        if objects is None:
            continue
        if not is_sound(objects):
            # Grown objects may touch where they stood: they get new places.
            placed = arrange(rng, objects)
            if placed is None or not is_sound(placed):
                continue
            objects = placed
        after = replace(scene, objects=objects)
        broken = tuple(k for k, said in enumerate(caption.statements) if not is_true(after, said))
        if 1 <= len(broken) <= (2 if kind == "swap" else 1):
            return Fault(kind, sub_kind, scene, after, broken)
    return None
