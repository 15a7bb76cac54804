"""BARTScore (Yuan et al., NeurIPS 2021, arXiv:2106.11520, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from scorekit.arrays import array_namespace
from scorekit.metric import BaseMetric
from scorekit.types import Feature, Features

DEFAULT_BACKBONE = "hf:facebook/bart-large-cnn"


def bartscore(logprobs: Any) -> Any:
    """The mean log-probability of a target's tokens, given the source.

    Parameters
    ----------
    logprobs : array (t,)
        Of each token of the target, special tokens included.

    Returns
    -------
    array ()
        At most 0.

    Examples
    --------
    >>> import numpy as np
    >>> float(bartscore(np.asarray([-1.0, -2.0, -0.5, -0.5])))
    -1.0
    """
    return array_namespace(logprobs).mean(logprobs, axis=-1)


@dataclass(frozen=True)
class BARTScore(BaseMetric):
    """How probable is one text given another: mean log P(target | source)."""

    name = "bartscore"
    title = "BARTScore"
    version = 1
    range = (float("-inf"), 0.0)
    differentiable: ClassVar[bool] = False

    backbone: str = DEFAULT_BACKBONE
    direction: Literal["ref_hyp", "hyp_ref", "f", "src_hyp"] = "ref_hyp"
    references: Literal["mean", "max"] = "mean"

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Log-probabilities of the target's tokens, in the directions asked for."""
        kind, bb = "token_logprobs", self.backbone
        known = {
            "src_hyp": Feature(kind, bb, "source_text", second="text"),
            "ref_hyp": Feature(kind, bb, "references", second="text"),
            "hyp_ref": Feature(kind, bb, "text", second="references"),
        }
        wanted = ("ref_hyp", "hyp_ref") if self.direction == "f" else (self.direction,)
        return {direction: known[direction] for direction in wanted}

    def score(self, features: Features) -> Any:
        """Scores of n texts."""
        if self.direction == "src_hyp":
            return _stacked([bartscore(row) for row in features["src_hyp"]])
        # A row's directions side by side, one pair a reference: F is a mean of both.
        rows = zip(*(features[direction] for direction in self.needs), strict=True)
        return _stacked([self._over_references(list(row)) for row in rows])

    def _over_references(self, directions: Sequence[Sequence[Any]]) -> Any:
        """One row's score from its log-probabilities by direction and reference."""
        each = [_stacked([bartscore(logs) for logs in logs_of]) for logs_of in directions]
        by_reference = sum(each[1:], each[0]) / len(each)
        xp = array_namespace(by_reference)
        return xp.max(by_reference) if self.references == "max" else xp.mean(by_reference)


def _stacked(values: Sequence[Any]) -> Any:
    return array_namespace(*values).stack(list(values))
