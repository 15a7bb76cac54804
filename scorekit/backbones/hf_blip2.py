"""BLIP-2 for image-text retrieval (Li et al., ICML 2023, arXiv:2301.12597): ITC and ITM.

``image_embedding`` has one row a query, (queries, d), and ``text_embedding`` is (d,), both before
normalisation; ``match_probability`` of a pair is the ITM head's two logits, (2,), averaged over the
queries: no match, match.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorekit.backbones.dual import DualEncoder, Prepared
from scorekit.backbones.files import one_line_errors
from scorekit.backbones.hf_dual import (
    HfDual,
    _load_processors,
    _spec_for_gradients,
    _text_limit,
    agrees,
    image_spec_of,
)
from scorekit.backbones.hf_seq2seq import checkpoint_info, padded
from scorekit.backbones.loading import load_model, quantize
from scorekit.backbones.spec import BackboneOptions
from scorekit.backbones.texts import Tokens
from scorekit.types import Extracted, Feature, InputError, UsageError

TEXT_LIMIT = 35
"""What the authors' retrieval evaluation cuts to; the tokenizer itself would take 512."""


def load(folder: Path, weights: list[Path], options: BackboneOptions) -> HfBlip2:
    """Load a BLIP-2 image-text retrieval model.

    Raises
    ------
    UsageError
        If it can't be loaded, or is one of the first BLIP.
    """
    return HfBlip2(folder, weights, options)


class HfBlip2(HfDual):
    """`Blip2ForImageTextRetrieval` behind the common interface."""

    def __init__(self, folder: Path, weights: list[Path], options: BackboneOptions) -> None:
        from transformers import Blip2ForImageTextRetrieval

        DualEncoder.__init__(self, options)  # HfDual's own loads what AutoModel gives
        with one_line_errors(folder.name):
            kind = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
        if kind != "blip-2":
            raise UsageError(f"{folder.name} is a {kind} model; this loads BLIP-2 (blip-2)")
        model = load_model(Blip2ForImageTextRetrieval, folder, weights, options, self.device)
        self.model = quantize(model, options)
        self.tokenizer, self.processor = _load_processors(folder, options)
        positions = int(self.model.config.qformer_config.max_position_embeddings)
        self._limit = min(TEXT_LIMIT, positions, _text_limit(self.model, self.tokenizer))
        self.queries = int(self.model.query_tokens.shape[1])
        spec = image_spec_of(self.processor)
        self.uses_spec = spec is not None and agrees(spec, self.processor)
        if spec is None or not self.uses_spec:
            spec = _spec_for_gradients(self.processor)
        self.image_spec = spec
        image = spec.describe() if self.uses_spec else self.processor.to_dict()
        self.info = checkpoint_info(
            folder,
            weights,
            self.model.config.to_dict(),
            options,
            limit=self._limit,
            image=[image, self.resizer],
            resize=self.resizer,
        )
        with one_line_errors(folder.name):
            self.trims = self.find_trimming()

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, queries, d) of normalised pixels (n, 3, h, w)."""
        states = self.model.vision_model(pixel_values=pixels).last_hidden_state
        made = self.model.qformer(
            query_embeds=self.model.query_tokens.expand(len(states), -1, -1),
            encoder_hidden_states=states,
            encoder_attention_mask=self._ones(len(states), states.shape[1]),
        ).last_hidden_state
        out: torch.Tensor = self.model.vision_projection(made.to(self.dtype))
        return out

    def encode_tokens(self, ids: Sequence[Sequence[int]], length: int) -> torch.Tensor:
        """Embeddings (n, d) of token ids, padded to `length`."""
        rows, mask = self._padded(ids, length)
        made = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=rows),
            query_length=0,
            attention_mask=mask,
        ).last_hidden_state
        out: torch.Tensor = self.model.text_projection(made[:, 0].to(self.dtype))
        return out

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """Features of images, of texts, or of pairs (prepared image, text), in their order.

        Parameters of pairs: ``long_text``, as of texts, but for ``window``.
        """
        if feature.kind != "match_probability":
            return super().extract(feature, inputs, batch_size=batch_size)
        size = batch_size or self.batch_size
        policy = str(dict(feature.params).get("long_text", "truncate"))
        if policy == "window":
            raise UsageError("a pair's match has no windows: take truncate or error")
        tokens = self.tokenize([pair.second for pair in inputs])
        out: list[Extracted | InputError | None] = [None] * len(inputs)
        by_image: dict[int, list[int]] = {}
        for i, (pair, token) in enumerate(zip(inputs, tokens, strict=True)):
            if policy == "error" and token.full_length > self._limit:
                note = f"{token.full_length} tokens, the model reads {self._limit}"
                out[i] = InputError("text_too_long", note)
            else:
                by_image.setdefault(id(pair.first), []).append(i)
        groups = list(by_image.values())
        for start in range(0, len(groups), size):
            some = groups[start : start + size]
            images = [inputs[rows[0]].first for rows in some]
            # A list of one result an image: its states, or why there are none.
            seen = self.each(images, self._see, size)
            for rows, states in zip(some, seen, strict=True):
                if isinstance(states, InputError):
                    for i in rows:
                        out[i] = states
            ready = [
                (i, states.array)
                for rows, states in zip(some, seen, strict=True)
                if isinstance(states, Extracted)
                for i in rows
            ]
            ready.sort(key=lambda row: len(tokens[row[0]].ids))
            asked = [(states, tokens[i], inputs[i].first) for i, states in ready]
            for (i, _), result in zip(ready, self.each(asked, self._match, size), strict=True):
                out[i] = result
        return [result for result in out if result is not None]

    def _see(self, images: Sequence[Prepared]) -> list[Extracted]:
        """The ViT's states of images, which stay on the device."""
        pixels = torch.from_numpy(np.stack([image.pixels for image in images]))
        with torch.inference_mode(), self._exact_convolutions():
            states = self.model.vision_model(
                pixel_values=self.normalise(pixels.to(self.device))
            ).last_hidden_state
        return [Extracted(state) for state in states]

    def _match(self, asked: Sequence[tuple[torch.Tensor, Tokens, Prepared]]) -> list[Extracted]:
        """The ITM head's logits of some pairs, averaged over the queries."""
        states = torch.stack([state for state, _, _ in asked])
        ids = [token.ids for _, token, _ in asked]
        with torch.inference_mode():
            rows, mask = self._padded(ids, max(map(len, ids)))
            queries = self.model.query_tokens.expand(len(asked), -1, -1)
            made = self.model.qformer(
                query_embeds=self.model.embeddings(input_ids=rows, query_embeds=queries),
                query_length=self.queries,
                attention_mask=torch.cat([self._ones(len(asked), self.queries), mask], dim=1),
                encoder_hidden_states=states,
                encoder_attention_mask=self._ones(*states.shape[:2]),
            ).last_hidden_state[:, : self.queries]
            logits = self.model.itm_head(made.to(self.dtype)).mean(dim=1).float().cpu().numpy()
        out = []
        for array, (_, token, image) in zip(logits, asked, strict=True):
            cut = token.full_length > self._limit
            said = {"tokens": token.full_length, "limit": self._limit} if cut else {}
            out.append(Extracted(array, {**image.info, **said}))
        return out

    def _padded(
        self, ids: Sequence[Sequence[int]], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, mask = padded(ids, self.tokenizer.pad_token_id, self.device)
        short = length - rows.shape[1]
        pad = self.tokenizer.pad_token_id or 0
        return (
            torch.nn.functional.pad(rows, (0, short), value=pad),
            torch.nn.functional.pad(mask, (0, short)),
        )

    def _ones(self, *shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=torch.long, device=self.device)


__all__ = ["HfBlip2", "load"]
