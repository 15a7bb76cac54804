"""Run records of tables as a report shows them: names and lines, warnings, numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from scorekit.reporting.cells import as_text, cut, fairly_cut, plain
from scorekit.reporting.isolation import isolated
from scorekit.reporting.runs import Run

_FACT_BYTES = 500_000
_MOST_FACTS = 200  # of a record
_MOST_WARNINGS, _WARNING = 5, 500
_NAME = 200


def facts_of(run: Run) -> dict[str, Any]:
    """The run records as names and lines, and the signatures."""
    return {
        "name": run.name,
        "signatures": [
            (name, str(info.signature), info.higher_is_better)
            for name, info in run.table.metrics.items()
            if info.headline
        ],
        "records": {name: _lines(record) for name, record in run.records.items()},
    }


def _lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [(key, _fact(value)) for key, value in list(record.items())[:_MOST_FACTS]]
    names = [cut(as_text(str(key)).replace("_", " "), _NAME) for key, fact in facts if fact]
    return list(zip(names, fairly_cut([f for _, f in facts if f], _FACT_BYTES), strict=True))


def _fact(value: Any) -> str:
    """A line of short values; the rows' statuses are counted elsewhere on the page."""
    if isinstance(value, Mapping):
        shown = {k: v for k, v in value.items() if v not in (None, "", [], {}) and k != "status"}
        if not any(isinstance(v, Mapping) for v in shown.values()):
            return ", ".join(f"{isolated(as_text(str(k)))} {_short(v)}" for k, v in shown.items())
        return plain(shown)
    return "" if value in (None, []) else plain(value)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(plain(entry) for entry in value)
    return plain(value)


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """What the runs warned of, as sentences for the head of the page."""
    found: dict[str, None] = {}
    for run in runs:
        for record in run.records.values():
            told = record.get("warnings")
            for text in told[:_MOST_WARNINGS] if isinstance(told, list) else ():
                who = f" in {isolated(run.name)}" if len(runs) > 1 else ""
                found[f"Warning{who}: {isolated(cut(as_text(text), _WARNING))}"] = None
    return list(found)


def number(value: float | None) -> str:
    """Four digits, or three of a number below 0.001, as the page's script writes them.

    Examples
    --------
    >>> number(0.837219), number(-4.7e-5), number(123456), number(None)
    ('0.8372', '-4.7e-5', '123500', '–')
    """
    if value is None:
        return "–"
    small = 0 < abs(value) < 1e-3
    # As a script rounds: the number that is stored, halves away from 0.
    context = Context(prec=3 if small else 4, rounding=ROUND_HALF_UP)
    short = Decimal(repr(float(context.create_decimal(value)))).normalize(context)
    if short == 0:
        return "0"
    return f"{short:e}" if small or abs(short) >= Decimal("1e21") else f"{short:f}"


def signed(value: float) -> str:
    """As `number`, with a plus where it is above 0.

    Examples
    --------
    >>> signed(0.25), signed(-0.25), signed(0)
    ('+0.25', '-0.25', '0')
    """
    return f"+{number(value)}" if value > 0 else number(value)
