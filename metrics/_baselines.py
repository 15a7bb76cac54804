"""What a word-level metric must beat: three guesses at the word that an image does not show."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from scorekit.metrics._words import Word, words_of

_STOP = """
a an the this that these those some any each every no not
and or but nor so than as if while
of in on at by to from for with without into onto over under above below behind beside
between near next around along across through off out up down
is are was were be been being am has have had do does did can could will would may might
it its he she they him her them his their there here who which what where when
very too also just only both all other another one two three four five
"""
STOP_WORDS = frozenset(_STOP.split())
"""Words that are hardly ever the noun at a caption's end."""


def last_noun(caption: str, nouns: Sequence[str] = ()) -> Word | None:
    """The last of the given nouns, or else the last word that is no stop word.

    Parameters
    ----------
    caption : str
    nouns : sequence of str
        As they stand in the caption, of one word or several.

    Returns
    -------
    Word or None
        None where the caption has no words.

    Examples
    --------
    >>> last_noun("A dog runs with another one.").text
    'runs'
    >>> last_noun("A dog runs with another one.", ["dog"]).text
    'dog'
    """
    words = words_of(caption)
    wanted = [[w.text.casefold() for w in words_of(noun)] for noun in nouns]
    for i in reversed(range(len(words))):
        for noun in sorted(filter(None, wanted), key=len, reverse=True):
            first = i - len(noun) + 1
            if first >= 0 and [w.text.casefold() for w in words[first : i + 1]] == noun:
                start, end = words[first].start, words[i].end
                return Word(caption[start:end], start, end)
    plain = [w for w in words if w.text.casefold() not in STOP_WORDS]
    best = plain or words
    return best[-1] if best else None


def random_word(caption: str, seed: int = 0) -> Word | None:
    """A word, each as likely; the same for the same caption and seed.

    Examples
    --------
    >>> random_word("a red dog") == random_word("a red dog")
    True
    """
    words = words_of(caption)
    if not words:
        return None
    digest = hashlib.sha256(f"{seed}:{caption}".encode()).digest()
    return words[int(np.random.default_rng(list(digest)).integers(len(words)))]


def without_each(caption: str, words: Sequence[Word]) -> list[str]:
    """The caption without each of its words in turn, for `leave_one_out`.

    Examples
    --------
    >>> without_each("A red dog.", words_of("A red dog."))
    ['red dog.', 'A dog.', 'A red.']
    """
    out = []
    for word in words:
        before, after = caption[: word.start].rstrip(), caption[word.end :]
        if after[:1].isspace():
            out.append(f"{before} {after.lstrip()}".strip())
        else:  # a full stop stays close, and takes the place of a comma
            out.append((before.rstrip(",;:") + after).strip())
    return out


def leave_one_out(words: Sequence[Word], whole: float, without: Sequence[float]) -> Word | None:
    """The word whose removal raises the score most, or lowers it least.

    Parameters
    ----------
    words : sequence of n Word
    whole : float
        The score of the caption as it is.
    without : sequence of n float
        Its score without each word.

    Returns
    -------
    Word or None
        None where there are no words.

    Raises
    ------
    ValueError
        If the lengths differ.

    Examples
    --------
    >>> leave_one_out(words_of("a red dog"), 0.5, [0.5, 0.7, 0.2]).text
    'red'
    """
    if len(words) != len(without):
        raise ValueError(f"{len(words)} words have {len(without)} scores")
    if not words:
        return None
    return words[int(np.argmax(np.asarray(without, dtype=np.float64) - whole))]
