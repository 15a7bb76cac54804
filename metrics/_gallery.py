"""A run's distinct texts, in an order that does not depend on the order of the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TIE = 1e-6
"""Two cosines nearer than this are equal: it is above float32 rounding, whose order of
summation differs between batches, and below any difference that means something."""

BLOCK = 2**24
"""How many cosines are held at a time: 64 MiB in float32."""


@dataclass(frozen=True)
class Gallery:
    """The distinct texts of some rows, sorted.

    Attributes
    ----------
    texts : tuple of T str
    positions : tuple of n ints
        Where each row's text stands in `texts`.
    rows : tuple of T ints
        For each text, the first row that has it.
    """

    texts: tuple[str, ...]
    positions: tuple[int, ...]
    rows: tuple[int, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Gallery:
        """Collect the distinct texts of the rows.

        Examples
        --------
        >>> Gallery.of(["b", "a", "b"])
        Gallery(texts=('a', 'b'), positions=(1, 0, 1), rows=(1, 0))
        """
        first: dict[str, int] = {}
        for row, text in enumerate(texts):
            first.setdefault(text, row)
        ordered = sorted(first)
        place = {text: i for i, text in enumerate(ordered)}
        return cls(tuple(ordered), tuple(place[t] for t in texts), tuple(first[t] for t in ordered))

    def facts(self, name: str) -> Mapping[str, str]:
        """Size and hash, for the signature.

        Examples
        --------
        >>> Gallery.of(["b", "a", "b"]).facts("gallery")
        {'gallery': '2', 'gallery_sha': '59b271ae1bbc'}
        """
        whole = hashlib.sha256("\0".join(self.texts).encode()).hexdigest()
        return {name: str(len(self.texts)), f"{name}_sha": whole[:12]}
