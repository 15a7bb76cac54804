"""Token attributions of texts as features: tokens with the characters they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorekit.backbones.attribution import attribute, check_last, tower_of
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
        check_last(self.tower, self.last)  # in a batch it would be each row's error
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
        # Texts of like length go together, since the padding of a batch is computed as well; and
        # a text that several images share is gone through once in a batch.
        read.sort(key=lambda each: (len(each[1].ids), each[1].ids))
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
    origin = _origins(text, cleaned)
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
            spans.append((origin[start + first][0], origin[start + last][1]))
    return spans


def _origins(text: str, cleaned: str) -> list[Span]:
    """For each character of a cleaned text, what it stands for in the original."""
    if len(text) == len(cleaned) and text.lower() == cleaned:
        return [(k, k + 1) for k in range(len(text))]
    ours, theirs = ([m.span() for m in re.finditer(r"\S+", t)] for t in (text, cleaned))
    if len(ours) != len(theirs):
        return _aligned(text, cleaned, 0)
    # Cleaning works within words; piece by piece, an odd one can't mislead the others.
    out: list[Span] = [(0, 0)] * len(cleaned)
    for (a, b), (c, d) in zip(ours, theirs, strict=True):
        out[c:d] = _aligned(text[a:b], cleaned[c:d], a)
    return out


def _aligned(text: str, cleaned: str, offset: int) -> list[Span]:
    """`_origins` of one piece, which starts at `offset`."""
    # A letter that is two in lower case would shift all that follow.
    lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    matcher = SequenceMatcher(None, lowered, cleaned, autojunk=False)
    out: list[Span] = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            out += [(offset + k, offset + k + 1) for k in range(a, b)]
            continue
        while a < b and text[a].isspace():
            a += 1
        while a < b and text[b - 1].isspace():
            b -= 1
        if kind != "delete":  # all of what is new stands for all of what was there
            out += [(offset + min(a, max(0, b - 1)), offset + b)] * (d - c)
        elif out and a < b:  # "&amp;" became "&": the rest is its as well
            out[-1] = (out[-1][0], offset + b)
    return out
