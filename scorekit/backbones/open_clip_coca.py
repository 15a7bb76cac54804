"""CoCa of OpenCLIP (Yu et al., TMLR 2022, arXiv:2205.01917): its embeddings, and its caption head.

``token_logprobs`` of a pair (image, text) is log P of the text's tokens, each given the image and
the tokens before it. Of a text alone it is the same with the image unknown: the mean of the
probabilities over a few images of noise, as VisualGPTScore estimates P(text).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scorekit.backbones.dual import Prepared
from scorekit.backbones.open_clip_dual import OpenClipDual, resolve
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.types import Array, Extracted, Feature, InputError, Pair, UsageError

NOISE_IMAGES = 3
NOISE_MEAN, NOISE_STD, NOISE_SEED = 0.4, 0.25, 0
"""Gaussian noise around the mean brightness of photographs, before normalisation."""


def is_coca(config: Mapping[str, Any]) -> bool:
    """Whether an OpenCLIP model config (`Checkpoint.config`) has a caption head."""
    return "multimodal_cfg" in config


def load(spec: BackboneSpec, options: BackboneOptions) -> CocaDual:
    """Load an OpenCLIP CoCa model.

    Raises
    ------
    UsageError
        If it can't be had, or is no CoCa.
    """
    checkpoint = resolve(spec.name, allow_pickle=options.allow_pickle)
    if not is_coca(checkpoint.config):
        raise UsageError(f"{checkpoint.name} has no caption head: it is no CoCa")
    return CocaDual(checkpoint, options)


@dataclass(frozen=True, slots=True)
class Caption:
    """A text to be predicted.

    Attributes
    ----------
    ids : list of int
        Start token, text, end token.
    said : int
        How many tokens after the start token count.
    states : tensor (s, d)
        What the decoder sees of the image, or of each of k images of noise (k, s, d).
    info : dict
    """

    ids: list[int]
    said: int
    states: torch.Tensor
    info: dict[str, Any]


class CocaDual(OpenClipDual):
    """An OpenCLIP CoCa behind the common interface."""

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """Embeddings as of any dual encoder; ``token_logprobs`` of pairs and of texts.

        Parameter of ``token_logprobs``: ``end``, whether the end token counts (no by default).
        """
        if feature.kind != "token_logprobs":
            return super().extract(feature, inputs, batch_size=batch_size)
        size = batch_size or self.batch_size
        end = dict(feature.params).get("end", False) in (True, "true")
        pairs = [each if isinstance(each, Pair) else Pair(None, each) for each in inputs]
        out: list[Extracted | InputError | None] = [None] * len(pairs)
        by_image: dict[int, list[tuple[int, list[int]]]] = {}
        for i, pair in enumerate(pairs):
            ids = self._whole(pair.second)
            if len(ids) > self._limit:
                note = f"{len(ids)} tokens, the model reads {self._limit}"
                out[i] = InputError("text_too_long", note)
            elif len(ids) == 2 and not end:
                out[i] = InputError("empty_text", "the text has no token of this model")
            else:
                by_image.setdefault(id(pair.first), []).append((i, ids))
        groups = list(by_image.values())
        for start in range(0, len(groups), size):
            some = groups[start : start + size]
            images = [pairs[rows[0][0]].first for rows in some]
            ready: list[tuple[int, Caption]] = []
            for rows, seen in zip(some, self.each(images, self._see, size), strict=True):
                for i, ids in rows:
                    if isinstance(seen, InputError):
                        out[i] = seen
                        continue
                    info = seen.info if isinstance(pairs[i].first, Prepared) else {}
                    caption = Caption(ids, len(ids) - 2 + end, seen.array, dict(info))  # type: ignore[arg-type]
                    ready.append((i, caption))
            ready.sort(key=lambda row: (row[1].states.ndim, len(row[1].ids)))
            captions = [caption for _, caption in ready]
            for (i, _), result in zip(ready, self.each(captions, self._say, size), strict=True):
                out[i] = result
        return [result for result in out if result is not None]

    def _whole(self, text: str) -> list[int]:
        """A text's tokens with both ends, however many there are."""
        tokenizer = self.tokenizer
        if not hasattr(tokenizer, "sot_token_id"):
            raise UsageError(
                "this CoCa reads texts through a tower of transformers, which sees a whole text at "
                "once: its caption head gives no likelihood"
            )
        return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]

    def _see(self, images: Sequence[Prepared | None]) -> list[Extracted]:
        """What the decoder sees of images; of None, what it sees of noise."""
        shown = [image for image in images if image is not None]
        states: list[torch.Tensor] = []
        with torch.inference_mode(), self._exact_convolutions():
            if shown:
                pixels = torch.from_numpy(np.stack([image.pixels for image in shown]))
                states = list(self._states(self.normalise(pixels.to(self.device))))
            noise = self._states(self._noise()) if None in images else None
        left = iter(states)
        return [
            Extracted(next(left) if image is not None else noise, image.info if image else {})  # type: ignore[arg-type]
            for image in images
        ]

    def _states(self, pixels: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model._encode_image(pixels)[1]
        return states

    def _noise(self) -> torch.Tensor:
        """Images of noise, normalised; the same on every machine."""
        rng = np.random.default_rng(NOISE_SEED)
        shape = (NOISE_IMAGES, *self.image_spec.size, 3)
        levels = np.clip(rng.normal(NOISE_MEAN, NOISE_STD, shape), 0, 1) * 255
        return self.normalise(torch.from_numpy(levels.astype(np.uint8)).to(self.device))

    def _say(self, captions: Sequence[Caption]) -> list[Extracted]:
        """Log-probabilities of captions: those with an image, and those over noise."""
        seen = [c for c in captions if c.states.ndim == 2]
        blind = [c for c in captions if c.states.ndim == 3]
        arrays = self._logprobs(seen, torch.stack([c.states for c in seen])) if seen else []
        for caption in blind:
            k = len(caption.states)
            arrays.append(mixture(self._logprobs([caption] * k, caption.states)))
        both = [*seen, *blind]
        return [Extracted(array, c.info) for array, c in zip(arrays, both, strict=True)]

    def _logprobs(self, captions: Sequence[Caption], states: torch.Tensor) -> list[Array]:
        """Teacher-forced: each token's, given those before it; padding is never looked at."""
        ids = torch.full(
            (len(captions), max(len(c.ids) for c in captions)), self._pad_id, dtype=torch.long
        )
        for row, caption in zip(ids, captions, strict=True):
            row[: len(caption.ids)] = torch.tensor(caption.ids)
        ids = ids.to(self.device)
        with torch.inference_mode():
            tokens = self.model._encode_text(ids)[1][:, :-1]
            logs = torch.log_softmax(self.model.text_decoder(states, tokens).float(), dim=-1)
            picked = logs.gather(2, ids[:, 1:, None])[..., 0].cpu().numpy()
        return [row[: c.said] for row, c in zip(picked, captions, strict=True)]


def mixture(logs: Sequence[Array]) -> Array:
    """Log-probabilities of the tokens of one text under the mean of k models.

    Parameters
    ----------
    logs : k arrays (t,)

    Returns
    -------
    array (t,)
        Sums to the logarithm of the mean of the k probabilities of the whole text.

    Examples
    --------
    >>> import numpy as np
    >>> np.exp(mixture([np.log([0.5, 0.5]), np.log([0.1, 0.5])])).round(6)
    array([0.3, 0.5])
    """
    upto = np.cumsum(np.stack(logs).astype(np.float64), axis=1)
    whole = np.logaddexp.reduce(upto, axis=0) - np.log(len(logs))
    steps: Array = np.diff(whole, prepend=0.0)
    return steps.astype(np.asarray(logs[0]).dtype)


__all__ = ["CocaDual", "is_coca", "load", "mixture"]
