"""Meta-evaluation on sets without ratings of single images: preferences, and groups of captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scorekit.joined import MetricScores, chosen_metrics
from scorekit.meta import MetaOptions, MetaResult
from scorekit.preferences import two_afc, winoground
from scorekit.stats import Estimate
from scorekit.table import KEY
from scorekit.types import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from scorekit.ratings import RatingSet

SHARE: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5}


def evaluate_preferences(
    scores: MetricScores, ratings: RatingSet, options: MetaOptions
) -> Iterator[MetaResult]:
    """2AFC accuracy of each metric: pairs that people call a tie left out, and split.

    Raises
    ------
    UsageError
        If the keys don't fit, or the metrics have no pair in common.
    """
    wide = _wide(scores, ratings, options)
    for dimension in _dimensions(ratings, options):
        rows = ratings.ratings(dimension)
        sides = ["item", "system_a", "index_a", "system_b", "index_b"]
        share = rows["choice"].map(SHARE).astype(float)
        pairs = share.groupby([rows[c] for c in sides], sort=False).mean().reset_index()
        values = {metric: [_of_side(wide[metric], pairs, side) for side in "ab"] for metric in wide}
        scored = {m: np.isfinite(v[0]) & np.isfinite(v[1]) for m, v in values.items()}
        rows_used = _rows(list(scored.values()), options, dimension)
        items = pairs["item"].to_numpy(str)[rows_used]
        systems = pairs[["system_a", "system_b"]].to_numpy(str)[rows_used]
        for metric, (a, b) in values.items():
            sign = -1.0 if metric in scores.lower_is_better else 1.0
            for how, name in (("exclude", "two_afc"), ("split", "two_afc_ties_split")):
                found = two_afc(
                    sign * a[rows_used],
                    sign * b[rows_used],
                    pairs["choice"].to_numpy(float)[rows_used],
                    items,
                    human_ties=how,  # type: ignore[arg-type]
                    **_resampling(options),
                )
                told = f"{found.n_human_ties} pairs are ties by people, {found.n_metric_ties} by it"
                yield _result(
                    metric,
                    dimension,
                    name,
                    found.accuracy,
                    random=0.5,
                    items=items[scored[metric][rows_used]],
                    n_systems=len(set(systems.ravel())),
                    n_unscored=int((~scored[metric]).sum()),
                    flipped=sign < 0,
                    reason=told,
                )


def evaluate_groups(
    scores: MetricScores, ratings: RatingSet, options: MetaOptions
) -> Iterator[MetaResult]:
    """Text, image and group score of each metric (Thrush et al., CVPR 2022).

    Raises
    ------
    UsageError
        If the keys don't fit, or no example is complete.
    """
    wide = _wide(scores, ratings, options)
    for dimension in _dimensions(ratings, options):
        cells = ratings.ratings(dimension)
        items = list(dict.fromkeys(cells["item"]))
        place = {item: i for i, item in enumerate(items)}
        at = (
            cells["item"].map(place).to_numpy(),
            cells["caption"].to_numpy(),
            cells["picture"].to_numpy(),
        )
        grids = {}
        for metric, column in wide.items():
            grid = np.full((len(items), 2, 2), np.nan)
            keys = cells[KEY].itertuples(index=False, name=None)
            grid[at] = column.reindex(list(keys)).to_numpy(float)
            grids[metric] = -grid if metric in scores.lower_is_better else grid
        scored = {m: np.isfinite(g).all(axis=(1, 2)) for m, g in grids.items()}
        used = _rows(list(scored.values()), options, dimension)
        names = np.array(items, object)[used]
        for metric, grid in grids.items():
            found = winoground(grid[used], **_resampling(options))
            for name, by_chance in (("text", 0.25), ("image", 0.25), ("group", 1 / 6)):
                yield _result(
                    metric,
                    dimension,
                    f"{name}_score",
                    getattr(found, name),
                    random=by_chance,
                    items=names[scored[metric][used]],
                    n_systems=0,
                    n_unscored=int((~scored[metric]).sum()),
                    flipped=metric in scores.lower_is_better,
                )


def _wide(
    scores: MetricScores, ratings: RatingSet, options: MetaOptions
) -> dict[str, pd.Series[Any]]:
    """Each metric's scores by (system, item, index)."""
    names = chosen_metrics(scores, options.metrics)
    aligned = ratings.aligned(scores.frame[scores.frame["metric"].isin(names)])
    wide = aligned.pivot(index=KEY, columns="metric", values="value").reindex(columns=names)
    return {name: wide[name] for name in names}


def _dimensions(ratings: RatingSet, options: MetaOptions) -> list[str]:
    for name in options.dimensions:
        if name not in ratings.dimensions:
            known = ", ".join(ratings.dimensions)
            raise UsageError(f"{ratings.name} has no dimension {name!r}; it has {known}")
    return list(options.dimensions or ratings.dimensions)


def _of_side(values: pd.Series[Any], pairs: pd.DataFrame, side: str) -> np.ndarray[Any, Any]:
    columns = (pairs[f"system_{side}"], pairs["item"], pairs[f"index_{side}"])
    return values.reindex(list(zip(*columns, strict=True))).to_numpy(float)


def _rows(
    scored: list[np.ndarray[Any, Any]], options: MetaOptions, dimension: str
) -> np.ndarray[Any, Any]:
    if options.own_rows:
        return np.ones(len(scored[0]), bool)
    rows = np.logical_and.reduce(scored)
    if not rows.any():
        raise UsageError(
            f"nothing of {dimension} was scored by all metrics; name metrics with -m, or give "
            "--own-rows"
        )
    return np.asarray(rows)


def _resampling(options: MetaOptions) -> dict[str, Any]:
    return {
        "n_resamples": options.n_resamples,
        "confidence": options.confidence,
        "seed": options.seed,
    }


def _result(
    metric: str,
    dimension: str,
    statistic: str,
    estimate: Estimate,
    *,
    random: float,
    items: np.ndarray[Any, Any],
    n_systems: int,
    n_unscored: int,
    flipped: bool,
    reason: str = "",
) -> MetaResult:
    return MetaResult(
        metric=metric,
        dimension=dimension,
        statistic=statistic,
        tag="",
        skill="",
        level="sample",
        grouping="global",
        average="mean",
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        random=random,
        eps=None,
        held_out=None,
        n=estimate.n,
        n_items=len(set(items)),
        n_systems=n_systems,
        n_unscored=n_unscored,
        n_groups=1,
        n_undefined=0,
        flipped=flipped,
        reason=reason,
    )
