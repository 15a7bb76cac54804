"""Meta-evaluation: how far each metric agrees with people, on every dimension they rated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from scorekit.correlation import STATISTICS
from scorekit.grouping import Scheme, correlate_grouped
from scorekit.joined import Joined, MetricScores, chosen_metrics, join
from scorekit.stats import CONFIDENCE
from scorekit.ties import pairwise_accuracy
from scorekit.types import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from scorekit.ratings import RatingSet

PAIRWISE = "pairwise_accuracy"
OF_RATINGS = (*STATISTICS, PAIRWISE)
"""Statistics of ratings and labels."""
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "ordinal": ("pearson", "spearman", "kendall_tau_b", "kendall_tau_c", PAIRWISE),
    "interval": ("pearson", "spearman", "kendall_tau_b", "kendall_tau_c", PAIRWISE),
    "binary": ("auroc", "average_precision"),
}


@dataclass(frozen=True)
class MetaOptions:
    """What a meta-evaluation computes, and on which rows.

    Attributes
    ----------
    statistics : tuple of str
        Those of `OF_RATINGS`; empty for what the scale of the ratings asks for.
    dimensions, metrics, by : tuple of str
        Dimensions and metrics, empty for all; tags to break the results down by.
    scheme : Scheme
        Level, grouping, and how groups are averaged.
    own_rows : bool
        Each metric on all the rows that it scored, in place of those that all metrics scored.
    n_resamples : int
        Of the bootstrap by item; 0 gives no intervals.
    confidence, seed
        Of the intervals.
    """

    statistics: tuple[str, ...] = ()
    dimensions: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    scheme: Scheme = field(default_factory=Scheme)
    own_rows: bool = False
    n_resamples: int = 1000
    confidence: float = CONFIDENCE
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.statistics:
            if name not in OF_RATINGS:
                raise UsageError(f"no statistic {name!r}; there are {', '.join(OF_RATINGS)}")


@dataclass(frozen=True)
class MetaResult:
    """One statistic of one metric on one dimension.

    Attributes
    ----------
    metric, dimension, statistic : str
    tag, skill : str
        The tag that results are broken down by and its value here, empty for all rows.
    level, grouping, average : str
        As in `scorekit.grouping.Scheme`.
    value, low, high : float or None
        With its interval; of a metric of which lower is better, the sign is turned (`flipped`).
    random : float or None
        What a metric that knows nothing is expected to reach.
    eps : float or None
        Of `pairwise_accuracy`: differences up to it are ties.
    held_out : float or None
        Of `pairwise_accuracy`: with eps fitted on the other half of the items.
    n, n_items, n_systems : int
        Rows that went in, and the items and systems that they are of.
    n_unscored : int
        Rated rows that this metric did not score.
    n_groups, n_undefined : int
        Groups with a value, and without one.
    flipped : bool
    reason : str
        Why there is no value, or which groups have none.
    """

    metric: str
    dimension: str
    statistic: str
    tag: str
    skill: str
    level: str
    grouping: str
    average: str
    value: float | None
    low: float | None
    high: float | None
    random: float | None
    eps: float | None
    held_out: float | None
    n: int
    n_items: int
    n_systems: int
    n_unscored: int
    n_groups: int
    n_undefined: int
    flipped: bool
    reason: str


def results_frame(results: Sequence[MetaResult]) -> pd.DataFrame:
    """Results as rows."""
    import pandas as pd

    columns = [f.name for f in fields(MetaResult)]
    frame = pd.DataFrame([asdict(result) for result in results], columns=columns)
    numbers = ["value", "low", "high", "random", "eps", "held_out"]
    return frame.astype(dict.fromkeys(numbers, "float64"))


def joined_by_dimension(
    scores: MetricScores, ratings: RatingSet, options: MetaOptions
) -> dict[str, Joined]:
    """Every dimension's cells with the scores.

    Raises
    ------
    UsageError
        If a dimension, metric or tag is unknown, or no row was scored by all metrics.
    """
    for name in options.dimensions:
        if name not in ratings.dimensions:
            known = ", ".join(ratings.dimensions)
            raise UsageError(f"{ratings.name} has no dimension {name!r}; it has {known}")
    check_tags(ratings, options)
    metrics = chosen_metrics(scores, options.metrics)
    return {
        dimension: join(scores, ratings, dimension, metrics)
        for dimension in options.dimensions or ratings.dimensions
    }


def check_tags(ratings: RatingSet, options: MetaOptions) -> None:
    """Refuse a tag that the samples don't have.

    Raises
    ------
    UsageError
    """
    for name in options.by:
        if name not in ratings.tags:
            known = ", ".join(ratings.tags) or "none"
            raise UsageError(f"{ratings.name} has no tag {name!r}; it has {known}")


def evaluate(
    joined: Joined,
    options: MetaOptions = MetaOptions(),
    *,
    scale: str = "ordinal",
) -> Iterator[MetaResult]:
    """All statistics of all metrics on one dimension, whole and by tag.

    Parameters
    ----------
    joined : Joined
    options : MetaOptions
    scale : str
        Kind of the ratings' scale (`scorekit.ratings.Scale`): it chooses the statistics where
        the options name none.

    Raises
    ------
    UsageError
        If the metrics have no row in common.
    """
    rows = comparable(joined, options)
    statistics = options.statistics or DEFAULTS[scale]
    yield from _evaluate(joined, rows, statistics, options, "", "")
    for tag in options.by:
        for skill, part in by_skill(joined.tags[tag]):
            within = joined.only(part)
            yield from _evaluate(within, rows[part], statistics, options, tag, skill)


def by_skill(labels: Iterable[str]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Each value of a tag and the rows that have it; ``a|b`` has both a and b.

    Examples
    --------
    >>> [(skill, rows.tolist()) for skill, rows in by_skill(["a|b", "b"])]
    [('a', [True, False]), ('b', [True, True])]
    """
    each = [label.split("|") for label in labels]
    for skill in sorted({skill for skills in each for skill in skills}):
        yield skill, np.array([skill in skills for skills in each])


def comparable(joined: Joined, options: MetaOptions) -> np.ndarray[Any, Any]:
    """Which rows go in: those that all metrics scored, or all.

    Raises
    ------
    UsageError
        If the metrics have no row in common.
    """
    if options.own_rows:
        return np.ones(len(joined), bool)
    rows = joined.common
    if not rows.any():
        scored = {name: int(np.isfinite(v).sum()) for name, v in joined.values.items()}
        fewest = ", ".join(
            f"{name} {scored[name]}" for name in sorted(scored, key=lambda n: scored[n])[:3]
        )
        raise UsageError(
            f"no row of {joined.dimension} was scored by all {len(scored)} metrics (fewest of "
            f"{len(joined)}: {fewest}); name metrics with -m, or give --own-rows"
        )
    return rows


def _evaluate(
    joined: Joined,
    rows: np.ndarray[Any, Any],
    statistics: Sequence[str],
    options: MetaOptions,
    tag: str,
    skill: str,
) -> Iterator[MetaResult]:
    used = joined.only(rows)
    for metric, values in used.values.items():
        scored = np.isfinite(values)
        about: dict[str, Any] = {
            "metric": metric,
            "dimension": joined.dimension,
            "tag": tag,
            "skill": skill,
            "level": options.scheme.level,
            "grouping": options.scheme.grouping,
            "average": options.scheme.average,
            "n": int(scored.sum()),
            "n_items": len(set(used.items[scored])),
            "n_systems": len(set(used.systems[scored])),
            "n_unscored": int((~np.isfinite(joined.values[metric])).sum()),
            "flipped": metric in joined.flipped,
        }
        for statistic in statistics:
            one = _pairwise if statistic == PAIRWISE else _correlation
            found = one(used, values, statistic, options)
            yield MetaResult(**about, statistic=statistic, **found)


def _correlation(
    used: Joined, values: np.ndarray[Any, Any], statistic: str, options: MetaOptions
) -> dict[str, Any]:
    try:
        found = correlate_grouped(
            values,
            used.rating,
            statistic,  # type: ignore[arg-type]
            items=used.items,
            systems=used.systems,
            scheme=options.scheme,
            n_resamples=options.n_resamples,
            confidence=options.confidence,
            seed=options.seed,
        )
    except ValueError as error:
        raise UsageError(f"{statistic} of {used.dimension}: {error}") from error
    known = found.value is not None
    reasons = [
        f"{n} group{'s' if n > 1 else ''}: {reason}" for reason, n in found.undefined.items()
    ]
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "random": _by_chance(used, values, statistic, options.scheme) if known else None,
        "eps": None,
        "held_out": None,
        "n_groups": found.n_groups,
        "n_undefined": sum(found.undefined.values()),
        "reason": "; ".join(reasons) if known else found.reason,
    }


def _by_chance(used: Joined, values: np.ndarray[Any, Any], statistic: str, scheme: Scheme) -> float:
    """What a score that knows nothing is expected to reach."""
    if statistic != "average_precision":
        return 0.5 if statistic == "auroc" else 0.0
    scored = np.isfinite(values)
    labels = used.rating[scored]
    parts = scheme.parts(len(labels), used.items[scored], used.systems[scored])
    shares = [labels[rows].mean() for rows in parts.values()]
    return float(np.mean([share for share in shares if 0 < share < 1]))


def _pairwise(
    used: Joined, values: np.ndarray[Any, Any], statistic: str, options: MetaOptions
) -> dict[str, Any]:
    scheme = options.scheme
    rating, items, groups = used.rating, used.items, None
    if scheme.level == "system":
        values, rating, items = system_means(used, values)
    elif scheme.grouping != "global":
        groups = _codes(used.items if scheme.grouping == "per_item" else used.systems)
    found = pairwise_accuracy(
        values,
        rating,
        groups,
        _codes(items),
        n_resamples=options.n_resamples if scheme.level == "sample" else 0,
        confidence=options.confidence,
        seed=options.seed,
    )
    return {
        "value": found.accuracy.value,
        "low": found.accuracy.low,
        "high": found.accuracy.high,
        "random": found.random,
        "eps": found.eps,
        "held_out": found.held_out,
        "n_groups": found.n_groups,
        "n_undefined": found.n_empty,
        "reason": "" if found.n_pairs else "no pair of rows",
    }


def system_means(
    used: Joined, values: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Means of metric and ratings by system, and the systems' names."""
    names = sorted(set(used.systems))
    scored = np.isfinite(values)
    rows = [scored & (used.systems == name) for name in names]
    means = [
        [side[r].mean() if r.any() else np.nan for r in rows] for side in (values, used.rating)
    ]
    return np.array(means[0]), np.array(means[1]), np.array(names, object)


def _codes(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.unique(labels.astype(str), return_inverse=True)[1].reshape(-1)


def scale_kind(ratings: RatingSet, joined: Joined) -> str:
    """Kind of scale of a dimension, as `evaluate` takes it.

    Where several raters' labels differ, their mean is no label but a share.
    """
    scale = ratings.scales.get(joined.dimension)
    kind = "interval" if scale is None else scale.kind
    labelled = np.isin(joined.rating, (0.0, 1.0)).all()
    return "interval" if kind == "binary" and not labelled else kind
