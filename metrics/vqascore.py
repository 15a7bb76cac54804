"""VQAScore (Lin et al., ECCV 2024, arXiv:2404.01291, equation 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scorekit.arrays import array_namespace
from scorekit.metric import BaseMetric
from scorekit.presets import preset_named
from scorekit.types import Feature, Features, answer_probability

DEFAULT_BACKBONE = "hf:llava-hf/llava-1.5-7b-hf"


def vqascore(logprobs: Any) -> Any:
    """P(answer | image, question): the geometric mean over the answer's tokens.

    Parameters
    ----------
    logprobs : array (..., t)
        Log-probabilities of the answer's tokens, each given the ones before it.

    Returns
    -------
    array (...)
        In 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(vqascore(np.log(np.asarray([0.81, 0.25])))), 6)
    0.45
    """
    xp = array_namespace(logprobs)
    return xp.exp(xp.mean(logprobs, axis=-1))


def normalized(logprobs: Any) -> Any:
    """P(yes) / (P(yes) + P(no)), each summed over its case and space variants.

    Parameters
    ----------
    logprobs : array (..., 2)
        log P(yes) and log P(no) at the first position of the answer.

    Returns
    -------
    array (...)
        In 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(normalized(np.log(np.asarray([0.3, 0.1])))), 6)
    0.75
    """
    xp = array_namespace(logprobs)
    # A logistic of the difference: no 0/0 where both are tiny.
    return 1 / (1 + xp.exp(logprobs[..., 1] - logprobs[..., 0]))


@dataclass(frozen=True)
class VQAScore(BaseMetric):
    """Would a vision-language model say yes: P("Yes" | image, does it show the text?)."""

    name = "vqascore"
    title = "VQAScore"
    version = 1
    range = (0.0, 1.0)

    backbone: str = DEFAULT_BACKBONE
    preset: str = "auto"
    question: str = ""
    answer: str = ""
    answer_tokens: Literal["auto", "all", "first"] = "auto"
    normalize: Literal["none", "yes_no"] = "none"
    pad: Literal["auto", "square", "none"] = "auto"

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Log-probabilities of the answer to the question about image and text."""
        return {"answer": answer_probability(self.backbone, **self.params())}

    def recipe(self, facts: Mapping[str, str]) -> dict[str, Any]:
        """Parameters with all that the preset decides put in."""
        name = facts.get("preset", "generic") if self.preset == "auto" else self.preset
        preset = preset_named(name).with_words(self.question, self.answer)
        decided = {
            "preset": preset.name,
            "question": preset.question,
            "answer": preset.answer,
            "answer_tokens": "all" if preset.counts_end else "first",
            "pad": "square" if preset.square else "none",
        }
        if self.normalize == "yes_no":  # neither the answer nor its length plays a part
            decided |= {"answer": "yes/no", "answer_tokens": "first"}
        given = {k: v for k, v in self.params().items() if v not in ("auto", "") and k != "preset"}
        ignored = ("answer", "answer_tokens") if self.normalize == "yes_no" else ()
        return {**decided, **{k: v for k, v in given.items() if k not in ignored}}

    def score(self, features: Features) -> Any:
        """Scores of n pairs."""
        if self.normalize == "yes_no":
            return normalized(features["answer"])
        return vqascore(features["answer"])
