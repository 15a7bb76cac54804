"""Best of n: the images of an item in the order of a metric, with ties and margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scorekit.table import KEY, ScoreTable
from scorekit.types import Signature, UsageError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Ranking:
    """The images of each item, the best first.

    Attributes
    ----------
    frame : pandas.DataFrame
        item, rank (1 is best; equal scores share the least), system, index, image, value, margin
        (to the next worse score of the item of the first rank, to the best of all others; 0 in
        a tie for the first place; null where the item has one image), tied (how many images
        have this score), status. Images that were not scored come last and have no rank.
    metric : str
    signature : Signature
    higher_is_better : bool
    """

    frame: pd.DataFrame
    metric: str
    signature: Signature
    higher_is_better: bool

    def best(self) -> pd.DataFrame:
        """One image an item: the first in the table of those with the best score.

        An item of which nothing was scored has a row without image, so that a pipeline sees it.
        """
        return self.frame.drop_duplicates("item", ignore_index=True)

    def top(self, k: int) -> pd.DataFrame:
        """The first k images of each item that were scored."""
        scored = self.frame[self.frame["rank"].notna()]
        return scored.groupby("item", sort=False).head(k).reset_index(drop=True)

    @property
    def n_tied(self) -> int:
        """Items whose first place is shared."""
        best = self.best()
        return int(((best["rank"] == 1) & (best["tied"] > 1)).sum())

    @property
    def n_unscored(self) -> int:
        """Items of which no image was scored."""
        return int(self.best()["rank"].isna().sum())


def rank(table: ScoreTable, metric: str | None = None) -> Ranking:
    """Put the images of each item in the order of a metric.

    Parameters
    ----------
    table : ScoreTable
    metric : str, optional
        A metric or component of the table; may be left out where it has one headline.

    Raises
    ------
    UsageError
        If there is no such metric, or several and none was named.

    Examples
    --------
    >>> import scorekit
    >>> from importlib.resources import files
    >>> demo = files("scorekit.data") / "demo"
    >>> table = scorekit.score(str(demo), backbone="scenes-clip", cache=False)
    >>> ranking = scorekit.rank(table, "clipscore")
    >>> len(ranking.best()), ranking.n_tied, ranking.n_unscored
    (20, 0, 0)
    """
    import numpy as np

    name = _chosen(table, metric)
    info = table.metrics[name]
    rows = table.frame[table.frame["metric"] == name]
    columns = ["item", *(k for k in KEY if k != "item"), "image", "value", "status", "note"]
    frame = rows[columns].reset_index(drop=True)
    # A larger key is worse; what was not scored is worst.
    worse = np.where(frame["status"] == "ok", frame["value"], np.nan)
    frame["_worse"] = -worse if info.higher_is_better else worse
    place = {item: i for i, item in enumerate(dict.fromkeys(frame["item"]))}
    frame["_place"] = frame["item"].map(place)
    frame = frame.sort_values(["_place", "_worse"], kind="stable", ignore_index=True)
    grouped = frame.groupby("item", sort=False)["_worse"]
    frame["rank"] = grouped.rank("min").astype("Int64")
    frame["tied"] = (
        frame.groupby(["_place", "_worse"])["item"]
        .transform("size")
        .where(frame["rank"].notna(), 0)
    ).astype(int)
    best = grouped.transform("min")
    second = frame["_worse"].where(frame.groupby("item", sort=False).cumcount() == 1)
    second = second.groupby(frame["_place"]).transform("min")
    to_best = frame["_worse"] - best
    frame["margin"] = to_best.where(frame["rank"] != 1, second - best)
    order = [
        "item",
        "rank",
        "system",
        "index",
        "image",
        "value",
        "margin",
        "tied",
        "status",
        "note",
    ]
    return Ranking(frame[order], name, info.signature, info.higher_is_better)


def _chosen(table: ScoreTable, metric: str | None) -> str:
    if metric is not None:
        if metric not in table.metrics:
            raise UsageError(
                f"no metric {metric!r} in the table; it has {', '.join(table.metrics)}"
            )
        return metric
    headlines = [name for name, info in table.metrics.items() if info.headline]
    if len(headlines) != 1:
        raise UsageError(f"name a metric to rank by: {', '.join(headlines)}")
    return headlines[0]
