"""Sentinels: does an edit metric rank edits whose order is known the right way round?

Two extremes need no known truth: the unedited copy, which keeps everything and does nothing, and
an unrelated image, which keeps nothing. Where an over-edit (the change is right, and something
else was lost), an under-edit or the ideal edit is known, these are ranked as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from scorekit.choose import parse_metrics
from scorekit.images import content_key
from scorekit.inputs import identity_of
from scorekit.metric import BaseMetric
from scorekit.run import RunOptions, score_samples
from scorekit.scoring import STATUS_OK
from scorekit.stats import Estimate, summarize
from scorekit.types import ImageLike, InputError, PathLike, Sample, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from scorekit.listing import Listing
    from scorekit.table import ScoreTable

KNOWN = ("ideal", "over", "under", "unedited", "unrelated")
"""Systems of a table that are sentinels; any other system is a given edit."""
COLUMNS = {"ideal_edit": "ideal", "over_edit": "over", "under_edit": "under"}
"""Columns of a table that name the sentinels of a row's edit."""
EDIT = "edit"
PAIRS = (
    *((best, worse) for best in ("ideal", EDIT) for worse in ("unedited", "unrelated")),
    *((best, worse) for best in ("ideal", EDIT) for worse in ("over", "under")),
    ("unedited", "unrelated"),
    ("over", "unrelated"),
)
"""(better, worse): an order that a sensible metric keeps."""
LEANING = ("over", "unedited")
"""Neither is right: above .5 a metric favours modification, below it preservation."""


@dataclass(frozen=True)
class Ranked:
    """How often a metric ranks one sentinel above another.

    Attributes
    ----------
    metric : str
        By its name in the score table; ``metric.part`` for a component.
    better, worse : str
        ``edit``, or one of `KNOWN`.
    accuracy : Estimate
        The share of edits on which `better` is better by the metric's own direction, a tie half;
        with a bootstrap interval by item. Its `n_total` counts the edits that have both.
    wins, ties, losses : int
    """

    metric: str
    better: str
    worse: str
    accuracy: Estimate
    wins: int
    ties: int
    losses: int

    @property
    def unscored(self) -> int:
        """Edits on which the metric has no value for one of the two."""
        return self.accuracy.n_total - self.accuracy.n


@dataclass(frozen=True)
class SentinelReport:
    """What `sentinels` found.

    Attributes
    ----------
    rows : tuple of Ranked
        For each metric, the pairs of `PAIRS` that the set allows, then `LEANING`.
    table : ScoreTable
        The scores behind it; the column system has the sentinel's name, or the edit's system.
    edits : int
        Triples of source, edit and text.
    """

    rows: tuple[Ranked, ...]
    table: ScoreTable
    edits: int

    def __getitem__(self, key: tuple[str, str, str]) -> Ranked:
        """The row of (metric, better, worse)."""
        for row in self.rows:
            if (row.metric, row.better, row.worse) == key:
                return row
        raise KeyError(key)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each metric and pair, with the metric's direction and signature."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "metric": row.metric,
                    "better": row.better,
                    "worse": row.worse,
                    "accuracy": row.accuracy.value,
                    "low": row.accuracy.low,
                    "high": row.accuracy.high,
                    "n": row.accuracy.n,
                    "unscored": row.unscored,
                    "wins": row.wins,
                    "ties": row.ties,
                    "losses": row.losses,
                    "higher_is_better": self.table.metrics[row.metric].higher_is_better,
                    "signature": str(self.table.signatures[row.metric]),
                }
                for row in self.rows
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        frame = self.to_pandas().astype(object)
        rows = frame.where(frame.notna(), None).to_dict("records")
        return {"edits": self.edits, "rows": rows, "run": dict(self.table.run)}


@dataclass
class _Triple:
    """An edit's source and text, with what is known of it."""

    first: Sample
    source: Any
    edits: list[Sample] = field(default_factory=list)
    known: dict[str, ImageLike] = field(default_factory=dict)

    def variants(self) -> Iterator[tuple[str, Sample]]:
        """The edits as they were given, and each sentinel in the place of the first."""
        for edit in self.edits:
            yield EDIT, edit
        for name, image in self.known.items():
            yield name, replace(self.first, image=image, system=name, index=0)

    @property
    def shown(self) -> ImageLike:
        """The image that serves another triple as an unrelated one."""
        return self.known["ideal"] if "ideal" in self.known else self.edits[0].image


def read_set(path: PathLike) -> Listing:
    """Read the triples of a table or folder; sentinels that its columns name become rows.

    Raises
    ------
    UsageError
        If there is nothing to read.
    """
    from scorekit.io import read_samples

    listing = read_samples(path)
    base = Path(path) if Path(path).is_dir() else Path(path).parent

    def located(value: Any) -> Any:
        return os.path.normpath(base / value) if isinstance(value, str) else value

    samples = [
        replace(
            sample,
            meta={k: located(v) if k in COLUMNS else v for k, v in sample.meta.items()},
        )
        for sample in listing.samples
    ]
    # In a folder, these are images without a prompt besides.
    known = {s.meta[k] for s in samples for k in COLUMNS if isinstance(s.meta.get(k), str)}
    edits = [
        s
        for s in samples
        if s.source_image is not None
        or not isinstance(s.image, str)
        or os.path.normpath(s.image) not in known
    ]
    return replace(listing, samples=edits)


def sentinels(
    samples: Sequence[Sample],
    metrics: Sequence[str | BaseMetric] | str | BaseMetric,
    *,
    backbone: str | None = None,
    parts: bool = False,
    seed: int = 0,
    options: RunOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
    record: Mapping[str, Any] | None = None,
) -> SentinelReport:
    """Score each edit beside its sentinels, and count how often they are ranked sensibly.

    Parameters
    ----------
    samples : sequence of Sample
        Edits with `source_image` and `text`; rows that share item, source and text share their
        sentinels. A row whose system is one of `KNOWN` is a sentinel itself; others are named
        in `meta` under ``ideal_edit``, ``over_edit``, ``under_edit``. The unedited copy is the
        source, and the unrelated image that of an edit of another source.
    metrics, backbone, options, progress, record
        As in `scorekit.score_samples`.
    parts : bool
        Rank by the metrics' components too.
    seed : int
        Which unrelated image an edit gets.

    Returns
    -------
    SentinelReport

    Raises
    ------
    UsageError
        If no row has a source image, no row is an edit, all edits have one source, or a metric
        scores a set as a whole.
    """
    if not any(sample.source_image is not None for sample in samples):
        raise UsageError("no row has a source image: sentinels need a column source_image")
    chosen = parse_metrics(metrics, backbone)
    for name, metric in chosen.items():
        # By its class: a mean over all sources and texts (augclip:center=modality) is no ranking,
        # and sentinels leave it as it is.
        if type(metric).scope == "set":
            raise UsageError(f"{name} scores a set as a whole, so its sentinels would change it")
    triples = _triples(samples)
    _add_unrelated(triples, seed)
    variants = [
        (number, name, sample)
        for number, triple in enumerate(triples)
        for name, sample in triple.variants()
    ]
    table = score_samples(
        [sample for _, _, sample in variants],
        list(chosen.values()),
        options=options,
        progress=progress,
        record={**(record or {}), "seed": seed},
    )
    places: dict[str, dict[int, list[int]]] = {}
    for place, (number, name, _) in enumerate(variants):
        places.setdefault(name, {}).setdefault(number, []).append(place)
    items = [triple.first.item for triple in triples]
    rows = [
        _rank(name, pair, _better(table, name), places, items)
        for name, info in table.metrics.items()
        if info.headline or parts
        for pair in (*PAIRS, LEANING)
        if all(side in places for side in pair)
    ]
    return SentinelReport(tuple(rows), table, sum(max(1, len(t.edits)) for t in triples))


def _triples(samples: Sequence[Sample]) -> list[_Triple]:
    found: dict[Any, _Triple] = {}
    contents: dict[Any, Any] = {}
    for sample in samples:
        source = _source_of(sample, contents)
        triple = found.setdefault((sample.item, source, sample.text), _Triple(sample, source))
        if sample.system in KNOWN:
            triple.known[sample.system] = sample.image
        elif sample.image is not None:
            triple.edits.append(sample)
        for column, name in COLUMNS.items():
            if sample.meta.get(column) is not None:
                triple.known[name] = sample.meta[column]
    triples = [triple for triple in found.values() if triple.edits or "ideal" in triple.known]
    if not triples:
        raise UsageError(
            "no row is an edit: every system is a sentinel, and none of them is ideal "
            "(or there is no column ideal_edit)"
        )
    for triple in triples:
        triple.known.setdefault("unedited", triple.first.source_image)
    return triples


def _source_of(sample: Sample, contents: dict[Any, Any]) -> Any:
    """The content of a source image: each system may have a copy of its own."""
    identity = identity_of(sample.source_image)
    if identity not in contents:
        try:
            contents[identity] = content_key(sample.source_image)
        except InputError:  # its rows will say so
            contents[identity] = identity
    return contents[identity]


def _add_unrelated(triples: Sequence[_Triple], seed: int) -> None:
    """Give each triple an image of another source, where it has no unrelated one."""
    groups: dict[Any, list[_Triple]] = {}
    for triple in triples:
        groups.setdefault(triple.source, []).append(triple)
    if len(groups) < 2:
        if all("unrelated" in triple.known for triple in triples):
            return
        raise UsageError(
            "all edits have one source: an unrelated image is an edit of another source, so two "
            "sources are the least"
        )
    by_source = list(groups.values())
    order = np.random.default_rng(seed).permutation(len(by_source))
    # Along one circle through all sources, no source meets itself.
    for here, there in zip(order, np.roll(order, -1), strict=True):
        others = by_source[there]
        for i, triple in enumerate(by_source[here]):
            triple.known.setdefault("unrelated", others[i % len(others)].shown)


def _better(table: ScoreTable, metric: str) -> npt.NDArray[np.float64]:
    """Scores in the order of the rows, the better the higher; NaN where there is none."""
    rows = table.frame[table.frame["metric"] == metric]
    values = rows["value"].to_numpy(dtype=float)
    values = np.where(rows["status"] == STATUS_OK, values, np.nan)
    return values if table.metrics[metric].higher_is_better else -values


def _rank(
    metric: str,
    pair: tuple[str, str],
    values: npt.NDArray[np.float64],
    places: Mapping[str, Mapping[int, Sequence[int]]],
    items: Sequence[str],
) -> Ranked:
    """Compare two sentinels on every triple that has both."""
    better, worse = (places[side] for side in pair)
    both = [
        (number, a, b)
        for number in better
        if number in worse
        for a in better[number]
        for b in worse[number]
    ]
    one, two = (values[[each[k] for each in both]] for k in (1, 2))
    scored = ~np.isnan(one) & ~np.isnan(two)
    one, two = one[scored], two[scored]
    hits = (one > two) + 0.5 * (one == two)
    clusters = np.array([items[number] for number, _, _ in both], dtype=str)[scored]
    return Ranked(
        metric,
        *pair,
        accuracy=summarize(hits, clusters, n_total=len(both)),
        wins=int((one > two).sum()),
        ties=int((one == two).sum()),
        losses=int((one < two).sum()),
    )
