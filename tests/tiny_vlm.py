"""Tiny vision-language checkpoints of the real architectures, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = (
    *("a", "an", "the", "red", "blue", "green", "circle", "square", "dog", "cat", "tree", "on"),
    *("of", "and", "no", "yes", "or", "not", "is", "does", "this", "figure", "show", "please"),
    *("answer", "user", "assistant", "system", "image", "photo", "between", "curious", "helpful"),
    *("artificial", "intelligence", "gives", "polite", "answers", "to", "question", "describe"),
)
CHAT = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n"
    "{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def tokenizer(*more: str, named: dict[str, str] | None = None) -> Any:
    """Byte-level BPE-like pieces: words, and letters for all else, so that nothing is lost."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<turn>", *more]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {t: k for k, t in enumerate(dict.fromkeys([*special, *letters]))}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        for spelled in (word, word.capitalize(), "Ġ" + word, "Ġ" + word.capitalize()):
            built = spelled[0]
            for letter in spelled[1:]:
                if built + letter not in vocab:
                    vocab[built + letter] = len(vocab)
                    merges.append((built, letter))
                built += letter
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=named or {},
        model_max_length=10_000,
    )
    made.add_special_tokens({"additional_special_tokens": ["<turn>", *more]})
    return made


def _finish(model: Any, processor: Any, folder: Path, seed: int) -> Path:
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Weights of the usual scale give nearly equal answers; these tell inputs apart.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15, generator=generator)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_llava(folder: Path, *, seed: int = 0, limit: int = 512, chat: bool = True) -> Path:
    """LLaVA-1.5: CLIP tower, second last layer, Llama."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer("<image>", named={"image_token": "<image>"})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER, image_size=32, patch_size=8),
        text_config=LlamaConfig(
            **TOWER, vocab_size=len(words), max_position_embeddings=limit, pad_token_id=0
        ),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>\n") if chat else None,
    )
    return _finish(LlavaForConditionalGeneration(config), processor, folder, seed)


def make_qwen(folder: Path, *, seed: int = 0, version: str = "2.5") -> Path:
    """Qwen2.5-VL and Qwen3-VL: any resolution, rotary positions of three axes."""
    import transformers as tf

    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    words = tokenizer(*marks)
    ids = {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }
    text = {
        **TOWER,
        "num_key_value_heads": 2,
        "vocab_size": len(words),
        "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [1, 1, 2],
        },
    }
    vision = {"patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
    pixels = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    if version == "2.5":
        config = tf.Qwen2_5_VLConfig(
            text_config=text,
            vision_config={
                **vision,
                "hidden_size": 32,
                "intermediate_size": 64,
                "depth": 2,
                "num_heads": 4,
                "out_hidden_size": 32,
                "window_size": 32,
                "fullatt_block_indexes": [1],
            },
            **ids,
        )
        model: Any = tf.Qwen2_5_VLForConditionalGeneration(config)
        kind: Any = tf.Qwen2_5_VLProcessor
    else:
        text["head_dim"] = 8
        config = tf.Qwen3VLConfig(
            text_config=text,
            vision_config={
                **vision,
                "hidden_size": 32,
                "intermediate_size": 64,
                "depth": 2,
                "num_heads": 4,
                "out_hidden_size": 32,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0],
            },
            **ids,
        )
        model = tf.Qwen3VLForConditionalGeneration(config)
        kind = tf.Qwen3VLProcessor
    processor = kind(
        image_processor=tf.Qwen2VLImageProcessor(
            **pixels, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
        ),
        tokenizer=words,
        video_processor=tf.Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return _finish(model, processor, folder, seed)


def make_gemma3(folder: Path, *, seed: int = 0) -> Path:
    """Gemma 3: sliding windows, image tokens that see each other."""
    import transformers as tf

    words = tokenizer(
        "<soi>",
        "<eoi>",
        "<soft>",
        named={"boi_token": "<soi>", "eoi_token": "<eoi>", "image_token": "<soft>"},
    )
    config = tf.Gemma3Config(
        text_config=tf.Gemma3TextConfig(
            **TOWER,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=len(words),
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention"],
            max_position_embeddings=512,
        ),
        vision_config=tf.SiglipVisionConfig(**TOWER, image_size=32, patch_size=4),
        mm_tokens_per_image=16,
        boi_token_id=words.convert_tokens_to_ids("<soi>"),
        eoi_token_id=words.convert_tokens_to_ids("<eoi>"),
        image_token_id=words.convert_tokens_to_ids("<soft>"),
    )
    processor = tf.Gemma3Processor(
        image_processor=tf.Gemma3ImageProcessor(size={"height": 32, "width": 32}),
        tokenizer=words,
        image_seq_length=16,
        chat_template="{{ bos_token }}" + CHAT.replace("IMAGE", "<soi>"),
    )
    return _finish(tf.Gemma3ForConditionalGeneration(config), processor, folder, seed)


def make_paligemma(folder: Path, *, seed: int = 0) -> Path:
    """PaliGemma: image and question see each other, the answer sees what is before it."""
    import transformers as tf

    words = tokenizer("<image>", named={"image_token": "<image>"})
    config = tf.PaliGemmaConfig(
        text_config=tf.GemmaConfig(
            **TOWER,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=len(words) + 1024 + 128,
            max_position_embeddings=512,
        ),
        vision_config=tf.SiglipVisionConfig(**TOWER, image_size=32, patch_size=8),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    images = tf.SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = tf.PaliGemmaProcessor(image_processor=images, tokenizer=words)
    return _finish(tf.PaliGemmaForConditionalGeneration(config), processor, folder, seed)


def _language(words: Any, **more: Any) -> dict[str, Any]:
    size = {"vocab_size": len(words), "max_position_embeddings": 2048, "pad_token_id": 0}
    return {**TOWER, **size, **more}


def make_llava_next(folder: Path, *, seed: int = 0) -> Path:
    """LLaVA-NeXT: tiles of an image, as many as its shape asks for."""
    import transformers as tf

    words = tokenizer("<image>", named={"image_token": "<image>"})
    grids = [[32, 64], [64, 32], [64, 64]]
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**TOWER, image_size=32, patch_size=8),
        text_config=tf.LlamaConfig(**_language(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
    )
    processor = tf.LlavaNextProcessor(
        image_processor=tf.LlavaNextImageProcessor(
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
            image_grid_pinpoints=grids,
        ),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>\n"),
    )
    return _finish(tf.LlavaNextForConditionalGeneration(config), processor, folder, seed)


def make_idefics3(folder: Path, *, seed: int = 0) -> Path:
    """Idefics 3: tiles with names of their own between them."""
    import transformers as tf

    tiles = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    marks = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    words = tokenizer("<image>", *marks, *tiles)
    config = tf.Idefics3Config(
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        text_config=tf.LlamaConfig(**_language(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    processor = tf.Idefics3Processor(
        image_processor=tf.Idefics3ImageProcessor(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
        ),
        tokenizer=words,
        image_seq_len=4,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )
    return _finish(tf.Idefics3ForConditionalGeneration(config), processor, folder, seed)


def make_pixtral(folder: Path, *, seed: int = 0) -> Path:
    """Pixtral: LLaVA's class with another tower and another prompt."""
    import transformers as tf

    marks = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]"}
    marks["image_end_token"] = "[IMG_END]"
    words = tokenizer(*marks.values(), named=marks)
    config = tf.LlavaConfig(
        vision_config=tf.PixtralVisionConfig(**TOWER, image_size=64, patch_size=8),
        text_config=tf.MistralConfig(**_language(words, num_key_value_heads=2)),
        image_token_id=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = tf.PixtralProcessor(
        image_processor=tf.PixtralImageProcessor(
            size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}
        ),
        tokenizer=words,
        patch_size=8,
        **marks,
        chat_template="{{ bos_token }}" + CHAT.replace("IMAGE", "[IMG]"),
    )
    return _finish(tf.LlavaForConditionalGeneration(config), processor, folder, seed)


def make_mllama(folder: Path, *, seed: int = 0) -> Path:
    """Llama 3.2 Vision: the image is read by cross-attention, no token stands for its parts."""
    import torch
    import transformers as tf

    words = tokenizer("<|image|>", "<|python_tag|>", named={"image_token": "<|image|>"})
    config = tf.MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "max_num_tiles": 4,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [1],
        },
        text_config={
            **_language(words, num_hidden_layers=3, num_key_value_heads=2),
            "cross_attention_layers": [1],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )
    processor = tf.MllamaProcessor(
        image_processor=tf.MllamaImageProcessor(
            size={"height": 32, "width": 32}, max_image_tiles=4
        ),
        tokenizer=words,
        chat_template="{{ bos_token }}" + CHAT.replace("IMAGE", "<|image|>"),
    )
    model = tf.MllamaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.ndim == 1:
                parameter.fill_(1.0)  # begins at 0: the image would not be seen
    return _finish(model, processor, folder, seed)


def make_florence2(folder: Path, *, seed: int = 0) -> Path:
    """Florence-2: an encoder-decoder."""
    import transformers as tf

    words = tokenizer("<image>", named={"image_token": "<image>"})
    sides = ("encoder", "decoder")
    config = tf.Florence2Config(
        text_config=tf.BartConfig(
            d_model=32,
            vocab_size=len(words),
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            **{
                f"{side}_{name}": n
                for side in sides
                for name, n in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 32))
            },
        ),
        vision_config={
            "depths": [1],
            "embed_dim": [32],
            "num_heads": [4],
            "num_groups": [4],
            "patch_size": [7],
            "patch_stride": [4],
            "patch_padding": [3],
            "patch_prenorm": [False],
            "window_size": 4,
            "projection_dim": 32,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    processor = tf.Florence2Processor(
        image_processor=tf.CLIPImageProcessor(
            size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=words,
        num_additional_image_tokens=0,
    )
    return _finish(tf.Florence2ForConditionalGeneration(config), processor, folder, seed)


MAKERS = {
    "llava": make_llava,
    "qwen2.5-vl": make_qwen,
    "qwen3-vl": lambda folder, **more: make_qwen(folder, version="3", **more),
    "gemma3": make_gemma3,
    "paligemma": make_paligemma,
}
OTHERS = {
    "llava-next": make_llava_next,
    "idefics3": make_idefics3,
    "pixtral": make_pixtral,
    "mllama": make_mllama,
}
"""Types outside `scorekit.backbones.hf_vlm.TESTED`, which are compared when they are loaded."""
