"""Texts of any length for a dual encoder: cut, refused, or read in windows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scorekit.types import Array, Extracted, InputError

if TYPE_CHECKING:
    from scorekit.backbones.dual import DualEncoder


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as a model reads it.

    Attributes
    ----------
    ids : list of int
        Special tokens included, at most the model's limit. No padding, except where a
        tokenizer pads in a way of its own.
    full_length : int
        How many there were before the cut.
    """

    ids: list[int]
    full_length: int


@dataclass(frozen=True)
class Texts:
    """Embeds texts with one prefix."""

    model: DualEncoder
    prefix: str
    batch_size: int

    def embed(self, texts: Sequence[str], long_text: str) -> list[Extracted | InputError]:
        """Features of texts, run by length so that a batch's padding is short."""
        limit = self.model.info.text_limit
        tokens = self.model.tokenize([self.prefix + text for text in texts])
        out: list[Extracted | InputError | None] = [None] * len(texts)
        plain: list[int] = []
        for i, token in enumerate(tokens):
            if token.full_length <= limit or long_text == "truncate":
                plain.append(i)
            elif long_text == "error":
                note = f"{token.full_length} tokens, the model reads {limit}"
                out[i] = InputError("text_too_long", note)
            else:
                out[i] = self._embed_windows(texts[i], token.full_length)
        plain.sort(key=lambda i: len(tokens[i].ids))
        done = self._run([tokens[i] for i in plain])
        for i, result in zip(plain, done, strict=True):
            out[i] = result
        return [result for result in out if result is not None]

    def windows(self, text: str) -> list[str]:
        """Split a text into windows within the limit, at sentence ends where it can.

        A sentence that is too long alone is split at words, a word at letters. Every window
        gets the prefix.
        """
        out: list[str] = []
        current = ""
        for sentence in re.findall(r".+?(?:[.!?。！？]+[\"')\]]*\s*|\n+|$)", text, re.DOTALL):
            pieces = [sentence] if self._fits(current + sentence) else self._pieces(sentence)
            if len(pieces) > 1 or not self._fits(current + pieces[0]):
                out.append(current)
                current = ""
            for piece in pieces:
                if self._fits(current + piece):
                    current += piece
                else:
                    out.append(current)
                    current = piece
        return [self.prefix + window.strip() for window in [*out, current] if window.strip()]

    def _embed_windows(self, text: str, length: int) -> Extracted | InputError:
        """Mean of the unit embeddings of a long text's windows."""
        limit = self.model.info.text_limit
        room = limit - self.model.tokenize([self.prefix])[0].full_length
        if room < limit // 4:
            return InputError(
                "text_too_long", f"the prefix leaves {max(room, 0)} tokens of {limit}"
            )
        windows = self.windows(text)
        parts: list[Array] = []
        for result in self._run(self.model.tokenize(windows)):
            if isinstance(result, InputError):
                return result
            parts.append(result.array / np.linalg.norm(result.array))
        mean: Array = np.stack(parts).mean(axis=0, dtype=np.float32)
        return Extracted(mean, {"tokens": length, "limit": limit, "windows": len(windows)})

    def _run(self, tokens: Sequence[Tokens]) -> list[Extracted | InputError]:
        return self.model.each(tokens, self.model.embed_tokens, self.batch_size)

    def _pieces(self, sentence: str) -> list[str]:
        if self._fits(sentence):
            return [sentence]
        words = re.findall(r"\S+\s*", sentence)
        step = max(1, self.model.info.text_limit // 8)  # a letter is 4 tokens at most, mostly 1
        return [
            piece
            for word in words
            for piece in (
                [word]
                if self._fits(word)
                else [word[i : i + step] for i in range(0, len(word), step)]
            )
        ]

    def _fits(self, text: str) -> bool:
        tokens = self.model.tokenize([self.prefix + text])[0]
        return tokens.full_length <= self.model.info.text_limit
