"""Vision-language models of transformers by their processor's and their own calls alone.

What `hf_vlm` does faster is compared with this, and this is what is left where it can't be.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from scorekit.backbones.files import SMALL_FILES, one_line_errors, sha256_of, short_hash
from scorekit.backbones.handle import BackboneInfo, states_of
from scorekit.backbones.hf_dual import without_history
from scorekit.backbones.loading import load_model, quantize
from scorekit.backbones.spec import BackboneOptions
from scorekit.backbones.vlm import Asked, VisionLanguage, square
from scorekit.presets import PRESET_OF_TYPE, PRESETS_HASH, Preset, preset_named
from scorekit.types import Array, InputError, UsageError

TYPE_IDS = ("token_type_ids", "mm_token_type_ids")
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
    picture
        The image itself, where the model is run by its own processor alone.
    """

    tensors: dict[str, torch.Tensor]
    replaced: tuple[int, ...]
    expansion: tuple[int, ...]
    picture: Image.Image | None = None


class PlainVlm(VisionLanguage):
    """A decoder-only vision-language model, and how it is asked pair by pair.

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
        kind = str(self.config.model_type)
        text = self.config.get_text_config()
        self.model = quantize(model, options)
        self.inner: Any = getattr(self.model, "model", None)
        self.head = self.model.get_output_embeddings()
        encodes = getattr(self.config, "is_encoder_decoder", False)
        if encodes or getattr(text, "is_encoder_decoder", False):
            raise UsageError(
                f"{folder.name} is an encoder-decoder ({kind}), and hf: reads decoder-only "
                "vision-language models, InstructBLIP and BLIP-2"
            )
        if self.inner is None or self.head is None or not hasattr(self.processor, "tokenizer"):
            raise UsageError(
                f"{folder.name} ({kind}) has no language model with a head, or no tokenizer: "
                "hf: can't ask it"
            )
        self.softcap = getattr(text, "final_logit_softcapping", None)
        self.limit = int(getattr(text, "max_position_embeddings", None) or 1 << 30)
        # Worker threads go through the processor's own, and setting one up while another thread
        # uses it fails ("Already borrowed"): a first call drops a padding that came with it.
        self.processor.tokenizer(PROBE)
        self.tokenizer = copy.deepcopy(self.processor.tokenizer)
        self.image_token = _image_token(self.processor, self.config)
        self.placeholder = int(self.tokenizer.convert_tokens_to_ids(self.image_token))
        self.image_id = int(getattr(self.config, "image_token_id", None) or self.placeholder)
        note = self.config.to_dict().get("scorekit") or {}
        self.preset = preset_named(note.get("preset") or preset_of(self.config))
        self._chat_end: int | None = None
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
        # With and without torchvision, transformers resizes to different pixels.
        resizer = "processor-" + backend_of(self.processor.image_processor)
        facts = {"preset": self.preset.name}
        if options.quantize != "none":
            facts["quantize"] = options.quantize
        self.info = BackboneInfo(
            fingerprint=short_hash(
                [identity, options.dtype, options.quantize, resizer, PRESETS_HASH]
            ),
            identity=identity,
            text_limit=self.limit,
            constants={},
            domain=str(note.get("domain", "any")),
            resize=resizer,
            files=states_of([*files, *code, folder, *_recipe_files()]),
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
            if not with_image:
                head = head.replace("{image}\n", "").replace("{image}", "")
            head = head.replace("{image}", self.image_token).replace(
                "{bos}", self.tokenizer.bos_token or ""
            )
            return head + question + tail
        if not self._has_chat():
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

    def _has_chat(self) -> bool:
        return bool(getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template)

    def _probed(self) -> Preset:
        """The template in which an image is first put: the model's, if it can be had."""
        usable = self.preset.frame or self._has_chat()
        return self.preset if usable else preset_named("llava-1.5")

    def _bare(self, prompt: str) -> bool:
        """Whether the tokenizer is to add the tokens that an input begins with."""
        bos = self.tokenizer.bos_token
        return not (bos and bos in prompt)

    def _end_id(self, template: Preset) -> int | None:
        """The token that ends an answer: of a chat, the one that its template puts there."""
        if template.frame or not self._has_chat():
            return self.tokenizer.eos_token_id  # type: ignore[no-any-return]
        if self._chat_end is None:
            self._chat_end = self._find_chat_end()
        return self._chat_end

    def _find_chat_end(self) -> int | None:
        eos: int | None = self.tokenizer.eos_token_id
        said = [
            {"role": role, "content": [{"type": "text", "text": PROBE}]}
            for role in ("user", "assistant")
        ]
        renderer = self.processor if self.processor.chat_template else self.tokenizer
        try:
            full: str = renderer.apply_chat_template(said, tokenize=False)
        except Exception:  # a template for one question alone
            return eos
        tail = self.tokenizer.encode(full.rpartition(PROBE)[2], add_special_tokens=False)
        config = getattr(self.model, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        known = ends if isinstance(ends, list) else [ends]
        return int(tail[0]) if tail and tail[0] in known else eos

    def _ids(self, text: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that a model's input begins with."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=self._bare(text), verbose=False)[
            "input_ids"
        ]
        return ids

    def mean_colour(self) -> tuple[int, int, int]:
        """What a square is filled with: the mean of the model's normalisation."""
        mean = getattr(self.processor.image_processor, "image_mean", None) or (0.5, 0.5, 0.5)
        red, green, blue = (int(part * 255) for part in mean)
        return red, green, blue

    def _check_words(self, question: Asked) -> None:
        for word in self._forbidden:
            if word in question.prompt or any(word in answer for answer in question.answers):
                raise InputError("invalid_text", f"the model's special token {word!r} is in it")

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

    def _forget_positions(self) -> None:
        """Qwen's models keep the last batch's offset, and would add it to this one's."""
        if hasattr(self.inner, "rope_deltas"):
            self.inner.rope_deltas = None

    # The model's own way --------------------------------------------------------------------

    def _process(self, image: Image.Image | None, prompt: str) -> dict[str, Any]:
        """The processor's inputs of one prompt."""
        given = {} if image is None else {"images": image}
        made = self.processor(
            text=prompt, return_tensors="pt", add_special_tokens=self._bare(prompt), **given
        )
        return dict(made.items())

    def _plain(self, image: Image.Image | None, prompt: str, said: Sequence[int]) -> torch.Tensor:
        """Log-probabilities of all tokens after a prompt and after each of `said`."""
        made = self._process(image, prompt)
        made.pop("labels", None)
        length = made["input_ids"].shape[1]
        if length + len(said) > self.limit:
            raise InputError(
                "text_too_long",
                f"{length + len(said)} tokens with the image, the model reads {self.limit}",
            )
        for name, value in made.items():
            whole = torch.is_tensor(value) and value.ndim > 1 and value.shape[:2] == (1, length)
            if name == "input_ids":
                made[name] = torch.cat([value, torch.tensor([said], dtype=torch.long)], dim=1)
            elif whole and name in TYPE_IDS:
                made[name] = torch.cat([value, value.new_zeros((1, len(said)))], dim=1)
            elif whole and name.endswith(("_mask", "_ids")):
                made[name] = torch.cat([value, *[value[:, -1:]] * len(said)], dim=1)
        self._forget_positions()
        moved = self._on_device(made)
        logits = self.model(**moved, use_cache=False).logits[0, length - 1 :].float()
        return torch.log_softmax(logits, dim=-1)

    def _on_device(self, made: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            if torch.is_tensor(value)
            else value
            for name, value in made.items()
        }

    @torch.inference_mode()
    def reply(self, image: Image.Image, text: str, *, max_new_tokens: int, **decoding: Any) -> str:
        """What the model says to a text about an image.

        Parameters
        ----------
        image : PIL image
        text : str
            Put into the model's own template.
        max_new_tokens : int
            The reply is cut there, or where the model's context ends.
        **decoding
            Further arguments of transformers' ``generate``.

        Raises
        ------
        InputError
            ``text_too_long`` if there is no room for a reply, ``invalid_text`` if a control
            token is in the text, ``failed`` if the model fails.
        UsageError
            If one reply alone does not fit into the device's memory.
        """
        template = self._probed()
        self._check_words(Asked(None, text, (), False, False, template))
        shown = square(image, self.mean_colour()) if template.square else image
        try:
            made = self._process(shown, self.render(template, text, with_image=True))
            made.pop("labels", None)
            length = int(made["input_ids"].shape[1])
            if length >= self.limit:
                note = f"the prompt has {length} tokens, the model reads {self.limit}"
                raise InputError("text_too_long", note)
            self._forget_positions()
            ids = self.model.generate(
                **self._on_device(made),
                max_new_tokens=min(max_new_tokens, self.limit - length),
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
                **decoding,
            )[0, length:]
        except torch.OutOfMemoryError:
            raise UsageError(
                "one reply alone does not fit into the device's memory; try --dtype bf16 or "
                "--device cpu"
            ) from None
        except (UsageError, InputError):
            raise
        except Exception as error:
            raise InputError("failed", f"{type(error).__name__}: {error}") from error
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @torch.inference_mode()
    def _plainly(self, question: Asked) -> list[Array] | InputError:
        """One question by the processor's and the model's own calls."""
        try:
            self._check_words(question)
            prompt = self.render(question.template, question.prompt, question.image is not None)
            picture = None if question.image is None else question.image.inputs.picture
            if question.first:
                groups = [tuple(self._variants(answer)) for answer in question.answers]
                logs = self._plain(picture, prompt, ())[0]
                return [value[None] for value in sums(logs, groups)]
            return [
                self._plain(picture, prompt, said[:-1])
                .gather(1, torch.tensor(said, device=self.device)[:, None])[:, 0]
                .cpu()
                .numpy()
                for said in (self._said(question, prompt, answer) for answer in question.answers)
            ]
        except InputError as error:
            return error

    def _said(self, question: Asked, prompt: str, answer: str) -> list[int]:
        """An answer's tokens after a prompt that stays as it is."""
        context = self._ids(prompt)
        ids = self._ids(prompt + question.template.space + answer)
        if common(context, ids) < len(context):
            raise InputError("failed", "the prompt's last token and the answer's first are one")
        said = ids[len(context) :]
        if question.end and (end := self._end_id(question.template)) is not None:
            said = [*said, int(end)]
        return said


def preset_of(config: Any) -> str:
    """The preset that a checkpoint's type stands for.

    LLaVA's class holds other families as well (Pixtral, LLaVA on Qwen), with other prompts.
    """
    kind = str(config.model_type)
    if kind == "llava":
        tower = str(getattr(config.vision_config, "model_type", ""))
        language = str(config.get_text_config().model_type)
        if tower == "pixtral" or language not in ("llama", "mistral"):
            return "generic"
    return PRESET_OF_TYPE.get(kind, "generic")


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


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
    # A chat's marks are often special without standing in the list of special tokens.
    added = [str(t) for t in getattr(tokenizer, "added_tokens_decoder", {}).values() if t.special]
    return tuple(dict.fromkeys([image_token, *map(str, tokenizer.all_special_tokens), *added]))


def sums(logs: torch.Tensor, groups: Sequence[tuple[int, ...]]) -> Array:
    """Summed probabilities of groups of tokens, as logarithms."""
    out = torch.stack([torch.logsumexp(logs[list(group)], 0) for group in groups])
    return out.cpu().numpy()


def backend_of(image_processor: Any) -> str:
    """What resizes: PIL or torchvision."""
    if name := getattr(image_processor, "backend", None):
        return str(name)
    bases = [base.__name__ for base in type(image_processor).__mro__]
    return "torchvision" if any("Fast" in name for name in bases) else "pil"


def _recipe_files() -> list[Path]:
    """What else the fingerprint depends on: the presets, and what is installed."""
    import transformers

    from scorekit import presets

    return [Path(presets.__file__), Path(transformers.__file__).parents[1]]
