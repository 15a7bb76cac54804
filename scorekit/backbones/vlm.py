"""What all vision-language models share: templates, answers, features. Families give `ask`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from scorekit.backbones.dual import looks_drawn, pick_device
from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.spec import DTYPES, BackboneOptions
from scorekit.presets import Preset, preset_named
from scorekit.types import Array, Extracted, Feature, InputError, Pair, UsageError

CPU_BATCH = 4
GPU_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """An image as a family's processor made it; compared by identity, so that it is seen once.

    Attributes
    ----------
    inputs
        Tensors of one image, batch axis included.
    info
        What was seen of it.
    """

    inputs: Any
    info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about one image, and the answers whose probability is wanted.

    Attributes
    ----------
    image : PreparedImage or None
        None asks the language model alone.
    prompt : str
        The question, without template.
    answers : tuple of str
        Each is teacher-forced by itself: the result holds the log-probabilities of its tokens.
    end : bool
        Whether the end token after the answer counts as one of them.
    first : bool
        Instead: for every answer, the log of the summed probability of the first tokens of its
        variants (case and leading space), all at the first answer position.
    template : Preset
        How the question is put.
    """

    image: PreparedImage | None
    prompt: str
    answers: tuple[str, ...]
    end: bool
    first: bool
    template: Preset


class VisionLanguage:
    """Base of the backbones that read an image and a text.

    A family gives `info`, `ask` and `prepare_image`.

    Attributes
    ----------
    info : BackboneInfo
    preset : Preset
        The one that ``auto`` stands for.
    """

    info: BackboneInfo
    preset: Preset

    def __init__(self, options: BackboneOptions) -> None:
        self.options = options
        self.device = pick_device(options.device)
        self.dtype: torch.dtype = getattr(torch, DTYPES[options.dtype])
        self.batch_size = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH

    # What a family gives ------------------------------------------------------------------

    def prepare_image(self, image: Image.Image) -> Any:
        """The processor's tensors of one image; called from several threads."""
        raise NotImplementedError

    def ask(self, asked: Sequence[Asked], batch_size: int) -> list[list[Array] | InputError]:
        """For each question one float32 array an answer, or what is wrong with the question.

        Questions about one image stand together. A question over the context length is an
        ``InputError("text_too_long", ...)``.
        """
        raise NotImplementedError

    # The protocol -------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """Architecture, weights, preprocessing and dtype, as one short hash."""
        return self.info.fingerprint

    def prepare(self, feature: Feature, image: Image.Image) -> PreparedImage:
        """One decoded image as the model reads it; safe to call from several threads."""
        params = dict(feature.params)
        info: dict[str, Any] = {}
        if self.info.domain == "scenes" and not looks_drawn(np.asarray(image)):
            info["off_domain"] = "a photograph or painting, not a scene"
        template = self.template(params)
        pad = str(params.get("pad", "auto"))
        if pad == "square" or (pad == "auto" and template.square):
            image = square(image, self.mean_colour())
        try:
            return PreparedImage(self.prepare_image(image), info)
        except UsageError:
            raise
        except Exception as error:
            detail = str(error).split("\n")[0][:200]
            note = f"the model's image processor rejects it: {type(error).__name__}: {detail}"
            raise InputError("invalid_image", note) from error

    def template(self, params: dict[str, Any]) -> Preset:
        """The preset of a feature's parameters, its own question and answer put in."""
        name = str(params.get("preset", "auto"))
        base = self.preset if name == "auto" else preset_named(name)
        return base.with_words(str(params.get("question", "")), str(params.get("answer", "")))

    def mean_colour(self) -> tuple[int, int, int]:
        """What a square is filled with: the mean of the model's normalisation."""
        return (127, 127, 127)

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """Features of pairs (prepared image, text), or of texts alone, in their order."""
        params = dict(feature.params)
        template = self.template(params)
        pairs = [each if isinstance(each, Pair) else Pair(None, each) for each in inputs]
        if feature.kind == "answer_probability":
            asked = [self._vqa(pair, template, params) for pair in pairs]
        elif feature.kind == "answer":
            asked = [_choice(pair, template) for pair in pairs]
        elif feature.kind == "token_logprobs":
            asked = [_caption(pair, template, params) for pair in pairs]
        else:
            raise UsageError(
                f"{feature.backbone} answers questions about images and gives no "
                f"{feature.kind.replace('_', ' ')}; that takes another kind of model, such as "
                "scenes-clip or open_clip:ViT-B-32/openai"
            )
        results = self._ask_all(asked, batch_size or self.batch_size)
        if feature.kind == "answer_probability" and asked and not asked[0].end:
            _check_one_token(asked[0], results, params)
        return [
            each
            if isinstance(each, InputError)
            else Extracted(_joined(each), _info_of(feature, pair, question, each))
            for each, pair, question in zip(results, pairs, asked, strict=True)
        ]

    def _vqa(self, pair: Pair, template: Preset, params: dict[str, Any]) -> Asked:
        answers: tuple[str, ...] = (template.answer,)
        first = params.get("normalize", "none") == "yes_no"
        if first:
            answers = ("yes", "no")
        whole = params.get("answer_tokens", "auto")
        end = template.counts_end if whole == "auto" else whole == "all"
        return Asked(pair.first, template.ask(pair.second), answers, end, first, template)

    def _ask_all(self, asked: Sequence[Asked], size: int) -> list[list[Array] | InputError]:
        """Ask; on short memory in smaller batches; where a batch fails, one by one."""
        # What is tried again is tried after the except clause: inside, the error's traceback
        # would keep the failed batch's tensors alive.
        try:
            return self.ask(asked, size)
        except torch.OutOfMemoryError:
            if size == 1 and len(asked) == 1:
                raise UsageError(
                    "one question alone does not fit into the device's memory; "
                    "try --dtype bf16 or --device cpu"
                ) from None
            short = True
        except (UsageError, KeyboardInterrupt):
            raise
        except Exception as error:
            if len(asked) == 1:
                return [InputError("failed", f"{type(error).__name__}: {error}")]
            short = False
        if not short:
            return [r for each in asked for r in self._ask_all([each], 1)]
        self.batch_size = min(self.batch_size, max(1, size // 2))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = max(1, len(asked) // 2)
        parts = (asked,) if len(asked) == 1 else (asked[:half], asked[half:])
        return [r for part in parts for r in self._ask_all(part, max(1, size // 2))]


def square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Pad an image to a square, centred, as LLaVA-1.5 does."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    out = Image.new(image.mode, (side, side), colour)
    out.paste(image, ((side - width) // 2, (side - height) // 2))
    return out


def _check_one_token(
    asked: Asked, results: Sequence[list[Array] | InputError], params: dict[str, Any]
) -> None:
    """The first token of a longer answer is another word's as well: refuse it."""
    lengths = {len(array) for each in results if isinstance(each, list) for array in each}
    if lengths - {1}:
        raise UsageError(
            f"the answer {asked.answers[0]!r} is {max(lengths)} tokens of this model, and "
            f"answer_tokens={params.get('answer_tokens', 'auto')} takes the first alone; "
            "say answer_tokens=all"
        )


def _choice(pair: Pair, template: Preset) -> Asked:
    """A question of TIFA or DSG: JSON with its text and, where given, its choices."""
    from scorekit.questions import Question

    question = Question.parse(pair.second)
    choices = question.choices or ("yes", "no")
    yes_no = {c.lower() for c in choices} == {"yes", "no"}
    return Asked(pair.first, question.prompt, tuple(choices), False, yes_no, template)


def _caption(pair: Pair, template: Preset, params: dict[str, Any]) -> Asked:
    prompt = str(params.get("prompt", template.describe))
    end = params.get("end", "false") in ("true", True)
    return Asked(pair.first, prompt, (pair.second,), end, False, template)


def _joined(arrays: list[Array]) -> Array:
    """The arrays of a question's answers in one: of several answers, the mean of each."""
    if len(arrays) == 1:
        return arrays[0].astype(np.float32)
    return np.array([each.mean() for each in arrays], dtype=np.float32)


def _info_of(feature: Feature, pair: Pair, question: Asked, arrays: list[Array]) -> dict[str, Any]:
    info = dict(pair.first.info) if isinstance(pair.first, PreparedImage) else {}
    if feature.kind == "answer":
        info["answer"] = question.answers[int(_joined(arrays).argmax())]
    return info


__all__ = ["Asked", "PreparedImage", "VisionLanguage", "square"]
