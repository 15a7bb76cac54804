"""Scenes: what they are made of, and how one is drawn from a seed.

A scene is a flat tuple of objects on a pale background, in coordinates from 0 to 1 (x to the
right, y down), so it has no resolution. Objects of one look (shape, colour, size) form a group.
Two groups of a scene never share both shape and colour, so "the red circle" names one group.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = ("red", "yellow", "green", "blue", "purple", "pink", "black")
SIZES = ("small", "large")

# Bands that do not touch: no object's size is a matter of opinion.
RADII = {"small": (0.098, 0.108), "large": (0.16, 0.175)}
MAX_GROUPS = 4
MAX_COUNT = 4
MAX_OBJECTS = 5
EDGE = 0.015
GAP = 0.02


@dataclass(frozen=True)
class Object:
    """One object of a scene.

    Attributes
    ----------
    shape, colour, size
        Words from `SHAPES`, `COLOURS` and `SIZES`.
    x, y
        The centre, from 0 to 1; y grows downwards.
    radius
        Of the circle that holds the whole object.
    turn
        Rotation in degrees, small enough to leave every shape its name.
    shade
        Factor on the colour's brightness, near 1.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    turn: float = 0.0
    shade: float = 1.0


@dataclass(frozen=True)
class Background:
    """A pale background: the RGB of its four corners (top left, top right, bottom left, right)."""

    corners: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Scene:
    """Objects on a background; everything that a picture of it shows."""

    objects: tuple[Object, ...]
    background: Background

    @property
    def groups(self) -> tuple[tuple[Object, ...], ...]:
        """The objects by look, in order of first appearance."""
        found: dict[tuple[str, str, str], list[Object]] = {}
        for each in self.objects:
            found.setdefault((each.shape, each.colour, each.size), []).append(each)
        return tuple(tuple(members) for members in found.values())


def stream(*parts: object) -> random.Random:
    """A random stream named by its parts.

    Streams of different names are independent, and a stream depends on its name alone: not on
    the process, the hash seed, or what was drawn before.

    Examples
    --------
    >>> stream("scene", 1).random() == stream("scene", 1).random()
    True
    """
    return random.Random(":".join(map(str, parts)))


def sample_background(rng: random.Random) -> Background:
    """Draw a pale background with a gentle gradient."""
    base = rng.uniform(222, 246)
    tint = [rng.uniform(-7, 7) for _ in range(3)]
    corners = []
    for _ in range(4):
        lift = rng.uniform(-7, 7)
        red, green, blue = (round(min(255.0, base + t + lift)) for t in tint)
        corners.append((red, green, blue))
    return Background(tuple(corners))


def new_object(rng: random.Random, shape: str, colour: str, size: str) -> Object:
    """Draw an object of the given look, not yet placed (its centre is the picture's)."""
    low, high = RADII[size]
    return Object(
        shape,
        colour,
        size,
        0.5,
        0.5,
        round(rng.uniform(low, high), 4),
        round(rng.uniform(-9, 9), 1),
        round(rng.uniform(0.94, 1.05), 3),
    )


def moved(item: Object, x: float, y: float) -> Object:
    """The same object with its centre at (x, y)."""
    return Object(
        item.shape,
        item.colour,
        item.size,
        round(x, 4),
        round(y, 4),
        item.radius,
        item.turn,
        item.shade,
    )


def fits(item: Object, others: Sequence[Object]) -> bool:
    """Whether an object lies inside the picture and clear of the others."""
    reach = item.radius + EDGE
    if not (reach <= item.x <= 1 - reach and reach <= item.y <= 1 - reach):
        return False
    return all(
        (item.x - o.x) ** 2 + (item.y - o.y) ** 2 >= (item.radius + o.radius + GAP) ** 2
        for o in others
    )


def place(
    rng: random.Random, item: Object, others: Sequence[Object], tries: int = 60
) -> Object | None:
    """Give an object a random free place, or None where none was found."""
    low, high = item.radius + EDGE, 1 - item.radius - EDGE
    for _ in range(tries):
        there = moved(item, rng.uniform(low, high), rng.uniform(low, high))
        if fits(there, others):
            return there
    return None


def arrange(rng: random.Random, items: Sequence[Object]) -> tuple[Object, ...] | None:
    """Give every object a new place, keeping their order, or None where they did not fit."""
    placed: dict[int, Object] = {}
    # The large ones first: a crowded scene then still has room for the small.
    for index in sorted(range(len(items)), key=lambda i: -items[i].radius):
        there = place(rng, items[index], list(placed.values()))
        if there is None:
            return None
        placed[index] = there
    return tuple(placed[i] for i in range(len(items)))


def sample_scene(
    seed: int | str, max_groups: int = MAX_GROUPS, max_objects: int = MAX_OBJECTS
) -> Scene:
    """Draw a scene.

    Parameters
    ----------
    seed
        The scene depends on this and on the two limits, and on nothing else.
    max_groups, max_objects
        At most so many looks, and so many objects in total.

    Returns
    -------
    Scene
        With 1 to `max_groups` groups of 1 to 4 objects each.

    Examples
    --------
    >>> scene = sample_scene(7)
    >>> scene == sample_scene(7)
    True
    >>> 1 <= len(scene.groups) <= 4
    True
    """
    rng = stream("scene", seed, max_groups, max_objects)
    background = sample_background(rng)
    while True:
        wanted = rng.choices((1, 2, 3, 4)[:max_groups], (15, 40, 30, 15)[:max_groups])[0]
        looks: list[tuple[str, str]] = []
        while len(looks) < wanted:
            # A repeated shape or colour is what makes binding words to objects worth testing.
            shape = rng.choice(looks)[0] if looks and rng.random() < 0.15 else rng.choice(SHAPES)
            colour = rng.choice(looks)[1] if looks and rng.random() < 0.15 else rng.choice(COLOURS)
            if (shape, colour) not in looks:
                looks.append((shape, colour))
        items: list[Object] = []
        for left, (shape, colour) in zip(range(wanted - 1, -1, -1), looks, strict=True):
            room = max_objects - len(items) - left
            count = min(room, rng.choices((1, 2, 3, 4), (64, 17, 12, 7))[0])
            size = rng.choice(SIZES)
            items.extend(new_object(rng, shape, colour, size) for _ in range(count))
        placed = arrange(rng, items)
        if placed is not None:
            return Scene(placed, background)


def is_sound(objects: Sequence[Object]) -> bool:
    """Whether objects make a scene: inside, clear of each other, no two groups alike in name."""
    looks = {(o.shape, o.colour, o.size) for o in objects}
    return (
        bool(objects)
        and all(fits(each, objects[:k]) for k, each in enumerate(objects))
        and len({look[:2] for look in looks}) == len(looks)
    )


def scene_to_dict(scene: Scene) -> dict[str, Any]:
    """A scene as plain JSON types."""
    return asdict(scene)


def scene_from_dict(record: dict[str, Any]) -> Scene:
    """The scene that `scene_to_dict` wrote.

    Examples
    --------
    >>> scene = sample_scene(3)
    >>> scene_from_dict(scene_to_dict(scene)) == scene
    True
    """
    corners = tuple((int(r), int(g), int(b)) for r, g, b in record["background"]["corners"])
    return Scene(tuple(Object(**each) for each in record["objects"]), Background(corners))
