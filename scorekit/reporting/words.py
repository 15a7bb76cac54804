"""Words of rows as a report's page has them: each list once a row, within a budget."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scorekit.reporting.heat import Map, Mapped

WORD_BYTES = 8_000_000
"""Of all words of a page."""
Span = list[Any]


@dataclass
class Listed:
    """What a metric says of the words of a row's text.

    Attributes
    ----------
    row, metric : int
    spans : list
        See `scorekit.reporting.cells.words_of`.
    heats : list
        The heat map of each word, or None.
    """

    row: int
    metric: int
    spans: list[Span]
    heats: list[Map | None]


class Lists:
    """The lists of words of a page, of which metrics that judge a row's words alike have one.

    Examples
    --------
    >>> lists = Lists()
    >>> for metric in (0, 2):
    ...     lists.add(0, metric, [[2, 5, -1000, 1], [6, 9, 400, 0]], [None, None])
    >>> lists.cut(20), lists.by_row()
    (1, {0: {0: [[2, 5, -1000, 1]], 2: 0}})
    """

    def __init__(self) -> None:
        self._own: list[Listed] = []
        self._by_row: dict[int, dict[int, Listed]] = {}

    def add(
        self, row: int, metric: int, spans: list[Span], heats: Sequence[Map | None] = ()
    ) -> None:
        """Add a list; one that the row has already is not kept a second time."""
        found = self._by_row.setdefault(row, {})
        listed = Listed(row, metric, spans, list(heats))
        for other in found.values():
            if other.spans == listed.spans and other.heats == listed.heats:
                found[metric] = other
                return
        found[metric] = listed
        self._own.append(listed)

    def cut(self, budget: int) -> int:
        """Leave out words until all fit, the highest of the longest lists; how many those are.

        A list keeps a word at least.
        """
        costs = [len(json.dumps(listed.spans, separators=(",", ":"))) for listed in self._own]
        if sum(costs) <= budget:
            return 0
        share, left_out = budget // len(costs), 0
        for listed, cost in zip(self._own, costs, strict=True):
            if cost > share:
                room = max(1, len(listed.spans) * share // cost)
                order = sorted(range(len(listed.spans)), key=lambda i: _lowness(listed.spans[i]))
                kept = sorted(order[:room])
                left_out += len(listed.spans) - len(kept)
                listed.spans = [listed.spans[i] for i in kept]
                listed.heats = [listed.heats[i] for i in kept]
        return left_out

    def mapped(self) -> Iterator[Mapped]:
        """The words that have heat maps, the lowest of each row as its first."""
        for listed in self._own:
            pairs = zip(listed.spans, listed.heats, strict=True)
            maps = sorted(
                ((span, heat) for span, heat in pairs if heat is not None),
                key=lambda each: each[0][2],
            )
            for nth, (span, heat) in enumerate(maps):
                yield Mapped(span, listed.row, nth, heat)

    def by_row(self) -> dict[int, dict[int, list[Span] | int]]:
        """By row and metric the list, or the number of the metric that has it."""
        return {
            row: {
                metric: listed.spans if listed.metric == metric else listed.metric
                for metric, listed in found.items()
            }
            for row, found in self._by_row.items()
        }


def _lowness(span: Span) -> tuple[bool, int]:
    """Misaligned words first, then the lowest."""
    return not span[3], span[2]
