"""InstructBLIP and BLIP-2 with a language model: T5 (an encoder-decoder), OPT or Vicuna.

The ViT sees an image once for all its texts. BLIP-2's Q-Former reads the image alone and so runs
once an image as well; InstructBLIP's reads the question too, and runs once a question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scorekit.backbones.clip_flant5 import stacked
from scorekit.backbones.files import one_line_errors
from scorekit.backbones.hf_seq2seq import (
    NO_LIMIT,
    answer_ids,
    answered,
    check_length,
    checkpoint_info,
    exact_convolutions,
    padded,
    refuse_special,
    text_limit,
    variants,
)
from scorekit.backbones.hf_vlm_plain import backend_of
from scorekit.backbones.loading import load_model, quantize
from scorekit.backbones.spec import BackboneOptions
from scorekit.backbones.vlm import Asked, PreparedImage, VisionLanguage
from scorekit.presets import PRESET_OF_TYPE, preset_named
from scorekit.types import Array, InputError


def load(folder: Path, weights: list[Path], options: BackboneOptions) -> BlipVlm:
    """Load an InstructBLIP or BLIP-2 checkpoint that has a language model.

    Raises
    ------
    UsageError
        If it can't be loaded, or does not fit in memory.
    """
    return BlipVlm(folder, weights, options)


@dataclass(frozen=True, slots=True)
class Row:
    """A question as the model reads it.

    Attributes
    ----------
    question : int
        Its position among those asked.
    reads : list of int
        The instruction's tokens for the Q-Former; empty for BLIP-2.
    ids : list of int
        The prompt's tokens for the language model.
    said : list of lists of int
        For a decoder alone, each answer's tokens as they follow from the prompt, whose last
        tokens may merge with the answer's first.
    heads : list of lists of int
        What comes before each of them.
    """

    question: int
    reads: list[int]
    ids: list[int]
    said: list[list[int]]
    heads: list[list[int]]

    @property
    def length(self) -> int:
        """Tokens that the language model reads."""
        return max(
            [len(self.ids), *(len(h) + len(s) for h, s in zip(self.heads, self.said, strict=True))]
        )


class BlipVlm(VisionLanguage):
    """InstructBLIP or BLIP-2 behind the common interface.

    Parameters
    ----------
    folder, weights
        The checkpoint.
    options
        How it is loaded.
    """

    def __init__(self, folder: Path, weights: list[Path], options: BackboneOptions) -> None:
        from transformers import (
            AutoProcessor,
            Blip2ForConditionalGeneration,
            InstructBlipForConditionalGeneration,
        )

        super().__init__(options)
        with one_line_errors(folder.name):
            self.processor = AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=options.trust_remote_code
            )
        self.tokenizer = self.processor.tokenizer
        self.qformer_tokenizer = getattr(self.processor, "qformer_tokenizer", None)
        self.instructed = self.qformer_tokenizer is not None
        cls = (
            InstructBlipForConditionalGeneration
            if self.instructed
            else Blip2ForConditionalGeneration
        )
        model = load_model(cls, folder, weights, options, self.device)
        self.model = quantize(model, options)
        self.lm = self.model.language_model
        self.decodes_alone = bool(self.model.config.use_decoder_only_language_model)
        self.queries = int(self.model.query_tokens.shape[1])
        text = self.model.config.text_config
        self.limit = text_limit(text, self.tokenizer)
        self.reads_limit = NO_LIMIT
        if self.instructed:
            self.reads_limit = text_limit(self.model.config.qformer_config, self.qformer_tokenizer)
        config = self.model.config.to_dict()
        kind = str(self.model.config.model_type)
        self.preset = preset_named(PRESET_OF_TYPE.get(kind, "instructblip"))
        self.info = checkpoint_info(
            folder,
            weights,
            config,
            options,
            limit=min(self.limit, self.reads_limit),
            preset=self.preset.name,
            resize="processor-" + backend_of(self.processor.image_processor),
        )

    # Images -------------------------------------------------------------------------------

    def prepare_image(self, image: Image.Image) -> torch.Tensor:
        """Pixels (1, 3, h, w), as the ViT takes them."""
        made = self.processor.image_processor(images=image, return_tensors="pt")
        pixels: torch.Tensor = made["pixel_values"]
        return pixels

    def mean_colour(self) -> tuple[int, int, int]:
        """What a square is filled with: the mean of the model's normalisation."""
        red, green, blue = (int(part * 255) for part in self.processor.image_processor.image_mean)
        return red, green, blue

    def see(self, images: Sequence[PreparedImage]) -> torch.Tensor:
        """Of each image what can be computed without a text, (n, s, d)."""
        pixels = torch.cat([image.inputs for image in images]).to(self.device, self.dtype)
        with exact_convolutions(self.device, self.dtype):
            states: torch.Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return states if self.instructed else self._queried(states, [])

    def _queried(self, states: torch.Tensor, reads: Sequence[Sequence[int]]) -> torch.Tensor:
        """What the Q-Former makes of images, and of instructions, for the language model."""
        queries = self.model.query_tokens.expand(len(states), -1, -1)
        everywhere = torch.ones(states.shape[:2], dtype=torch.long, device=self.device)
        inputs: dict[str, Any] = {}
        if self.instructed:
            assert self.qformer_tokenizer is not None
            ids, mask = padded(reads, self.qformer_tokenizer.pad_token_id, self.device)
            seen = torch.ones(queries.shape[:2], dtype=torch.long, device=self.device)
            inputs = {"input_ids": ids, "attention_mask": torch.cat([seen, mask], dim=1)}
        made = self.model.qformer(
            query_embeds=queries,
            encoder_hidden_states=states,
            encoder_attention_mask=everywhere,
            **inputs,
        ).last_hidden_state[:, : self.queries]
        # BLIP-2's Q-Former computes in float32 whatever the rest does.
        out: torch.Tensor = self.model.language_projection(made.to(self.dtype))
        return out

    # Asking -------------------------------------------------------------------------------

    def ask(self, asked: Sequence[Asked], batch_size: int) -> list[list[Array] | InputError]:
        """For each question one array an answer; see `VisionLanguage.ask`."""
        out: list[list[Array] | InputError] = [[] for _ in asked]
        by_image: dict[int, list[Row]] = {}
        for i, question in enumerate(asked):
            try:
                row = self._row(i, question)
            except InputError as error:
                out[i] = error
            else:
                by_image.setdefault(id(question.image), []).append(row)
        groups = list(by_image.values())
        with torch.inference_mode():
            for start in range(0, len(groups), batch_size):
                some = groups[start : start + batch_size]
                for rows, answers in self._some(some, asked, batch_size):
                    for row, answer in zip(rows, answers, strict=True):
                        out[row.question] = answer
        return out

    def _some(
        self, groups: Sequence[Sequence[Row]], asked: Sequence[Asked], size: int
    ) -> Iterator[tuple[list[Row], list[list[Array]]]]:
        """The questions about as many images as a batch has, in batches of like length."""
        shown = [image for rows in groups if (image := asked[rows[0].question].image) is not None]
        features = dict(zip(map(id, shown), self.see(shown), strict=True)) if shown else {}
        # With an image and without one, prompts differ in what stands before them.
        every = sorted(
            (row for rows in groups for row in rows),
            key=lambda row: (asked[row.question].image is None, row.length),
        )
        start = 0
        while start < len(every):
            blind = asked[every[start].question].image is None
            rows = [
                row
                for row in every[start : start + size]
                if (asked[row.question].image is None) == blind
            ]
            start += len(rows)
            questions = [asked[row.question] for row in rows]
            seen = None
            if not blind:
                seen = torch.stack([features[id(question.image)] for question in questions])
                seen = self._queried(seen, [row.reads for row in rows]) if self.instructed else seen
            if self.decodes_alone:
                yield rows, self._continued(rows, questions, seen)
            else:
                states, mask = self._embedded([row.ids for row in rows], seen)
                encoder = self.lm.get_encoder()
                read = encoder(inputs_embeds=states, attention_mask=mask).last_hidden_state
                yield rows, answered(self.lm, self.tokenizer, read, mask, questions)

    def _embedded(
        self, ids: Sequence[Sequence[int]], seen: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The language model's inputs: what was seen, then the tokens; and their mask."""
        table = self.lm.get_input_embeddings()
        parts = [table(torch.tensor(i, dtype=torch.long, device=self.device)) for i in ids]
        if seen is not None:
            parts = [torch.cat([image, part]) for image, part in zip(seen, parts, strict=True)]
        return stacked(parts)

    def _continued(
        self, rows: Sequence[Row], asked: Sequence[Asked], seen: torch.Tensor | None
    ) -> list[list[Array]]:
        """Answers of a decoder alone, read off at their own positions."""
        runs: list[tuple[int, list[int], list[int]]] = []
        for i, (row, question) in enumerate(zip(rows, asked, strict=True)):
            if question.first:
                runs.append((i, row.ids, []))
            else:
                runs += [(i, h, s) for h, s in zip(row.heads, row.said, strict=True)]
        owners = torch.tensor([i for i, _, _ in runs], device=self.device)
        states, mask = self._embedded(
            [[*head, *said[:-1]] for _, head, said in runs], None if seen is None else seen[owners]
        )
        made = self.lm.base_model(
            inputs_embeds=states, attention_mask=mask, use_cache=False
        ).last_hidden_state
        before = 0 if seen is None else seen.shape[1]
        places = [
            (k, before + len(head) - 1 + step)
            for k, (_, head, said) in enumerate(runs)
            for step in range(max(1, len(said)))
        ]
        index = torch.tensor(places, device=self.device)
        logits = self.lm.get_output_embeddings()(made[index[:, 0], index[:, 1]])
        logs = torch.log_softmax(logits.float(), dim=-1).cpu()
        out: list[list[Array]] = [[] for _ in rows]
        used = 0
        for i, _, said in runs:
            if asked[i].first:
                for answer in asked[i].answers:
                    words = variants(self.tokenizer, answer)
                    out[i].append(torch.logsumexp(logs[used, words], 0)[None].numpy())
                used += 1
            else:
                step = logs[used : used + len(said)]
                out[i].append(step[range(len(said)), said].numpy().astype(np.float32))
                used += len(said)
        return out

    # Tokens -------------------------------------------------------------------------------

    def _row(self, index: int, question: Asked) -> Row:
        """The tokens of a question.

        Raises
        ------
        InputError
            If it is too long, or has a control token in it.
        """
        refuse_special(self.tokenizer, question.prompt, *question.answers)
        frame = question.template.frame.replace("{bos}", "").replace("{image}", "")
        head, mark, tail = (frame or "{question}").partition("{question}")
        # The image stands before everything, whatever the frame says.
        prompt = head + question.prompt + tail if mark else head
        reads: list[int] = []
        if self.instructed and question.image is not None:
            assert self.qformer_tokenizer is not None
            refuse_special(self.qformer_tokenizer, question.prompt)
            reads = self.qformer_tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
            check_length(len(reads), self.reads_limit, "the Q-Former's tokenizer makes ")
        ids = self._ids(prompt)
        row = Row(index, reads, ids, [], [])
        for answer in question.answers:
            if not self.decodes_alone:
                answer_ids(self.tokenizer, answer, question.end)
            elif not question.first:
                # These models' next word begins with a space; no published number says how.
                space = question.template.space or (
                    " " if prompt and not prompt[-1].isspace() else ""
                )
                whole = self._ids(prompt + space + answer)
                shared = min(_common(ids, whole), len(whole) - 1)
                said = whole[shared:]
                if question.end and self.tokenizer.eos_token_id is not None:
                    said = [*said, int(self.tokenizer.eos_token_id)]
                row.heads.append(whole[:shared])
                row.said.append(said)
        image = self.queries if self.decodes_alone and question.image is not None else 0
        check_length(row.length + image, self.limit, "with the image " if image else "")
        return row

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        return ids


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


__all__ = ["BlipVlm", "load"]
