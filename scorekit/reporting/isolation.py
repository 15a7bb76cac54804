"""Texts that stand in a line with others, each in a direction of its own."""

from __future__ import annotations

import re
import unicodedata

_FIRST_STRONG, _POP = "\u2068", "\u2069"
_TURNING = frozenset(("R", "AL", "RLE", "LRE", "RLO", "LRO", "RLI", "LRI", "FSI", "PDI", "PDF"))
_ISOLATES = re.compile("[\u2066-\u2069]")


def isolated(text: str) -> str:
    """A text that can't turn around what stands beside it.

    One that runs from left to right anyway stays as it is; in another one, isolates of its own
    are left out, since they could end the one around it.

    Examples
    --------
    >>> isolated("a cat"), isolated("a\\u202e\\u2069b") == "\\u2068a\\u202eb\\u2069"
    ('a cat', True)
    """
    if text.isascii() or not any(unicodedata.bidirectional(c) in _TURNING for c in text):
        return text
    return f"{_FIRST_STRONG}{_ISOLATES.sub('', text)}{_POP}"
