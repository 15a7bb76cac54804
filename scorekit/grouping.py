"""What is correlated with what: single samples or systems' means, over all rows or within groups.

The names are those of machine translation's metric evaluation (Deutsch et al., EMNLP 2023). How
the groups' values are averaged is named, since the literature's "Fisher average" is two things.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from scorekit.correlation import Agreement, Statistic, Weighted, paired, undefined, weighted
from scorekit.pairs import Floats, Ints
from scorekit.resampling import bootstrap
from scorekit.stats import CONFIDENCE

Level = Literal["sample", "system"]
Grouping = Literal["global", "per_item", "per_system"]
Average = Literal["mean", "fisher", "tanh_mean"]
Labels = npt.NDArray[Any]
PERFECT = "a correlation of 1 or -1 has no Fisher transform"


@dataclass(frozen=True)
class Scheme:
    """How rows are compared.

    Attributes
    ----------
    level : {"sample", "system"}
        Rows as they are, or the mean of each system over the rows that count.
    grouping : {"global", "per_item", "per_system"}
        All rows at once, or within each item or system and then averaged. Systems' means are one
        group.
    average : {"mean", "fisher", "tanh_mean"}
        Of the groups' values r: their mean; tanh of the mean of arctanh(r); tanh of the mean of r,
        which is what the published numbers of VIEScore are (Ku et al., ACL 2024), where the text
        says Fisher. Fisher's has no place for r = 1 or -1: such groups count as undefined.
    """

    level: Level = "sample"
    grouping: Grouping = "global"
    average: Average = "mean"

    def __post_init__(self) -> None:
        for given, known in (
            (self.level, Level), (self.grouping, Grouping), (self.average, Average)
        ):  # fmt: skip
            if given not in get_args(known):
                raise ValueError(f"{given!r} is none of {', '.join(get_args(known))}")
        if self.level == "system" and self.grouping != "global":
            raise ValueError("systems' means are compared globally, not within groups")

    def parts(self, n: int, items: Labels | None, systems: Labels | None) -> dict[str, Ints]:
        """Rows of each group, by its name."""
        if self.grouping == "global":
            return {"": np.arange(n)}
        labels = items if self.grouping == "per_item" else systems
        if labels is None:
            raise ValueError(f"{self.grouping} needs the {self.grouping[4:]} of each row")
        rows = split(labels)
        return {str(labels[part[0]]): part for part in rows}


@dataclass(frozen=True)
class Group:
    """One group's own value.

    Attributes
    ----------
    name : str
    value : float or None
    n : int
        Rows, or systems.
    reason : str
        Why there is no value.
    """

    name: str
    value: float | None
    n: int
    reason: str = ""


@dataclass(frozen=True)
class GroupedAgreement(Agreement):
    """An `Agreement` with the groups it is averaged over.

    Attributes
    ----------
    scheme : Scheme
    groups : tuple of Group
        All, those without a value included.
    """

    scheme: Scheme = field(default_factory=Scheme)
    groups: tuple[Group, ...] = ()

    @property
    def n_groups(self) -> int:
        """Groups with a value."""
        return sum(group.value is not None for group in self.groups)

    @property
    def undefined(self) -> Mapping[str, int]:
        """How many groups have no value, by reason."""
        return Counter(group.reason for group in self.groups if group.value is None)


def correlate_grouped(
    metric: npt.ArrayLike,
    ratings: npt.ArrayLike,
    statistic: Statistic = "kendall_tau_b",
    *,
    items: npt.ArrayLike | None = None,
    systems: npt.ArrayLike | None = None,
    scheme: Scheme = Scheme(),
    n_resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> GroupedAgreement:
    """One statistic of a metric against ratings, by level and grouping, with its interval.

    Parameters
    ----------
    metric, ratings : array_like (n,)
        A value for each row; NaN where there is none. A row counts where both have one.
    statistic : str
        One of `scorekit.correlation.STATISTICS`.
    items, systems : array_like (n,), optional
        Of each row. Rows of one item are resampled together, whatever the scheme.
    scheme : Scheme
    n_resamples, confidence, seed
        As in `scorekit.stats.summarize`; 0 resamples give no interval.

    Examples
    --------
    >>> metric, ratings = [1, 2, 3, 3, 2, 5], [1, 2, 3, 1, 2, 2]
    >>> found = correlate_grouped(
    ...     metric, ratings, "spearman", items=[0, 0, 0, 1, 1, 2],
    ...     scheme=Scheme(grouping="per_item"), n_resamples=0,
    ... )
    >>> float(found), found.n_groups, dict(found.undefined)
    (0.0, 2, {'fewer than 2 rows': 1})
    """
    x, y, kept = paired(metric, ratings)
    of_item, of_system = (None if v is None else np.asarray(v)[kept] for v in (items, systems))
    groups = _groups(statistic, x, y, of_item, of_system, scheme)
    known = [group for group in groups if group.value is not None]
    base = (len(x), len(kept), statistic)
    if not known:
        reasons = Counter(group.reason for group in groups).most_common()
        reason = reasons[0][0] if len(reasons) == 1 else "no group has a value"
        return GroupedAgreement(
            None, None, None, *base, reason=reason or "no rows", scheme=scheme, groups=groups
        )
    values = np.array([group.value for group in known])
    center = float(averaged(values[None], scheme.average)[0])
    low = high = None
    units = np.arange(len(x)) if of_item is None else of_item
    if n_resamples != 0:
        parts = scheme.parts(len(x), of_item, of_system)
        chosen = [parts[group.name] for group in known] if scheme.level == "sample" else []
        if scheme.grouping != "global" and nested(chosen, units):
            # Nothing changes within a group, and one that is drawn twice counts twice.
            interval = bootstrap(
                lambda times: averaged(values[None], scheme.average, times)[None],
                len(known), units[[part[0] for part in chosen]], [statistic],
                n_resamples, confidence, seed,
            )[0]  # fmt: skip
        else:
            function = agreement(statistic, x, y, of_item, of_system, scheme)
            interval = bootstrap(
                lambda weights: function(weights)[None],
                len(x), units, [statistic], n_resamples, confidence, seed,
            )[0]  # fmt: skip
        low, high = interval.low, interval.high
    return GroupedAgreement(center, low, high, *base, scheme=scheme, groups=groups)


def agreement(
    statistic: Statistic,
    x: Floats,
    y: Floats,
    items: Labels | None = None,
    systems: Labels | None = None,
    scheme: Scheme = Scheme(),
) -> Weighted:
    """The statistic under a scheme as a function of row weights (b, n).

    Groups that a weighting leaves without a value are left out of its average.
    """
    if scheme.level == "system":
        return _of_means(statistic, x, y, systems)
    if scheme.grouping == "global":
        if undefined(statistic, x, y):
            return lambda weights: np.full(len(weights), np.nan)
        return weighted(statistic, x, y)
    parts = scheme.parts(len(x), items, systems).values()
    made = [
        (rows, weighted(statistic, x[rows], y[rows]))
        for rows in parts
        if not undefined(statistic, x[rows], y[rows])
    ]

    def values(weights: Floats) -> Floats:
        found = [function(weights[:, rows]) for rows, function in made]
        if not found:
            return np.full(len(weights), np.nan)
        return averaged(np.stack(found, axis=1), scheme.average)

    return values


def averaged(values: Floats, average: Average = "mean", times: Floats | None = None) -> Floats:
    """Averages (b,) of groups' values (b, g), each counted `times` (b, g); NaN are left out.

    Examples
    --------
    >>> r = np.array([[0.9, 0.1]])
    >>> [float(averaged(r, how)[0].round(4)) for how in ("mean", "fisher", "tanh_mean")]
    [0.5, 0.6563, 0.4621]
    """
    terms = values
    if average == "fisher":
        inside = np.abs(values) < 1
        terms = np.where(inside, np.arctanh(np.where(inside, values, 0.0)), np.nan)
    known = np.isfinite(terms)
    counts = known * (1.0 if times is None else times)
    total = counts.sum(axis=1)
    sums = (np.where(known, terms, 0.0) * counts).sum(axis=1)
    mean: Floats = np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
    return mean if average == "mean" else np.asarray(np.tanh(mean))


def split(labels: Labels) -> list[Ints]:
    """Rows of each distinct label, in the labels' order."""
    codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(codes) else []


def nested(parts: Sequence[Ints], units: Labels) -> bool:
    """Whether each group lies within one cluster."""
    return all(bool((units[rows] == units[rows[0]]).all()) for rows in parts)


def system_means(
    x: Floats, y: Floats, systems: Labels | None, weights: Floats
) -> tuple[Floats, Floats]:
    """Means of both sides (b, systems); NaN where a system has no weight."""
    if systems is None:
        raise ValueError("the level system needs the system of each row")
    parts = split(systems)
    sides = []
    for v in (x, y):
        total = np.stack([weights[:, rows].sum(axis=1) for rows in parts], axis=1)
        sums = np.stack([weights[:, rows] @ v[rows] for rows in parts], axis=1)
        sides.append(np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0))
    return sides[0], sides[1]


def _of_means(statistic: Statistic, x: Floats, y: Floats, systems: Labels | None) -> Weighted:
    def values(weights: Floats) -> Floats:
        found = np.full(len(weights), np.nan)
        for b, sides in enumerate(zip(*system_means(x, y, systems, weights), strict=True)):
            one, two = (side[np.isfinite(side)] for side in sides)
            if not undefined(statistic, one, two):
                found[b] = weighted(statistic, one, two)(np.ones((1, len(one))))[0]
        return found

    return values


def _groups(
    statistic: Statistic,
    x: Floats,
    y: Floats,
    items: Labels | None,
    systems: Labels | None,
    scheme: Scheme,
) -> tuple[Group, ...]:
    """Each group's value over all its rows."""
    if scheme.level == "system":
        means = system_means(x, y, systems, np.ones((1, len(x)))) if len(x) else (x[None], y[None])
        return (_group("", statistic, means[0][0], means[1][0], scheme),)
    parts = scheme.parts(len(x), items, systems)
    return tuple(_group(k, statistic, x[rows], y[rows], scheme) for k, rows in parts.items())


def _group(name: str, statistic: Statistic, x: Floats, y: Floats, scheme: Scheme) -> Group:
    reason = undefined(statistic, x, y)
    if reason:
        return Group(name, None, len(x), reason)
    value = float(weighted(statistic, x, y)(np.ones((1, len(x))))[0])
    # Rounding may leave a perfect correlation a little below 1.
    if scheme.grouping != "global" and scheme.average == "fisher" and abs(value) > 1 - 1e-14:
        return Group(name, None, len(x), PERFECT)
    return Group(name, value, len(x))
