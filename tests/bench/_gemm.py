"""Multiply-adds of CLIP's two towers: what the arithmetic alone allows."""

from __future__ import annotations

from collections.abc import Sequence

VISION = {"width": 768, "layers": 12, "patch": 32, "side": 224}
TEXT = {"width": 512, "layers": 12}
EMBED = 512


def tower(tokens: int, width: int, layers: int) -> int:
    """Multiply-adds of one sequence: 12 w^2 a token and 2 w a pair of tokens, in every layer."""
    return layers * (12 * width**2 * tokens + 2 * width * tokens**2)


def image() -> int:
    """Multiply-adds of one image: the patches' projection, the tower, the last projection."""
    width = VISION["width"]
    patches = (VISION["side"] // VISION["patch"]) ** 2
    first = patches * 3 * VISION["patch"] ** 2 * width
    return first + tower(patches + 1, width, VISION["layers"]) + width * EMBED


def text(tokens: int) -> int:
    """Multiply-adds of one text padded to a number of tokens."""
    return tower(tokens, TEXT["width"], TEXT["layers"]) + TEXT["width"] * EMBED


def every_row(lengths: Sequence[int], batch: int) -> int:
    """All texts of all rows, padded to the longest of each batch, in the order of the rows."""
    total = 0
    for start in range(0, len(lengths), batch):
        part = lengths[start : start + batch]
        total += len(part) * text(max(part))
    return total


def each_once(lengths: Sequence[int]) -> int:
    """Each different text once, without any padding."""
    return sum(text(length) for length in lengths)


# Token attributions -----------------------------------------------------------------------------


def attribution_states(tokens: int, last: int) -> int:
    """All positions of a text, as far as the end token's row needs them.

    Of the last layer these are its keys and values, 2 of 12 w^2 a token.
    """
    width, layers = TEXT["width"], TEXT["layers"]
    return tower(tokens, width, layers - 1) + 2 * width**2 * tokens


def attribution_row(tokens: int, last: int) -> int:
    """The end token's row through the last layers, and the gradient back through it."""
    width = TEXT["width"]
    layer = 12 * width**2 + 2 * width * tokens
    return 2 * (last * layer + width * EMBED)


def attribution_loop(tokens: int, last: int) -> int:
    """A text forward, and for each of the last layers' maps the gradient from the score to it.

    To a layer's own map it goes back through the values, the output projection and the MLP;
    through the layers above it, through all of them: as many products as forward, but for the
    attention's, which are twice as many.
    """
    width = TEXT["width"]
    own = 9 * width**2 * tokens + width * tokens**2
    above = 12 * width**2 * tokens + 4 * width * tokens**2
    back = last * (own + width * EMBED) + above * (last * (last - 1) // 2)
    return text(tokens) + back
