"""The eps of tie-calibrated pairwise accuracy: the exact optimum without a list of all pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scorekit.pairs import Floats, Ints, Pairs

_DIRECT = 2**22
"""Up to so many pairs are sorted at once."""
_BLOCK = 2**19
_COARSE, _FINE = 17, 42
"""Bits of a difference by which it is binned first, and those that are left."""


def rightly_judged(x: Floats, y: Floats, parts: Sequence[Ints], eps: float) -> list[float]:
    """Pairs of each group that the metric x judges as the ratings y do."""
    right = []
    for rows in parts:
        pairs, ones = Pairs(x[rows], y[rows], eps), np.ones((1, len(rows)))
        right.append(float((pairs.concordant(ones) + pairs.both_tied(ones))[0]))
    return right


def best_eps(x: Floats, y: Floats, parts: Sequence[Ints]) -> tuple[float, int]:
    """The smallest eps that judges most pairs rightly, and how many that is.

    With eps rising, each concordant pair whose difference it reaches is lost and each tie of the
    ratings won. Differences are counted in fine bins first; within a bin the count can rise by its
    ties at most, so only bins that could hold the maximum are gone through one by one.

    Parameters
    ----------
    x, y : ndarray (n,)
        Metric and ratings, finite.
    parts : sequence of int arrays
        Rows of each group; pairs are made within a group.

    Examples
    --------
    >>> rows = [np.arange(4)]
    >>> best_eps(np.array([0.0, 1.0, 5.0, 7.0]), np.array([1.0, 1.0, 2.0, 2.0]), rows)
    (2.0, 6)
    """
    tables = [_Table.of(x[rows], y[rows]) for rows in parts]
    start = sum(rightly_judged(x, y, parts, 0.0))
    bins = _Bins.all_of(max(float(np.ptp(x[rows])) for rows in parts), start)
    held, floor = float(sum(table.size for table in tables)), start
    while held > _DIRECT and bins.shift:
        bins, held, floor = bins.finer(tables, floor)
    if not len(bins.heads):
        return 0.0, int(start)
    blocks = [bins.inside(block) for block in _blocks(tables, *bins.range)]
    return _highest(blocks, bins, start)


_Block = tuple[Floats, npt.NDArray[np.bool_], Floats | None]
"""Differences of pairs, whether the ratings are tied there, how many pairs each stands for."""
_Placed = tuple[Ints, Floats, npt.NDArray[np.bool_], Floats | None]
"""The same, with the bin of each before it."""


@dataclass(frozen=True)
class _Table:
    """A group's distinct rows by rising metric, with how often each occurs (None: once)."""

    x: Floats
    code: Ints
    times: Floats | None

    @classmethod
    def of(cls, x: Floats, y: Floats) -> _Table:
        code = np.unique(y, return_inverse=True)[1].reshape(-1)
        order = np.lexsort((code, x))
        x, code = x[order], code[order]
        new = np.append([True], (x[1:] != x[:-1]) | (code[1:] != code[:-1]))
        if new.all():
            return cls(x, code.astype(np.int32), None)
        times = np.diff(np.append(np.flatnonzero(new), len(x))).astype(np.float64)
        return cls(x[new], code[new].astype(np.int32), times)

    @property
    def size(self) -> int:
        return len(self.x) * (len(self.x) - 1) // 2

    def blocks(self, low: float, high: float) -> Iterator[_Block]:
        """Pairs that eps can win or lose, of differences from low to high, a block at a time."""
        n, start = len(self.x), 0
        slack = 1e-12 * float(np.abs(self.x).max())
        while start < n - 1:
            stop = min(n, start + max(1, _BLOCK // (n - start)))
            rows, bounds = slice(start, stop), (self.x[start] + low, self.x[stop - 1] + high)
            first = max(start + 1, int(np.searchsorted(self.x, bounds[0] - slack)))
            columns = slice(first, int(np.searchsorted(self.x, bounds[1] + slack, side="right")))
            apart = self.x[None, columns] - self.x[rows, None]
            one, two = self.code[rows, None], self.code[None, columns]
            counted = (apart > 0) & (two >= one) & (apart >= low) & (apart <= high)
            tied = (one == two)[counted]
            weight = None
            if self.times is not None:
                weight = (self.times[rows, None] * self.times[None, columns])[counted]
            yield apart[counted], tied, weight
            start = stop


def _blocks(tables: Sequence[_Table], low: float, high: float) -> Iterator[_Block]:
    """Blocks of all groups, small ones joined."""
    waiting: list[_Block] = []
    for table in tables:
        for block in table.blocks(low, high):
            waiting.append(block)
            if sum(len(one[0]) for one in waiting) > _BLOCK // 8 or len(waiting) > 1000:
                yield _joined(waiting)
                waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(blocks: Sequence[_Block]) -> _Block:
    if len(blocks) == 1:
        return blocks[0]
    apart, tied = (np.concatenate([block[k] for block in blocks]) for k in (0, 1))
    weights = [block[2] for block in blocks]
    if all(weight is None for weight in weights):
        return apart, tied, None
    ones = (np.ones(len(b[0])) if w is None else w for b, w in zip(blocks, weights, strict=True))
    return apart, tied, np.concatenate(list(ones))


@dataclass(frozen=True)
class _Bins:
    """Ranges of differences that could hold the best eps.

    Floats that are not negative are ordered as their bits are, so a bin is what shares its leading
    bits: `shift` are left, and `heads` says which bins these are. `offset` is subtracted so that
    there are 2^17 bins of 2^-10 octave; differences 2^-128 of the largest share the first.

    Attributes
    ----------
    before : ndarray (k,)
        Rightly judged pairs just before each bin.
    """

    offset: int
    shift: int
    heads: Ints
    before: Floats

    @classmethod
    def all_of(cls, largest: float, start: float) -> _Bins:
        """One bin for all."""
        head = int(np.array(largest).view(np.int64)) >> _FINE
        offset = (head - 2**_COARSE + 1) << _FINE
        return cls(offset, _COARSE + _FINE, np.zeros(1, np.intp), np.array([start]))

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest difference that these bins can hold."""
        low, high = int(self.heads[0]), int(self.heads[-1]) + 1
        ends = np.array([low << self.shift, (high << self.shift) - 1], dtype=np.int64)
        bottom, top = (ends + self.offset).view(np.float64)
        return (float(bottom) if low else 0.0), float(top)

    def inside(self, block: _Block) -> _Placed:
        """The pairs that lie in these bins, and in which."""
        apart, tied, weight = block
        if len(self.heads) == 1 and self.shift == _COARSE + _FINE:
            return np.zeros(len(apart), np.intp), apart, tied, weight
        head = np.maximum(apart.view(np.int64) - self.offset, 0) >> self.shift
        at = np.minimum(np.searchsorted(self.heads, head), len(self.heads) - 1)
        here = self.heads[at] == head
        return at[here], apart[here], tied[here], None if weight is None else weight[here]

    def finer(self, tables: Sequence[_Table], floor: float) -> tuple[_Bins, float, float]:
        """Smaller bins, those left out that can't reach what others do.

        Returns the bins, how many pairs they hold, and the largest count known to be reached.
        """
        width = min(self.shift, max(4, _COARSE - (len(self.heads) - 1).bit_length()))
        shift, size = self.shift - width, len(self.heads) << width
        counts = np.zeros(2 * size)
        for block in _blocks(tables, *self.range):
            at, apart, tied, weight = self.inside(block)
            low = np.maximum(apart.view(np.int64) - self.offset, 0) >> shift
            cell = at << width | low & ((1 << width) - 1)
            counts += np.bincount(2 * cell + tied, weight, minlength=2 * size)
        lost, won = (counts[k::2].reshape(-1, 1 << width) for k in (0, 1))
        after = self.before[:, None] + np.cumsum(won - lost, axis=1)
        before = after - won + lost
        floor = max(floor, float(after.max()))
        # The first to reach the maximum is a tie of the ratings that eps wins.
        bins, cells = np.nonzero((won > 0) & (before + won >= floor))
        heads = self.heads[bins] << width | cells
        held = float((won + lost)[bins, cells].sum())
        return _Bins(self.offset, shift, heads, before[bins, cells]), held, floor


def _highest(blocks: Sequence[_Placed], bins: _Bins, start: float) -> tuple[float, int]:
    """The first difference after which most pairs are right; 0 where none gains."""
    at, apart, tied = (np.concatenate([block[k] for block in blocks]) for k in range(3))
    if not len(apart):
        return 0.0, int(start)
    weight = _joined([block[1:] for block in blocks])[2]
    gain = np.where(tied, 1.0, -1.0) * (1.0 if weight is None else weight)
    order = np.argsort(apart)
    at, apart, right = at[order], apart[order], np.cumsum(gain[order])
    first = np.flatnonzero(np.append([True], at[1:] != at[:-1]))
    sums = np.append(0.0, right[first[1:] - 1])
    right += np.repeat(bins.before[at[first]] - sums, np.diff(np.append(first, len(at))))
    ends = np.flatnonzero(np.append(apart[1:] != apart[:-1], [True]))
    best = ends[np.argmax(right[ends])]
    return (float(apart[best]), int(right[best])) if right[best] > start else (0.0, int(start))
