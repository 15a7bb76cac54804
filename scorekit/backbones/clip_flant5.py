"""CLIP-FlanT5 (Lin et al., ECCV 2024, arXiv:2404.01291): the VQAScore paper's own model.

A T5 whose encoder reads CLIP's patch features, through an MLP, in the place of one image token.
Its published code runs on releases of transformers that are gone; this loads the same
checkpoints: T5's weights, ``mm_projector.*``, and the vision tower where it is in there too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from scorekit.backbones.files import (
    hub_file,
    hub_folder,
    one_line_errors,
    small_files_folder,
    weight_files,
)
from scorekit.backbones.hf_seq2seq import (
    answer_ids,
    answered,
    check_length,
    checkpoint_info,
    exact_convolutions,
    padded,
    refuse_special,
)
from scorekit.backbones.hf_vlm_plain import backend_of
from scorekit.backbones.loading import check_fits, quantize
from scorekit.backbones.spec import BackboneOptions
from scorekit.backbones.vlm import Asked, PreparedImage, VisionLanguage
from scorekit.presets import Preset, preset_named
from scorekit.types import Array, InputError, UsageError

CONTEXT = 2048
"""Tokens of the prompt, the image counted as one: what the model was trained with."""
PROJECTOR = "mm_projector."
TOWER = re.compile(r"^(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?")
# The original's second name for the encoder's embeddings, and a buffer of older releases.
_DOUBLES = re.compile(r"^embed_tokens\.weight$|position_ids$")
TOKENIZER_OF = "google/flan-t5-xl"
"""Whose tokenizer a checkpoint without one uses; T5's is the same at all sizes."""


def load(folder: Path, weights: list[Path], options: BackboneOptions) -> ClipFlanT5:
    """Load a CLIP-FlanT5 checkpoint.

    Raises
    ------
    UsageError
        If it can't be loaded, or its vision tower is not to be had.
    """
    return ClipFlanT5(folder, weights, options)


class ClipFlanT5(VisionLanguage):
    """CLIP-FlanT5 behind the common interface.

    Parameters
    ----------
    folder, weights
        The checkpoint.
    options
        How it is loaded.
    """

    def __init__(self, folder: Path, weights: list[Path], options: BackboneOptions) -> None:
        super().__init__(options)
        # Trainers leave pickles of their arguments and states beside the weights.
        named = [p for p in weights if p.name.startswith(("model", "pytorch_model"))]
        weights = named or weights
        check_fits(weights, options, self.device)
        with one_line_errors(folder.name):
            self.config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
            state = _read(weights)
        self.tokenizer, tokenizer_files = _tokenizer(folder)
        t5, projector = _t5(folder, _language_part(state)), _projector(self.config, state)
        tower, self.processor, tower_files = _vision(self.config, _tower_part(state), options)
        # Moved and cast part by part, each part's old weights being freed at once.
        del state
        t5 = self._place(t5)
        if self.dtype == torch.float16:
            # As transformers keeps them: what they give overflows in 16 bits of that kind.
            for name, module in t5.named_modules():
                if name.endswith(".wo"):
                    module.float()
        self.model = quantize(t5, options)
        self.projector = self._place(projector)
        self.vision = self._place(tower)
        # The original cuts the embeddings to the tokenizer's size, and with them the softmax.
        self.vocabulary = len(self.tokenizer)
        self.limit = int(self.config.get("tokenizer_model_max_length") or CONTEXT)
        self.preset = preset_named("clip-flant5")
        self.info = checkpoint_info(
            folder,
            weights,
            self.config,
            options,
            limit=self.limit,
            preset=self.preset.name,
            image=[self.processor.to_dict(), tower.config.to_dict()],
            resize="processor-" + backend_of(self.processor),
            others=[*tokenizer_files, *tower_files],
        )

    def _place(self, module: Any) -> Any:
        module = module.to(self.device, self.dtype).eval()
        return module.requires_grad_(False)

    # Images -------------------------------------------------------------------------------

    def prepare_image(self, image: Image.Image) -> torch.Tensor:
        """Pixels (1, 3, h, w), as the vision tower takes them."""
        pixels: torch.Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"]
        return pixels

    def mean_colour(self) -> tuple[int, int, int]:
        """What a square is filled with: the mean of the model's normalisation."""
        red, green, blue = (int(part * 255) for part in self.processor.image_mean)
        return red, green, blue

    def see(self, images: Sequence[PreparedImage]) -> torch.Tensor:
        """What the encoder reads of images: (n, patches, d)."""
        pixels = torch.cat([image.inputs for image in images]).to(self.device, self.dtype)
        with exact_convolutions(self.device, self.dtype):
            states = self.vision(pixel_values=pixels, output_hidden_states=True).hidden_states
        seen = states[int(self.config.get("mm_vision_select_layer", -2))]
        if self.config.get("mm_vision_select_feature", "patch") == "patch":
            seen = seen[:, 1:]
        out: torch.Tensor = self.projector(seen)
        return out

    # Asking -------------------------------------------------------------------------------

    def ask(self, asked: Sequence[Asked], batch_size: int) -> list[list[Array] | InputError]:
        """For each question one array an answer; see `VisionLanguage.ask`."""
        out: list[list[Array] | InputError] = [[] for _ in asked]
        by_image: dict[int, list[int]] = {}
        prompts: dict[int, tuple[list[int], list[int]]] = {}
        for i, question in enumerate(asked):
            try:
                prompts[i] = self._prompt(question)
            except InputError as error:
                out[i] = error
            else:
                by_image.setdefault(id(question.image), []).append(i)
        groups = list(by_image.values())
        with torch.inference_mode():
            for start in range(0, len(groups), batch_size):
                some = groups[start : start + batch_size]
                for rows, answers in self._some(some, asked, prompts, batch_size):
                    for i, answer in zip(rows, answers, strict=True):
                        out[i] = answer
        return out

    def _some(
        self,
        groups: Sequence[Sequence[int]],
        asked: Sequence[Asked],
        prompts: dict[int, tuple[list[int], list[int]]],
        size: int,
    ) -> Iterator[tuple[list[int], list[list[Array]]]]:
        """The questions about as many images as a batch has, in batches of like length."""
        images = [asked[rows[0]].image for rows in groups]
        shown = [image for image in images if image is not None]
        features = dict(zip(map(id, shown), self.see(shown), strict=True)) if shown else {}
        order = sorted(
            (i for rows in groups for i in rows), key=lambda i: sum(map(len, prompts[i]))
        )
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            parts = [self._embedded(prompts[i], features.get(id(asked[i].image))) for i in rows]
            states, mask = stacked(parts)
            read = self.model.encoder(inputs_embeds=states, attention_mask=mask).last_hidden_state
            questions = [asked[i] for i in rows]
            yield (
                rows,
                answered(self.model, self.tokenizer, read, mask, questions, self.vocabulary),
            )

    def _embedded(
        self, prompt: tuple[list[int], list[int]], features: torch.Tensor | None
    ) -> torch.Tensor:
        """A prompt's embeddings (s, d), the image's features between its two halves."""
        table = self.model.get_input_embeddings()
        head, tail = (table(torch.tensor(i, dtype=torch.long, device=self.device)) for i in prompt)
        return torch.cat([head, tail] if features is None else [head, features, tail])

    def _prompt(self, question: Asked) -> tuple[list[int], list[int]]:
        """Token ids before and after the image.

        Each half is tokenized by itself, so that it ends with T5's end token: the original
        does so, and its model was trained that way.
        """
        refuse_special(self.tokenizer, question.prompt, *question.answers)
        for answer in question.answers:
            answer_ids(self.tokenizer, answer, question.end)
        head, tail = framed(question.template, question.prompt)
        if question.image is None:
            head, tail = "", head + tail
        parts = [self._ids(head) if question.image is not None else [], self._ids(tail)]
        check_length(sum(map(len, parts)) + (question.image is not None), self.limit)
        return parts[0], parts[1]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        return ids


def framed(template: Preset, question: str) -> tuple[str, str]:
    """What stands before and after the image; whatever the question says is literal."""
    frame = template.frame.replace("{bos}", "") or "{question}"
    if "{image}" not in frame:
        frame = "{image}" + frame
    head, _, tail = frame.partition("{image}")
    before, mark, after = tail.partition("{question}")
    if mark:
        return head, before + question + after
    before, _, after = head.partition("{question}")
    return before + question + after, tail


def stacked(parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (s_i, d) as one tensor (n, s, d), padded at the end, and its mask."""
    _, mask = padded([[1] * len(part) for part in parts], 0, parts[0].device)
    return nn.utils.rnn.pad_sequence(list(parts), batch_first=True), mask


# Loading ----------------------------------------------------------------------------------------


def _read(weights: Sequence[Path]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for path in weights:
        if path.suffix == ".safetensors":
            state |= load_file(path)
        else:  # a pickle that was allowed; even so, it can't run code
            state |= torch.load(path, map_location="cpu", weights_only=True)
    return state


def _language_part(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in state.items()
        if PROJECTOR not in name and not TOWER.match(name) and not _DOUBLES.search(name)
    }


def _tower_part(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {TOWER.sub("", name): value for name, value in state.items() if TOWER.match(name)}
    return {name: value for name, value in found.items() if not _DOUBLES.search(name)}


def _t5(folder: Path, state: dict[str, torch.Tensor]) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    with one_line_errors(folder.name):
        given = json.loads((folder / "config.json").read_text("utf-8"))
        config = T5Config.from_dict({k: v for k, v in given.items() if k != "architectures"})
        config.vocab_size = len(state["shared.weight"])
        with torch.device("meta"):
            model = T5ForConditionalGeneration(config)
        # T5 shares one table; FLAN-T5 has a head of its own, which must stay that.
        same = [f"{part}.embed_tokens.weight" for part in ("encoder", "decoder")]
        state = {**dict.fromkeys((*same, "lm_head.weight"), state["shared.weight"]), **state}
        model.load_state_dict(state, strict=True, assign=True)
        model.set_input_embeddings(model.shared)
    return model


def _projector_part(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = [(name, name.removeprefix("model.")) for name in state]
    return {k.removeprefix(PROJECTOR): state[n] for n, k in names if k.startswith(PROJECTOR)}


def _projector(config: dict[str, Any], state: dict[str, torch.Tensor]) -> nn.Module:
    """The MLP between CLIP and T5, of the type that the configuration names.

    Raises
    ------
    UsageError
        If there is no such type, or the weights are of another.
    """
    kind = str(config.get("mm_projector_type", "linear"))
    seen, width = int(config.get("mm_hidden_size", 1024)), int(config["d_model"])
    depth = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    projector: nn.Module
    if kind == "linear":
        projector = nn.Linear(seen, width)
    elif depth:
        layers: list[nn.Module] = [nn.Linear(seen, width)]
        for _ in range(1, int(depth[1])):
            layers += [nn.GELU(), nn.Linear(width, width)]
        projector = nn.Sequential(*layers)
    else:
        raise UsageError(f"no projector type {kind!r}; there are linear and mlpNx_gelu")
    with one_line_errors("the checkpoint's mm_projector"):
        projector.load_state_dict(_projector_part(state), strict=True)
    return projector


def _vision(
    config: dict[str, Any], state: dict[str, torch.Tensor], options: BackboneOptions
) -> tuple[Any, Any, list[Path]]:
    """The vision tower, its image processor, and the files both were read from.

    The checkpoint's own weights come first: the tower may have been trained with it.

    Raises
    ------
    UsageError
        If the tower's folder is neither on disk nor to be had.
    """
    from transformers import AutoImageProcessor, CLIPVisionConfig, CLIPVisionModel

    name = str(config["mm_vision_tower"])
    folder = Path(name)
    weights: list[Path] = []
    try:
        if not folder.is_dir():
            if folder.is_absolute():
                raise UsageError(f"no folder {name}")
            fetch = small_files_folder if state else _whole_folder(options)
            folder = fetch(name)
        if not state:
            weights = weight_files(folder, allow_pickle=options.allow_pickle)
            if not weights:
                raise UsageError(f"{folder} holds no weights")
    except UsageError as error:
        raise UsageError(
            f"this checkpoint's vision tower (mm_vision_tower: {name}) is missing: {error}"
        ) from None
    with one_line_errors(f"the vision tower {name}"):
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        if state:
            with torch.device("meta"):
                tower = CLIPVisionModel(CLIPVisionConfig.from_pretrained(folder))
            tower.load_state_dict(state, strict=True, assign=True)
            # Built on no device, so what is no weight has no value yet.
            places = torch.arange(tower.embeddings.num_positions)[None]
            tower.embeddings.position_ids = places
        else:
            tower = CLIPVisionModel.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=weights[0].suffix == ".safetensors",
            )
    small = sorted(p for p in folder.iterdir() if p.name == "preprocessor_config.json")
    return tower, processor, [*weights, *small, folder / "config.json"]


def _whole_folder(options: BackboneOptions) -> Any:
    return lambda name: hub_folder(name, allow_pickle=options.allow_pickle)


def _tokenizer(folder: Path) -> tuple[Any, list[Path]]:
    """The checkpoint's tokenizer, or T5's where it brings none, and the latter's files."""
    from transformers import AutoTokenizer

    files: list[Path] = []
    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        files = [
            hub_file(f"hf:{TOKENIZER_OF}", TOKENIZER_OF, [name])
            for name in ("tokenizer_config.json", "tokenizer.json")
        ]
        folder = files[0].parent
    with one_line_errors(folder.name):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True), files


__all__ = ["ClipFlanT5", "load"]
