"""BLIP-2's match probability, ITM (Li et al., ICML 2023, arXiv:2301.12597, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from scorekit.arrays import softmax
from scorekit.metric import BaseMetric
from scorekit.metrics.blip2_itc import DEFAULT_BACKBONE
from scorekit.types import Feature, Features, Scores


def blip2_itm(logits: Any) -> Any:
    """P(match): the second entry of the softmax.

    Parameters
    ----------
    logits : array (..., 2)
        Of no match and of match, each the mean over the queries.

    Returns
    -------
    array (...)
        In 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> blip2_itm(np.asarray([[1.0, 1.0], [0.0, np.log(4.0)]]))
    array([0.5, 0.8])
    """
    return softmax(logits)[..., 1]


@dataclass(frozen=True)
class BLIP2ITM(BaseMetric):
    """How probable is it that text and image belong together, image and text read jointly."""

    name = "blip2_itm"
    title = "BLIP-2 ITM"
    version = 1
    range = (0.0, 1.0)
    # Every pair goes through the Q-Former together: no embedding of the image to differentiate.
    differentiable: ClassVar[bool] = False

    backbone: str = DEFAULT_BACKBONE

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The matching head's logits for image and text."""
        return {"match": Feature("match_probability", self.backbone, "image", second="text")}

    def score(self, features: Features) -> Scores:
        """Probabilities of n pairs, with the difference of the logits as a component."""
        logits = features["match"]
        return Scores(blip2_itm(logits), components={"logit": logits[..., 1] - logits[..., 0]})
