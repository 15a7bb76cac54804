"""Foils: captions made false of their scene by a small, known change of wording."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scorekit.scenes.language import (
    OPPOSITE,
    Caption,
    Count,
    Relation,
    Statement,
    Thing,
    is_true,
    spell,
)
from scorekit.scenes.world import COLOURS, MAX_COUNT, SHAPES, SIZES, Scene, stream


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a text, and the role of the words there.

    The role is "object", "colour", "size", "count", "relation" or "negation" for a word that is
    wrong (or was right), and "agreement" for one that changed with it, such as a plural.
    """

    start: int
    end: int
    role: str


@dataclass(frozen=True)
class Foil:
    """A true caption, a false one, and what was changed.

    Attributes
    ----------
    kind, sub_kind
        From `KINDS`.
    caption, foil
        True and false of the scene.
    spans, foil_spans
        The changed words in the text of each.
    """

    kind: str
    sub_kind: str
    caption: Caption
    foil: Caption
    spans: tuple[Span, ...]
    foil_spans: tuple[Span, ...]


Said = tuple[Statement, ...]
Path = tuple[int, str | None]


def _paths(said: Said) -> list[Path]:
    """Where the counts are: the statement's index, and which side of a relation."""
    found: list[Path] = []
    for k, each in enumerate(said):
        found += [(k, None)] if isinstance(each, Count) else [(k, "subject"), (k, "object")]
    return found


def _get(said: Said, path: Path) -> Count:
    each = said[path[0]]
    if isinstance(each, Count):
        return each
    return each.subject if path[1] == "subject" else each.object


def _put(said: Said, path: Path, count: Count) -> Said:
    each = said[path[0]]
    new: Statement = count
    if isinstance(each, Relation):
        if path[1] == "subject":
            new = Relation(count, each.relation, each.object)
        else:
            new = Relation(each.subject, each.relation, count)
    return (*said[: path[0]], new, *said[path[0] + 1 :])


def _present(said: Said) -> list[Path]:
    return [path for path in _paths(said) if _get(said, path).number > 0]


def _other(rng: random.Random, words: Sequence[str], word: str) -> str:
    return rng.choice([each for each in words if each != word])


def _shape(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    path = rng.choice(_paths(said))
    count = _get(said, path)
    thing = replace(count.thing, shape=_other(rng, SHAPES, count.thing.shape))
    return _put(said, path, Count(thing, count.number))


def _colour(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    paths = [path for path in _paths(said) if _get(said, path).thing.colour]
    if not paths:
        return None
    path = rng.choice(paths)
    count = _get(said, path)
    thing = replace(count.thing, colour=_other(rng, COLOURS, count.thing.colour or ""))
    return _put(said, path, Count(thing, count.number))


def _size(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    paths = [path for path in _paths(said) if _get(said, path).thing.size]
    if not paths:
        return None
    path = rng.choice(paths)
    count = _get(said, path)
    thing = replace(count.thing, size=_other(rng, SIZES, count.thing.size or ""))
    return _put(said, path, Count(thing, count.number))


def _relations(said: Said) -> list[tuple[int, Relation]]:
    return [(k, each) for k, each in enumerate(said) if isinstance(each, Relation)]


def _direction(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    if not _relations(said):
        return None
    k, each = rng.choice(_relations(said))
    return (*said[:k], replace(each, relation=OPPOSITE[each.relation]), *said[k + 1 :])


def _order(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    if not _relations(said):
        return None
    k, each = rng.choice(_relations(said))
    one, two = each.subject.thing, each.object.thing
    if (one.colour is None) != (two.colour is None) or (one.size is None) != (two.size is None):
        return None  # the words would not pair off
    return (*said[:k], Relation(each.object, each.relation, each.subject), *said[k + 1 :])


def _number(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    paths = _present(said)
    if not paths:
        return None
    path = rng.choice(paths)
    count = _get(said, path)
    number = rng.choice([n for n in range(1, MAX_COUNT + 1) if n != count.number])
    return _put(said, path, Count(count.thing, number))


def _swap(rng: random.Random, said: Said, field: str) -> Said | None:
    paths = [p for p in _present(said) if getattr(_get(said, p).thing, field)]
    if len(paths) < 2:
        return None
    a, b = rng.sample(paths, 2)
    one, two = _get(said, a), _get(said, b)
    here, there = getattr(one.thing, field), getattr(two.thing, field)
    if here == there:
        return None
    new_one: Thing = replace(one.thing, **{field: there})
    new_two: Thing = replace(two.thing, **{field: here})
    return _put(_put(said, a, Count(new_one, one.number)), b, Count(new_two, two.number))


def _swap_colour(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    return _swap(rng, said, "colour")


def _swap_size(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    return _swap(rng, said, "size")


def _denied(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    paths = [p for p in _paths(said) if p[1] is None and _get(said, p).number > 0]
    if not paths:
        return None
    path = rng.choice(paths)
    return _put(said, path, Count(_get(said, path).thing, 0))


def _asserted(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    paths = [p for p in _paths(said) if _get(said, p).number == 0]
    if not paths:
        return None
    path = rng.choice(paths)
    return _put(said, path, Count(_get(said, path).thing, 1))


def _named(rng: random.Random, scene: Scene, said: Said) -> Said | None:
    paths = [p for p in _paths(said) if _get(said, p).number == 0]
    if not paths:
        return None
    path = rng.choice(paths)
    mentioned = [_get(said, p).thing for p in _present(said)]
    # Denying what the caption itself states would be wrong without a look at the image.
    left = [o for o in scene.objects if not any(thing.matches(o) for thing in mentioned)]
    if not left:
        return None
    look, thing = rng.choice(left), _get(said, path).thing
    colour, size = look.colour if thing.colour else None, look.size if thing.size else None
    new = Thing(look.shape, colour, size)
    if any(new.shape == m.shape and new.colour in (None, m.colour) for m in mentioned):
        return None
    return _put(said, path, Count(new, 0))


Change = Callable[[random.Random, Scene, Said], Said | None]

CHANGES: dict[tuple[str, str], Change] = {
    ("object", "shape"): _shape,
    ("attribute", "colour"): _colour,
    ("attribute", "size"): _size,
    ("relation", "direction"): _direction,
    ("relation", "order"): _order,
    ("count", "number"): _number,
    ("swap", "colour"): _swap_colour,
    ("swap", "size"): _swap_size,
    ("negation", "denied"): _denied,
    ("negation", "asserted"): _asserted,
    ("negation", "named"): _named,
}
KINDS = tuple(CHANGES)


def changed_spans(caption: Caption, foil: Caption) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """The words that differ between two captions of one form, in the text of each."""
    ours, theirs = caption.slots, foil.slots
    spans: tuple[list[Span], list[Span]] = ([], [])
    places = (spell(ours)[1], spell(theirs)[1])
    for k, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        if one.text == two.text:
            continue
        role = two.role if two.role == "negation" else one.role
        if one.meaning == two.meaning:
            role = "agreement"
        for side in (0, 1):
            start, end = places[side][k]
            before = spans[side][-1] if spans[side] else None
            if before and before.role == role == "negation" and before.end + 1 == start:
                spans[side][-1] = Span(before.start, end, role)
            else:
                spans[side].append(Span(start, end, role))
    return tuple(spans[0]), tuple(spans[1])


def sample_foil(
    scene: Scene, caption: Caption, kind: str, sub_kind: str, seed: int | str, tries: int = 12
) -> Foil | None:
    """Draw a foil of one kind for a caption.

    Parameters
    ----------
    scene, caption
        A scene and a caption that is true of it.
    kind, sub_kind
        A pair from `KINDS`.
    seed
        The foil depends on this and the arguments above, and on nothing else.
    tries
        So many changes are drawn in search of one that is false of the scene.

    Returns
    -------
    Foil or None
        None where the caption offers nothing to change in this way.

    Examples
    --------
    >>> from scorekit.scenes.world import Background, Object
    >>> scene = Scene((Object("star", "red", "small", 0.2, 0.5, 0.08),), Background(()))
    >>> caption = Caption((Count(Thing("star", "red", "small")),))
    >>> foil = sample_foil(scene, caption, "attribute", "size", seed=0)
    >>> foil.foil.text, foil.foil_spans
    ('a large red star', (Span(start=2, end=7, role='size'),))
    """
    if (kind, sub_kind) not in CHANGES:
        known = ", ".join("/".join(pair) for pair in KINDS)
        raise ValueError(f"unknown foil kind {kind}/{sub_kind}; one of {known}")
    rng = stream("foil", kind, sub_kind, seed)
    for _ in range(tries):
        said = CHANGES[kind, sub_kind](rng, scene, caption.statements)
        if said is None:
            continue
        foil = Caption(said, caption.style)
        if not is_true(scene, foil):
            return Foil(kind, sub_kind, caption, foil, *changed_spans(caption, foil))
    return None


def sample_foils(scene: Scene, caption: Caption, seed: int | str) -> tuple[Foil, ...]:
    """One foil of every kind that the caption offers."""
    found = (sample_foil(scene, caption, kind, sub, seed) for kind, sub in KINDS)
    return tuple(foil for foil in found if foil is not None)
