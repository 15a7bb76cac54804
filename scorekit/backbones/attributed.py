"""Token attributions of texts as features: tokens with the characters they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorekit.backbones.attribution import attribute, tower_of
from scorekit.types import Extracted, InputError, Pair, UsageError

if TYPE_CHECKING:
    from scorekit.backbones.dual import DualEncoder

Span = tuple[int, int]


@dataclass
class Read:
    """A caption as the tower reads it: ids, the spans of its own tokens, and its full length."""

    pair: Pair
    ids: list[int]
    spans: list[Span]
    full_length: int


class Attributor:
    """Attributions by one dual encoder.

    Parameters
    ----------
    model
        The dual encoder; its text tower must be causal.
    params
        Of the feature: ``prefix``, ``last``, ``long_text``.
    """

    def __init__(self, model: DualEncoder, params: Mapping[str, Any]) -> None:
        self.model = model
        self.tower = tower_of(model.model)  # type: ignore[attr-defined]
        self.prefix = str(params.get("prefix", ""))
        self.last = int(params.get("last", 3))
        self.long_text = str(params.get("long_text", "truncate"))
        if self.long_text == "window":
            raise UsageError("token attribution reads a text in one piece: truncate or error")

    def attribute(self, pairs: Sequence[Pair], size: int) -> list[Extracted | InputError]:
        """Features of (text, image embedding) pairs, in their order."""
        limit = self.model.info.text_limit
        out: list[Extracted | InputError | None] = [None] * len(pairs)
        read: list[tuple[int, Read]] = []
        for i, pair in enumerate(pairs):
            tokens = self.model.tokenize([self.prefix + pair.first])[0]
            if tokens.full_length > limit and self.long_text == "error":
                note = f"{tokens.full_length} tokens, the model reads {limit}"
                out[i] = InputError("text_too_long", note)
                continue
            spans = token_spans(self.model, self.prefix + pair.first)[: len(tokens.ids) - 2]
            if len(spans) != len(tokens.ids) - 2:
                raise UsageError(
                    "the tokenizer's tokens can't be told apart in the text: no token attribution"
                )
            read.append((i, Read(pair, tokens.ids, spans, tokens.full_length)))
        # Texts of like length go together: the padding of a batch is computed as well.
        read.sort(key=lambda each: len(each[1].ids))
        done = self.model.each([each for _, each in read], self._batch, size)
        for (i, _), result in zip(read, done, strict=True):
            out[i] = result
        return [result for result in out if result is not None]

    def _batch(self, read: Sequence[Read]) -> list[Extracted]:
        images = np.stack([each.pair.second for each in read])
        found = attribute(
            self.tower,
            [each.ids for each in read],
            torch.from_numpy(images).to(self.model.device),
            self.last,
        )
        out = []
        for each, result in zip(read, found, strict=True):
            skip = len(self.prefix)
            own = [k for k, (start, end) in enumerate(each.spans) if end > skip and end > start]
            info: dict[str, Any] = {
                "spans": [[max(0, each.spans[k][0] - skip), each.spans[k][1] - skip] for k in own],
                "cosine": result.cosine,
                "heads": result.heads,
                "layers": result.layers,
            }
            if each.full_length > len(each.ids):
                info |= {"tokens": each.full_length, "limit": len(each.ids)}
            out.append(Extracted(result.tokens[own].float().numpy(), info))
        return out


def token_spans(model: Any, text: str) -> list[Span]:
    """Where in a text each token between the first and the end token stands, uncut."""
    tokenizer = model.tokenizer
    if hasattr(tokenizer, "sot_token_id"):
        return _open_clip_spans(tokenizer, text)
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # OpenCLIP wraps those of the hub
    if not getattr(inner, "is_fast", False):
        raise UsageError("the tokenizer does not say where its tokens stand: no token attribution")
    spans = inner(text, return_offsets_mapping=True, truncation=False, verbose=False)
    return [(int(start), int(end)) for start, end in spans["offset_mapping"][1:-1]]


def _open_clip_spans(tokenizer: Any, text: str) -> list[Span]:
    """Spans of OpenCLIP's own tokenizer, which does not tell them."""
    cleaned = tokenizer.clean_fn(text)
    back = _back_to(text, cleaned)
    spans: list[Span] = []
    for match in tokenizer.pat.finditer(cleaned):
        word, start = match.group(), match.start()
        # The byte at which each of the word's characters ends.
        ends = np.cumsum([len(letter.encode()) for letter in word])
        letters = "".join(tokenizer.byte_encoder[b] for b in word.encode())
        used = 0
        for piece in tokenizer.bpe(letters).split(" "):
            first = int(np.searchsorted(ends, used, side="right"))
            used += len(piece.removesuffix("</w>"))
            last = int(np.searchsorted(ends, used, side="left"))
            spans.append((back[start + first], back[start + last + 1]))
    return spans


def _back_to(text: str, cleaned: str) -> list[int]:
    """For each place between the characters of a cleaned text, its place in the original."""
    if len(text) == len(cleaned) and text.lower() == cleaned:
        return list(range(len(text) + 1))
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter that is two in lower case
        lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    back = [-1] * (len(cleaned) + 1)
    for a, b, n in SequenceMatcher(None, lowered, cleaned, autojunk=False).get_matching_blocks():
        for k in range(n + (n > 0)):
            back[b + k] = a + k
    back[-1] = len(text) if back[-1] < 0 else back[-1]
    last = len(text)
    for k in range(len(back) - 1, -1, -1):  # what cleaning made anew belongs to what follows it
        last = back[k] = last if back[k] < 0 else back[k]
    return back
