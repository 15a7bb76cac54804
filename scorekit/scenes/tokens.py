"""The word tokenizer of scenes-clip: small, lower-casing, with offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorekit.scenes.language import NUMBERS, plural_of
from scorekit.scenes.world import COLOURS, SHAPES, SIZES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# eos is not 2 on purpose: for 2, CLIPTextModel pools at the largest id instead of at eos.
SPECIAL = ("[PAD]", "[BOS]", "[UNK]", "[EOS]")
PAD, BOS, UNK, EOS = range(4)
MAX_LENGTH = 64

# (words before a caption, weight in training); the first is CLIPScore's own prefix.
PREFIXES = (
    ("A photo depicts ", 40),
    ("", 35),
    ("a picture of ", 10),
    ("an image of ", 5),
    ("a scene with ", 5),
    ("there is ", 5),
)


def vocabulary() -> tuple[str, ...]:
    """All tokens in the order of their ids."""
    words = [",", ".", "a", "any", "and", "but", "with", "without", "of", "to", "the"]
    words += ["left", "right", "above", "below"]
    words += [*NUMBERS, *SIZES, *COLOURS, *SHAPES, *map(plural_of, SHAPES)]
    for prefix, _ in PREFIXES:
        words += prefix.lower().split()
    return (*SPECIAL, *dict.fromkeys(words))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, ready to `save_pretrained`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: k for k, word in enumerate(vocabulary())}
    core = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", BOS), ("[EOS]", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=MAX_LENGTH,
        pad_token="[PAD]",
        bos_token="[BOS]",
        unk_token="[UNK]",
        eos_token="[EOS]",
        model_input_names=["input_ids", "attention_mask"],
    )
