"""Checklist comparison: WildBench's WB-Reward (Lin et al., 2024, arXiv:2406.04770)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scorekit.judging import judgement
from scorekit.metric import BaseMetric
from scorekit.metrics.judge import DEFAULT_BACKBONE, repaired
from scorekit.replies import CHOICES, Order
from scorekit.types import Array, Feature, Features, Scores, UsageError

ORDERS: tuple[Order, ...] = ("row_first", "baseline_first")


def wb_reward(
    choices: Sequence[str], longer: Sequence[int] | None = None, tie_beyond: int = -1
) -> Array:
    """WB-Reward: 1, 0.5, 0, -0.5 or -1 for much better to much worse.

    Parameters
    ----------
    choices : sequence of n outcomes of `scorekit.replies.CHOICES`
    longer : sequence of n ints, optional
        How many characters the row's text is longer than the baseline's; negative if shorter.
    tie_beyond : int
        A slight win of a text that is longer by more than this counts as a tie; -1 is off.

    Returns
    -------
    array (n,)
        In -1 to 1.

    Examples
    --------
    >>> wb_reward(["slightly better", "slightly worse", "much better"], [600, 600, 600], 500)
    array([ 0. , -0.5,  1. ])
    """
    rewards = np.asarray([CHOICES[choice] for choice in choices], np.float64)
    if tie_beyond >= 0 and longer is not None:
        winners = np.sign(rewards) * np.asarray(longer) > tie_beyond
        rewards[winners & (np.abs(rewards) == 0.5)] = 0.0
    return rewards


@dataclass(frozen=True)
class ChecklistPair(BaseMetric):
    """Is the row better than its baseline, by a judge who sees both."""

    name = "checklist_pair"
    title = "Checklist comparison"
    version = 1
    range = (-1.0, 1.0)
    differentiable = False

    backbone: str = DEFAULT_BACKBONE
    compare: Literal["image", "text"] = "image"
    orders: Literal["both", "one"] = "both"
    tie_beyond: int = -1
    column: str = "checklist"
    max_side: int = 0

    def __post_init__(self) -> None:
        if self.tie_beyond >= 0 and self.compare == "image":
            raise UsageError("checklist_pair: tie_beyond is about texts: compare=text")

    @property
    def needs(self) -> Mapping[str, Feature]:
        """A judgement with the row first and, to cancel a bias to places, one with it second."""
        params = {
            "rubric": f"pair_of_{self.compare}s",
            "column": self.column,
            "max_side": self.max_side,
        }
        return {order: judgement(self.backbone, order=order, **params) for order in self._orders()}

    def score(self, features: Features) -> Scores:
        """Rewards of n rows, the mean over the orders, each of which is a component."""
        rewards: dict[str, Array] = {
            order: self._rewards(features[order]) for order in self._orders()
        }
        judged = [features[order] for order in self._orders()]
        evidence = {
            row: {
                order: {"choice": j["choice"], "reasoning": j["reasoning"]}
                for order, j in zip(self._orders(), pair, strict=True)
            }
            for row, pair in enumerate(zip(*judged, strict=True))
        }
        value = np.mean(list(rewards.values()), axis=0)
        return Scores(value, components=rewards, notes=repaired(*judged), evidence=evidence)

    def _orders(self) -> tuple[Order, ...]:
        return ORDERS if self.orders == "both" else ORDERS[:1]

    def _rewards(self, judged: Sequence[Mapping[str, Any]]) -> Array:
        choices = [j["choice"] for j in judged]
        if self.tie_beyond < 0:
            return wb_reward(choices)
        longer = [j["length"] - j["baseline_length"] for j in judged]
        return wb_reward(choices, longer, self.tie_beyond)
