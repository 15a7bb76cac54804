"""A whole meta-evaluation: results, significance, raters, selection, complementarity, influence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from scorekit.complementarity import (
    Complementarity,
    Influence,
    complementarity,
    influence,
    metric_correlations,
)
from scorekit.correlation import BINARY, STATISTICS, Statistic
from scorekit.joined import Joined, MetricScores
from scorekit.meta import (
    DEFAULTS,
    MetaOptions,
    MetaResult,
    comparable,
    evaluate,
    joined_by_dimension,
    results_frame,
    scale_kind,
    system_means,
)
from scorekit.meta_choices import ChoiceRanks, evaluate_groups, evaluate_preferences
from scorekit.preferences import BestOfN, best_of_n
from scorekit.raters import RaterSummary, summarize_raters
from scorekit.significance import Ranked, rank_metrics, williams_test
from scorekit.table import KEY

if TYPE_CHECKING:
    import pandas as pd

    from scorekit.ratings import RatingSet

RANK_RESAMPLES = 1000
FEWEST_ITEMS = 10
"""Items below which combinations of metrics are not cross-validated."""


@dataclass(frozen=True)
class DimensionReport:
    """What is said of one dimension beside the results.

    Attributes
    ----------
    joined : Joined
        The rows that went in.
    statistic : str
        By which metrics are ranked, combined, and raters held against each other.
    ranked : Ranked or None
        Metrics in falling order with significance clusters; None for a single metric.
    williams : mapping of (str, str) to float
        p-values of Williams' test of two metrics' Pearson correlations; empty where those within
        groups are averaged, of which there is no such test.
    raters : RaterSummary or None
        None where there is one rating a cell.
    selection : mapping of str to BestOfN
        What picking an item's best image by a metric gains; empty where items have one image.
    correlations : mapping of (str, str) to float or None
        Between metrics, by `between`.
    combined : Complementarity or None
    influence : mapping of str to Influence
    """

    joined: Joined
    statistic: Statistic
    ranked: Ranked | None = None
    williams: Mapping[tuple[str, str], float | None] = field(default_factory=dict)
    raters: RaterSummary | None = None
    selection: Mapping[str, BestOfN] = field(default_factory=dict)
    correlations: Mapping[tuple[str, str], float | None] = field(default_factory=dict)
    combined: Complementarity | None = None
    influence: Mapping[str, Influence] = field(default_factory=dict)

    @property
    def between(self) -> Statistic:
        """What metrics are correlated with each other by: one of labels has no place there."""
        return "kendall_tau_b" if self.statistic in BINARY else self.statistic


@dataclass(frozen=True)
class MetaReport:
    """How metrics agree with a rating set.

    Attributes
    ----------
    name, kind, source, licence, citation : str
        Of the rating set.
    results : tuple of MetaResult
    dimensions : mapping of str to DimensionReport
        Empty for preferences and groups.
    choices : mapping of str to ChoiceRanks
        Ranks by dimension, of preferences and groups.
    notes : tuple of str
        What a reader should know: the reader's own notes, unscored rows, turned signs.
    signatures : mapping of str to str
        Of the metrics that have one.
    """

    name: str
    kind: str
    source: str
    licence: str
    citation: str
    results: tuple[MetaResult, ...]
    dimensions: Mapping[str, DimensionReport]
    notes: tuple[str, ...]
    signatures: Mapping[str, str]
    choices: Mapping[str, ChoiceRanks] = field(default_factory=dict)

    def ranked(self, dimension: str) -> tuple[str, Ranked] | None:
        """The statistic that ranks a dimension's metrics, and their ranks; None without a test."""
        if (chosen := self.choices.get(dimension)) is not None:
            return chosen.statistic, chosen.ranked
        about = self.dimensions.get(dimension)
        if about is None or about.ranked is None:
            return None
        return about.statistic, about.ranked

    def frame(self) -> pd.DataFrame:
        """The results as rows."""
        return results_frame(self.results)


def meta_evaluate(
    scores: MetricScores,
    ratings: RatingSet,
    options: MetaOptions = MetaOptions(),  # noqa: B008
    *,
    extras: Sequence[str] = ("significance", "raters", "selection", "complementarity"),
) -> MetaReport:
    """Evaluate metrics against people.

    Parameters
    ----------
    scores : MetricScores
        See `scorekit.joined.read_scores` and `published_scores`.
    ratings : RatingSet
    options : MetaOptions
    extras : sequence of str
        Of ``significance``, ``raters``, ``selection``, ``complementarity``, ``influence``.

    Raises
    ------
    UsageError
        If the keys of scores and ratings don't fit, or a name is unknown.
    """
    dimensions: dict[str, DimensionReport] = {}
    results: list[MetaResult] = []
    notes: list[str] = []
    choices: dict[str, ChoiceRanks] = {}
    ranks = choices if "significance" in extras else None
    if ratings.kind == "preferences":
        results.extend(evaluate_preferences(scores, ratings, options, ranks))
    elif ratings.kind == "groups":
        results.extend(evaluate_groups(scores, ratings, options, ranks))
    else:
        for name, joined in joined_by_dimension(scores, ratings, options).items():
            kind = scale_kind(ratings, joined)
            results.extend(evaluate(joined, options, scale=kind))
            used = joined.only(comparable(joined, options))
            dimensions[name] = _dimension(used, ratings, kind, options, extras)
            notes += _common(joined, used)
    return MetaReport(
        ratings.name,
        ratings.kind,
        ratings.source,
        ratings.licence,
        ratings.citation,
        tuple(results),
        dimensions,
        (*ratings.notes, *notes, *_notes(results)),
        {name: str(signature) for name, signature in scores.signatures.items()},
        choices,
    )


def _dimension(
    used: Joined, ratings: RatingSet, scale: str, options: MetaOptions, extras: Sequence[str]
) -> DimensionReport:
    statistic = _statistic(scale, options)
    about = DimensionReport(used, statistic)
    many = len(used.values) > 1
    found: dict[str, Any] = {}
    items, systems = used.items.astype(str), used.systems.astype(str)
    if "significance" in extras and many:
        # Rows of one cell share its scores, so they are swapped together.
        together = ratings.pooling == "each" and options.scheme.grouping != "per_item"
        found["ranked"] = rank_metrics(
            used.values,
            used.rating,
            statistic,
            items=used.cells if together else items,
            systems=systems,
            scheme=options.scheme,
            swap="item" if together else "cell",
            n_resamples=RANK_RESAMPLES,
            seed=options.seed,
        )
        found["williams"] = _williams(used, options)
    if "raters" in extras and ratings.pooling == "mean":
        found["raters"] = _raters(used, ratings, scale, statistic, options)
    if "selection" in extras:
        found["selection"] = _selection(used.only(used.common).by_cell(), options)
    if "complementarity" in extras and many:
        found["correlations"] = metric_correlations(used.values, about.between)
        if len(set(used.items[used.common])) >= FEWEST_ITEMS:
            found["combined"] = complementarity(
                used.values,
                used.rating,
                items,
                statistic,
                n_resamples=min(options.n_resamples, 300),
                confidence=options.confidence,
                seed=options.seed,
            )
    if "influence" in extras:
        found["influence"] = {
            name: influence(values, used.rating, items, statistic)
            for name, values in used.values.items()
            if np.ptp(values[np.isfinite(values)]) > 0 and np.ptp(used.rating) > 0
        }
    return replace(about, **found)


def _statistic(scale: str, options: MetaOptions) -> Statistic:
    """What metrics are ranked by: the first correlation asked for, tau-b or AUROC by default."""
    asked = [s for s in STATISTICS if s in options.statistics]
    if asked:
        return asked[0]
    return "kendall_tau_b" if "kendall_tau_b" in DEFAULTS[scale] else "auroc"


def _selection(cells: Joined, options: MetaOptions) -> dict[str, BestOfN]:
    if len(set(cells.items)) == len(cells):
        return {}
    return {
        name: best_of_n(
            values,
            cells.rating,
            cells.items.astype(str),
            n_resamples=options.n_resamples,
            confidence=options.confidence,
            seed=options.seed,
        )
        for name, values in cells.values.items()
    }


def _williams(used: Joined, options: MetaOptions) -> dict[tuple[str, str], float | None]:
    if options.scheme.grouping != "global":
        return {}
    found = {}
    for a, b in combinations(used.values, 2):
        both = used.only(np.isfinite(used.values[a]) & np.isfinite(used.values[b]))
        one, two, rating = both.values[a], both.values[b], both.rating
        if options.scheme.level == "system":
            (one, rating, _), two = system_means(both, one), system_means(both, two)[0]
        found[a, b] = williams_test(one, two, rating).p_value
    return found


def _raters(
    used: Joined, ratings: RatingSet, scale: str, statistic: Statistic, options: MetaOptions
) -> RaterSummary | None:
    """How the raters of the same cells agree."""
    matrix = ratings.matrix(used.dimension)
    keys = set(used.keys)
    rows = [key in keys for key in matrix.cells[KEY].itertuples(index=False, name=None)]
    values, cells = matrix.values[:, rows], matrix.cells[rows]
    if np.isfinite(values).sum(axis=0).max(initial=0) < 2:
        return None
    return summarize_raters(
        values,
        "nominal" if scale == "binary" else scale,  # type: ignore[arg-type]
        "kendall_tau_b" if statistic in BINARY else statistic,
        items=cells["item"].to_numpy(str),
        systems=cells["system"].to_numpy(str),
        scheme=options.scheme,
        n_resamples=min(options.n_resamples, 300),
        confidence=options.confidence,
        seed=options.seed,
    )


def _common(joined: Joined, used: Joined) -> list[str]:
    """A note where one metric takes rows from all the others."""
    scored = {name: int(np.isfinite(values).sum()) for name, values in joined.values.items()}
    if len(used) == max(scored.values()) or len(used) == len(joined):
        return []
    fewest = min(scored, key=lambda name: scored[name])
    return [
        f"{joined.dimension}: all is computed on the {len(used)} of {len(joined)} rated rows that "
        f"every metric scored ({fewest} scored {scored[fewest]}); leave a metric out with -m, or "
        "give --own-rows"
    ]


def _notes(results: Sequence[MetaResult]) -> list[str]:
    notes = []
    unscored = {(r.metric, r.dimension): r.n_unscored for r in results if r.n_unscored}
    for (metric, dimension), n in unscored.items():
        notes.append(f"{metric} did not score {n} of the rated rows of {dimension}")
    flipped = list(dict.fromkeys(r.metric for r in results if r.flipped))
    if flipped:
        notes.append(f"lower is better, so the sign is turned: {', '.join(flipped)}")
    return notes
