"""Meta-evaluation on sets without ratings of single images: preferences, and groups of captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from scorekit.grouping import Scheme
from scorekit.joined import MetricScores, as_labels, chosen_metrics
from scorekit.meta import MetaOptions, MetaResult, by_skill, check_tags
from scorekit.pairs import Floats, Ints
from scorekit.preferences import two_afc
from scorekit.significance import Ranked, rank_means
from scorekit.stats import Estimate, summarize
from scorekit.table import KEY
from scorekit.types import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from scorekit.ratings import RatingSet

Key = tuple[str, str, int]


@dataclass(frozen=True)
class ChoiceRanks:
    """Metrics of one dimension in falling order, with significance clusters.

    Attributes
    ----------
    statistic : str
        ``two_afc``, or of groups ``group_score``, and ``text_score`` where there is no other.
    ranked : Ranked
        By paired permutation tests of what each row earns, on the rows that all metrics scored.
    """

    statistic: str
    ranked: Ranked


SHARE: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5}


def evaluate_preferences(
    scores: MetricScores,
    ratings: RatingSet,
    options: MetaOptions,
    ranks: dict[str, ChoiceRanks] | None = None,
) -> Iterator[MetaResult]:
    """2AFC accuracy of each metric: pairs that people call a tie left out, and split.

    A pair of which both sides have a tag is of both its values. `ranks` is filled by dimension
    where it is given and there are several metrics.

    Raises
    ------
    UsageError
        If the keys don't fit, a tag is unknown, or the metrics have no pair in common.
    """
    wide = _wide(scores, ratings, options)
    tags = _tags(ratings, options)
    for dimension in _dimensions(ratings, options):
        pairs = _pairs(ratings.ratings(dimension))
        sides = [_keys_of(pairs, side) for side in "ab"]
        values = {
            m: [column.reindex(s).to_numpy(float) for s in sides] for m, column in wide.items()
        }
        scored = {m: np.isfinite(a) & np.isfinite(b) for m, (a, b) in values.items()}
        used = _rows(list(scored.values()), options, dimension)
        items, share = pairs["item"].to_numpy(str), pairs["share"].to_numpy(float)
        systems = pairs[["system_a", "system_b"]].to_numpy(str)
        labels = {
            tag: ["|".join({of_key[a]: 0, of_key[b]: 0}) for a, b in zip(*sides, strict=True)]
            for tag, of_key in tags.items()
        }
        if ranks is not None and len(values) > 1:
            told = np.logical_and.reduce([share != 0.5, *scored.values()])
            earned = {
                m: _earned(-1.0 if m in scores.lower_is_better else 1.0, v, share, told)
                for m, v in values.items()
            }
            _rank(ranks, dimension, "two_afc", earned, items[told])
        for tag, skill, part in _parts(labels, len(pairs)):
            rows = used & part
            for metric, (a, b) in values.items():
                sign = -1.0 if metric in scores.lower_is_better else 1.0
                counted = rows & scored[metric]
                for how, name in (("exclude", "two_afc"), ("split", "two_afc_ties_split")):
                    found = two_afc(
                        sign * a[rows],
                        sign * b[rows],
                        share[rows],
                        items[rows],
                        human_ties=how,  # type: ignore[arg-type]
                        **_resampling(options),
                    )
                    by_people, by_it = found.n_human_ties, found.n_metric_ties
                    yield _result(
                        metric,
                        dimension,
                        name,
                        found.accuracy,
                        tag=tag,
                        skill=skill,
                        random=0.5,
                        n_items=len(set(items[counted])),
                        n_systems=len(set(systems[counted].ravel())),
                        n_unscored=int((part & ~scored[metric]).sum()),
                        flipped=sign < 0,
                        reason=f"{by_people} pairs are ties by people, {by_it} by it",
                    )


def _earned(sign: float, sides: list[Floats], share: Floats, rows: Floats) -> Floats:
    """The share of people who agree with a metric, 1/2 where it has a tie."""
    a, b = (sign * side[rows] for side in sides)
    return np.where(a == b, 0.5, np.where(a > b, share[rows], 1 - share[rows]))


def _rank(
    ranks: dict[str, ChoiceRanks],
    dimension: str,
    statistic: str,
    earned: Mapping[str, Floats],
    items: npt.NDArray[Any],
) -> None:
    if len(items):
        ranks[dimension] = ChoiceRanks(statistic, rank_means(earned, items))


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a pair, whichever way round its raters had it, with the share who prefer a."""
    keys = [_keys_of(rows, side) for side in "ab"]
    turned = np.array([a > b for a, b in zip(*keys, strict=True)], dtype=bool)
    pairs = rows[["item"]].copy()
    for column in ("system", "index"):
        a, b = rows[f"{column}_a"], rows[f"{column}_b"]
        pairs[f"{column}_a"], pairs[f"{column}_b"] = a.where(~turned, b), b.where(~turned, a)
    share = rows["choice"].map(SHARE).astype(float)
    pairs["share"] = share.where(~turned, 1 - share)
    return pairs.groupby(list(pairs.columns[:-1]), sort=False)["share"].mean().reset_index()


def _keys_of(pairs: pd.DataFrame, side: str) -> list[Key]:
    columns = (pairs[f"system_{side}"], pairs["item"], pairs[f"index_{side}"])
    return list(zip(*columns, strict=True))


def evaluate_groups(
    scores: MetricScores,
    ratings: RatingSet,
    options: MetaOptions,
    ranks: dict[str, ChoiceRanks] | None = None,
) -> Iterator[MetaResult]:
    """Text, image and group score of each metric (Thrush et al., CVPR 2022).

    A group is right by text if each picture's right captions all score higher than its wrong ones,
    and by image if each caption's right pictures do. With two captions and two pictures these are
    Winoground's scores; with one picture, as in SugarCrepe, there is a text score alone.
    `ranks` is filled by dimension where it is given and there are several metrics.

    Raises
    ------
    UsageError
        If the keys don't fit, a tag is unknown, or no group is complete.
    """
    wide = _wide(scores, ratings, options)
    tags = _tags(ratings, options)
    for dimension in _dimensions(ratings, options):
        cells = ratings.ratings(dimension)
        keys = list(cells[KEY].itertuples(index=False, name=None))
        first = [keys[row] for row in np.flatnonzero(~cells["item"].duplicated())]
        groups = _Groups.of(cells)
        values = {m: column.reindex(keys).to_numpy(float) for m, column in wide.items()}
        scored = {m: groups.all(np.isfinite(v)) for m, v in values.items()}
        used = _rows(list(scored.values()), options, dimension)
        labels = {tag: [of_key[key] for key in first] for tag, of_key in tags.items()}
        judged = {
            m: groups.judged(-v if m in scores.lower_is_better else v) for m, v in values.items()
        }
        if ranks is not None and len(values) > 1:
            name = "group" if groups.there["group"].any() else "text"
            complete = np.logical_and.reduce([groups.there[name], *scored.values()])
            earned = {m: right[name][complete] for m, right in judged.items()}
            _rank(ranks, dimension, f"{name}_score", earned, np.flatnonzero(complete))
        for tag, skill, part in _parts(labels, groups.n):
            for metric, right in judged.items():
                flipped = metric in scores.lower_is_better
                for name, there in groups.there.items():
                    if not there.any():
                        continue
                    counted = used & part & scored[metric] & there
                    chance = groups.chance[name][counted]
                    yield _result(
                        metric,
                        dimension,
                        f"{name}_score",
                        summarize(right[name][counted], **_resampling(options)),
                        tag=tag,
                        skill=skill,
                        random=float(chance.mean()) if np.isfinite(chance).any() else None,
                        n_items=int(counted.sum()),
                        n_systems=0,
                        n_unscored=int((part & ~scored[metric]).sum()),
                        flipped=flipped,
                    )


@dataclass(frozen=True)
class _Groups:
    """Cells of captions and pictures by their groups.

    `text` and `image` are the contests: the cells of one picture, or of one caption, among which
    there are right and wrong ones. Each has the number of its contest for every cell, -1 for none.
    """

    n: int
    group: Ints
    right: npt.NDArray[np.bool_]
    contests: Mapping[str, Ints]

    @classmethod
    def of(cls, cells: pd.DataFrame) -> _Groups:
        right = cells["value"].to_numpy(float) == 1
        group: Ints = cells.groupby("item", sort=False).ngroup().to_numpy().astype(np.intp)
        contests = {}
        for name, side in (("text", "picture"), ("image", "caption")):
            number = cells.groupby(["item", side], sort=False).ngroup().to_numpy()
            share = np.bincount(number, weights=right) / np.bincount(number)
            contests[name] = np.where((share > 0) & (share < 1), np.arange(len(share)), -1)[number]
        return cls(cells["item"].nunique(), group, right, contests)

    def all(self, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Whether a group's cells all are so."""
        return np.asarray(np.bincount(self.group, weights=~rows, minlength=self.n) == 0)

    @cached_property
    def there(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Which groups have a contest of each kind."""
        found = {name: ~self.all(number < 0) for name, number in self.contests.items()}
        return {**found, "group": found["text"] & found["image"]}

    @cached_property
    def chance(self) -> dict[str, Floats]:
        """What scores drawn at random are expected to reach in each group; NaN where unknown."""
        from scipy.special import comb

        found = {name: np.ones(self.n) for name in self.contests}
        for name, number in self.contests.items():
            rows = number >= 0
            cells = np.bincount(number[rows])
            ways = comb(cells, np.bincount(number[rows], weights=self.right[rows]))
            contest, first = np.unique(number[rows], return_index=True)
            np.divide.at(found[name], self.group[rows][first], ways[contest])
        of_four = np.bincount(self.group, minlength=self.n) == 4
        return {**found, "group": np.where(of_four, 1 / 6, np.nan)}

    def judged(self, values: Floats) -> dict[str, Floats]:
        """1 for each group that is right, strictly, by text, by image, by both; else 0."""
        values, found = np.nan_to_num(values), {}  # groups with an unscored cell don't count
        for name, number in self.contests.items():
            worst, best = (np.full(len(number), end) for end in (np.inf, -np.inf))
            for rows, reach, at in (
                (self.right, worst, np.minimum), (~self.right, best, np.maximum)
            ):  # fmt: skip
                rows = rows & (number >= 0)
                at.at(reach, number[rows], values[rows])
            lost = (number >= 0) & ~(worst > best)[number]
            found[name] = self.all(~lost).astype(float)
        return {**found, "group": found["text"] * found["image"]}


def _wide(
    scores: MetricScores, ratings: RatingSet, options: MetaOptions
) -> dict[str, pd.Series[Any]]:
    """Each metric's scores by (system, item, index)."""
    if options.statistics or options.scheme != Scheme():
        raise UsageError(
            f"{ratings.name} has {ratings.kind}, not ratings: there are no correlations to name, "
            "and no level, grouping or average"
        )
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


def _tags(ratings: RatingSet, options: MetaOptions) -> dict[str, dict[Key, str]]:
    """The asked tags of each sample."""
    check_tags(ratings, options)
    keys = list(ratings.samples[KEY].itertuples(index=False, name=None))
    return {
        tag: dict(zip(keys, as_labels(ratings.samples[tag]), strict=True)) for tag in options.by
    }


def _parts(
    labels: Mapping[str, list[str]], n: int
) -> Iterator[tuple[str, str, npt.NDArray[np.bool_]]]:
    """All rows, and those of each value of each tag."""
    yield "", "", np.ones(n, bool)
    for tag, of_row in labels.items():
        for skill, part in by_skill(of_row):
            yield tag, skill, part


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
    tag: str,
    skill: str,
    random: float | None,
    n_items: int,
    n_systems: int,
    n_unscored: int,
    flipped: bool,
    reason: str = "",
) -> MetaResult:
    return MetaResult(
        metric=metric,
        dimension=dimension,
        statistic=statistic,
        tag=tag,
        skill=skill,
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
        n_items=n_items,
        n_systems=n_systems,
        n_unscored=n_unscored,
        n_groups=1,
        n_undefined=0,
        flipped=flipped,
        reason=reason,
    )
