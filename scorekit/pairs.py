"""Pairs of rows that two scores order alike or not, counted for many weightings at once.

A resample, a permutation and a left-out item are all weights of the same rows; so the rows are
ranked once, and each weighting costs O(n log k), where k is the number of distinct values of one
of the two scores. The counts are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
_CACHED = 2**17
"""Weights that are counted at a time: with their sums they stay in a core's cache."""


@dataclass(frozen=True)
class _Level:
    """Rows whose codes agree above a bit, split by that bit.

    `ones` has the bit, `zeros` has not; a node is what has the same higher bits. A row of `ones`
    has beside it, of the zeros of its node, those before `below` (x clearly lower) and those from
    `above` on (x clearly higher), as positions in `zeros`. Each node with ones begins at `starts`
    in `ones`, and has the zeros from `first` to `last`.
    """

    zeros: Ints
    ones: Ints
    below: Ints
    above: Ints
    starts: Ints
    first: Ints
    last: Ints


@dataclass(frozen=True)
class Pairs:
    """The pairs of n rows with two values each; the weight of a pair is the product of its rows'.

    A row is no pair with itself, whatever its weight.

    Attributes
    ----------
    x, y : ndarray (n,)
        Finite values.
    eps : float
        Values of x that differ by no more are tied.

    Examples
    --------
    >>> pairs = Pairs(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 2.0]), eps=1.0)
    >>> one = np.ones((1, 3))
    >>> pairs.concordant(one), pairs.discordant(one), pairs.both_tied(one)
    (array([1.]), array([0.]), array([1.]))
    """

    x: Floats
    y: Floats
    eps: float = 0.0

    @cached_property
    def order(self) -> Ints:
        """Rows by rising x."""
        return np.argsort(self.x, kind="stable")

    @cached_property
    def _reach(self) -> tuple[Ints, Ints]:
        """For each row in order, where the rows tied with it in x begin and end."""
        return reach(self.x[self.order], self.eps)

    @cached_property
    def _codes(self) -> Ints:
        return _codes(self.y)[self.order]

    @cached_property
    def _levels(self) -> list[_Level]:
        code, n, order = self._codes, len(self.x), self.order
        low, high = self._reach
        levels = []
        for bit in range(int(code.max(initial=0)).bit_length()):
            node = code >> (bit + 1)
            by_node = np.argsort(node, kind="stable")
            has = (code[by_node] >> bit & 1).astype(bool)
            zeros, ones = by_node[~has], by_node[has]
            keys, start = node[zeros] * n + zeros, node[ones] * n
            starts = np.flatnonzero(np.diff(start, prepend=-1))
            below, above = (np.searchsorted(keys, start + at[ones]) for at in (low, high))
            first, last = (np.searchsorted(keys, start[starts] + at) for at in (0, n))
            levels.append(_Level(order[zeros], order[ones], below, above, starts, first, last))
        return levels

    def net(self, weights: Floats) -> Floats:
        """Concordant less discordant pairs (b,), for row weights (b, n)."""
        return self._counted(weights, signed=True)

    def net_of_rows(self) -> Floats:
        """Concordant less discordant pairs of each row with all others (n,)."""
        found = np.zeros(len(self.x))
        for at in self._levels:
            sizes = np.diff(at.starts, append=len(at.ones))
            found[at.ones] += at.below + at.above - np.repeat(at.first + at.last, sizes)
            # A zero is beside a one from the node's first to `below`, and from `above` to its last.
            edges = ((at.first, sizes), (at.last, sizes), (at.below, None), (at.above, None))
            first, last, below, above = (
                np.bincount(places, counts, len(at.zeros) + 1) for places, counts in edges
            )
            found[at.zeros] += np.cumsum(first + last - below - above)[:-1]
        return found

    def concordant(self, weights: Floats) -> Floats:
        """Pairs that x and y order alike (b,)."""
        return self._counted(weights, signed=False)

    def _counted(self, weights: Floats, *, signed: bool) -> Floats:
        total = np.zeros(len(weights))
        size = max(1, _CACHED // max(len(self.x), 1))
        for start in range(0, len(weights), size):
            w = weights[start : start + size]
            for at in self._levels:
                ones, sums = w.take(at.ones, axis=1), _prefix(w.take(at.zeros, axis=1))
                beside = sums.take(at.below, axis=1)
                outside = sums.take(at.first, axis=1)
                if signed:
                    beside += sums.take(at.above, axis=1)
                    outside += sums.take(at.last, axis=1)
                # What lies outside a node is the same for all its rows.
                of_node = np.add.reduceat(ones, at.starts, axis=1)
                total[start : start + size] += _dot(ones, beside) - _dot(of_node, outside)
        return total

    def discordant(self, weights: Floats) -> Floats:
        """Pairs that x and y order differently (b,)."""
        return self.concordant(weights) - self.net(weights)

    def both_tied(self, weights: Floats) -> Floats:
        """Pairs of equal y whose x is tied (b,)."""
        n, by_code = len(self.x), np.argsort(self._codes, kind="stable")
        start = self._codes[by_code] * n
        first = np.searchsorted(start + by_code, start + self._reach[0][by_code])
        w = weights.take(self.order[by_code], axis=1)
        sums = _prefix(w)
        return _dot(w, sums[:, :-1] - sums.take(first, axis=1))


def reach(ranked: Floats, eps: float) -> tuple[Ints, Ints]:
    """For each of n rising values, where those within eps of it begin and end.

    Two values are within eps if their difference, rounded as floats are, is at most eps: what a
    comparison of the differences themselves finds.
    """
    n = len(ranked)
    low = np.searchsorted(ranked, ranked - eps, side="left")
    high = np.searchsorted(ranked, ranked + eps, side="right")
    if eps > 0:
        # The sums above are rounded as well, so a bound may be off by a few neighbours.
        low, high = low.astype(np.intp), high.astype(np.intp)
        while (more := (low > 0) & (ranked - ranked[np.maximum(low - 1, 0)] <= eps)).any():
            low -= more
        while (less := ranked - ranked[low] > eps).any():
            low += less
        while (more := (high < n) & (ranked[np.minimum(high, n - 1)] - ranked <= eps)).any():
            high += more
        while (less := ranked[high - 1] - ranked > eps).any():
            high -= less
    return low, high


@dataclass(frozen=True)
class Ties:
    """Rows by their distinct values.

    Attributes
    ----------
    order : ndarray (n,)
        Rows by rising value.
    starts : ndarray (k,)
        Where each of the k distinct values begins in that order.
    """

    order: Ints
    starts: Ints

    @classmethod
    def of(cls, values: Floats) -> Ties:
        """Of n values."""
        order = np.argsort(values, kind="stable")
        ranked = values[order]
        return cls(order, np.flatnonzero(np.append([True], ranked[1:] != ranked[:-1])))

    def sums(self, weights: Floats) -> Floats:
        """Total weight (b, k) of each distinct value, for row weights (b, n)."""
        drawn = weights.take(self.order, axis=1)
        if len(self.starts) == len(self.order):
            return drawn
        found: Floats = np.add.reduceat(drawn, self.starts, axis=1)
        return found

    def squares(self, weights: Floats) -> Floats:
        """Sum of the squared weights of each distinct value (b,).

        Of whole weights, (sum of squares - total) / 2 is the number of tied pairs.
        """
        sums = weights if len(self.starts) == len(self.order) else self.sums(weights)
        return _dot(sums, sums)


def _codes(values: Floats) -> Ints:
    codes: Ints = np.unique(values, return_inverse=True)[1].reshape(-1)
    return codes


def _prefix(weights: Floats) -> Floats:
    """Sums of the first 0, 1, ..., n weights (b, n + 1)."""
    sums = np.empty((len(weights), weights.shape[1] + 1))
    sums[:, 0] = 0.0
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _dot(a: Floats, b: Floats) -> Floats:
    products: Floats = np.einsum("bi,bi->b", a, b)
    return products
