"""scenes-vqa: its configuration, its processor, and writing its checkpoint."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorekit.scenes.model import MEAN, STD, amend, spread_positions
from scorekit.scenes.tokens import BOS, EOS, PAD, vocabulary

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

RECIPE = "scenes-vqa/1"
IMAGE_SIZE = 64
PATCH_SIZE = 8
PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
IMAGE_TOKEN = "<image>"
MAX_LENGTH = 256

# What the model was taught to answer, with its weight in training; {} is a caption.
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
QUESTIONS = (
    (QUESTION, 78),
    ('Does this image show "{}"? Please answer yes or no.', 6),
    ("Is there {}?", 10),
)
RATE = 'Rate from 0 to 10 how well this figure shows "{}".'
DESCRIBE = "Describe this figure."
RATINGS = tuple(map(str, range(11)))

# As LLaVA-1.5 says it: the image, a line's end, the question.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }} {% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def words() -> tuple[str, ...]:
    """All tokens in the order of their ids; the first are those of scenes-clip."""
    said = " ".join([question for question, _ in QUESTIONS] + [RATE, DESCRIBE, *RATINGS])
    for mark in "{}":
        said = said.replace(mark, " ")
    for mark in '"?.':
        said = said.replace(mark, f" {mark} ")
    more = f"{said.lower()} user : assistant yes ' ! ; - ( )".split()
    known = vocabulary()
    return (*known, *dict.fromkeys(w for w in more if w not in known), IMAGE_TOKEN)


def build_tokenizer() -> Any:
    """The tokenizer: words and single marks, lower case, [BOS] in front."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: k for k, word in enumerate(words())}
    core = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("isolated")]
    )
    core.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=MAX_LENGTH,
        pad_token="[PAD]",
        bos_token="[BOS]",
        unk_token="[UNK]",
        eos_token="[EOS]",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        model_input_names=["input_ids", "attention_mask"],
    )


def build_processor() -> LlavaProcessor:
    """The processor: shortest edge to the model's size (bicubic), centre crop, normalise."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=3,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_config() -> LlavaConfig:
    """The configuration of scenes-vqa: a small CLIP tower, LLaVA's projector, a small Llama."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_act="gelu",
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=6,
    )
    text = LlamaConfig(
        vocab_size=len(words()),
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=words().index(IMAGE_TOKEN),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=PATCHES,
    )
    config.scorekit = {"domain": "scenes", "recipe": RECIPE, "preset": "generic"}
    return config


def build_model(attention: str = "eager") -> LlavaForConditionalGeneration:
    """A fresh scenes-vqa.

    On processors the fused attention is several times slower than "eager" in bfloat16.
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    config = build_config()
    for each in (config, config.vision_config, config.text_config):
        each._attn_implementation = attention
    model = LlavaForConditionalGeneration(config)
    tower, decoder = model.model.vision_tower, model.model.language_model
    with torch.no_grad():
        # As in scenes-clip: faint positions and even attention would hold it on a plateau.
        vision = tower.vision_model if hasattr(tower, "vision_model") else tower
        spread_positions(vision.embeddings.position_embedding.weight, IMAGE_SIZE // PATCH_SIZE)
        decoder.embed_tokens.weight.normal_(std=0.5)
        for layers in (vision.encoder.layers, decoder.layers):
            for layer in layers:
                attend = layer.self_attn
                for part in (attend.q_proj, attend.k_proj):
                    part.weight.normal_(std=1.4 * part.in_features**-0.5)
                attend.v_proj.weight.normal_(std=attend.v_proj.in_features**-0.5)
    return model


def save(model: LlavaForConditionalGeneration, out: str | os.PathLike[str]) -> None:
    """Write a checkpoint: weights in float16, tokenizer, image processor, chat template."""
    folder = Path(out)
    half = copy.deepcopy(model).half()
    half.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # Stored in half precision, but to be loaded in full by default.
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    amend(folder / "config.json", **config)
    # The one name of this class that all releases of transformers know.
    amend(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
