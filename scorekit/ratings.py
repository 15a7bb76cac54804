"""RatingSet: what people said of images, of any published set, in one form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from scorekit.table import KEY
from scorekit.types import PathLike, UsageError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["ratings", "labels", "groups", "preferences"]
ScaleKind = Literal["ordinal", "interval", "binary", "preference"]

RATING_COLUMNS = (*KEY, "rater", "dimension", "value")
GROUP_COLUMNS = ("caption", "picture")
PREFERENCE_COLUMNS = (
    "item", "system_a", "index_a", "system_b", "index_b", "rater", "dimension", "choice",
)  # fmt: skip
SCORE_COLUMNS = (*KEY, "metric", "value")
CHOICES = ("a", "b", "tie")
NO_TAGS = (
    "box",
    "text", "image", "source_image", "source_text", "references", "reference_images", "mask",
)  # fmt: skip
"""Columns of the samples with a meaning of their own; all others are tags."""
_MISSING = ("", "nan", "none", "null", "n/a", "na")


@dataclass(frozen=True, slots=True)
class Scale:
    """The values that a rating can have.

    Attributes
    ----------
    low, high : float
        Worst and best.
    kind : str
        ``ordinal`` (a Likert scale), ``interval`` (a mean of ratings, a slider), ``binary`` (1 is
        right), ``preference`` (a, b or tie; low and high mean nothing).
    """

    low: float
    high: float
    kind: ScaleKind = "ordinal"


class RaterMatrix(NamedTuple):
    """Ratings of one dimension, a row a rater: what agreement statistics take."""

    values: np.ndarray[Any, Any]
    """Shape (raters, cells), NaN where a rater gave none."""
    raters: tuple[str, ...]
    cells: pd.DataFrame
    """system, item and index of each column of `values`."""


@dataclass(frozen=True)
class RatingSet:
    """What people said of images: ratings, labels, groups or preferences.

    Attributes
    ----------
    name : str
    kind : str
        ``ratings`` (on a scale), ``labels`` (right or wrong), ``groups`` (captions and pictures of
        which some belong together, as in Winoground), ``preferences`` (of two images or texts).
    frame : pandas.DataFrame
        Of `ratings`, `labels` and `groups`: system, item, index, rater, dimension, value
        (float64, NaN where a rater gave none); of groups, caption and picture as well, the numbers
        of the cell within its item, value 1 where the two belong together. Of `preferences`: item,
        system_a, index_a, system_b, index_b, rater, dimension, choice (``a``, ``b``, ``tie``).
    samples : pandas.DataFrame
        What was rated: system, item, index, and where known text, image (as the source names it),
        references and the like (lists), and tags: a row for each key.
    scales : mapping of str to Scale
        By dimension.
    pooling : str
        Whether the set's own papers correlate with the ``mean`` of the raters or count ``each``
        rating as a row.
    source, licence, citation : str
    notes : tuple of str
        What the reader left out or changed, with counts.
    scores : pandas.DataFrame or None
        Scores of metrics that the files carry: system, item, index, metric, value (NaN where
        there is none).
    lower_is_better : tuple of str
        The metrics of `scores` of which that is true.

    Raises
    ------
    UsageError
        If a key is there twice, a pair there in both orders, or a value off its scale.
    """

    name: str
    kind: Kind
    frame: pd.DataFrame
    samples: pd.DataFrame
    scales: Mapping[str, Scale] = field(default_factory=dict)
    pooling: Literal["mean", "each"] = "mean"
    source: str = ""
    licence: str = ""
    citation: str = ""
    notes: tuple[str, ...] = ()
    scores: pd.DataFrame | None = None
    lower_is_better: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"{self.name}: kind is one of {', '.join(get_args(Kind))}")
        _refuse_twice(self.samples, KEY, f"{self.name}: samples")
        if self.scores is not None:
            _refuse_twice(self.scores, [*KEY, "metric"], f"{self.name}: scores")
        if self.kind == "preferences":
            _check_preferences(self.frame, self.name)
        else:
            _refuse_twice(self.frame, [*KEY, "rater", "dimension"], f"{self.name}: ratings")
            _check_values(self.frame, self.scales, self.name)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def dimensions(self) -> list[str]:
        """Dimensions in the order of their first row."""
        return list(dict.fromkeys(self.frame["dimension"]))

    @property
    def tags(self) -> list[str]:
        """Columns of the samples that a result may be broken down by."""
        return [c for c in self.samples.columns if c not in (*KEY, *NO_TAGS)]

    @property
    def n_missing(self) -> int:
        """Rows whose value is missing."""
        return 0 if self.kind == "preferences" else int(self.frame["value"].isna().sum())

    def ratings(self, dimension: str | None = None) -> pd.DataFrame:
        """Rows of one dimension, missing values left out.

        Parameters
        ----------
        dimension : str, optional
            May be left out where there is only one.

        Raises
        ------
        UsageError
            If there is no such dimension, or several and none was named.
        """
        rows = self.frame[self.frame["dimension"] == self._dimension(dimension)]
        return rows if self.kind == "preferences" else rows[rows["value"].notna()]

    def mean(self, dimension: str | None = None) -> pd.DataFrame:
        """Mean of the raters: system, item, index, value, n (raters), a row for each rated key."""
        grouped = self._values(dimension).groupby(KEY, sort=False, observed=True)["value"]
        return grouped.agg(value="mean", n="count").reset_index()

    def matrix(self, dimension: str | None = None) -> RaterMatrix:
        """Ratings as a matrix of raters and cells."""
        rows = self._values(dimension)
        cells = rows[KEY].drop_duplicates(ignore_index=True)
        raters = tuple(dict.fromkeys(rows["rater"]))
        values = np.full((len(raters), len(cells)), np.nan)
        place = {key: i for i, key in enumerate(cells.itertuples(index=False, name=None))}
        columns = [place[key] for key in rows[KEY].itertuples(index=False, name=None)]
        number = {rater: i for i, rater in enumerate(raters)}
        values[[number[r] for r in rows["rater"]], columns] = rows["value"]
        return RaterMatrix(values, raters, cells)

    def aligned(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Scores of this set's samples: system, item, index, metric, value, no other rows.

        Parameters
        ----------
        scores : pandas.DataFrame
            system, item, metric, value, and index where there is one (else 0). A null value is
            unscored.

        Raises
        ------
        UsageError
            If a column is missing, a key is there twice, system and item seem to have changed
            places, or no key is one of this set's.
        """
        table = _as_scores(scores, "the scores")
        ours = set(self._keys().itertuples(index=False, name=None))
        theirs = list(table[KEY].itertuples(index=False, name=None))
        known = np.array([key in ours for key in theirs], dtype=bool)
        swapped = [
            key
            for key, ok in zip(theirs, known, strict=True)
            if not ok and (key[1], key[0], key[2]) in ours
        ]
        if swapped:
            raise UsageError(
                f"{len(swapped)} rows of the scores have system and item in each other's place "
                f"(system {swapped[0][0]!r}, item {swapped[0][1]!r})"
            )
        if not known.any():
            mine, other = next(iter(ours), None), theirs[0] if theirs else None
            raise UsageError(
                f"no row of the scores is of {self.name}: its keys are like {mine}, theirs {other}"
            )
        return table[known].reset_index(drop=True)

    def save(self, path: PathLike, *, spreadsheet_safe: bool = False) -> Path:
        """Write one flat table, whole or not at all: a row a rating, with its sample's columns.

        ``.parquet`` holds scales, licence and the rest in its metadata; ``.csv`` and ``.tsv`` in
        a JSON file beside. `scores` are not written: they are a table of their own. For
        `spreadsheet_safe` see `ScoreTable.save`.

        Raises
        ------
        UsageError
            If the suffix is none of these, or the table can't be written there.
        """
        from scorekit.rating_files import save

        return save(self, Path(path), spreadsheet_safe=spreadsheet_safe)

    @classmethod
    def load(cls, path: PathLike) -> RatingSet:
        """Read a file that `save` wrote, or any table (CSV, TSV, JSONL, Parquet) of ratings.

        The least that a table needs is ``item`` and ``value``, or of preferences ``item``,
        ``system_a``, ``system_b`` and ``choice``; where nothing says more, there is one system,
        one rater, one dimension ``rating``, and the scale is that of the values.

        Raises
        ------
        UsageError
            If the file is missing, or no table of ratings.
        """
        from scorekit.rating_files import load

        return load(Path(path))

    def _dimension(self, dimension: str | None) -> str:
        known = self.dimensions
        if dimension is None and len(known) == 1:
            return known[0]
        if dimension not in known:
            asked = "name a dimension" if dimension is None else f"no dimension {dimension!r}"
            raise UsageError(f"{self.name}: {asked}; there are {', '.join(known)}")
        return dimension

    def _values(self, dimension: str | None) -> pd.DataFrame:
        if self.kind == "preferences":
            raise UsageError(f"{self.name} has preferences, not ratings of single images")
        return self.ratings(dimension)

    def _keys(self) -> pd.DataFrame:
        if self.kind != "preferences":
            return self.frame[KEY]
        return concatenated([side_of(self.frame, "a"), side_of(self.frame, "b")])[KEY]


# Making a set -------------------------------------------------------------------------------


def rating_set(
    rows: Iterable[Mapping[str, Any]] | pd.DataFrame,
    samples: Iterable[Mapping[str, Any]] | pd.DataFrame = (),
    *,
    name: str = "ratings",
    kind: Kind = "ratings",
    scores: Iterable[Mapping[str, Any]] | pd.DataFrame | None = None,
    **about: Any,
) -> RatingSet:
    """A RatingSet from rows, with what they lack filled in.

    Parameters
    ----------
    rows : rows or DataFrame
        With the columns of `RatingSet.frame`; system, index, rater and dimension may be left
        out. A value is a number or None.
    samples : rows or DataFrame
        With item, and system and index as the rows have them. Rated keys without a sample get
        an empty one.
    name, kind, scores, **about
        As in `RatingSet`.

    Raises
    ------
    UsageError
        As `RatingSet` does.
    """
    defaults = {"system": "", "index": 0, "rater": "", "dimension": "rating"}
    if kind == "preferences":
        defaults = {"index_a": 0, "index_b": 0, "rater": "", "dimension": "preference"}
        wanted = list(PREFERENCE_COLUMNS)
    else:
        wanted = [*RATING_COLUMNS, *(GROUP_COLUMNS if kind == "groups" else ())]
    frame = _filled(_frame(rows, wanted), defaults, wanted, name)
    if kind != "preferences":
        frame["value"] = frame["value"].astype("float64")
    more = {"system": "", "index": 0}
    given = _filled(_frame(samples, KEY), more, KEY, f"{name}: samples")
    keys = (
        frame[KEY]
        if kind != "preferences"
        else concatenated([side_of(frame, s) for s in "ab"])[KEY]
    )
    keys = keys.drop_duplicates(ignore_index=True)
    if len(given):
        both = set(given[KEY].itertuples(index=False, name=None))
        lacking = [key not in both for key in keys.itertuples(index=False, name=None)]
        given = concatenated([given, keys[lacking]]) if any(lacking) else given
    else:
        given = keys
    if scores is not None:
        scores = _as_scores(_frame(scores, SCORE_COLUMNS), f"{name}: scores")
    wanted_only = frame[wanted].reset_index(drop=True)
    return RatingSet(name, kind, wanted_only, given, scores=scores, **about)


def pairs_of_ranks(
    item: str, ranks: Mapping[str, float], *, rater: str = "", dimension: str = "preference"
) -> list[dict[str, Any]]:
    """Preferences of every two systems of one item from a rater's ranks, 1 the best.

    Examples
    --------
    >>> [row["choice"] for row in pairs_of_ranks("1", {"x": 1, "y": 2, "z": 2})]
    ['a', 'a', 'tie']
    """
    names = list(ranks)
    rows = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            choice = "tie" if ranks[a] == ranks[b] else "a" if ranks[a] < ranks[b] else "b"
            rows.append(
                {
                    "item": item,
                    "system_a": a,
                    "system_b": b,
                    "rater": rater,
                    "dimension": dimension,
                    "choice": choice,
                }
            )
    return rows


def number(cell: Any, where: str) -> float:
    """A cell as a number; NaN where it is empty, null or a word for that.

    Raises
    ------
    UsageError
        If it is anything else.

    Examples
    --------
    >>> number("0.5", "line 2"), number("NaN", "line 3")
    (0.5, nan)
    """
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _MISSING):
        return math.nan
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{where}: {str(cell)[:40]!r} is no number") from None
    if math.isinf(value):
        raise UsageError(f"{where}: the value is infinite")
    return value


# Checks -------------------------------------------------------------------------------------


def _frame(rows: Any, columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows if isinstance(rows, pd.DataFrame) else list(rows))
    return frame if len(frame.columns) else pd.DataFrame(columns=list(columns))


def _refuse_twice(frame: pd.DataFrame, key: Sequence[str], what: str) -> None:
    twice = frame.duplicated(list(key))
    if twice.any():
        first = _shown(frame.loc[twice, list(key)].iloc[0])
        raise UsageError(f"{what}: {int(twice.sum())} keys are there twice, first {first}")


def _shown(key: pd.Series[Any]) -> str:
    values = (value.item() if isinstance(value, np.generic) else value for value in key)
    return ", ".join(f"{name} {value!r}" for name, value in zip(key.index, values, strict=True))


def _check_values(frame: pd.DataFrame, scales: Mapping[str, Scale], name: str) -> None:
    for dimension, scale in scales.items():
        rows = frame[frame["dimension"] == dimension]
        off = rows[(rows["value"] < scale.low) | (rows["value"] > scale.high)]
        if len(off):
            first = off.iloc[0]
            raise UsageError(
                f"{name}: {len(off)} values of {dimension} are off the scale {scale.low:g} to "
                f"{scale.high:g}, first {first['value']:g} of {_shown(first[KEY])}"
            )


def _check_preferences(frame: pd.DataFrame, name: str) -> None:
    odd = frame[~frame["choice"].isin(CHOICES)]
    if len(odd):
        raise UsageError(
            f"{name}: choice is one of {', '.join(CHOICES)}, not {odd.iloc[0]['choice']!r}"
        )
    a, b = (list(side_of(frame, s)[KEY].itertuples(index=False, name=None)) for s in "ab")
    by = zip(frame["rater"], frame["dimension"], strict=True)
    seen: dict[tuple[Any, ...], bool] = {}
    for first, second, who in zip(a, b, by, strict=True):
        if first == second:
            raise UsageError(f"{name}: {first} is compared with itself")
        key = (*sorted((first, second)), *who)
        order = first < second
        if key in seen:
            how = "there twice" if seen[key] == order else "there in both orders"
            raise UsageError(f"{name}: the pair {first}, {second} is {how} (rater {who[0]!r})")
        seen[key] = order


def _as_scores(scores: pd.DataFrame, what: str) -> pd.DataFrame:
    table = _filled(scores.copy(), {"index": 0}, list(SCORE_COLUMNS), what)
    table["value"] = table["value"].astype("float64")
    _refuse_twice(table, [*KEY, "metric"], what)
    return table[list(SCORE_COLUMNS)].reset_index(drop=True)


def _filled(
    frame: pd.DataFrame, defaults: Mapping[str, Any], wanted: Sequence[str], what: str
) -> pd.DataFrame:
    """The frame with default columns, names as strings and indices as integers."""
    frame = frame.copy()
    for column in wanted:
        if column not in frame.columns:
            if column not in defaults:
                has = ", ".join(map(str, frame.columns))
                raise UsageError(f"{what}: no column {column}; it has {has}")
            frame[column] = defaults[column]
    for column in [c for c in wanted if c != "value"]:
        lacking = frame[column].isna()
        if lacking.any() and column not in defaults:
            raise UsageError(f"{what}: {column} is empty in {int(lacking.sum())} rows")
        whole = column.startswith("index") or column in GROUP_COLUMNS
        filled = frame[column].where(~lacking, defaults.get(column))
        try:
            frame[column] = filled.astype("int64" if whole else "str")
        except (TypeError, ValueError, OverflowError):
            kind = "whole numbers" if whole else "texts"
            raise UsageError(f"{what}: the column {column} must hold {kind}") from None
    return frame


def side_of(frame: pd.DataFrame, side: str) -> pd.DataFrame:
    """The samples of one side (``a`` or ``b``) of preferences, under their own names."""
    names = {c: c[: -len(side) - 1] for c in frame.columns if c.endswith(f"_{side}")}
    return frame[["item", *names]].rename(columns=names)


def concatenated(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Frames one below the other, with new row numbers."""
    import pandas as pd

    return pd.concat(frames, ignore_index=True)
