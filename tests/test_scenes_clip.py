"""The scenes-clip checkpoint: its files, its tokenizer, and what it can tell apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scorekit.scenes.draw import render
from scorekit.scenes.evaluate import (
    BEGIN,
    END,
    PREFIX,
    RANDOM,
    ClipScorer,
    Row,
    auc,
    held_out,
    row_of,
    table,
    write_between,
)
from scorekit.scenes.foils import KINDS
from scorekit.scenes.language import is_true
from scorekit.scenes.tokens import BOS, EOS, PAD, UNK, vocabulary
from scorekit.scenes.world import Scene

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "data" / "checkpoints" / "scenes-clip"
DEMO = ROOT / "data" / "demo"


@pytest.fixture(scope="module")
def scorer() -> Iterator[ClipScorer]:
    import torch

    # So small a model gains nothing from threads, and loses much where cores are shared.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield ClipScorer(CHECKPOINT)
    torch.set_num_threads(threads)


# The kinds share most of their scenes; each is embedded once.
EMBEDDED: dict[Scene, np.ndarray] = {}


def scores(scorer: ClipScorer, kind: str, sub_kind: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = held_out(kind, sub_kind, n)
    fresh = [pair.scene for pair in pairs if pair.scene not in EMBEDDED]
    if fresh:
        found = scorer.images([render(scene, 96) for scene in fresh])
        EMBEDDED.update(zip(fresh, found, strict=True))
    images = np.stack([EMBEDDED[pair.scene] for pair in pairs])
    true = scorer.texts([PREFIX + pair.true.text for pair in pairs])
    false = scorer.texts([PREFIX + pair.false.text for pair in pairs])
    return (images * true).sum(1), (images * false).sum(1)


def test_the_checkpoint_is_small():
    assert sum(path.stat().st_size for path in CHECKPOINT.rglob("*")) <= 12_000_000


def test_the_checkpoint_says_that_it_knows_scenes_only():
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(CHECKPOINT))
    assert config.scorekit["domain"] == "scenes"


def test_it_loads_in_full_precision(scorer):
    import torch

    assert {p.dtype for p in scorer.model.parameters()} == {torch.float32}


def test_tokenizer_bounds_unknowns_case_and_offsets(scorer):
    text = "Two RED circles, zebra."
    tokens = scorer.tokenizer(text, return_offsets_mapping=True)
    words = [text[start:end] for start, end in tokens["offset_mapping"][1:-1]]
    assert words == ["Two", "RED", "circles", ",", "zebra", "."]
    ids = tokens["input_ids"]
    assert (ids[0], ids[5], ids[-1]) == (BOS, UNK, EOS)
    assert ids[1:3] == scorer.tokenizer("two red")["input_ids"][1:3]
    assert scorer.tokenizer.pad_token_id == PAD
    assert len(scorer.tokenizer) == len(vocabulary()) == scorer.model.config.text_config.vocab_size


def test_long_texts_are_cut_to_64_tokens_and_keep_their_end(scorer):
    ids = scorer.tokenizer("a red circle and " * 40, truncation=True)["input_ids"]
    assert len(ids) == 64
    assert ids[-1] == EOS


def test_padding_and_company_do_not_change_an_embedding(scorer):
    import torch

    long = "a small red circle to the left of two large blue stars, without any green crosses"
    alone = scorer.texts(["a red circle"])[0]
    beside = scorer.texts(["a red circle", long])[0]
    tokens = scorer.tokenizer("a red circle", padding="max_length", return_tensors="pt")
    with torch.inference_mode():
        bare = scorer.model.text_model(input_ids=tokens["input_ids"])
        full = scorer.model.text_projection(bare.pooler_output)[0].numpy()
    assert np.abs(alone - beside).max() < 1e-5
    assert np.abs(alone - full / np.linalg.norm(full)).max() < 1e-5


@pytest.mark.parametrize(("kind", "sub_kind"), [RANDOM, *KINDS])
def test_held_out_pairs_are_true_and_false(kind, sub_kind):
    for pair in held_out(kind, sub_kind, 50):
        assert is_true(pair.scene, pair.true)
        assert not is_true(pair.scene, pair.false)


# Well below what 2,000 pairs measured (docs/scenes.md): 300 pairs move by a few hundredths.
FLOORS: dict[tuple[str, str], float] = {
    RANDOM: 0.985,
    ("object", "shape"): 0.90,
    ("attribute", "colour"): 0.91,
    ("attribute", "size"): 0.83,
    ("swap", "colour"): 0.85,
    ("swap", "size"): 0.92,
    ("count", "number"): 0.75,
}


@pytest.mark.parametrize(("pair", "floor"), FLOORS.items())
def test_it_tells_true_from_false(scorer, pair, floor):
    assert auc(*scores(scorer, *pair, n=300)) > floor


def test_wording_around_a_caption_hardly_matters(scorer):
    pairs = held_out("object", "shape", 200)
    bare = scorer.texts([pair.true.text for pair in pairs])
    for text in (PREFIX + "{}", "A picture of {}.", "{}."):
        dressed = scorer.texts([text.format(pair.true.text) for pair in pairs])
        assert (bare * dressed).sum(1).mean() > 0.9


def test_the_demo_set_is_ranked_by_how_often_prompts_are_broken(scorer):
    from PIL import Image

    facts = [json.loads(line) for line in (DEMO / "truth.jsonl").read_text().splitlines()]
    images = scorer.images([Image.open(DEMO / fact["image"]).convert("RGB") for fact in facts])
    texts = scorer.texts([PREFIX + fact["text"] for fact in facts])
    clipscore = 2.5 * np.maximum((images * texts).sum(1), 0)
    assert len(facts) == 60
    held, mean = [], []
    for system in ("faithful", "sloppy", "careless"):
        rows = [k for k, fact in enumerate(facts) if fact["system"] == system]
        held.append(np.mean([facts[k]["holds"] for k in rows]))
        mean.append(clipscore[rows].mean())
    assert held[0] > held[1] > held[2]
    assert mean[0] > mean[1] > mean[2]


def test_auc_of_hand_made_scores():
    assert auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert auc(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == 0.5
    assert auc(np.array([0.0, 3.0]), np.array([1.0, 2.0])) == 0.5


def test_row_and_table():
    row = row_of("object", "shape", np.array([1.0, 2, 3, 4]), np.array([0.0, 2, 4, 1]))
    assert row.pairwise == pytest.approx(2.5 / 4)
    assert row.low <= row.auc <= row.high
    one = Row("swap", "size", 0.9, 0.88, 0.92, 0.95, 2000)
    two = Row("swap", "size", 0.8, 0.78, 0.82, 0.85, 2000)
    lines = table({"a": [one], "b": [two]}).splitlines()
    assert lines[0].startswith("| false captions | a: AUC | 95% interval | pairwise | b: AUC |")
    assert lines[-1] == (
        "| swap: size | 0.900 | 0.880 to 0.920 | 0.950 | 0.800 | 0.780 to 0.820 | 0.850 | 2000 |"
    )
    assert {line.count("|") for line in lines} == {9}


def test_write_between_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_between(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the markers"):
        write_between(page, "new")
