"""Attributes that a model writes: ``describe:openai:MODEL``, ``describe:hf:NAME_OR_FOLDER``.

The model sees the source image, the target text and, where there is one, the source text.
torch is imported for a local model alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from scorekit.attributes import VERSION, attributes_prompt
from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.question_writer import GREEDY
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.backbones.writer import Writer
from scorekit.images import as_uint8, content_key
from scorekit.judging import Message, Prompt, converse
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError

MAX_TOKENS = 1024
"""Longest reply: two lists of the most phrases that are read."""

MAX_SIDE = 1024
"""A longer image is sent to an endpoint shrunk to this: no short phrase needs more."""


class ImageModel(Protocol):
    """What writes: a model that sees images."""

    info: BackboneInfo
    device: Any
    batch_size: int

    def converse(
        self, prompts: Sequence[Prompt], *, max_tokens: int, max_side: int
    ) -> list[Extracted | InputError]:
        """What it says to prompts with images; see `scorekit.judging.converse`."""
        ...


def load(spec: BackboneSpec, options: BackboneOptions) -> AttributeWriter:
    """Load the model that ``describe:`` names.

    Raises
    ------
    UsageError
        If there is none, or it is of a kind that writes nothing about images.
    """
    inner = BackboneSpec.parse(spec.name)
    if inner.family == "openai":
        from scorekit.backbones.endpoint import load as load_endpoint

        return AttributeWriter(load_endpoint(inner, options))
    if inner.family == "hf":
        from scorekit.backbones.hf import load as load_checkpoint

        model = load_checkpoint(inner, options)
        if hasattr(model, "reply"):
            return AttributeWriter(LocalModel(model))
    raise UsageError(
        f"{spec.given}: what writes attributes is openai:MODEL, or hf:NAME of a vision-language "
        "model that decodes from one sequence (LLaVA, Qwen-VL, Gemma 3, ...)"
    )


class AttributeWriter(Writer):
    """Writes the attributes of edits.

    Parameters
    ----------
    model : ImageModel
    """

    def __init__(self, model: ImageModel) -> None:
        super().__init__(model, "describe", "describer", VERSION)
        self.model = model

    def content_of(self, feature: Feature, sample: Sample) -> str:
        """Hash of the source image's content, the texts, and what the model is asked with.

        Raises
        ------
        InputError
            If the row has no source image or no text, or the image can't be read.
        """
        _check(feature)
        prompt = attributes_prompt(sample)
        images = [content_key(image) for image in prompt.images]
        parts = [VERSION, MAX_TOKENS, MAX_SIDE, prompt.text, prompt.form, *images]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """The attributes of samples, as a file of attributes gives them.

        Returns
        -------
        list
            ``failed`` where neither the first nor the second reply could be read.
        """
        _check(feature)
        out: list[Extracted | InputError | None] = [None] * len(inputs)
        prompts: dict[int, Prompt] = {}
        for i, sample in enumerate(inputs):
            try:
                prompts[i] = attributes_prompt(sample)
            except InputError as error:
                out[i] = error
        replies = self.model.converse(
            list(prompts.values()), max_tokens=MAX_TOKENS, max_side=MAX_SIDE
        )
        for i, reply in zip(prompts, replies, strict=True):
            out[i] = reply
        return [result for result in out if result is not None]


class LocalModel:
    """A vision-language model of transformers, asked for one image at a time.

    A batch's padding would change the numbers in the last place, and with them a reply.

    Parameters
    ----------
    model
        A backbone with `reply`: `scorekit.backbones.hf_vlm_plain.PlainVlm`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.info: BackboneInfo = model.info
        self.device: Any = model.device
        self.batch_size: int = model.batch_size

    def converse(
        self, prompts: Sequence[Prompt], *, max_tokens: int, max_side: int
    ) -> list[Extracted | InputError]:
        """What it says to prompts with one image; its own processor resizes the image."""
        return [self._converse(prompt, max_tokens) for prompt in prompts]

    def _converse(self, prompt: Prompt, max_tokens: int) -> Extracted | InputError:
        try:
            (image,) = prompt.images
            picture = Image.fromarray(as_uint8(image))

            def ask(messages: list[Message]) -> str:
                text = _in_one(messages)
                reply: str = self.model.reply(picture, text, max_new_tokens=max_tokens, **GREEDY)
                return reply

            said = converse(prompt, [{"role": "user", "content": prompt.text}], ask)
            return Extracted(np.zeros(0, np.float32), said)
        except InputError as error:
            return error


def _in_one(messages: Sequence[Message]) -> str:
    """A conversation as one question: not every template has room for a second."""
    first, *rest = (str(message["content"]) for message in messages)
    if not rest:
        return first
    reply, again = rest
    return f"{first}\n\nYou replied, between the tags:\n<reply>\n{reply}\n</reply>\n\n{again}"


def _check(feature: Feature) -> None:
    if feature.kind != "attributes":
        raise UsageError(f"a writer of attributes gives no {feature.kind}")
