"""`scorekit meta --report`: a meta-evaluation as a page to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import scorekit
from scorekit.grouping import Scheme
from scorekit.joined import Joined
from scorekit.meta import MetaOptions, MetaResult, system_means
from scorekit.meta_report import RANK_RESAMPLES, DimensionReport, MetaReport
from scorekit.meta_view import NAMES, Grid, grids
from scorekit.reporting.page import render, rounded
from scorekit.significance import Ranked

MOST_POINTS = 4000
"""Rows that are drawn one by one; beyond, their distribution."""
FEW_LEVELS = 12
"""Ratings of at most so many values are levels: points are spread within, or boxes drawn."""
N_BINS = (40, 24)
SHOWN_ITEMS = 10
Json = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """One dimension of the page.

    Attributes
    ----------
    name : str
    grid : Grid
        The results on all rows.
    by_tag : mapping of str to sequence of Grid
        Those of each value of a tag.
    about : DimensionReport or None
    statistic : str
        The one that ranks.
    order : tuple of str
        Metrics, the best first.
    ranked_by : str
        The statistic of the permutation tests.
    ranked : Ranked or None
    """

    name: str
    grid: Grid
    by_tag: Mapping[str, Sequence[Grid]]
    about: DimensionReport | None
    statistic: str
    order: tuple[str, ...]
    ranked_by: str
    ranked: Ranked | None

    @property
    def ceiling(self) -> Any:
        """What one rater reaches against the others, where it is of the statistic that ranks."""
        raters = None if self.about is None else self.about.raters
        if raters is None or raters.ceiling.mean.statistic != self.statistic:
            return None
        return raters.ceiling.mean

    @property
    def pairs(self) -> list[tuple[int, list[Json]]]:
        """p-values of each metric (a row) against each (a column), with their shades."""
        ranked = self.ranked
        if ranked is None:
            return []
        known = {} if self.about is None else self.about.williams
        williams = {frozenset(pair): p for pair, p in known.items()}
        rows = []
        for i, a in enumerate(ranked.names):
            cells = []
            for j, b in enumerate(ranked.names):
                # below the diagonal the permutation test, above it Williams' where there is one
                above = j > i and bool(williams)
                p = williams.get(frozenset((a, b))) if above else ranked.p_values[i, j]
                cells.append({"p": None if i == j else p, "shade": _shade(p), "same": i == j})
            rows.append((i, cells))
        return rows

    @property
    def influence(self) -> list[tuple[str, str, float]]:
        """Metric, item, and what the item adds to the agreement."""
        found = {} if self.about is None else self.about.influence
        return [
            (name, item, change)
            for name, one in found.items()
            for item, change in one.strongest(SHOWN_ITEMS)
            if np.isfinite(change)
        ]


def meta_page(report: MetaReport, options: MetaOptions = MetaOptions()) -> str:  # noqa: B008
    """A report as one HTML file.

    Parameters
    ----------
    report : MetaReport
    options : MetaOptions
        Those that the report was made with; the page names them.

    Returns
    -------
    str
        The page, with its plots and data inside.
    """
    sections = list(_sections(report))
    drawn = [_data(section, options.scheme) for section in sections]
    return render(
        "meta.html",
        title=f"Meta-evaluation: {report.name}",
        data={"dimensions": drawn},
        scripts=("meta.js",),
        report=report,
        options=options,
        sections=sections,
        names=NAMES,
        source=report.source if report.source.startswith("https://") else None,
        rank_resamples=RANK_RESAMPLES,
        version=scorekit.__version__,
    )


def _sections(report: MetaReport) -> Iterator[Section]:
    by_dimension: dict[str, dict[str, list[Grid]]] = {}
    for grid in grids(report):
        first = _first(grid)
        by_dimension.setdefault(first.dimension, {}).setdefault(first.tag, []).append(grid)
    for name, found in by_dimension.items():
        (grid,) = found.pop("")
        about = report.dimensions.get(name)
        statistic = grid.statistics[0]
        by, ranked = report.ranked(name) or (about.statistic if about else statistic, None)
        statistic = by if by in grid.statistics else statistic
        names = ranked.names if ranked else ()
        order = tuple(dict.fromkeys([*names, *(metric for metric, _ in grid.rows)]))
        yield Section(name, grid, found, about, statistic, order, by, ranked)


def _first(grid: Grid) -> MetaResult:
    return next(iter(grid.rows[0][1].values()))


def _shade(p: float | None) -> int:
    return 0 if p is None else sum(p < level for level in (0.05, 0.01, 0.001))


# What the scripts draw ------------------------------------------------------------------------


def _data(section: Section, scheme: Scheme) -> Json:
    about = section.about
    ceiling = section.ceiling
    return {
        "metrics": section.order,
        "flipped": [about is not None and m in about.joined.flipped for m in section.order],
        "statistic": section.grid.statistics.index(section.statistic),
        "statistics": [NAMES[name] for name in section.grid.statistics],
        "ranks": [section.grid.ranks.get(metric) for metric in section.order],
        "values": _values(section, section.grid),
        "random": [rounded(section.grid.random[name]) for name in section.grid.statistics],
        "ceiling": None if ceiling is None else _estimate(ceiling),
        "scatter": None if about is None else _scatter(about.joined, section.order, scheme),
        "tags": [
            {
                "tag": tag,
                "skills": [_first(grid).skill for grid in by_skill],
                "n": [_first(grid).n for grid in by_skill],
                "values": [_values(section, grid) for grid in by_skill],
                "random": [
                    [rounded(grid.random[name]) for name in section.grid.statistics]
                    for grid in by_skill
                ],
            }
            for tag, by_skill in section.by_tag.items()
        ],
        "pairs": None if about is None else _pairs(about, section.order),
        "selection": None if about is None else _selection(about),
    }


def _estimate(found: Any) -> list[float | None]:
    return [rounded(found.value), rounded(found.low), rounded(found.high)]


def _values(section: Section, grid: Grid) -> list[list[list[float | None]]]:
    """Value and bounds by statistic and metric."""
    rows = dict(grid.rows)
    return [
        [_estimate(rows[metric][name]) for metric in section.order]
        for name in section.grid.statistics
    ]


def _scatter(joined: Joined, order: Sequence[str], scheme: Scheme) -> Json:
    """Systems or rows one by one, or how rows are distributed; and a sentence about it."""
    if scheme.level == "system":
        return _systems(joined, order)
    levels = np.unique(joined.rating)
    few = len(levels) <= FEW_LEVELS
    found: Json = {
        "n": len(joined),
        "levels": [rounded(level) for level in levels] if few else None,
        "told": f"{len(joined)} rows"
        + ("" if scheme.grouping == "global" else ", all groups together"),
    }
    if len(joined) <= MOST_POINTS:
        systems = list(dict.fromkeys(joined.systems))
        place = {system: i for i, system in enumerate(systems)}
        if few:
            found["told"] += "; ratings are spread a little, so that points show beside each other"
        return found | {
            "kind": "points",
            "items": [str(item) for item in joined.items],
            "systems": [str(system) for system in systems],
            "system": [place[system] for system in joined.systems],
            "ratings": [[rounded(value) for value in joined.rating]],
            "values": [[rounded(v) for v in joined.values[metric]] for metric in order],
        }
    if few:
        found["told"] += (
            "; for each rating, the middle half of the scores with the median, and whiskers "
            "from 5% to 95%"
        )
        boxes = [_boxes(joined.values[metric], joined.rating, levels) for metric in order]
        return found | {"kind": "boxes", "boxes": boxes}
    found["told"] += "; the colour says how many lie where"
    bins = [_bins(joined.values[metric], joined.rating) for metric in order]
    return found | {"kind": "bins", "bins": bins}


def _systems(joined: Joined, order: Sequence[str]) -> Json:
    """The systems' means, of the ratings too over the rows that the metric scored."""
    means = [system_means(joined, joined.values[metric]) for metric in order]
    names = [str(name) for name in means[0][2]]
    return {
        "kind": "points",
        "n": len(names),
        "levels": None,
        "told": f"{len(names)} systems, by their means",
        "items": [""] * len(names),
        "systems": names,
        "system": list(range(len(names))),
        "ratings": [[rounded(v) for v in rating] for _, rating, _ in means],
        "values": [[rounded(v) for v in values] for values, _, _ in means],
    }


def _boxes(
    values: npt.NDArray[Any], rating: npt.NDArray[Any], levels: npt.NDArray[Any]
) -> list[list[float | None]]:
    """Quantiles .05, .25, .5, .75, .95 of a metric at each level of the ratings, and the count."""
    found = []
    for level in levels:
        part = values[(rating == level) & np.isfinite(values)]
        quantiles = np.quantile(part, [0.05, 0.25, 0.5, 0.75, 0.95]) if len(part) else [None] * 5
        found.append([*map(rounded, quantiles), len(part)])
    return found


def _bins(values: npt.NDArray[Any], rating: npt.NDArray[Any]) -> Json:
    """Counts of rows by metric (columns) and rating (rows), and the bins' centres."""
    scored = np.isfinite(values)
    counts, x, y = np.histogram2d(values[scored], rating[scored], bins=N_BINS)
    return {
        "z": counts.T.astype(int).tolist(),
        "x": [rounded(v) for v in (x[1:] + x[:-1]) / 2],
        "y": [rounded(v) for v in (y[1:] + y[:-1]) / 2],
    }


def _pairs(about: DimensionReport, order: Sequence[str]) -> Json | None:
    if not about.correlations:
        return None
    place = {name: i for i, name in enumerate(order)}
    correlations: list[list[float | None]] = [[None] * len(order) for _ in order]
    gains: list[list[list[float | None] | None]] = [[None] * len(order) for _ in order]
    for (a, b), value in about.correlations.items():
        i, j = place[a], place[b]
        correlations[i][j] = correlations[j][i] = rounded(value)
    for pair in () if about.combined is None else about.combined.pairs:
        i, j = place[pair.a], place[pair.b]
        gains[i][j] = gains[j][i] = [
            *map(rounded, (pair.gain, pair.low, pair.high, pair.combined, pair.over_best))
        ]
    return {
        "statistic": NAMES[about.statistic],
        "between": NAMES[about.between],
        "correlations": correlations,
        "gains": gains if about.combined is not None else None,
    }


def _selection(about: DimensionReport) -> Json | None:
    if not about.selection:
        return None
    known = {name: one for name, one in about.selection.items() if one.gain.value is not None}
    ranked = sorted(known.items(), key=lambda pair: -float(pair[1].gain))
    first = next(iter(about.selection.values()))
    return {
        "metrics": [name for name, _ in ranked],
        "gains": [_estimate(one.gain) for _, one in ranked],
        "means": [rounded(one.metric.value) for _, one in ranked],
        "shares": [rounded(one.share) for _, one in ranked],
        "random": rounded(first.random.value),
        "oracle": rounded(first.oracle.value),
    }
