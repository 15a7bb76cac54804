"""Encoder-decoders of transformers: how probable is a target text, given a source text.

`teacher_forced`, `answered` and `checkpoint_info` serve the encoder-decoders that see images
as well (CLIP-FlanT5, InstructBLIP, BLIP-2).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorekit.backbones.dual import pick_device
from scorekit.backbones.files import SMALL_FILES, one_line_errors, sha256_of, short_hash
from scorekit.backbones.handle import BackboneInfo, states_of
from scorekit.backbones.hf_dual import without_history
from scorekit.backbones.loading import load_model, quantize
from scorekit.backbones.spec import DTYPES, BackboneOptions
from scorekit.backbones.vlm import Asked
from scorekit.presets import PRESETS_HASH
from scorekit.types import Array, Extracted, Feature, InputError, Pair, UsageError

CPU_BATCH = 8
GPU_BATCH = 64
NO_LIMIT = 1 << 20
IGNORED = -100


def load(folder: Path, weights: list[Path], options: BackboneOptions) -> HfSeq2Seq:
    """Load an encoder-decoder of texts.

    Raises
    ------
    UsageError
        If it can't be loaded, or does not fit in memory.
    """
    return HfSeq2Seq(folder, weights, options)


class HfSeq2Seq:
    """A text encoder-decoder that gives ``token_logprobs`` for pairs (source, target).

    The target's tokens are those its tokenizer makes, special tokens included, each
    predicted from the ones before it and the decoder's start token: for BART ``<s>``, the
    words, ``</s>``, which is what BARTScore averages over.

    Parameters
    ----------
    folder, weights
        The checkpoint.
    options
        How it is loaded.
    """

    def __init__(self, folder: Path, weights: list[Path], options: BackboneOptions) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self.options = options
        self.device = pick_device(options.device)
        self.dtype: torch.dtype = getattr(torch, DTYPES[options.dtype])
        self.batch_size = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        with one_line_errors(folder.name):
            self.tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=options.trust_remote_code
            )
        model = load_model(AutoModelForSeq2SeqLM, folder, weights, options, self.device)
        self.limit = text_limit(model.config, self.tokenizer)
        self.model = quantize(model, options)
        config = self.model.config.to_dict()
        self.info = checkpoint_info(folder, weights, config, options, limit=self.limit)

    @property
    def fingerprint(self) -> str:
        """Architecture, weights, tokenizer and dtype, as one short hash."""
        return self.info.fingerprint

    def prepare(self, feature: Feature, image: Any) -> Any:
        """Refuse an image: this model reads texts alone.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError(f"{type(self.model).__name__} reads texts, not images")

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """Log-probabilities of each target's tokens, (t,) a pair, in the pairs' order."""
        if feature.kind != "token_logprobs":
            raise UsageError(f"{type(self.model).__name__} gives no {feature.kind}")
        if not all(isinstance(each, Pair) and isinstance(each.first, str) for each in inputs):
            raise UsageError(f"{type(self.model).__name__} wants pairs of a source and a target")
        out: list[Extracted | InputError | None] = [None] * len(inputs)
        ready: list[tuple[int, list[int], list[int]]] = []
        for i, (source, target) in enumerate(inputs):
            try:
                refuse_special(self.tokenizer, source, target)
                ids = self._ids(source), self._ids(target, target=True)
                for name, part in zip(("source", "target"), ids, strict=True):
                    check_length(len(part), self.limit, f"the {name} has ")
            except InputError as error:
                out[i] = error
            else:
                ready.append((i, *ids))
        # Equal sources stand together, and a batch's lengths are alike.
        ready.sort(key=lambda row: (len(row[1]), row[1], len(row[2])))
        size = batch_size or self.batch_size
        start = 0
        while start < len(ready):
            batch = ready[start : start + size]
            try:
                results: Sequence[Extracted | InputError] = self._run(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise UsageError(
                        "one pair alone does not fit into the device's memory; "
                        "try --dtype bf16 or --device cpu"
                    ) from None
                size = len(batch) // 2
                self.batch_size = min(self.batch_size, size)
                torch.cuda.empty_cache()
                continue
            except Exception as error:
                if len(batch) > 1:
                    size = 1
                    continue
                results = [InputError("failed", f"{type(error).__name__}: {error}")]
            for (i, _, _), result in zip(batch, results, strict=True):
                out[i] = result
            start += len(batch)
        return [result for result in out if result is not None]

    def _ids(self, text: str, *, target: bool = False) -> list[int]:
        # Translators read their two languages with different tokenizers.
        kwargs = {"text_target": text} if target else {"text": text}
        ids: list[int] = self.tokenizer(**kwargs, truncation=False, verbose=False)["input_ids"]
        return ids

    def _run(self, batch: Sequence[tuple[int, list[int], list[int]]]) -> list[Extracted]:
        sources = list(dict.fromkeys(tuple(source) for _, source, _ in batch))
        rows = torch.tensor([sources.index(tuple(s)) for _, s, _ in batch], device=self.device)
        ids, mask = padded(sources, self.tokenizer.pad_token_id, self.device)
        with torch.inference_mode():
            encoder = self.model.get_encoder()
            states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            targets = [target for _, _, target in batch]
            logs = teacher_forced(self.model, states[rows], mask[rows], targets)
        return [Extracted(log) for log in logs]


# What other encoder-decoders use as well ------------------------------------------------------


def teacher_forced(
    model: Any,
    states: torch.Tensor,
    mask: torch.Tensor,
    targets: Sequence[Sequence[int]],
    vocabulary: int | None = None,
) -> list[Array]:
    """Log-probabilities of the tokens of each target, given what the encoder made.

    Parameters
    ----------
    model
        Any encoder-decoder of transformers; its own shift gives the decoder's inputs.
    states : tensor (n, s, d)
    mask : tensor (n, s)
    targets : n sequences of token ids
    vocabulary : int, optional
        How many tokens the softmax is over, where not over all.

    Returns
    -------
    list of n arrays (t_i,)
    """
    labels, _ = padded(targets, IGNORED, states.device)
    logs = _decode(model, states, mask, labels, vocabulary)
    # A padded place has no token: any will do, it is cut off below.
    picked = logs.gather(2, labels.clamp(min=0)[..., None])[..., 0].cpu().numpy()
    return [row[: len(t)].astype(np.float32) for row, t in zip(picked, targets, strict=True)]


def answered(
    model: Any,
    tokenizer: Any,
    states: torch.Tensor,
    mask: torch.Tensor,
    asked: Sequence[Asked],
    vocabulary: int | None = None,
) -> list[list[Array]]:
    """The answers to questions that an encoder has read, as `VisionLanguage.ask` gives them.

    Parameters
    ----------
    model, tokenizer
        The encoder-decoder.
    states : tensor (n, s, d)
    mask : tensor (n, s)
        Of n questions.
    asked : n questions
    vocabulary : int, optional
        As in `teacher_forced`.
    """
    out: list[list[Array]] = [[] for _ in asked]
    rows: list[tuple[int, list[int]]] = []
    first = [i for i, question in enumerate(asked) if question.first]
    if first:
        # Whatever the label, what is predicted in its place is the first token.
        label = torch.zeros(len(first), 1, dtype=torch.long, device=states.device)
        logs = _decode(model, states[first], mask[first], label, vocabulary)[:, 0]
        for i, log in zip(first, logs, strict=True):
            for answer in asked[i].answers:
                place = torch.tensor(variants(tokenizer, answer), device=log.device)
                out[i].append(torch.logsumexp(log[place], 0)[None].cpu().numpy())
    for i, question in enumerate(asked):
        if not question.first:
            rows += [(i, answer_ids(tokenizer, a, question.end)) for a in question.answers]
    if rows:
        owners = torch.tensor([i for i, _ in rows], device=states.device)
        logs_of = teacher_forced(
            model, states[owners], mask[owners], [ids for _, ids in rows], vocabulary
        )
        for (i, _), array in zip(rows, logs_of, strict=True):
            out[i].append(array)
    return out


def _decode(
    model: Any,
    states: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor,
    vocabulary: int | None,
) -> torch.Tensor:
    from transformers.modeling_outputs import BaseModelOutput

    given: dict[str, torch.Tensor] = {"labels": labels}
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):  # spares the loss
        given = {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels)}
    logits = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        use_cache=False,
        **given,
    ).logits
    return torch.log_softmax(logits[..., :vocabulary].float(), dim=-1)


def answer_ids(tokenizer: Any, answer: str, end: bool) -> list[int]:
    """Tokens of an answer as the decoder says them, with or without the end token.

    Raises
    ------
    InputError
        If there are none.
    """
    ids: list[int] = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
    if end and tokenizer.eos_token_id is not None:
        ids = [*ids, int(tokenizer.eos_token_id)]
    if not ids:
        raise InputError("empty_text", "the text has no token of this model")
    return ids


def variants(tokenizer: Any, word: str) -> list[int]:
    """Tokens that are the word: its cases, with and without a space before it.

    Raises
    ------
    UsageError
        If no single token is.
    """
    found = set()
    for case in (word, word.lower(), word.capitalize(), word.upper()):
        for text in (case, " " + case):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                found.add(int(ids[0]))
    if not found:
        raise UsageError(f"{word!r} is no single token of this model: nothing to normalise by")
    return sorted(found)


def padded(
    ids: Sequence[Sequence[int]], pad: int | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, longest) padded at the end, and their mask."""
    out = torch.full((len(ids), max(map(len, ids))), 0 if pad is None else pad, dtype=torch.long)
    mask = torch.zeros_like(out)
    for row, (tokens, seen) in zip(ids, zip(out, mask, strict=True), strict=True):
        tokens[: len(row)] = torch.tensor(row)
        seen[: len(row)] = 1
    return out.to(device), mask.to(device)


def exact_convolutions(device: torch.device, dtype: torch.dtype) -> Any:
    """Without TF32, which CUDA would use for float32 convolutions: 10 bits of mantissa."""
    if device.type != "cuda" or dtype != torch.float32:
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=torch.backends.cudnn.benchmark, allow_tf32=False
    )


def refuse_special(tokenizer: Any, *texts: str) -> None:
    """Refuse a text that would be read as a control token.

    Raises
    ------
    InputError
        If one has such a token in it.
    """
    added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    words = dict.fromkeys([*map(str, tokenizer.all_special_tokens), *added])
    for text in texts:
        for word in words:
            if word and word in text:
                raise InputError("invalid_text", f"the model's special token {word!r} is in it")


def check_length(tokens: int, limit: int, what: str = "") -> None:
    """Refuse a text over the limit.

    Raises
    ------
    InputError
        If it is longer.
    """
    if tokens > limit:
        raise InputError("text_too_long", f"{what}{tokens} tokens, the model reads {limit}")


def text_limit(config: Any, tokenizer: Any) -> int:
    """Longest text in tokens that both tokenizer and model take."""
    positions = getattr(config, "max_position_embeddings", None)
    limits = [int(n) for n in (positions, tokenizer.model_max_length) if n]
    return min([*limits, NO_LIMIT])


def checkpoint_info(
    folder: Path,
    weights: Sequence[Path],
    config: dict[str, Any],
    options: BackboneOptions,
    *,
    limit: int,
    preset: str = "",
    image: Any = None,
    resize: str = "processor",
    others: Sequence[Path] = (),
) -> BackboneInfo:
    """What is known of a loaded checkpoint.

    Parameters
    ----------
    folder, weights, config, options
        The checkpoint, and how it was loaded.
    limit
        Longest text in tokens.
    preset
        What ``auto`` stands for, where the model is asked questions.
    image
        JSON value of what is done to an image.
    resize
        What resizes it.
    others
        Further files that the model was read from.
    """
    suffixes = (*SMALL_FILES, *((".py",) if options.trust_remote_code else ()))
    # The Q-Former's tokenizer is in a folder of its own.
    around = [*folder.iterdir(), *folder.glob("qformer_tokenizer/*")]
    small = sorted(p for p in around if p.suffix in suffixes and p.is_file())
    # The configuration counts as it was read: its file states by which release it was made.
    read = [p for p in small if p.name not in ("config.json", "generation_config.json")]
    identity = short_hash(
        {
            "arch": without_history(config),
            "weights": sha256_of([*weights, *(p for p in others if p.suffix not in SMALL_FILES)]),
            "image": image,
            "small": sha256_of([*read, *(p for p in others if p.suffix in SMALL_FILES)]),
        }
    )
    facts = {"preset": preset} if preset else {}
    if options.quantize != "none":
        facts["quantize"] = options.quantize
    note = config.get("scorekit") or {}
    return BackboneInfo(
        fingerprint=short_hash(
            [identity, options.dtype, options.quantize, resize, PRESETS_HASH if preset else ""]
        ),
        identity=identity,
        text_limit=limit,
        constants={},
        domain=str(note.get("domain", "any")),
        resize=resize,
        files=states_of([*weights, *small, *others, folder]),
        facts=facts,
    )


__all__ = ["HfSeq2Seq", "load"]
