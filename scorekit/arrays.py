"""The few array operations that metrics share, for numpy arrays and torch tensors alike.

Written against the array API standard, so that one formula serves a run (numpy) and a reward
(torch, with gradients) without importing torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from array_api_compat import array_namespace, device

__all__ = ["array_namespace", "clamp_min", "cosine", "device", "normalize", "softmax", "take"]


def normalize(x: Any) -> Any:
    """Scale vectors to unit length along the last axis, in float32 or better.

    A zero vector stays zero: its cosine with anything is 0.

    Parameters
    ----------
    x : array (..., d)

    Returns
    -------
    array (..., d)
    """
    xp = array_namespace(x)
    x = _at_least_float32(x, xp)
    squares = xp.sum(x * x, axis=-1, keepdims=True)
    # Not sqrt(0): its gradient is infinite, and a reward would turn to NaN.
    empty = squares == 0
    length = xp.sqrt(xp.where(empty, xp.ones_like(squares), squares))
    return x / length


def cosine(a: Any, b: Any) -> Any:
    """Cosine along the last axis, with broadcasting over the others.

    Parameters
    ----------
    a, b : array (..., d)

    Returns
    -------
    array (...)

    Examples
    --------
    >>> import numpy as np
    >>> cosine(np.asarray([[3.0, 4.0]]), np.asarray([[1.0, 0.0]]))
    array([0.6])
    """
    xp = array_namespace(a, b)
    return xp.sum(normalize(a) * normalize(b), axis=-1)


def clamp_min(x: Any, low: float = 0.0) -> Any:
    """max(x, low), elementwise."""
    xp = array_namespace(x)
    return xp.where(x > low, x, xp.full_like(x, low))


def softmax(x: Any) -> Any:
    """Softmax along the last axis, safe against overflow.

    Parameters
    ----------
    x : array (..., n)

    Returns
    -------
    array (..., n)
        Positive, summing to 1.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.asarray([1000.0, 1000.0]))
    array([0.5, 0.5])
    """
    xp = array_namespace(x)
    powers = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True)


def take(x: Any, rows: Sequence[int]) -> Any:
    """Rows of an array, in the order asked for, on the array's own device.

    Parameters
    ----------
    x : array (n, ...)
    rows : sequence of m ints

    Returns
    -------
    array (m, ...)
    """
    xp = array_namespace(x)
    return xp.take(x, xp.asarray(rows, dtype=xp.int64, device=device(x)), axis=0)


def _at_least_float32(x: Any, xp: Any) -> Any:
    if x.dtype in (xp.float32, xp.float64):
        return x
    return xp.astype(x, xp.float32)
