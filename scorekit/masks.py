"""Masks of edits: white where an edit may change the image, black where it must not."""

from __future__ import annotations

import numpy as np

from scorekit.types import Array, InputError

TOLERANCE = 8
"""How many levels from 0 or 255 a mask's value may be: what a JPEG of a flat area leaves."""


def region_of(pixels: Array, size: tuple[int, int]) -> Array:
    """A mask's pixels as the region that may change.

    Parameters
    ----------
    pixels : uint8 array (h, w, 3)
        As `scorekit.images` decodes a mask of any format: a transparent pixel is white.
    size : (height, width)
        Of the image that the mask belongs to.

    Returns
    -------
    bool array (h, w)
        With pixels of both kinds.

    Raises
    ------
    InputError
        ``invalid_image`` for another size or a value that is neither black nor white,
        ``undefined`` if the mask is all black or all white.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.zeros((2, 2, 3), np.uint8)
    >>> pixels[0] = 255
    >>> region_of(pixels, (2, 2)).tolist()
    [[True, True], [False, False]]
    >>> region_of(pixels, (4, 4))
    Traceback (most recent call last):
    scorekit.types.InputError: invalid_image: the mask has 2 x 2 pixels, the image 4 x 4
    """
    if pixels.shape[:2] != size:
        raise InputError(
            "invalid_image",
            f"the mask has {_size_text(pixels.shape[:2])} pixels, the image {_size_text(size)}",
        )
    low, high = pixels.min(axis=2), pixels.max(axis=2)
    black, white = high <= TOLERANCE, low >= 255 - TOLERANCE
    grey = ~(black | white)
    if grey.any():
        y, x = np.argwhere(grey)[0]
        raise InputError(
            "invalid_image",
            f"the mask is neither black nor white at {int(grey.sum()):,} of its {grey.size:,} "
            f"pixels (x={x}, y={y}: {'/'.join(map(str, pixels[y, x]))})",
        )
    if black.all():
        hint = " (its values are 0 and 1, not 0 and 255)" if high.max() == 1 else ""
        raise InputError("undefined", f"the mask is all black: nothing may change{hint}")
    if white.all():
        raise InputError("undefined", "the mask is all white: everything may change")
    region: Array = white
    return region


def _size_text(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"
