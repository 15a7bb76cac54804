"""Vision-language models of transformers that decode from one sequence: LLaVA, Qwen-VL, Gemma 3,
PaliGemma, and whatever else `AutoModelForImageTextToText` loads.

An image is encoded once for all its texts. Where attention is causal, the keys and values of
what its texts have in common (the image and the question's head) are computed once as well, and
logits are computed at the answer's positions alone.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scorekit.backbones.files import SMALL_FILES, one_line_errors, sha256_of, short_hash
from scorekit.backbones.handle import BackboneInfo, states_of
from scorekit.backbones.hf_dual import without_history
from scorekit.backbones.loading import load_model, quantize
from scorekit.backbones.spec import BackboneOptions
from scorekit.backbones.vlm import Asked, PreparedImage, VisionLanguage
from scorekit.presets import PRESET_OF_TYPE, Preset, preset_named
from scorekit.types import Array, InputError, UsageError

# The question and the answer form one context here: every text changes what the image's tokens
# become, so that nothing but the image's own encoding can be shared.
PREFIX_LM = ("paligemma",)
TYPE_IDS = ("token_type_ids", "mm_token_type_ids")
MADE_HERE = ("input_ids", "attention_mask", *TYPE_IDS)
SUFFIX_ROWS = 2
"""So many times the batch size of texts after a shared prefix go through at once."""
PROBE = "x"


@dataclass(frozen=True, slots=True, eq=False)
class Vision:
    """What the processor makes of one image, whatever the text.

    Attributes
    ----------
    tensors
        Pixels, grid sizes and the like, as the model's forward takes them.
    replaced, expansion
        The image's place in a prompt's token ids, and what stands there for the model.
    """

    tensors: dict[str, torch.Tensor]
    replaced: tuple[int, ...]
    expansion: tuple[int, ...]


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


class HfVlm(VisionLanguage):
    """A decoder-only vision-language model behind the common interface.

    Parameters
    ----------
    folder, weights
        The checkpoint.
    options
        How it is loaded.
    """

    def __init__(self, folder: Path, weights: list[Path], options: BackboneOptions) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        super().__init__(options)
        with one_line_errors(folder.name):
            self.processor = AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=options.trust_remote_code
            )
        model = load_model(AutoModelForImageTextToText, folder, weights, options, self.device)
        self.config = model.config
        self.model = quantize(model, options)
        self.inner = self.model.model
        self.head = self.model.get_output_embeddings()
        text = self.config.get_text_config()
        self.softcap = getattr(text, "final_logit_softcapping", None)
        self.limit = int(getattr(text, "max_position_embeddings", None) or 1 << 30)
        self.tokenizer = self.processor.tokenizer
        self.image_token = _image_token(self.processor, self.config)
        self.placeholder = int(self.tokenizer.convert_tokens_to_ids(self.image_token))
        self.image_id = int(getattr(self.config, "image_token_id", None) or self.placeholder)
        self.forward_takes = frozenset(inspect.signature(self.inner.forward).parameters)
        kind = str(self.config.model_type)
        note = self.config.to_dict().get("scorekit") or {}
        self.preset = preset_named(note.get("preset") or PRESET_OF_TYPE.get(kind, "generic"))
        self.shares_prefix = kind not in PREFIX_LM
        self._forbidden = _special_strings(self.tokenizer, self.image_token)
        files = [*weights, *sorted(p for p in folder.iterdir() if p.suffix in SMALL_FILES)]
        code = list(folder.glob("*.py")) if options.trust_remote_code else []
        identity = short_hash(
            {
                "arch": without_history(self.config.to_dict()),
                "weights": sha256_of(weights),
                "small": sha256_of(p for p in files if p not in weights),
                "code": sha256_of(code),
            }
        )
        facts = {"preset": self.preset.name}
        if options.quantize != "none":
            facts["quantize"] = options.quantize
        self.info = BackboneInfo(
            fingerprint=short_hash([identity, options.dtype, options.quantize]),
            identity=identity,
            text_limit=self.limit,
            constants={},
            domain=str(note.get("domain", "any")),
            resize="processor",
            files=states_of([*files, *code, folder]),
            facts=facts,
        )

    # Prompts ------------------------------------------------------------------------------

    def render(self, template: Preset, question: str, with_image: bool) -> str:
        """The whole prompt as a string, with one image token in it.

        Raises
        ------
        UsageError
            If the preset wants a chat template and the checkpoint has none.
        """
        if template.frame:
            head, _, tail = template.frame.partition("{question}")
            mark = self.image_token if with_image else ""
            head = head.replace("{image}", mark).replace("{bos}", self.tokenizer.bos_token or "")
            return head + question + tail
        if not (self.processor.chat_template or self.tokenizer.chat_template):
            raise UsageError(
                f"{type(self.model).__name__} has no chat template, which the preset "
                f"{template.name} puts its question in; give preset=llava-1.5 or another with a "
                "frame of its own (`scorekit metrics vqascore`)"
            )
        content: list[dict[str, str]] = [{"type": "text", "text": question}]
        if with_image:
            content.insert(0, {"type": "image"})
        said = [{"role": "user", "content": content}]
        renderer = self.processor if self.processor.chat_template else self.tokenizer
        prompt: str = renderer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        return prompt

    def _ids(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that a model's input begins with."""
        bos = self.tokenizer.bos_token
        twice = bool(bos) and bos in text
        ids: list[int] = self.tokenizer(text, add_special_tokens=not twice, verbose=False)[
            "input_ids"
        ]
        return ids

    def prepare_image(self, image: Image.Image) -> Vision:
        """Pixels, and what stands in the prompt for this image."""
        if not self.shares_prefix:  # its processor puts the prompt together in its own way
            made = self.processor.image_processor(images=image, return_tensors="pt")
            tokens = (self.image_id,) * int(self.processor.image_seq_length)
            return Vision({"pixel_values": made["pixel_values"]}, (self.image_id,), tokens)
        prompt = self.render(self.preset, PROBE, with_image=True)
        bos = self.tokenizer.bos_token
        made = self.processor(
            images=image,
            text=prompt,
            return_tensors="pt",
            add_special_tokens=not (bos and bos in prompt),
        )
        full, plain = made["input_ids"][0].tolist(), self._ids(prompt)
        start = _common(plain, full)
        end = min(_common(plain[::-1], full[::-1]), len(plain) - start, len(full) - start)
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

    def mean_colour(self) -> tuple[int, int, int]:
        """What a square is filled with: the mean of the model's normalisation."""
        mean = getattr(self.processor.image_processor, "image_mean", None) or (0.5, 0.5, 0.5)
        red, green, blue = (int(part * 255) for part in mean)
        return red, green, blue

    # Asking -------------------------------------------------------------------------------

    def ask(self, asked: Sequence[Asked], batch_size: int) -> list[list[Array] | InputError]:
        """For each question one array an answer; see `VisionLanguage.ask`."""
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
        for word in self._forbidden:
            if word in question.prompt or any(word in answer for answer in question.answers):
                raise InputError("invalid_text", f"the model's special token {word!r} is in it")
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
            shared = min(_common(context, ids), len(ids) - 1)
            said = ids[shared:]
            if question.end and self.tokenizer.eos_token_id is not None:
                said = [*said, int(self.tokenizer.eos_token_id)]
            head = self._expand(ids[:shared], image)
            rows.append(Row(index, k, image, [*head, *said[:-1]], len(head), tuple(said)))
        for row in rows:
            if len(row.ids) > self.limit:
                raise InputError(
                    "text_too_long",
                    f"{len(row.ids)} tokens with the image, the model reads {self.limit}",
                )
        return rows

    def _variants(self, word: str) -> list[int]:
        """Tokens that are the word: its cases, with and without a space before it."""
        found = set()
        for case in (word, word.lower(), word.capitalize(), word.upper()):
            for text in (case, " " + case):
                ids = self.tokenizer.encode(text, add_special_tokens=False)
                if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id:
                    found.add(int(ids[0]))
        if not found:
            raise UsageError(f"{word!r} is no single token of this model: nothing to normalise by")
        return sorted(found)

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
            if len(mine) == 1 or mine[0].image is None or not self.shares_prefix:
                alone += mine
                continue
            length = min(_common(mine[0].ids, row.ids) for row in mine)
            length = min(length, *(row.context - 1 for row in mine))
            shared.setdefault((length, _shapes(mine[0])), []).append(mine)
        for (length, _), groups in shared.items():
            for k in range(0, len(groups), size):
                yield from self._after_prefix(groups[k : k + size], length, size * SUFFIX_ROWS)
        alone.sort(key=lambda row: (_shapes(row), len(row.ids)))
        for batch in _alike(alone, size):
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
        self.inner(input_ids=ids, cache=cache, use_cache=True, **inputs)
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
                input_ids=suffix, cache=mine, use_cache=True, position_ids=positions
            ).last_hidden_state
            yield self._read([row for _, row in part], states, length)

    def _read(
        self, rows: Sequence[Row], states: torch.Tensor, offset: int
    ) -> list[tuple[Row, Array]]:
        """Log-probabilities at the answers' positions, and nowhere else."""
        at = [(k, place - offset) for k, row in enumerate(rows) for place in row.places]
        index = torch.tensor(at, device=states.device)
        logits = self.head(states[index[:, 0], index[:, 1]]).float()
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        logs = torch.log_softmax(logits, dim=-1).cpu()
        out = []
        used = 0
        for row in rows:
            mine = logs[used : used + len(row.places)]
            used += len(row.places)
            if row.words:
                sums = [torch.logsumexp(mine[0, list(tokens)], 0) for tokens in row.words]
                out.append((row, torch.stack(sums).numpy()))
            else:
                out.append((row, mine.gather(1, torch.tensor(row.said)[:, None])[:, 0].numpy()))
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
        if not bool(marked.any()):
            return {}
        if not self.shares_prefix:  # marks what is answer, not what is image
            marked = torch.zeros_like(ids)
            for k, length in enumerate(prompts):
                marked[k, length:] = 1
        return {name: marked for name in TYPE_IDS if name in self.forward_takes}

    def _forget_positions(self) -> None:
        """Qwen's models keep the last batch's offset, and would add it to this one's."""
        if hasattr(self.inner, "rope_deltas"):
            self.inner.rope_deltas = None

    def _position_deltas(self, n: int) -> torch.Tensor:
        deltas = getattr(self.inner, "rope_deltas", None)
        if deltas is None:
            return torch.zeros(n, dtype=torch.long, device=self.device)
        return deltas.reshape(n).to(self.device)  # type: ignore[no-any-return]

    def _position_axes(self) -> int:
        return 3 if hasattr(self.inner, "rope_deltas") else 1


def load(folder: Path, weights: list[Path], options: BackboneOptions) -> HfVlm:
    """Load a decoder-only vision-language model.

    Raises
    ------
    UsageError
        If it can't be loaded, or does not fit in memory.
    """
    return HfVlm(folder, weights, options)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


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


def _image_token(processor: Any, config: Any) -> str:
    """What stands for an image in a prompt, before the processor makes many of it."""
    for name in ("boi_token", "image_token"):
        token = getattr(processor, name, None)
        if token is not None:
            return str(token)
    token_id = getattr(config, "image_token_id", None)
    if token_id is None:
        raise UsageError("this checkpoint does not say what stands for an image in a prompt")
    return str(processor.tokenizer.convert_ids_to_tokens(int(token_id)))


def _special_strings(tokenizer: Any, image_token: str) -> tuple[str, ...]:
    """Strings that a text must not have in it: they would be read as control tokens."""
    return tuple(dict.fromkeys([image_token, *map(str, tokenizer.all_special_tokens)]))
