"""Caption likelihood: VisualGPTScore (Lin et al., ICML 2024, arXiv:2306.01879, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from scorekit.arrays import array_namespace
from scorekit.metric import BaseMetric
from scorekit.types import Feature, Features, Scores

DEFAULT_BACKBONE = "open_clip:coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k"


def caption_likelihood(logprobs: Any, text_logprobs: Any = None, *, prior: float = 0.0) -> Any:
    """Mean log P(token | image), less a share of the mean log P(token).

    Parameters
    ----------
    logprobs : array (t,)
        Log-probabilities of a text's tokens, given the image.
    text_logprobs : array (t,), optional
        The same without the image; needed where `prior` is not 0.
    prior : float
        The paper's alpha: 0 is P(text | image), 1 the pointwise mutual information.

    Returns
    -------
    array ()

    Examples
    --------
    >>> import numpy as np
    >>> given, alone = np.asarray([-1.0, -2.0]), np.asarray([-2.0, -4.0])
    >>> float(caption_likelihood(given)), float(caption_likelihood(given, alone, prior=0.5))
    (-1.5, 0.0)
    """
    xp = array_namespace(logprobs)
    mean = xp.mean(logprobs, axis=-1)
    return mean if prior == 0 else mean - prior * xp.mean(text_logprobs, axis=-1)


@dataclass(frozen=True)
class CaptionLikelihood(BaseMetric):
    """How probable is the text as a caption of the image: mean log P(token | image)."""

    name = "caption_likelihood"
    title = "Caption likelihood"
    version = 1
    range = (float("-inf"), 0.0)
    differentiable: ClassVar[bool] = False

    backbone: str = DEFAULT_BACKBONE
    prior: float = 0.0
    end: bool = True

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Log-probabilities of the text's tokens with the image and, for a prior, without it."""
        kind, params = "token_logprobs", (("end", self.end),)
        needs = {"image": Feature(kind, self.backbone, "image", params, second="text")}
        if self.prior:
            needs["text"] = Feature(kind, self.backbone, "text", params)
        return needs

    def score(self, features: Features) -> Scores:
        """Scores of n pairs; with a prior, both means as components."""
        images = features["image"]
        xp = array_namespace(*images)
        seen = xp.stack([caption_likelihood(logs) for logs in images])
        if not self.prior:
            return Scores(seen)
        texts = features["text"]
        alone = xp.stack([caption_likelihood(logs) for logs in texts])
        pairs = zip(images, texts, strict=True)
        value = [caption_likelihood(i, t, prior=self.prior) for i, t in pairs]
        return Scores(xp.stack(value), components={"given_image": seen, "text_alone": alone})
