"""True captions of a scene, drawn from a seed."""

from __future__ import annotations

import random

from scorekit.scenes.language import (
    ABSENCES,
    MARGIN,
    RELATIONS,
    Caption,
    Count,
    Relation,
    Statement,
    Style,
    Thing,
    above_by,
    counts_of,
    is_true,
)
from scorekit.scenes.world import COLOURS, SHAPES, SIZES, Object, Scene, stream


def describe(rng: random.Random, scene: Scene, group: tuple[Object, ...]) -> Count:
    """A count that is true of the scene and fits the given group and no other object."""
    look = group[0]
    size = look.size if rng.random() < 0.45 else None
    if rng.random() < 0.15:
        bare = Count(Thing(look.shape, None, size), len(group))
        if is_true(scene, bare):
            return bare
    return Count(Thing(look.shape, look.colour, size), len(group))


def _related(
    rng: random.Random, scene: Scene, groups: list[tuple[Object, ...]]
) -> tuple[Relation, list[tuple[Object, ...]]] | None:
    """A true relation between two of the groups, and the groups that it leaves over."""
    pairs = [(a, b) for a in range(len(groups)) for b in range(len(groups)) if a != b]
    rng.shuffle(pairs)
    for a, b in pairs:
        subject, other = describe(rng, scene, groups[a]), describe(rng, scene, groups[b])
        options = [Relation(subject, each, other) for each in RELATIONS]
        # Of two that hold, the plainer: nobody says "above" of what is mostly to the left.
        best = max(options, key=lambda each: above_by(scene, each))
        if above_by(scene, best) >= MARGIN:
            return best, [g for k, g in enumerate(groups) if k not in (a, b)]
    return None


def absent(rng: random.Random, scene: Scene) -> Count:
    """A true statement that something is not there, most often something nearly there."""
    while True:
        look, other = rng.choice(scene.objects), rng.choice(scene.objects)
        colour: str | None = rng.choice(COLOURS)
        shape, size = rng.choice(SHAPES), None
        kind = rng.random()
        if kind < 0.25:
            shape, colour = look.shape, other.colour
        elif kind < 0.45:
            shape = look.shape
        elif kind < 0.65:
            colour = look.colour
        elif kind < 0.75:
            shape, colour = look.shape, look.colour
            size = SIZES[1 - SIZES.index(look.size)]
        elif kind < 0.85:
            colour = None
        found = Count(Thing(shape, colour, size), 0)
        if is_true(scene, found):
            return found


def sample_style(rng: random.Random) -> Style:
    """Draw a wording."""
    return Style(
        one="a" if rng.random() < 0.8 else "one",
        wordy=rng.random() < 0.3,
        absence=rng.choice(ABSENCES),
        plural=rng.random() < 0.4,
    )


def sample_caption(scene: Scene, seed: int | str) -> Caption:
    """Draw a true caption of a scene: it need not say all there is to see.

    Parameters
    ----------
    scene
        What the caption is about.
    seed
        The caption depends on this and the scene, and on nothing else.

    Returns
    -------
    Caption
        Of 1 to 4 statements, each true of the scene.

    Examples
    --------
    >>> from scorekit.scenes.world import sample_scene
    >>> sample_caption(sample_scene(7), 0).text == sample_caption(sample_scene(7), 0).text
    True
    """
    rng = stream("caption", seed)
    groups = list(scene.groups)
    rng.shuffle(groups)
    style = sample_style(rng)
    said: list[Statement] = []
    if rng.random() < 0.04:
        return Caption((absent(rng, scene),), style)
    if rng.random() < 0.45:
        found = _related(rng, scene, groups)
        if found is not None:
            said.append(found[0])
            groups = found[1] if rng.random() < 0.4 else []
    most = len(groups) if said else rng.choices((1, 2, 3, 4), (25, 45, 22, 8))[0]
    for group in groups[:most]:
        said.append(describe(rng, scene, group))
    if said and rng.random() < 0.25:
        said.append(absent(rng, scene))
    # Two descriptions may not overlap: "a circle and a red circle" reads as two circles.
    counts = [count for each in said for count in counts_of(each) if count.number]
    for k, count in enumerate(counts):
        for rest in counts[:k]:
            if any(count.thing.matches(o) and rest.thing.matches(o) for o in scene.objects):
                return Caption((describe(rng, scene, scene.groups[0]),), style)
    return Caption(tuple(said), style)
