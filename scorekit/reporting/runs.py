"""Tables of scores as the rows of a report: an image a row, a metric a column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from scorekit.stats import PairedComparison
from scorekit.table import COLUMNS, EVIDENCE, KEY, SOURCE, MetricInfo, ScoreTable
from scorekit.types import Array, UsageError

if TYPE_CHECKING:
    import pandas as pd

MOST_CHANGED = 100
"""Rows that a comparison shows."""
WORST = 200
"""Rows of each metric that a sample holds for certain, as far as there is room."""


@dataclass(frozen=True)
class Run:
    """What is shown as one run.

    Attributes
    ----------
    name : str
    table : ScoreTable
    records : mapping of str to mapping
        The run records by the names of the tables that make it up.
    """

    name: str
    table: ScoreTable
    records: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Rows:
    """The images of all runs.

    Attributes
    ----------
    frame : pandas.DataFrame
        A row an image: run (a number), system, item, index, image, text, source_image,
        source_text, and the columns that came with the prompts.
    values : mapping of str to array (n,)
        By metric; NaN where there is no score.
    cells : pandas.DataFrame
        Columns row, metric, status, note, evidence of what has more to say than its value.
    """

    frame: pd.DataFrame
    values: Mapping[str, Array]
    cells: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: Array) -> Rows:
        """The rows of these numbers, in their order."""
        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))
        cells = self.cells.assign(row=place[self.cells["row"].to_numpy(int)])
        return Rows(
            self.frame.iloc[rows].reset_index(drop=True),
            {name: values[rows] for name, values in self.values.items()},
            cells[cells["row"] >= 0],
        )


def runs_of(tables: Mapping[str, ScoreTable]) -> list[Run]:
    """Runs of tables; tables of other metrics on the same images are one run.

    Parameters
    ----------
    tables : mapping of str to ScoreTable
        By the names that the report shows.

    Raises
    ------
    UsageError
        If there is no table, or one has no rows.
    """
    import pandas as pd

    runs: list[Run] = []
    for name, table in tables.items():
        if table.frame.empty:
            raise UsageError(f"{name} has no rows to report")
        record = {name: table.run}
        for i, run in enumerate(runs):
            if not run.table.metrics.keys() & table.metrics.keys() and _same_images(run, table):
                frame = pd.concat([run.table.frame, table.frame], ignore_index=True)
                merged = ScoreTable(frame, {**run.table.metrics, **table.metrics})
                runs[i] = Run(f"{run.name} + {name}", merged, {**run.records, **record})
                break
        else:
            runs.append(Run(name, table, record))
    if not runs:
        raise UsageError("there is no table to report")
    return runs


def _same_images(run: Run, table: ScoreTable) -> bool:
    one, two = (
        set(t.frame[[*KEY, "image"]].itertuples(index=False, name=None)) for t in (run.table, table)
    )
    return one == two


def metrics_of(runs: Sequence[Run]) -> dict[str, MetricInfo]:
    """Metrics of all runs; of one that several have, the first run's."""
    found: dict[str, MetricInfo] = {}
    for run in runs:
        found = {**run.table.metrics, **found}
    return {name: found[name] for name in dict.fromkeys(n for r in runs for n in r.table.metrics)}


def rows_of(runs: Sequence[Run]) -> Rows:
    """The rows of runs, one run after the other."""
    import pandas as pd

    names = list(metrics_of(runs))
    frames, cells, start = [], [], 0
    values: dict[str, list[Array]] = {name: [] for name in names}
    for number, run in enumerate(runs):
        frame = run.table.frame
        # Two rows of one key are two images, though no run of scorekit's makes such a table.
        nth = frame.groupby(["metric", *KEY], dropna=False).cumcount()
        keys = [*(frame[name] for name in KEY), nth]
        row = frame.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
        first = np.unique(row, return_index=True)[1]
        frames.append(frame.iloc[first].assign(run=number))
        scored = (frame["status"] == "ok").to_numpy()
        value = np.where(scored, frame["value"].to_numpy(float, na_value=np.nan), np.nan)
        for name in names:
            mine = (frame["metric"] == name).to_numpy()
            column = np.full(len(first), np.nan)
            column[row[mine]] = value[mine]
            values[name].append(column)
        told_by = ["metric", "status", "note", EVIDENCE]
        more = frame.reindex(columns=told_by, fill_value="").fillna("")
        told = ~scored | (more["note"] != "").to_numpy() | (more[EVIDENCE] != "").to_numpy()
        cells.append(more[told].assign(row=start + row[told]))
        start += len(first)
    kept = [*COLUMNS[:5], "run", *SOURCE]
    others = [c for f in frames for c in f.columns if c not in (*kept, *COLUMNS, EVIDENCE)]
    return Rows(
        pd.concat(frames, ignore_index=True).reindex(columns=[*kept, *dict.fromkeys(others)]),
        {name: np.concatenate(parts) for name, parts in values.items()},
        pd.concat(cells, ignore_index=True),
    )


@dataclass(frozen=True)
class Change:
    """A metric of two runs.

    Attributes
    ----------
    metric : str
    a, b : int
        Numbers of the runs.
    comparison : PairedComparison or None
        Of b with a.
    why : str
        Why there is no comparison.
    """

    metric: str
    a: int
    b: int
    comparison: PairedComparison | None = None
    why: str = ""


def changes_of(runs: Sequence[Run]) -> list[Change]:
    """Each later run against the first, by the metrics that both have."""
    first, found = runs[0].table, []
    for b, run in enumerate(runs[1:], 1):
        for name, info in first.metrics.items():
            if name in run.table.metrics and info.headline:
                try:
                    found.append(Change(name, 0, b, first.compare(run.table, name)))
                except UsageError as error:
                    found.append(Change(name, 0, b, None, str(error)))
    return found


def most_changed(rows: Rows, change: Change) -> list[tuple[int, int, float]]:
    """Numbers of the two rows and the difference b - a, where it is largest and not 0."""
    values = rows.values[change.metric]

    def scored(run: int) -> pd.DataFrame:
        at = np.flatnonzero((rows.frame["run"] == run).to_numpy() & np.isfinite(values))
        return rows.frame.loc[at, KEY].assign(at=at)

    both = scored(change.a).merge(scored(change.b), on=KEY, suffixes=("_a", "_b"))
    a, b = (both[f"at_{side}"].to_numpy(int) for side in "ab")
    difference = values[b] - values[a]
    order = np.argsort(-np.abs(difference), kind="stable")[:MOST_CHANGED]
    return [(int(a[i]), int(b[i]), float(difference[i])) for i in order if difference[i]]


def sample_of(
    rows: Rows, metrics: Mapping[str, MetricInfo], changes: Sequence[Change], most: int
) -> Array:
    """Numbers of at most so many rows: whole items, the worst and the most changed among them.

    The same rows of the same table each time. An item of more rows than there is room for is
    left out, and where there are no others, the first rows are the sample.
    """
    items = rows.frame["item"].astype(str).to_numpy()
    names, codes, counts = np.unique(items, return_inverse=True, return_counts=True)
    wanted = list(dict.fromkeys(codes[row] for row in _telling(rows, metrics, changes)))
    rest = np.setdiff1d(np.arange(len(names)), wanted)
    chosen = np.zeros(len(names), dtype=bool)
    room = most
    # The telling rows get half of the room, so that the sample is not made of failures alone.
    others = np.random.default_rng(0).permutation(rest)
    for kept_free, candidates in ((most // 2, wanted), (0, others), (0, wanted)):
        for item in candidates:
            if not chosen[item] and room - counts[item] >= kept_free:
                chosen[item] = True
                room -= counts[item]
    return np.flatnonzero(chosen[codes]) if chosen.any() else np.arange(most)


def _telling(
    rows: Rows, metrics: Mapping[str, MetricInfo], changes: Sequence[Change]
) -> Iterator[int]:
    """The first of each kind in turn, then the second, so that none has all the room."""
    kinds: list[Sequence[int]] = []
    for change in changes:
        if change.comparison is not None:
            kinds.append([row for a, b, _ in most_changed(rows, change) for row in (a, b)])
    for name, info in metrics.items():
        if info.headline:
            keys = rows.values[name] * (1 if info.higher_is_better else -1)
            worst = np.argsort(keys, kind="stable")[:WORST]  # NaN is last
            kinds.append(worst[np.isfinite(keys[worst])].tolist())
    kinds.append(rows.cells.loc[rows.cells["status"] != "ok", "row"].unique()[:WORST].tolist())
    for turn in zip_longest(*kinds):
        yield from (row for row in turn if row is not None)
