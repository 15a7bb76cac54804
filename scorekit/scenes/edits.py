"""Edits with known truth: a source, what was asked of it, and what right and wrong edits make."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image, ImageChops, ImageFilter

from scorekit.scenes import draw
from scorekit.scenes.captions import describe, sample_style
from scorekit.scenes.faults import resized
from scorekit.scenes.language import (
    MARGIN,
    OPPOSITE,
    RELATIONS,
    Caption,
    Count,
    Relation,
    Statement,
    Thing,
    above_by,
    counts_of,
    is_true,
)
from scorekit.scenes.world import (
    COLOURS,
    MAX_GROUPS,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    Background,
    Object,
    Scene,
    is_sound,
    moved,
    new_object,
    place,
    sample_background,
    sample_scene,
    stream,
)

Objects = tuple[Object, ...]
KINDS = ("recolour", "reshape", "resize", "add", "remove", "move")
LOSSES = ("removed", "recoloured", "background")
OTHER_BACKGROUND = 14
"""Levels of 255 by which some channel's mean differs in a background that was changed."""
_PART = 0.3
_REMNANT = 0.7
_HALFWAY = MARGIN / 3
_TRIES = 60


@dataclass(frozen=True)
class Edit:
    """A scene, one change asked of it, and scenes that make it well or badly.

    Attributes
    ----------
    kind : str
        From `KINDS`.
    source, ideal : Scene
        Before the edit, and with the asked change alone.
    over : Scene
        The change is made, and something is lost that the target text does not mention.
    under : Scene
        The change is made by half, or wrongly; nothing else is lost.
    unrelated : Scene
        Another scene altogether.
    source_caption, target : Caption
        True of `source`; true of `ideal` and `over`, and false of the other three.
    touched : tuple of Object
        What the change concerns, as it was and as it becomes.
    lost : str
        From `LOSSES`: what happened in `over`.
    """

    kind: str
    source: Scene
    ideal: Scene
    over: Scene
    under: Scene
    unrelated: Scene
    source_caption: Caption
    target: Caption
    touched: Objects
    lost: str

    @property
    def source_attributes(self) -> tuple[str, ...]:
        """What the source shows."""
        return attributes(self.source, self.source_caption)

    @property
    def target_attributes(self) -> tuple[str, ...]:
        """What the ideal edit shows."""
        return attributes(self.ideal, self.target)

    def mask(self, size: int = 224) -> Image.Image:
        """Where the edit may change the image: the old and the new outlines with a margin.

        Returns
        -------
        Image.Image
            In mode L, 255 inside and 0 outside. The margin is 1/64 of the size, at least 2
            pixels.
        """
        margin = max(2, size // 64)
        inside = Image.new("L", (size, size))
        for item in self.touched:
            inside = ImageChops.lighter(inside, draw.mask(item, size))
        whole = inside.point(lambda level: 255 * (level > 0))
        return whole.filter(ImageFilter.MaxFilter(2 * margin + 1))


@dataclass(frozen=True)
class _Change:
    """The objects after a change made well and by half, what is said before and after."""

    after: Objects
    half: Objects
    touched: Objects
    before_said: tuple[Statement, ...]
    after_said: tuple[Statement, ...]


def attributes(scene: Scene, caption: Caption) -> tuple[str, ...]:
    """What a scene shows, as short texts: its groups, and the caption's relations and absences.

    Examples
    --------
    >>> scene = sample_scene(12)
    >>> attributes(scene, Caption((Count(Thing("star", "red"), 0),)))
    ('two large blue stars', 'a large blue square', 'no red star')
    """
    groups = [
        Count(Thing(group[0].shape, group[0].colour, group[0].size), len(group))
        for group in scene.groups
    ]
    told = [each for each in caption.statements if isinstance(each, Relation) or not each.number]
    return tuple(Caption((each,)).text for each in (*groups, *told))


def sample_edit(kind: str, seed: int | str) -> Edit:
    """Draw an edit of one kind.

    Parameters
    ----------
    kind
        From `KINDS`.
    seed
        The edit depends on this and the kind, and on nothing else.

    Raises
    ------
    ValueError
        If the kind is unknown.

    Examples
    --------
    >>> edit = sample_edit("recolour", 0)
    >>> is_true(edit.ideal, edit.target), is_true(edit.source, edit.target)
    (True, False)
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of edit {kind!r}; one of {', '.join(KINDS)}")
    rng = stream("edit", kind, seed)
    lost = rng.choice(LOSSES)
    attempt = 0
    while True:
        edit = _try(rng, kind, lost, sample_scene(f"edit:{kind}:{seed}:{attempt}"))
        if edit is not None:
            return edit
        attempt += 1


def _try(rng: random.Random, kind: str, lost: str, source: Scene) -> Edit | None:
    """An edit of this scene, or None where it allows none."""
    if len(source.groups) < 2:
        return None  # nothing could be lost
    change = _CHANGES[kind](rng, source)
    if change is None:
        return None
    context = (
        _context(rng, source, change) if kind in ("add", "remove") or rng.random() < 0.5 else ()
    )
    style = sample_style(rng)
    before = Caption((*context, *change.before_said), style)
    target = Caption((*context, *change.after_said), style)
    ideal, under = (replace(source, objects=each) for each in (change.after, change.half))
    right = (
        bool(before.statements)
        and is_true(source, before)
        and is_true(ideal, target)
        and not is_true(source, target)
        and not is_true(under, target)
        and is_sound(ideal.objects)
        and is_sound(under.objects)
        and len(ideal.objects) <= MAX_OBJECTS
        and len(ideal.groups) <= MAX_GROUPS
    )
    over = _over(rng, lost, ideal, target, change.touched) if right else None
    if over is None:
        return None
    unrelated = source
    while is_true(unrelated, target) or set(unrelated.groups) & set(source.groups):
        unrelated = sample_scene(f"unrelated:{rng.random()}")
    return Edit(kind, source, ideal, over, under, unrelated, before, target, change.touched, lost)


def _context(rng: random.Random, scene: Scene, change: _Change) -> tuple[Statement, ...]:
    """A statement of something that the change does not concern, where there is any."""
    others = [group for group in scene.groups if not set(group) & set(change.touched)]
    told = [c.thing for said in change.before_said for c in counts_of(said)]
    fresh = [g for g in others if not any(thing.matches(g[0]) for thing in told)]
    return (describe(rng, scene, rng.choice(fresh)),) if fresh else ()


def _over(
    rng: random.Random, lost: str, ideal: Scene, target: Caption, touched: Objects
) -> Scene | None:
    """The scene with something lost that the target text does not mention, and still holds."""
    if lost == "background":
        return replace(ideal, background=_other_background(rng, ideal.background))
    said = [c.thing for each in target.statements for c in counts_of(each)]
    spare = [
        group
        for group in ideal.groups
        if not set(group) & set(touched) and not any(thing.matches(group[0]) for thing in said)
    ]
    if not spare:
        return None
    group = rng.choice(spare)
    if lost == "removed":
        objects = tuple(o for o in ideal.objects if o not in group)
    else:
        colour = rng.choice([each for each in COLOURS if each != group[0].colour])
        objects = _with(ideal, group, tuple(replace(each, colour=colour) for each in group))
    scene = replace(ideal, objects=objects)
    return scene if is_sound(objects) and is_true(scene, target) else None


def _other_background(rng: random.Random, old: Background) -> Background:
    """A background that plainly differs."""
    while True:
        new = sample_background(rng)
        means = [[sum(c) / 4 for c in zip(*b.corners, strict=True)] for b in (old, new)]
        if max(abs(a - b) for a, b in zip(*means, strict=True)) >= OTHER_BACKGROUND:
            return new


def _with(scene: Scene, old: Objects, new: Objects) -> Objects:
    pairs = dict(zip(old, new, strict=True))
    return tuple(pairs.get(each, each) for each in scene.objects)


def _replaced(
    scene: Scene, group: Objects, new: Objects, wrong: Objects, said: tuple[Thing, Thing]
) -> _Change:
    """A change of a group; by half is a part of it changed, or of one object, `wrong`."""
    done = len(group) // 2
    half = (*new[:done], *group[done:]) if done else wrong
    before, after = (Count(thing, len(group)) for thing in said)
    return _Change(
        _with(scene, group, new), _with(scene, group, half), (*group, *new), (before,), (after,)
    )


def _size_or_not(rng: random.Random, item: Object) -> str | None:
    return item.size if rng.random() < 0.3 else None


def _recolour(rng: random.Random, scene: Scene) -> _Change:
    group = rng.choice(scene.groups)
    look, size = group[0], _size_or_not(rng, group[0])
    colour, other = rng.sample([each for each in COLOURS if each != look.colour], 2)
    new, wrong = (tuple(replace(o, colour=each) for o in group) for each in (colour, other))
    said = Thing(look.shape, look.colour, size), Thing(look.shape, colour, size)
    return _replaced(scene, group, new, wrong, said)


def _reshape(rng: random.Random, scene: Scene) -> _Change:
    group = rng.choice(scene.groups)
    look, size = group[0], _size_or_not(rng, group[0])
    shape, other = rng.sample([each for each in SHAPES if each != look.shape], 2)
    new, wrong = (tuple(replace(o, shape=each) for o in group) for each in (shape, other))
    said = Thing(look.shape, look.colour, size), Thing(shape, look.colour, size)
    return _replaced(scene, group, new, wrong, said)


def _resize(rng: random.Random, scene: Scene) -> _Change:
    group = rng.choice(scene.groups)
    look = group[0]
    size = SIZES[1 - SIZES.index(look.size)]
    new = tuple(resized(o, size) for o in group)
    # Nearer to the old size than to the new: nobody would call it changed.
    wrong = tuple(
        replace(o, radius=round(o.radius + _PART * (n.radius - o.radius), 4))
        for o, n in zip(group, new, strict=True)
    )
    said = Thing(look.shape, look.colour, look.size), Thing(look.shape, look.colour, size)
    return _replaced(scene, group, new, wrong, said)


def _add(rng: random.Random, scene: Scene) -> _Change | None:
    looks = {(o.shape, o.colour) for o in scene.objects}
    shape, colour = rng.choice([(s, c) for s in SHAPES for c in COLOURS if (s, c) not in looks])
    new = place(rng, new_object(rng, shape, colour, rng.choice(SIZES)), scene.objects)
    if new is None:
        return None
    if rng.random() < 0.5:
        wrong = replace(new, colour=rng.choice([each for each in COLOURS if each != colour]))
    else:
        wrong = replace(new, shape=rng.choice([each for each in SHAPES if each != shape]))
    said = Count(Thing(shape, colour, _size_or_not(rng, new)), 1)
    return _Change((*scene.objects, new), (*scene.objects, wrong), (new,), (), (said,))


def _remove(rng: random.Random, scene: Scene) -> _Change:
    group = rng.choice(scene.groups)
    gone, n = rng.choice(group), len(group)
    left = tuple(o for o in scene.objects if o != gone)
    # Something of it stays.
    remnant = replace(gone, radius=round(gone.radius * _REMNANT, 4))
    thing = Thing(gone.shape, gone.colour)
    half = _with(scene, (gone,), (remnant,))
    return _Change(left, half, (gone,), (Count(thing, n),), (Count(thing, n - 1),))


def _move(rng: random.Random, scene: Scene) -> _Change | None:
    lone = [group[0] for group in scene.groups if len(group) == 1]
    if not lone:
        return None
    item = rng.choice(lone)
    others = tuple(o for o in scene.objects if o != item)
    group = rng.choice([g for g in scene.groups if g[0] != item])
    subject = Count(Thing(item.shape, item.colour), 1)
    other = Count(Thing(group[0].shape, group[0].colour), len(group))
    before = max(
        (Relation(subject, each, other) for each in RELATIONS), key=lambda r: above_by(scene, r)
    )
    after = replace(before, relation=OPPOSITE[before.relation])
    new = _place_where(rng, scene, item, others, lambda there: is_true(there, after))
    # Neither the one nor the other: moved, and not there yet.
    half = _place_where(
        rng,
        scene,
        item,
        others,
        lambda there: max(above_by(there, before), above_by(there, after)) < _HALFWAY,
    )
    if new is None or half is None:
        return None
    return _Change(
        _with(scene, (item,), (new,)),
        _with(scene, (item,), (half,)),
        (item, new),
        (before,),
        (after,),
    )


def _place_where(
    rng: random.Random,
    scene: Scene,
    item: Object,
    others: Objects,
    right: Callable[[Scene], bool],
) -> Object | None:
    """A free place of an object at which something holds."""
    for _ in range(_TRIES):
        there = place(rng, moved(item, 0.5, 0.5), others)
        if there is not None and right(replace(scene, objects=_with(scene, (item,), (there,)))):
            return there
    return None


_CHANGES: dict[str, Callable[[random.Random, Scene], _Change | None]] = {
    "recolour": _recolour,
    "reshape": _reshape,
    "resize": _resize,
    "add": _add,
    "remove": _remove,
    "move": _move,
}
