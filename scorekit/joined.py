"""Scores and ratings of the same images, side by side: what a meta-evaluation computes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from scorekit import remote
from scorekit.table import KEY, ScoreTable, recipe_differences
from scorekit.types import PathLike, Signature, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from scorekit.ratings import RatingSet

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.object_]


@dataclass(frozen=True)
class MetricScores:
    """Scores of any origin in long form.

    Attributes
    ----------
    frame : pandas.DataFrame
        system, item, index, metric, value (NaN where a row was not scored).
    signatures : mapping of str to Signature
        Of the metrics whose table has them.
    lower_is_better : frozenset of str
    """

    frame: pd.DataFrame
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    lower_is_better: frozenset[str] = frozenset()

    @property
    def metrics(self) -> list[str]:
        """Metrics in the order of their first row."""
        return list(dict.fromkeys(self.frame["metric"]))

    def turned(self, lower_is_better: Sequence[str]) -> MetricScores:
        """With more metrics of which lower is better.

        Raises
        ------
        UsageError
            If one is not among the scores.
        """
        names = chosen_metrics(self, lower_is_better) if lower_is_better else ()
        return replace(self, lower_is_better=self.lower_is_better | set(names))


@dataclass(frozen=True)
class Joined:
    """The rated cells of one dimension with every metric's scores.

    Attributes
    ----------
    dimension : str
    rating : ndarray (n,)
        The raters' mean, or each single rating where the set counts those.
    items, systems : ndarray (n,) of str
    indices : ndarray (n,) of int
    tags : mapping of str to ndarray (n,)
        Skills and the like, empty strings where there is none.
    values : mapping of str to ndarray (n,)
        Scores by metric, higher is better, NaN where a cell was not scored.
    flipped : frozenset of str
        The metrics whose sign was turned for that.
    """

    dimension: str
    rating: Floats
    items: Labels
    systems: Labels
    indices: npt.NDArray[np.int64]
    tags: Mapping[str, Labels]
    values: Mapping[str, Floats]
    flipped: frozenset[str]

    def __len__(self) -> int:
        return len(self.rating)

    @property
    def common(self) -> npt.NDArray[np.bool_]:
        """The cells that every metric scored."""
        scored = np.isfinite(np.stack(list(self.values.values())))
        return np.asarray(scored.all(axis=0))

    @property
    def keys(self) -> list[tuple[str, str, int]]:
        """system, item and index of each row."""
        return list(zip(self.systems, self.items, self.indices.tolist(), strict=True))

    @cached_property
    def cells(self) -> npt.NDArray[np.intp]:
        """The cell of each row, numbered: several rows have one where each rating counts."""
        place: dict[tuple[str, str, int], int] = {}
        return np.array([place.setdefault(key, len(place)) for key in self.keys], np.intp)

    def by_cell(self) -> Joined:
        """A row a cell, with the mean of its ratings."""
        _, first, counts = np.unique(self.cells, return_index=True, return_counts=True)
        means = np.bincount(self.cells, weights=self.rating) / counts
        return replace(self.only(first), rating=means)

    def only(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Joined:
        """Some of the rows."""
        return Joined(
            self.dimension,
            self.rating[rows],
            self.items[rows],
            self.systems[rows],
            self.indices[rows],
            {name: tag[rows] for name, tag in self.tags.items()},
            {name: scores[rows] for name, scores in self.values.items()},
            self.flipped,
        )


def read_scores(paths: Sequence[PathLike]) -> MetricScores:
    """Read tables of scores: scorekit's, or any CSV, TSV, JSONL or Parquet of scores.

    A table that is not scorekit's has columns system, item, metric, value, and index where a
    system has several images of an item; an empty value is unscored. Two tables may hold parts of
    one metric's scores, if their signatures agree.

    Raises
    ------
    UsageError
        If a table can't be read, a row is there twice, or a metric has different signatures.
    """
    import pandas as pd

    frames: list[pd.DataFrame] = []
    signatures: dict[str, Signature] = {}
    lower: set[str] = set()
    for path in paths:
        source = remote.located(path)
        table = _score_table(source)
        if table is None:
            frames.append(_plain(source))
            continue
        rows = table.frame
        value = rows["value"].where(rows["status"] == "ok")
        frames.append(rows[[*KEY, "metric"]].assign(value=value))
        for name, info in table.metrics.items():
            if name in signatures:
                different = recipe_differences(signatures[name], info.signature)
                if different:
                    raise UsageError(
                        f"{source}: {name} has another signature than in the tables before: "
                        + "; ".join(different)
                    )
            signatures[name] = info.signature
            if not info.higher_is_better:
                lower.add(name)
    frame = pd.concat(frames, ignore_index=True)
    twice = frame.duplicated([*KEY, "metric"])
    if twice.any():
        row = frame[twice].iloc[0]
        raise UsageError(
            f"{int(twice.sum())} scores are there twice, first {row['metric']} of system "
            f"{row['system']!r}, item {row['item']!r}, index {row['index']}"
        )
    return MetricScores(frame, signatures, frozenset(lower))


def published_scores(ratings: RatingSet) -> MetricScores:
    """The scores that a rating set's own files carry.

    Raises
    ------
    UsageError
        If they carry none.
    """
    if ratings.scores is None:
        raise UsageError(f"the files of {ratings.name} hold no scores; give tables of scores")
    return MetricScores(ratings.scores, {}, frozenset(ratings.lower_is_better))


def join(
    scores: MetricScores,
    ratings: RatingSet,
    dimension: str | None = None,
    metrics: Sequence[str] | None = None,
) -> Joined:
    """Put scores beside one dimension's ratings; every rated cell stays, scored or not.

    Raises
    ------
    UsageError
        If the keys don't fit (see `RatingSet.aligned`), or there is no such metric or dimension.
    """
    names = chosen_metrics(scores, metrics)
    rated = ratings.ratings(dimension) if ratings.pooling == "each" else ratings.mean(dimension)
    if rated.empty:
        raise UsageError(f"{ratings.name} has no rating of {dimension}")
    wide = (
        ratings.aligned(scores.frame[scores.frame["metric"].isin(names)])
        .pivot(index=KEY, columns="metric", values="value")
        .reindex(columns=names)
    )
    tags = ratings.samples[[*KEY, *ratings.tags]]
    cells = rated[[*KEY, "value"]].merge(wide, on=KEY, how="left").merge(tags, on=KEY, how="left")
    flipped = frozenset(names) & scores.lower_is_better
    return Joined(
        ratings.dimensions[0] if dimension is None else dimension,
        cells["value"].to_numpy(float),
        cells["item"].to_numpy(object),
        cells["system"].to_numpy(object),
        cells["index"].to_numpy(np.int64),
        {tag: as_labels(cells[tag]) for tag in ratings.tags},
        {name: (-1.0 if name in flipped else 1.0) * cells[name].to_numpy(float) for name in names},
        flipped,
    )


def as_labels(tag: pd.Series[Any]) -> Labels:
    """A tag's values as texts, empty where there is none."""
    return tag.astype(object).fillna("").astype(str).to_numpy(object)


def chosen_metrics(scores: MetricScores, metrics: Sequence[str] | None) -> list[str]:
    """The metrics asked for, or all of them.

    Raises
    ------
    UsageError
        If one is not among the scores.
    """
    known = scores.metrics
    for name in metrics or ():
        if name not in known:
            raise UsageError(f"no metric {name!r} among the scores; there are {', '.join(known)}")
    return list(dict.fromkeys(metrics)) if metrics else known


def _score_table(place: str) -> ScoreTable | None:
    """A table that scorekit wrote; None for any other."""
    from scorekit.table import BESIDE, sidecar

    if remote.is_url(place):
        try:
            with remote.fetched(place, BESIDE) as copy:
                return _score_table(str(copy))
        except OSError as error:
            raise UsageError(f"can't read {place}: {error.strerror}") from None
    source = Path(place)
    if source.suffix == ".parquet" and source.is_file():
        import pyarrow.parquet as pq

        try:
            known = b"scorekit" in (pq.read_schema(source).metadata or {})
        except (OSError, ValueError) as error:
            raise UsageError(f"{source} can't be read ({type(error).__name__}: {error})") from None
        return ScoreTable.load(source) if known else None
    return ScoreTable.load(source) if sidecar(source).is_file() else None


def _plain(source: str) -> pd.DataFrame:
    import pandas as pd

    from scorekit.prompts import read_table, require
    from scorekit.ratings import number

    table = read_table(source)
    for name in ("item", "metric", "value"):
        require(table, name)
    values = [
        number(cell, f"{source}, {place}")
        for cell, place in zip(table.columns["value"], table.places, strict=True)
    ]
    names = {name: table.strings(name) for name in ("item", "metric")}
    for name, cells in names.items():
        if None in cells:
            raise table.error(cells.index(None), f"{name} is empty")
    return pd.DataFrame(
        {
            "system": [s or "" for s in table.strings("system")],
            "item": names["item"],
            "index": [i or 0 for i in table.integers("index")],
            "metric": names["metric"],
            "value": values,
        }
    )
