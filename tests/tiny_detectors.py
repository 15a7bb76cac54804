"""Tiny open-vocabulary detectors of real architectures with random weights, for the tests."""

from __future__ import annotations

from pathlib import Path

from tiny import WORDS, save_tokenizer


def _spread(model: object, scale: float) -> None:
    """Weights of the usual scale give equal boxes; these tell queries and images apart."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():  # type: ignore[attr-defined]
            if parameter.ndim > 1:
                parameter.normal_(0, scale)


def make_owl(folder: Path, *, kind: str = "owlv2", seed: int = 0) -> Path:
    """A tiny OWLv2 or OWL-ViT: 32-pixel images, 16 boxes, 16 tokens a query."""
    import torch
    import transformers as tr

    vocabulary = save_tokenizer(folder, limit=16)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower["num_attention_heads"] = 2
    v2 = kind == "owlv2"
    config_type = tr.Owlv2Config if v2 else tr.OwlViTConfig
    config = config_type(
        text_config={
            **tower,
            "vocab_size": vocabulary,
            "max_position_embeddings": 16,
            "pad_token_id": 0,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
        },
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    torch.manual_seed(seed)
    model = (tr.Owlv2ForObjectDetection if v2 else tr.OwlViTForObjectDetection)(config)
    _spread(model, 0.3)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    (tr.Owlv2ImageProcessor if v2 else tr.OwlViTImageProcessor)(size=size).save_pretrained(folder)
    return folder


def make_grounding_dino(folder: Path, *, seed: int = 0) -> Path:
    """A tiny Grounding DINO, with the ids of BERT's special tokens where it has them."""
    import torch
    import transformers as tr
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
    vocabulary |= {word: 200 + i for i, word in enumerate(w for w in WORDS if w != ".")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    tr.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = tr.GroundingDinoConfig(
        backbone_config=tr.SwinConfig(
            image_size=32,
            patch_size=4,
            embed_dim=16,
            depths=[1, 1, 1],
            num_heads=[2, 2, 4],
            window_size=4,
            out_features=["stage2", "stage3"],
        ),
        text_config=tr.BertConfig(
            vocab_size=1030,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        ),
        d_model=32,
        num_queries=8,
        encoder_layers=1,
        decoder_layers=2,  # the first one's heads are tied to the others'
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_feature_levels=3,
        max_text_len=32,
    )
    torch.manual_seed(seed)
    model = tr.GroundingDinoForObjectDetection(config)
    _spread(model, 0.15)
    model.save_pretrained(folder)
    tr.GroundingDinoImageProcessor(size={"shortest_edge": 48, "longest_edge": 64}).save_pretrained(
        folder
    )
    return folder
