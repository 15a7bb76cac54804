"""Statements about scenes, their truth, and the captions that say them.

A statement is structured: `Count` ("two red circles", "no blue square") or `Relation` ("a red
circle left of a star"). A caption is a tuple of statements and a style; its text follows from
them word by word, each word with its role, so that a changed statement shows which words changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scorekit.scenes.world import Object, Scene

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
ABSENCES = ("and no", "but no", "with no", "without any")

# Centres closer than this along an axis are neither left nor right (above nor below).
MARGIN = 0.12


@dataclass(frozen=True)
class Thing:
    """A description of objects: a shape, and a colour and size where they are said."""

    shape: str
    colour: str | None = None
    size: str | None = None

    def matches(self, item: Object) -> bool:
        """Whether the description fits an object."""
        return (
            item.shape == self.shape
            and (self.colour is None or item.colour == self.colour)
            and (self.size is None or item.size == self.size)
        )


@dataclass(frozen=True)
class Count:
    """Exactly `number` objects fit `thing`; number 0 says that none does."""

    thing: Thing
    number: int = 1


@dataclass(frozen=True)
class Relation:
    """Every object of `subject` stands in `relation` to every one of `object`."""

    subject: Count
    relation: str
    object: Count


Statement = Count | Relation


@dataclass(frozen=True)
class Style:
    """How a caption is worded: nothing here touches its truth.

    Attributes
    ----------
    one
        The word for a single object, "a" or "one".
    wordy
        "to the left of" rather than "left of".
    absence
        How a last statement of absence is joined, from `ABSENCES`.
    plural
        "no stars" rather than "no star".
    """

    one: str = "a"
    wordy: bool = False
    absence: str = "and no"
    plural: bool = False


@dataclass(frozen=True)
class Slot:
    """A word or two of a caption with its role and meaning; the text may be empty.

    The meaning is what the word stands for apart from grammar: "circle" and "circles" have one
    meaning, so a changed text with an unchanged meaning is a matter of agreement alone.
    """

    text: str
    role: str
    meaning: str


@dataclass(frozen=True)
class Caption:
    """Statements and the style in which they are said."""

    statements: tuple[Statement, ...]
    style: Style = Style()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The caption word by word. Captions of one form have slots that pair off one to one."""
        return tuple(_say(self))

    @property
    def text(self) -> str:
        """The caption as a string: lower case, no full stop.

        Examples
        --------
        >>> Caption((Count(Thing("circle", "red"), 2), Count(Thing("star"), 0))).text
        'two red circles and no star'
        """
        return spell(self.slots)[0]


def above_by(scene: Scene, statement: Relation) -> float:
    """By how much a relation holds: the least distance along its axis; negative where it fails."""
    subjects = [o for o in scene.objects if statement.subject.thing.matches(o)]
    objects = [o for o in scene.objects if statement.object.thing.matches(o)]
    if not subjects or not objects:
        return -1.0
    if statement.relation == "left of":
        return min(o.x for o in objects) - max(s.x for s in subjects)
    if statement.relation == "right of":
        return min(s.x for s in subjects) - max(o.x for o in objects)
    if statement.relation == "above":
        return min(o.y for o in objects) - max(s.y for s in subjects)
    if statement.relation == "below":
        return min(s.y for s in subjects) - max(o.y for o in objects)
    raise ValueError(f"unknown relation {statement.relation!r}; one of {', '.join(RELATIONS)}")


def is_true(scene: Scene, said: Statement | Caption) -> bool:
    """Whether a statement, or every statement of a caption, holds in a scene.

    Counts are exact: "a red circle" is false of a scene with two. A relation asks for its counts,
    and for a clear distance (`MARGIN`) between the centres of every pair.

    Examples
    --------
    >>> from scorekit.scenes.world import Background, Object
    >>> scene = Scene((Object("star", "red", "small", 0.2, 0.5, 0.08),), Background(()))
    >>> is_true(scene, Count(Thing("star", "red"), 1)), is_true(scene, Count(Thing("star"), 2))
    (True, False)
    """
    if isinstance(said, Caption):
        return all(is_true(scene, each) for each in said.statements)
    if isinstance(said, Count):
        return sum(map(said.thing.matches, scene.objects)) == said.number
    return (
        is_true(scene, said.subject)
        and is_true(scene, said.object)
        and above_by(scene, said) >= MARGIN
    )


def counts_of(statement: Statement) -> tuple[Count, ...]:
    """The counts that a statement is made of: itself, or a relation's two."""
    if isinstance(statement, Count):
        return (statement,)
    return (statement.subject, statement.object)


def plural_of(shape: str) -> str:
    """The plural of a shape's name.

    Examples
    --------
    >>> plural_of("cross")
    'crosses'
    """
    return shape + ("es" if shape.endswith("s") else "s")


def _noun_phrase(count: Count, style: Style, number: str) -> list[Slot]:
    thing = count.thing
    many = count.number > 1 or (count.number == 0 and style.plural)
    noun = plural_of(thing.shape) if many else thing.shape
    return [
        Slot(number, "count" if count.number else "negation", str(count.number)),
        Slot(thing.size or "", "size", thing.size or ""),
        Slot(thing.colour or "", "colour", thing.colour or ""),
        Slot(noun, "object", thing.shape),
    ]


def _number(count: Count, style: Style) -> str:
    return style.one if count.number == 1 else NUMBERS[count.number]


def _say(caption: Caption) -> list[Slot]:
    style, said = caption.style, caption.statements
    # "a circle left of a star and a heart" could mean left of both: a comma says it does not.
    comma = any(isinstance(each, Relation) for each in said)
    slots: list[Slot] = []
    for k, statement in enumerate(said):
        last = k == len(said) - 1
        joint = "" if k == 0 else ("and" if last else ",")
        if comma and k > 0:
            joint = ", and" if last else ","
        if isinstance(statement, Relation):
            word = statement.relation
            if style.wordy and word in ("left of", "right of"):
                word = f"to the {word}"
            slots.append(Slot(joint, "joint", ""))
            slots += _noun_phrase(statement.subject, style, _number(statement.subject, style))
            slots.append(Slot(word, "relation", statement.relation))
            slots += _noun_phrase(statement.object, style, _number(statement.object, style))
            continue
        number, meaning = _number(statement, style), ""
        if k > 0 and last and style.absence != "and no":
            joint, number, meaning = _tail(statement, style, number)
            joint = f", {joint}" if comma or len(said) > 2 else joint
        slots.append(Slot(joint, "negation" if meaning else "joint", meaning))
        slots += _noun_phrase(statement, style, number)
    return slots


def _tail(statement: Count, style: Style, number: str) -> tuple[str, str, str]:
    """Joint, number word and the joint's meaning of a last statement that may be an absence."""
    if style.absence == "without any":
        return ("without", "any", "0") if statement.number == 0 else ("with", number, "1")
    return style.absence.split()[0], number, ""


def spell(slots: tuple[Slot, ...]) -> tuple[str, list[tuple[int, int]]]:
    """The text of slots, and each slot's start and end in it (equal where it is empty)."""
    text, spans = "", []
    for slot in slots:
        if not slot.text:
            spans.append((len(text), len(text)))
            continue
        start = 0
        if slot.text.startswith(","):
            # The comma belongs to the word before; the slot's words come after it.
            text += ","
            words = slot.text[1:].strip()
        else:
            words = slot.text
        if words:
            text += " " if text else ""
            start = len(text)
            text += words
            spans.append((start, len(text)))
        else:
            spans.append((len(text), len(text)))
    return text, spans


def statement_to_dict(statement: Statement) -> dict[str, Any]:
    """A statement as plain JSON types.

    Examples
    --------
    >>> statement_to_dict(Count(Thing("star", "red"), 2))
    {'count': 2, 'shape': 'star', 'colour': 'red', 'size': None}
    """
    if isinstance(statement, Count):
        thing = statement.thing
        return {
            "count": statement.number,
            "shape": thing.shape,
            "colour": thing.colour,
            "size": thing.size,
        }
    return {
        "relation": statement.relation,
        "subject": statement_to_dict(statement.subject),
        "object": statement_to_dict(statement.object),
    }


def statement_from_dict(record: dict[str, Any]) -> Statement:
    """The statement that `statement_to_dict` wrote."""
    if "relation" not in record:
        return Count(Thing(record["shape"], record["colour"], record["size"]), record["count"])
    subject, other = statement_from_dict(record["subject"]), statement_from_dict(record["object"])
    if not isinstance(subject, Count) or not isinstance(other, Count):
        raise ValueError("a relation stands between two counts")
    return Relation(subject, record["relation"], other)
