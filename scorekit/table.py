"""ScoreTable: tidy rows with their signatures and the record of the run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from scorekit import remote
from scorekit.stats import Estimate, PairedComparison, compare_paired, summarize
from scorekit.table_files import (
    SAFE,
    header_text,
    read_rows,
    separator,
    write_parquet,
    write_text,
)
from scorekit.types import PathLike, Signature, UsageError
from scorekit.whole_files import replace_file, replace_files

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("system", "item", "index", "image", "text", "metric", "value", "status", "note")
EVIDENCE = "evidence"
"""A column of JSON that a table has where a metric says what its scores rest on."""
SOURCE = ("source_image", "source_text")
"""Columns that a table of edits has besides."""
KEY = ["system", "item", "index"]
FORMAT = 1
BESIDE = ".json"


@dataclass(frozen=True)
class MetricInfo:
    """What a reader of a table needs to know of one of its metrics.

    Attributes
    ----------
    signature : Signature
    higher_is_better : bool
    headline : bool
        False for a component, such as ``retrieval.rank``.
    aggregate : str
        How it is summed up: ``mean`` or ``median``.
    """

    signature: Signature
    higher_is_better: bool
    headline: bool = True
    aggregate: str = "mean"


@dataclass(frozen=True)
class ScoreTable:
    """Scores of a run.

    Attributes
    ----------
    frame : pandas.DataFrame
        One row for each image and metric: system, item, index, image, text, metric, value
        (float64, null where `status` is not ``ok``), status, note, source_image and source_text
        (where there are sources), evidence (JSON, where a metric gives any), and the columns of
        the prompts file that scorekit has no use for.
    metrics : mapping of str to MetricInfo
        By the name in the column `metric`.
    run : mapping
        Arguments, versions, device, counts, times: JSON values.
    """

    frame: pd.DataFrame
    metrics: Mapping[str, MetricInfo]
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def signatures(self) -> dict[str, Signature]:
        """Signatures by metric."""
        return {name: info.signature for name, info in self.metrics.items()}

    @property
    def systems(self) -> list[str]:
        """Systems in the order of their first row."""
        return list(dict.fromkeys(self.frame["system"]))

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a DataFrame of their own."""
        return self.frame.copy()

    def __len__(self) -> int:
        return len(self.frame)

    def scores(self, metric: str) -> np.ndarray[Any, Any]:
        """Values of a metric in the order of the rows, NaN where there is none.

        Raises
        ------
        UsageError
            If the table has no such metric.
        """
        return np.asarray(self._rows(metric)["value"].to_numpy(dtype=float, na_value=np.nan))

    def mean(self, metric: str, system: str | None = None) -> Estimate:
        """Mean of a metric with its 95% bootstrap interval, clustered by item.

        Raises
        ------
        UsageError
            If the table has no such metric or system.
        """
        rows = self._rows(metric)
        if system is not None:
            rows = rows[rows["system"] == system]
            if rows.empty:
                raise UsageError(f"no system {system!r}; there are {', '.join(self.systems)}")
        scored = rows[rows["status"] == "ok"]
        return self._estimate(
            metric,
            scored["value"].to_numpy(dtype=float),
            scored["item"].to_numpy(dtype=str),
            len(rows),
        )

    def summary(self, *, headlines: bool = False) -> Iterator[tuple[str, str, Estimate]]:
        """(metric, system, estimate) for every metric and system, in table order.

        Parameters
        ----------
        headlines : bool
            Leave out the metrics' components.

        Raises
        ------
        UsageError
            If a system has no row of a metric.
        """
        systems = self.systems
        for metric, info in self.metrics.items():
            if headlines and not info.headline:
                continue
            # The rows are grouped once, since there may be thousands of systems.
            rows = self._rows(metric)
            totals = rows.groupby("system", sort=False).size()
            scored = rows[rows["status"] == "ok"]
            places = scored.groupby("system", sort=False).indices
            values = scored["value"].to_numpy(dtype=float)
            items = scored["item"].to_numpy(dtype=str)
            n_totals = dict(zip(totals.index, totals.tolist(), strict=True))
            for system in systems:
                if system not in n_totals:
                    raise UsageError(f"no row of system {system!r} and metric {metric}")
                at = places.get(system, [])
                yield (
                    metric,
                    system,
                    self._estimate(metric, values[at], items[at], n_totals[system]),
                )

    def failures(self) -> pd.DataFrame:
        """Rows that were not scored."""
        return self.frame[self.frame["status"] != "ok"]

    def partial_failures(self) -> pd.DataFrame:
        """Those of components alone: the row's headline has a value (a row without a mask)."""
        failures = self.failures()
        row = self.frame.groupby("metric").cumcount()[failures.index]
        failed = set(zip(failures["metric"], row, strict=True))
        alone = [
            not self.metrics[name].headline and (name.rpartition(".")[0], at) not in failed
            for name, at in zip(failures["metric"], row, strict=True)
        ]
        return failures[np.array(alone, dtype=bool)]

    def compare(self, other: ScoreTable, metric: str) -> PairedComparison:
        """Compare with another table on the rows that both scored.

        Raises
        ------
        UsageError
            If the signatures differ, or no row was scored by both.
        """
        mine, theirs = self._info(metric).signature, other._info(metric).signature
        if different := recipe_differences(mine, theirs):
            raise UsageError(
                f"{metric} can't be compared, the signatures differ in {'; '.join(different)}"
            )
        return _compare_rows(self._rows(metric), other._rows(metric), KEY, metric)

    def compare_systems(self, a: str, b: str, metric: str) -> PairedComparison:
        """Compare two systems on the items that both scored.

        Raises
        ------
        UsageError
            If there is no such metric or system, or they share no item.
        """
        rows = self._rows(metric)
        for system in (a, b):
            if system not in self.systems:
                raise UsageError(f"no system {system!r}; there are {', '.join(self.systems)}")
        return _compare_rows(
            rows[rows["system"] == a], rows[rows["system"] == b], ["item", "index"], metric
        )

    def save(self, path: PathLike, *, spreadsheet_safe: bool = False) -> PathLike:
        """Write the table whole or not at all: to a temporary file, then renamed or uploaded.

        ``.parquet`` holds signatures and run record in its metadata; ``.csv`` and ``.tsv``
        have them in a JSON file beside (``scores.csv.json``). The path may be a URL, see
        `scorekit.remote`.

        Parameters
        ----------
        path : path
        spreadsheet_safe : bool
            For ``.csv`` and ``.tsv``: texts that a spreadsheet would take for formulas get an
            apostrophe before them, which `load` takes away again.

        Raises
        ------
        UsageError
            If the suffix is none of these, or the table can't be written there.
        """
        place = remote.located(path)
        target: PathLike = place if remote.is_url(place) else Path(place)
        _check_suffix(target)
        if spreadsheet_safe:
            check_delimited(target)
        try:
            if isinstance(target, str):
                self._upload(target, spreadsheet_safe)
            else:
                check_folder(target)
                self._save(target, spreadsheet_safe)
        except OSError as error:
            raise UsageError(f"can't write {target}: {error.strerror or error}") from error
        return target

    def _upload(self, url: str, spreadsheet_safe: bool) -> None:
        with tempfile.TemporaryDirectory(prefix="scorekit-") as folder:
            copy = Path(folder, PurePosixPath(url).name)
            self._save(copy, spreadsheet_safe)
            if (beside := sidecar(copy)).exists():  # first, as in `_save`
                remote.write(url + BESIDE, beside.read_bytes())
            remote.write(url, copy.read_bytes())

    def _save(self, target: Path, spreadsheet_safe: bool) -> None:
        header = self._header()
        if target.suffix == ".parquet":
            known = [c for c in COLUMNS if c in self.frame.columns]
            replace_file(target, lambda p: write_parquet(self.frame, p, known, header))
            return
        if spreadsheet_safe:
            header[SAFE] = True
        # The sidecar first: a table without its signatures must never be seen.
        about = header_text(header, indent=1)
        replace_files(
            {
                sidecar(target): lambda p: p.write_text(about, "utf-8"),
                target: lambda p: write_text(self.frame, p, separator(target), header),
            }
        )

    @classmethod
    def load(cls, path: PathLike) -> ScoreTable:
        """Read a table that `save` wrote; the path may be a URL.

        Raises
        ------
        UsageError
            If the file is missing, or no score table.
        """
        place = remote.located(path)
        if remote.is_url(place):
            return cls._download(place)
        source = Path(place)
        if not source.is_file():
            raise UsageError(f"no table {source}")
        try:
            frame, header = read_rows(source, sidecar(source), COLUMNS)
            metrics = {
                name: MetricInfo(Signature.parse(info.pop("signature")), **info)
                for name, info in header["metrics"].items()
            }
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{source} is no score table ({type(error).__name__}: {error})"
            ) from None
        return cls(frame, metrics, header["run"])

    @classmethod
    def _download(cls, url: str) -> ScoreTable:
        try:
            with remote.fetched(url, *([] if url.endswith(".parquet") else [BESIDE])) as copy:
                return cls.load(copy)
        except FileNotFoundError:
            raise UsageError(f"no table {url}") from None
        except OSError as error:
            raise UsageError(f"can't read {url}: {error.strerror}") from None

    def _estimate(
        self,
        metric: str,
        values: np.ndarray[Any, Any],
        items: np.ndarray[Any, Any],
        n_total: int,
    ) -> Estimate:
        median = self.metrics[metric].aggregate == "median"
        return summarize(values, items, n_total=n_total, statistic="median" if median else "mean")

    def _rows(self, metric: str) -> pd.DataFrame:
        self._info(metric)
        return self.frame[self.frame["metric"] == metric]

    def _info(self, metric: str) -> MetricInfo:
        if metric not in self.metrics:
            raise UsageError(f"no metric {metric!r} in the table; it has {', '.join(self.metrics)}")
        return self.metrics[metric]

    def _header(self) -> dict[str, Any]:
        metrics = {
            name: {**vars(info), "signature": str(info.signature)}
            for name, info in self.metrics.items()
        }
        return {"format": FORMAT, "metrics": metrics, "run": self.run}


def recipe_differences(a: Signature, b: Signature) -> list[str]:
    """What makes two signatures incomparable.

    Counts in parentheses, such as the texts cut in ``trunc:77(n=3)``, tell of the data and
    not of the recipe, and are left out.

    Examples
    --------
    >>> a, b = (Signature.parse(f"clipscore|scale:2.5|trunc:77(n={n})|v:1") for n in (0, 3))
    >>> recipe_differences(a, b)
    []
    """
    return _without_counts(a).differences(_without_counts(b))


def check_writable(path: PathLike) -> None:
    """Refuse a target that a long run could not be written to at its end.

    Raises
    ------
    UsageError
        If the suffix is unknown, or the folder is missing or not writable.
    """
    place = remote.located(path)
    _check_suffix(place)
    if remote.is_url(place):
        remote.check_writable(place)
    else:
        check_folder(Path(place))


def _check_suffix(path: PathLike) -> None:
    file = PurePosixPath(path)
    if file.suffix not in (".parquet", ".csv", ".tsv"):
        raise UsageError(f"a table is written as .parquet, .csv or .tsv, not {file.name!r}")


def check_delimited(path: PathLike) -> None:
    """Refuse a file that no spreadsheet opens as text, where its cells must be safe there.

    Raises
    ------
    UsageError
        If it is neither .csv nor .tsv.
    """
    file = PurePosixPath(path)
    if file.suffix not in (".csv", ".tsv"):
        found = f"not {file.name!r}" if file.name else "and none was asked for"
        raise UsageError(f"spreadsheet-safe texts go into a file of .csv or .tsv, {found}")


def check_folder(path: Path) -> None:
    """Refuse a file that could not be written, whatever its suffix.

    Raises
    ------
    UsageError
        If it is a folder or a URL, or its own folder is missing or not writable.
    """
    if remote.is_url(place := remote.located(path)):
        raise UsageError(f"only tables of scores are written to a store, not {place}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder")
    parent = path.parent
    if not parent.is_dir():
        raise UsageError(f"no folder {parent} to write {path.name} into")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"the folder {parent} can't be written")


def _without_counts(signature: Signature) -> Signature:
    pairs = tuple(
        (k, v.partition("(n=")[0] if k in ("trunc", "window", "limit") else v)
        for k, v in signature.pairs
    )
    return Signature(signature.metric, pairs)


def _compare_rows(
    a: pd.DataFrame, b: pd.DataFrame, key: list[str], metric: str
) -> PairedComparison:
    left, right = (t.loc[t["status"] == "ok", [*key, "value"]] for t in (a, b))
    for side in (left, right):
        if side.duplicated(key).any():
            row = side[side.duplicated(key)].iloc[0]
            raise UsageError(f"several rows have the same key: {dict(row[key])}")
    both = left.merge(right, on=key, suffixes=("_a", "_b"))
    if both.empty:
        raise UsageError(f"no row was scored on {metric} by both")
    return compare_paired(
        both["value_a"].to_numpy(dtype=float),
        both["value_b"].to_numpy(dtype=float),
        both["item"].to_numpy(dtype=str),
    )


def sidecar(path: Path) -> Path:
    """The JSON file beside a CSV or TSV table."""
    return path.with_name(path.name + BESIDE)
