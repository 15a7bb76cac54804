"""Words and phrases of a caption by their characters, and what its tokens add up to for each."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any, Literal

import numpy as np

from scorekit.types import Array, Extracted

Mode = Literal["threshold", "most_negative"]
Unit = Literal["raw", "scaled", "z"]

_ENTITY = re.compile(r"&(?:amp;)*(?:#\d+|#[xX][\da-fA-F]+|[A-Za-z]+\d*);")
# Marks and variation selectors go with the letter before them.
_CJK = (
    "[\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
    "[\u3099\u309a\u30fc\uff70\uff9e\uff9f\ufe00-\ufe0f\U000e0100-\U000e01ef]*"
)
_FLAG = "[\U0001f1e6-\U0001f1ff]{2}"
_PICTURE = (
    "[\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001faff][\ufe0f\U0001f3fb-\U0001f3ff\u20e3\U000e0020-\U000e007f]*"
)
_EMOJI = f"{_FLAG}|{_PICTURE}(?:\u200d{_PICTURE})*"
_PARTS = re.compile(rf"(?P<cjk>{_CJK})|(?P<emoji>{_EMOJI})|(?P<other>(?:(?!{_CJK}|{_EMOJI})\S)+)")
# What ends a word without a space beside it; a full stop, comma or colon within "U.S.", "3:45"
# and "12,345" does not, nor do hyphens and apostrophes.
_BREAK = re.compile(r"\.{2,}|--+|[…—–―/\\|\"“”„«»()\[\]{}<>;!?]+|(?<!\d)[,:]|[,:](?!\d)")
_OUTER = ("P", "Sm", "Sk", "C")


@dataclass(frozen=True)
class Word:
    """A word or phrase of a caption.

    Attributes
    ----------
    text : str
        As it stands in the caption.
    start, end : int
        Its place there, in characters.
    """

    text: str
    start: int
    end: int


def words_of(caption: str) -> list[Word]:
    """The words of a caption, without the punctuation around them.

    A hyphen or an apostrophe within a word is part of it; an ellipsis, a dash, a slash, a quote
    or a bracket ends it. An emoji is a word. So is every letter of Chinese and Japanese, which
    have no spaces: give phrases to have words.

    Examples
    --------
    >>> [w.text for w in words_of("A well-known dog's toy... “red/blue”, 12,345 of them!")]
    ['A', 'well-known', "dog's", 'toy', 'red', 'blue', '12,345', 'of', 'them']
    >>> [w.text for w in words_of("猫と dog😀")]
    ['猫', 'と', 'dog', '😀']
    """
    found: list[tuple[int, int]] = []
    # An entity counts as the character that it stands for, in its own place.
    plain = _ENTITY.sub(_stretched, caption)
    for part in _PARTS.finditer(plain):
        if part.lastgroup == "cjk":
            found.append(part.span())
        elif part.lastgroup == "emoji":
            if unicodedata.category(part[0][0]) == "So":  # an arrow is none
                found.append(part.span())
        else:
            start = part.start()
            for gap in _BREAK.finditer(part[0]):
                found.append(_stripped(plain, start, part.start() + gap.start()))
                start = part.start() + gap.end()
            found.append(_stripped(plain, start, part.end()))
    return [Word(caption[a:b], a, b) for a, b in found if b > a]


def _stretched(entity: re.Match[str]) -> str:
    letter = unescape(unescape(entity[0]))
    return letter * len(entity[0]) if len(letter) == 1 else entity[0]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the punctuation at its ends."""
    while start < end and unicodedata.category(text[start]).startswith(_OUTER):
        start += 1
    while start < end and unicodedata.category(text[end - 1]).startswith(_OUTER):
        end -= 1
    return start, end


def phrases_of(given: Any) -> list[str | tuple[int, int]]:
    """Phrases as a column has them: texts, or start and end in the caption's characters.

    Parameters
    ----------
    given : list, str or None
        A list, a JSON list, or texts with ``|`` between them; None, "" and NaN are none.

    Raises
    ------
    ValueError
        If it is anything else.

    Examples
    --------
    >>> phrases_of("hot dog|red car")
    ['hot dog', 'red car']
    >>> phrases_of('[[2, 9], "red car"]')
    [(2, 9), 'red car']
    """
    if given is None or given == "" or (isinstance(given, float) and given != given):
        return []
    if isinstance(given, str):
        given = json.loads(given) if given.lstrip().startswith("[") else given.split("|")
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__iter__"):
        raise ValueError(f"not a list: {given!r}")
    out: list[str | tuple[int, int]] = []
    for each in given:
        if isinstance(each, str):
            if each.strip():
                out.append(each.strip())
            continue
        try:
            start, end = each
            out.append((int(start), int(end)))
        except (TypeError, ValueError):
            raise ValueError(f"neither a text nor [start, end]: {each!r}") from None
    return out


def units_of(
    caption: str, phrases: Sequence[str | tuple[int, int]]
) -> tuple[list[Word], list[str]]:
    """The phrases of a caption and the words outside of them, and the phrases not found.

    A text that stands there twice is found twice, if it is given twice.

    Examples
    --------
    >>> units, lost = units_of("A hot dog and a car", ["Hot dog", "cat"])
    >>> [u.text for u in units], lost
    (['A', 'hot dog', 'and', 'a', 'car'], ['cat'])
    """
    words = words_of(caption)
    units: list[Word] = []
    lost: list[str] = []
    for phrase in phrases:
        place = phrase if isinstance(phrase, tuple) else _find(caption, phrase, units)
        if place is None or not 0 <= place[0] < place[1] <= len(caption):
            lost.append(phrase if isinstance(phrase, str) else str(list(phrase)))
        else:
            units.append(Word(caption[place[0] : place[1]], *place))
    units += [w for w in words if not any(_overlap(w, u) for u in units)]
    return sorted(units, key=lambda u: (u.start, u.end)), lost


def _find(caption: str, phrase: str, taken: Sequence[Word]) -> tuple[int, int] | None:
    """The first place of a phrase, as whole words, that is not taken yet."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    # CJK letters are words, so that a phrase of them may stand between others.
    whole = rf"(?<![^\W_]){words}(?![^\W_])" if not re.search(_CJK, phrase) else words
    for match in re.finditer(whole, caption, re.IGNORECASE):
        place = Word(match[0], *match.span())
        if not any(_overlap(place, other) for other in taken):
            return match.span()
    return None


def _overlap(a: Word, b: Word) -> bool:
    return a.start < b.end and b.start < a.end


def word_attributions(
    words: Sequence[Word], spans: Sequence[Sequence[int]], tokens: Array
) -> Array:
    """The mean over each word's tokens: those whose span overlaps it.

    Parameters
    ----------
    words : sequence of n Word
    spans : sequence of t (start, end)
    tokens : array (t,)

    Returns
    -------
    array (n,)
        NaN where a word has no token, as behind the cut of a long text.

    Examples
    --------
    >>> word_attributions(words_of("hotdogs."), [[0, 3], [3, 7], [7, 8]], np.array([1.0, 3, 9]))
    array([2.])
    """
    own = np.array([(w.start, w.end) for w in words], dtype=np.int64).reshape(-1, 1, 2)
    places = np.asarray(spans, dtype=np.int64).reshape(1, -1, 2)
    inside = (places[..., 0] < own[..., 1]) & (places[..., 1] > own[..., 0])
    counts = inside.sum(axis=1)
    sums = inside @ np.asarray(tokens, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


@dataclass(frozen=True)
class Judged:
    """The words of one caption, judged.

    Attributes
    ----------
    words : list of dict
        ``word``, ``start``, ``end``, ``attribution``, ``scaled``, ``z``, ``rank`` (1 is the
        lowest) and ``misaligned`` of each word that has tokens.
    notes : list of str
        Which words and phrases are not among them.
    """

    words: list[dict[str, Any]]
    notes: list[str]

    def column(self, name: str) -> Array:
        """One of the numbers, of all words."""
        return np.array([word[name] for word in self.words], dtype=np.float64)


def judge_words(
    caption: str,
    attributed: Extracted,
    phrases: Sequence[str | tuple[int, int]] = (),
    *,
    eps: float,
    mode: Mode,
    unit: Unit,
) -> Judged:
    """Attribute a caption's words, and say which are misaligned.

    Parameters
    ----------
    caption : str
    attributed : Extracted
        Its feature `token_attribution`.
    phrases : sequence
        See `phrases_of`.
    eps : float
        A word is misaligned below it, in mode ``threshold``.
    mode : {"threshold", "most_negative"}
        The latter takes the lowest word, whatever its value.
    unit : {"raw", "scaled", "z"}
        The value that `eps` is compared with.
    """
    units, lost = units_of(caption, phrases)
    raw = word_attributions(units, attributed.info["spans"], attributed.array)
    known = np.isfinite(raw)
    notes = [f"no such phrase: {phrase}" for phrase in lost]
    if not known.all():
        unread = " ".join(u.text for u, k in zip(units, known, strict=True) if not k)
        notes.append(f"words the model did not read: {unread}")
    units, raw = [u for u, k in zip(units, known, strict=True) if k], raw[known]
    if not len(raw):
        return Judged([], notes)
    spread = raw.std()
    # What a mean over equal numbers leaves is no spread.
    z = (raw - raw.mean()) / spread if spread > 1e-9 * np.abs(raw).max() else np.zeros(len(raw))
    values = {
        "raw": raw,
        "scaled": raw * (attributed.info["heads"] * attributed.info["layers"]),
        "z": z,
    }
    order = np.argsort(raw, kind="stable")
    rank = np.empty(len(raw), dtype=int)
    rank[order] = np.arange(1, len(raw) + 1)
    flagged = values[unit] < eps if mode == "threshold" else rank == 1
    words = [
        {
            "word": word.text,
            "start": word.start,
            "end": word.end,
            "attribution": float(raw[i]),
            "scaled": float(values["scaled"][i]),
            "z": round(float(z[i]), 6),
            "rank": int(rank[i]),
            "misaligned": bool(flagged[i]),
        }
        for i, word in enumerate(units)
    ]
    return Judged(words, notes)
