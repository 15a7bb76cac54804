"""Vision-language models of transformers that decode from one sequence: LLaVA, Qwen-VL, Gemma 3,
PaliGemma, and whatever else `AutoModelForImageTextToText` loads.

An image is encoded once for all its texts. Where attention is causal, the keys and values of
what its texts have in common (the image and the question's head) are computed once as well, and
logits are computed at the answer's positions alone.

A model type outside `TESTED` is compared with its own plain forward when it is loaded, and
goes a slower way, or is refused, where the faster one gives other numbers.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from scorekit.backbones.hf_vlm_plain import (
    PROBE,
    TYPE_IDS,
    PlainVlm,
    Vision,
    common,
    preset_of,
    sums,
)
from scorekit.backbones.spec import BackboneOptions
from scorekit.backbones.vlm import Asked, PreparedImage
from scorekit.types import Array, InputError, UsageError

# The question and the answer form one context here: every text changes what the image's tokens
# become, so that nothing but the image's own encoding can be shared.
PREFIX_LM = ("paligemma",)
TESTED = ("llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma")
"""Types that the tests compare with transformers' own forward; all others are, when loaded."""
MADE_HERE = ("input_ids", "attention_mask", *TYPE_IDS)
SUFFIX_ROWS = 2
"""So many times the batch size of texts after a shared prefix go through at once."""
READ_AT_ONCE = 1 << 25
"""Logits held at a time: a long caption and a large vocabulary make gigabytes of them."""
TOLERANCE = {"fp32": 2e-3}
COARSE = 0.2
"""How far a log-probability may lie from the plain forward's, in fp32 and in 16 bits."""


Way = Literal["prefix", "whole", "single", "plain"]
"""How pairs go through: texts after their image's prefix; whole sequences in batches; one by
one; or by the model's and its processor's own calls alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to run: a question's prompt with one of its answers.

    Attributes
    ----------
    question, answer
        Where the result goes.
    image
        The image in it.
    ids
        All tokens but the answer's last, whose successor nobody asks for.
    context
        How many of them come before the answer.
    said
        The answer's tokens, or, if `words`, nothing.
    words
        Groups of tokens whose summed probabilities at the answer's first place are wanted.
    """

    question: int
    answer: int
    image: Any
    ids: list[int]
    context: int
    said: tuple[int, ...]
    words: tuple[tuple[int, ...], ...] = ()

    @property
    def places(self) -> range:
        """Positions whose logits are needed."""
        first = self.context - 1
        return range(first, first + (1 if self.words else len(self.said)))


class HfVlm(PlainVlm):
    """A decoder-only vision-language model behind the common interface, sharing what it can.

    Parameters
    ----------
    folder, weights
        The checkpoint.
    options
        How it is loaded.
    """

    def __init__(self, folder: Path, weights: list[Path], options: BackboneOptions) -> None:
        super().__init__(folder, weights, options)
        self.forward_takes = frozenset(inspect.signature(self.inner.forward).parameters)
        # A release of transformers that knows only one of the names swallows the other unseen.
        names = [name for name in ("cache", "past_key_values") if name in self.forward_takes]
        self.cache_name = names[0] if names else ""
        kind = str(self.config.model_type)
        self.prefix_lm = kind in PREFIX_LM
        self.way: Way = "whole" if self.prefix_lm or not self.cache_name else "prefix"
        if kind not in TESTED or preset_of(self.config) == "generic":
            self._choose_way(folder.name)

    @property
    def shares_prefix(self) -> bool:
        """Whether an image's keys and values are computed once for all its texts."""
        return self.way == "prefix"

    def prepare_image(self, image: Image.Image) -> Vision:
        """Pixels, and what stands in the prompt for this image."""
        if self.way == "plain":
            return Vision({}, (), (), image)
        if self.prefix_lm:  # its processor puts the prompt together in its own way
            made = self.processor.image_processor(images=image, return_tensors="pt")
            tokens = (self.image_id,) * int(self.processor.image_seq_length)
            return Vision({"pixel_values": made["pixel_values"]}, (self.image_id,), tokens)
        prompt = self.render(self._probed(), PROBE, with_image=True)
        made = self._process(image, prompt)
        full, plain = made["input_ids"][0].tolist(), self._ids(prompt)
        start = common(plain, full)
        end = min(common(plain[::-1], full[::-1]), len(plain) - start, len(full) - start)
        if start + end == len(plain):
            # Image tokens stand for the one image token, which the start then took for its own.
            start = plain.index(self.placeholder)
            end = len(plain) - start - 1
        tensors = {
            name: value
            for name, value in made.items()
            if name in self.forward_takes and name not in MADE_HERE and torch.is_tensor(value)
        }
        replaced = tuple(plain[start : len(plain) - end])
        return Vision(tensors, replaced, tuple(full[start : len(full) - end]))

    # Asking -------------------------------------------------------------------------------

    def ask(self, asked: Sequence[Asked], batch_size: int) -> list[list[Array] | InputError]:
        """For each question one array an answer; see `VisionLanguage.ask`."""
        if self.way == "plain":
            return [self._plainly(question) for question in asked]
        out: list[list[Array] | InputError] = []
        rows: list[Row] = []
        for index, question in enumerate(asked):
            try:
                mine = self._sequences(index, question)
            except InputError as error:
                out.append(error)
                continue
            out.append([np.empty(0, np.float32)] * len(question.answers))
            rows += mine
        with torch.inference_mode():
            for batch in self._batches(rows, batch_size):
                for row, values in batch:
                    slot = out[row.question]
                    assert isinstance(slot, list)
                    if row.words:
                        slot[:] = [value[None] for value in values]
                    else:
                        slot[row.answer] = values
        return out

    def _sequences(self, index: int, question: Asked) -> list[Row]:
        """The sequences that answer one question."""
        self._check_words(question)
        prompt = self.render(question.template, question.prompt, question.image is not None)
        context = self._ids(prompt)
        image = question.image
        rows = []
        if question.first:
            whole = self._expand(context, image)
            words = tuple(tuple(self._variants(answer)) for answer in question.answers)
            rows.append(Row(index, 0, image, whole, len(whole), (), words))
        for k, answer in enumerate(() if question.first else question.answers):
            # Tokenized together: what an answer's tokens are depends on what stands before.
            ids = self._ids(prompt + question.template.space + answer)
            shared = min(common(context, ids), len(ids) - 1)
            said = ids[shared:]
            if question.end and (end := self._end_id(question.template)) is not None:
                said = [*said, int(end)]
            head = self._expand(ids[:shared], image)
            rows.append(Row(index, k, image, [*head, *said[:-1]], len(head), tuple(said)))
        for row in rows:
            if len(row.ids) > self.limit:
                raise InputError(
                    "text_too_long",
                    f"{len(row.ids)} tokens with the image, the model reads {self.limit}",
                )
        return rows

    def _expand(self, ids: list[int], image: PreparedImage | None) -> list[int]:
        """Put the image's tokens where its one token stands."""
        if image is None:
            return ids
        vision: Vision = image.inputs
        n = len(vision.replaced)
        places = [k for k in range(len(ids) - n + 1) if tuple(ids[k : k + n]) == vision.replaced]
        if len(places) != 1:
            raise InputError("failed", f"the prompt has {len(places)} places for the image")
        return [*ids[: places[0]], *vision.expansion, *ids[places[0] + n :]]

    # Batches ------------------------------------------------------------------------------

    def _batches(self, rows: Sequence[Row], size: int) -> Iterator[list[tuple[Row, Array]]]:
        by_image: dict[int, list[Row]] = {}
        for row in rows:
            by_image.setdefault(id(row.image), []).append(row)
        alone: list[Row] = []
        shared: dict[Any, list[list[Row]]] = {}
        for mine in by_image.values():
            if len(mine) == 1 or mine[0].image is None or self.way != "prefix":
                alone += mine
                continue
            length = min(common(mine[0].ids, row.ids) for row in mine)
            length = min(length, *(row.context - 1 for row in mine))
            shared.setdefault((length, _shapes(mine[0])), []).append(mine)
        for (length, _), groups in shared.items():
            for k in range(0, len(groups), size):
                yield from self._after_prefix(groups[k : k + size], length, size * SUFFIX_ROWS)
        alone.sort(key=lambda row: (_shapes(row), len(row.ids)))
        for batch in _alike(alone, 1 if self.way == "single" else size):
            yield self._whole(batch)

    def _whole(self, rows: Sequence[Row]) -> list[tuple[Row, Array]]:
        """Sequences from their first token on, padded at the end."""
        ids, mask = self._pad([row.ids for row in rows])
        inputs = self._vision([row.image for row in rows])
        if not bool(mask.all()):
            inputs["attention_mask"] = mask
        inputs |= self._types(ids, [row.context for row in rows])
        self._forget_positions()
        states = self.inner(input_ids=ids, use_cache=False, **inputs).last_hidden_state
        return self._read(rows, states, 0)

    def _after_prefix(
        self, groups: Sequence[Sequence[Row]], length: int, size: int
    ) -> Iterator[list[tuple[Row, Array]]]:
        """Sequences of some images, what each image's have in common being run once."""
        from transformers import DynamicCache

        firsts = [mine[0] for mine in groups]
        ids, _ = self._pad([row.ids[:length] for row in firsts])
        inputs = self._vision([row.image for row in firsts])
        inputs |= self._types(ids, [length] * len(firsts))
        cache = DynamicCache(config=self.config.get_text_config())
        self._forget_positions()
        self.inner(input_ids=ids, use_cache=True, **{self.cache_name: cache}, **inputs)
        if cache.get_seq_length() != length:
            raise RuntimeError("the model did not fill its cache")
        deltas = self._position_deltas(len(firsts))
        rows = [(owner, row) for owner, mine in enumerate(groups) for row in mine]
        rows.sort(key=lambda pair: len(pair[1].ids))
        for k in range(0, len(rows), size):
            part = rows[k : k + size]
            owners = torch.tensor([owner for owner, _ in part], device=self.device)
            mine = copy.deepcopy(cache) if k + size < len(rows) else cache
            mine.batch_select_indices(owners)
            suffix, _ = self._pad([row.ids[length:] for _, row in part])
            places = torch.arange(length, length + suffix.shape[1], device=self.device)
            positions = places[None] + deltas[owners][:, None]
            if self._position_axes() == 3:
                positions = positions[None].expand(3, -1, -1)
            states = self.inner(
                input_ids=suffix,
                use_cache=True,
                position_ids=positions,
                **{self.cache_name: mine},
            ).last_hidden_state
            yield self._read([row for _, row in part], states, length)

    def _read(
        self, rows: Sequence[Row], states: torch.Tensor, offset: int
    ) -> list[tuple[Row, Array]]:
        """Log-probabilities at the answers' positions, and nowhere else."""
        at = [(k, place - offset) for k, row in enumerate(rows) for place in row.places]
        index = torch.tensor(at, device=states.device)
        picked = states[index[:, 0], index[:, 1]]
        said = [token for row in rows for token in (row.said or (0,))]
        wanted = torch.tensor(said, device=states.device)[:, None]
        step = max(1, READ_AT_ONCE // int(self.head.weight.shape[0]))
        words = {}
        values = []
        place = 0
        for row in rows:
            if row.words:
                words[place] = row.words
            place += len(row.places)
        totals: dict[int, Array] = {}
        for k in range(0, len(picked), step):
            logits = self.head(picked[k : k + step]).float()
            if self.softcap:
                logits = torch.tanh(logits / self.softcap) * self.softcap
            logs = torch.log_softmax(logits, dim=-1)
            values.append(logs.gather(1, wanted[k : k + step])[:, 0].cpu())
            for at_place, groups in words.items():
                if k <= at_place < k + step:
                    totals[at_place] = sums(logs[at_place - k], groups)
        flat = torch.cat(values).numpy()
        out = []
        used = 0
        for row in rows:
            mine = totals[used] if row.words else flat[used : used + len(row.places)]
            out.append((row, mine))
            used += len(row.places)
        return out

    # Inputs -------------------------------------------------------------------------------

    def _pad(self, ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, ids))
        pad = self.tokenizer.pad_token_id
        padded = torch.full((len(ids), width), 0 if pad is None else pad, dtype=torch.long)
        mask = torch.zeros_like(padded)
        for k, row in enumerate(ids):
            padded[k, : len(row)] = torch.tensor(row)
            mask[k, : len(row)] = 1
        return padded.to(self.device), mask.to(self.device)

    def _vision(self, images: Sequence[PreparedImage | None]) -> dict[str, Any]:
        seen = [image.inputs.tensors for image in images if image is not None]
        if not seen:
            return {}
        out = {}
        for name in seen[0]:
            joined = torch.cat([tensors[name] for tensors in seen]).to(self.device)
            out[name] = joined.to(self.dtype) if joined.is_floating_point() else joined
        return out

    def _types(self, ids: torch.Tensor, prompts: Sequence[int]) -> dict[str, torch.Tensor]:
        """What marks the image's tokens, for the models that ask for it."""
        marked = (ids == self.image_id).long()
        if self.prefix_lm:  # marks what is answer, not what is image
            marked = torch.zeros_like(ids)
            for k, length in enumerate(prompts):
                marked[k, length:] = 1
        elif not bool(marked.any()):
            return {}
        return {name: marked for name in TYPE_IDS if name in self.forward_takes}

    def _position_deltas(self, n: int) -> torch.Tensor:
        deltas = getattr(self.inner, "rope_deltas", None)
        if deltas is None:
            return torch.zeros(n, dtype=torch.long, device=self.device)
        return deltas.reshape(n).to(self.device)  # type: ignore[no-any-return]

    def _position_axes(self) -> int:
        return 3 if hasattr(self.inner, "rope_deltas") else 1

    # The way to go ------------------------------------------------------------------------

    def _choose_way(self, name: str) -> None:
        """The fastest way that gives the numbers of the model's own forward.

        Raises
        ------
        UsageError
            If that forward is not that of a decoder: a token's probability would depend on
            what comes after it.
        """
        template = self._probed()
        pixels = np.arange(64 * 96 * 3, dtype=np.uint32).reshape(64, 96, 3) * 2654435761
        first = Image.fromarray((pixels >> 24).astype(np.uint8))
        pictures = (first, first.transpose(Image.Transpose.ROTATE_180))
        texts = ("a dog", "three red squares left of a tall green tree, and nothing else")

        def ask_all() -> list[Asked]:
            held = [PreparedImage(self.prepare_image(picture), {}) for picture in pictures]
            answers = (template.answer,)
            return [
                Asked(image, template.ask(text), answers, True, False, template)
                for image in held
                for text in texts
            ]

        fast: Way = self.way
        self.way = "plain"
        try:
            with torch.inference_mode():
                asked = ask_all()
                want = self.ask(asked, 1)
                prompt = self.render(template, asked[0].prompt, with_image=True)
                said = self._said(asked[0], prompt, template.answer)
                steps = [
                    float(self._plain(first, prompt, said[:k])[-1, token])
                    for k, token in enumerate(said)
                ]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            detail = str(error).split("\n")[0][:200]
            raise UsageError(
                f"hf: can't ask {name} ({self.config.model_type}): {type(error).__name__}: {detail}"
            ) from error
        if not self._near([np.array(steps)], want[0]):
            raise UsageError(
                f"hf: can't ask {name} ({self.config.model_type}): what a token's probability "
                "is depends on the tokens after it"
            )
        order: tuple[Way, ...] = ("prefix", "whole", "single")
        for way in order[order.index(fast) :]:
            self.way = way
            try:
                asked = ask_all()
                # Two images of two texts, two of one, and each pair alone.
                sets = [asked, asked[::3], *([each] for each in asked)]
                got = [result for each in sets for result in self.ask(each, len(each))]
            except torch.OutOfMemoryError:
                raise
            except Exception:
                continue
            if all(self._near(g, w) for g, w in zip(got, [*want, *want[::3], *want], strict=True)):
                return
        self.way = "plain"
        warnings.warn(
            f"{name} ({self.config.model_type}) is run pair by pair: its own forward shares "
            "nothing between texts and batches",
            stacklevel=2,
        )

    def _near(self, got: list[Array] | InputError, want: list[Array] | InputError) -> bool:
        if isinstance(got, InputError) or isinstance(want, InputError):
            return False
        tolerance = TOLERANCE.get(self.options.dtype, COARSE)
        return all(
            g.shape == w.shape and bool(np.all(np.abs(g - w) <= tolerance))
            for g, w in zip(got, want, strict=True)
        )


def load(folder: Path, weights: list[Path], options: BackboneOptions) -> HfVlm:
    """Load a decoder-only vision-language model.

    Raises
    ------
    UsageError
        If it can't be loaded, or does not fit in memory.
    """
    return HfVlm(folder, weights, options)


def _shapes(row: Row) -> str:
    """Images of one shape can go through together."""
    if row.image is None:
        return ""
    return repr([(k, tuple(v.shape)) for k, v in sorted(row.image.inputs.tensors.items())])


def _alike(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Batches of neighbours with images of one shape."""
    batch: list[Row] = []
    for row in rows:
        if batch and (len(batch) == size or _shapes(batch[0]) != _shapes(row)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
