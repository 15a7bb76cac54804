"""Noun phrases of a caption: what an image should show, by rules or by a spaCy pipeline."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from scorekit.metrics._words import Word, words_of
from scorekit.types import UsageError

RULES = "rules"
SPACY = "spacy:"

_DETERMINERS = """
a an the this that these those some any each every no another his her its their my our your
one two three four five six seven eight nine ten several many few both all
"""
_OTHERS = """
of in on at by to from for with without into onto over under above below behind beside beneath
between near next around along across through off out up down inside outside against among
toward towards during like and or but nor so than as if while i you he she it we they me him
us them nobody everybody somebody someone something nothing who whom which what where when whose
there here not very too also just only
"""
_VERBS = """
is are was were be been being am has have had do does did can could will would may might must
shall should sits sit sat stands stand stood lies lie lay lays holds hold held wears wear wore
rides ride rode walks walk runs run ran plays play looks look eats eat ate drinks drink drank
carries carry flies fly flew jumps jump chases chase follows follow shows show depicts depict
hangs hang hung sleeps sleep swims swim reads read writes write wrote drives drive drove uses
use makes make made takes take took gives give gave goes go went comes come came gets get got
puts put throws throw threw catches catch caught pulls pull pushes push touches touch faces
surrounds surround covers fills grows grow grew contains contain leans lean leads lead smiles
smile watches talks talk kicks kick hits hit seems seem appears appear rests rest waits wait
seen shown taken
"""
"""Verbs of captions in the forms that no ending tells."""
_NOUNS_IN_ING = """
building buildings ceiling clothing drawing earring evening king lightning morning painting
railing ring sing sling spring string swing thing wedding wing
"""
_VIEWS = """
left right top bottom front back side middle centre center edge corner
photo photograph picture image painting drawing view close-up
"""
"""Before "of", no things: "the left of a dog", "a photo of a dog"."""

DETERMINERS, BREAKS, NOUNS_IN_ING, VIEWS = (
    frozenset(words.split()) for words in (_DETERMINERS, _OTHERS + _VERBS, _NOUNS_IN_ING, _VIEWS)
)


def noun_phrases(caption: str, parser: str = RULES) -> list[str]:
    """The noun phrases of a caption, in its order, each once.

    Parameters
    ----------
    caption : str
    parser : str
        ``rules``, or ``spacy:PIPELINE`` for the noun chunks of an installed pipeline, pronouns
        left out.

    Raises
    ------
    UsageError
        If spaCy or its pipeline is not installed.

    Notes
    -----
    The rules know English function words, some common verbs, and endings: a phrase begins at a
    determiner and ends at a function word, a verb, a punctuation mark, or a participle behind
    a noun. A verb that they don't know stays in its phrase.

    Examples
    --------
    >>> noun_phrases("A running dog chases the cat sleeping on a red-brick wall, in rain.")
    ['A running dog', 'the cat', 'a red-brick wall', 'rain']
    >>> noun_phrases("a black star left of a circle, with three small yellow triangles")
    ['a black star', 'a circle', 'three small yellow triangles']
    """
    found = by_rules(caption) if parser == RULES else _by_spacy(caption, parser)
    return list({text.casefold(): text for text in reversed(found)}.values())[::-1]


def by_rules(caption: str) -> list[str]:
    """`noun_phrases` by rules, repetitions kept."""
    words = words_of(caption)
    phrases: list[list[Word]] = [[]]
    for i, word in enumerate(words):
        low = word.text.casefold()
        after = words[i + 1].text.casefold() if i + 1 < len(words) else ""
        current = phrases[-1]
        if current and caption[current[-1].end : word.start].strip():
            phrases.append(current := [])  # punctuation between the two
        named = any(w.text.casefold() not in DETERMINERS for w in current)
        participle = low.endswith("ing") and low not in NOUNS_IN_ING and (named or not current)
        participle |= low.endswith("ed") and named and after in BREAKS
        if low in DETERMINERS:
            # "all the dogs" is one phrase, "dog the cat" are two.
            phrases.append([word]) if named else current.append(word)
        elif low in VIEWS and after == "of":
            phrases.append([]) if named else current.clear()
        elif low in BREAKS or participle:
            phrases.append([])
        else:
            current.append(word)
    return [
        caption[phrase[0].start : phrase[-1].end]
        for phrase in phrases
        if any(w.text.casefold() not in DETERMINERS for w in phrase)
    ]


def parser_version(parser: str) -> str:
    """The parser with what its phrases depend on, for signatures and cache keys.

    Raises
    ------
    UsageError
        If it is none, or not installed.

    Examples
    --------
    >>> parser_version("rules")
    'rules'
    """
    if parser == RULES:
        return RULES
    if not parser.startswith(SPACY) or parser == SPACY:
        raise UsageError(f"parser is rules or spacy:PIPELINE, not {parser!r}")
    pipeline = parser.removeprefix(SPACY)
    try:
        return f"{parser}-{version(pipeline)}+{version('spacy')}"
    except PackageNotFoundError:
        raise _not_installed(pipeline) from None


def _by_spacy(caption: str, parser: str) -> list[str]:
    document = _pipeline(parser.removeprefix(SPACY))(caption)
    return [chunk.text for chunk in document.noun_chunks if chunk.root.pos_ != "PRON"]


@lru_cache(maxsize=4)
def _pipeline(name: str) -> Any:
    try:
        return import_module("spacy").load(name)
    except (ImportError, OSError):
        raise _not_installed(name) from None


def _not_installed(pipeline: str) -> UsageError:
    return UsageError(
        f"parser=spacy:{pipeline} needs spaCy and its pipeline: pip install spacy, then "
        f"python -m spacy download {pipeline}"
    )
