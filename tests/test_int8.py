"""``--dtype int8``: exact products of rounded rows, near to float32, each row by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny import TEXTS, picture
from torch import nn

import scorekit
from scorekit import cli
from scorekit.backbones import dual, int8
from scorekit.backbones.handle import get_handle, unload_backbones
from scorekit.backbones.int8 import (
    Int8Product,
    Int8RowsLinear,
    Int8SelfAttention,
    check_machine,
    most_rows,
    round_layers,
    round_rows,
)
from scorekit.backbones.spec import BackboneOptions
from scorekit.io import read_samples
from scorekit.metrics.clipscore import CLIPScore
from scorekit.types import UsageError, image_embedding, text_embedding

DATA = Path(__file__).parents[1] / "data"
CPU = torch.device("cpu")
INT8 = BackboneOptions(device="cpu", dtype="int8")
FP32 = BackboneOptions(device="cpu")
LONGER = (*TEXTS, "a dog", "one small green square on the red tree with a cat asleep", "", "rain")


def _fits() -> bool:
    try:
        check_machine(CPU)
    except UsageError:
        return False
    return True


needs_int8 = pytest.mark.skipif(not _fits(), reason="this CPU has no 8-bit dot products")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny_open_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The backbone's name of a tiny random CLIP of OpenCLIP, of widths that no kernel likes."""
    folder = tmp_path_factory.mktemp("open-clip")
    config = {
        "model_cfg": {
            "embed_dim": 20,
            "vision_cfg": {
                "image_size": 32, "layers": 3, "width": 36, "head_width": 12, "patch_size": 8
            },
            "text_cfg": {
                "context_length": 40, "vocab_size": 49408, "width": 28, "heads": 2, "layers": 2
            },
        },
        "preprocess_cfg": {},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**config["model_cfg"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return f"open_clip:{folder}"


@pytest.fixture(params=["open_clip", "hf"])
def tiny(request: pytest.FixtureRequest, tiny_open_clip: str, tiny_clip: str) -> str:
    return {"open_clip": tiny_open_clip, "hf": tiny_clip}[request.param]


def images_of(name: str, options: BackboneOptions, n: int, size: int | None = None) -> np.ndarray:
    """Embeddings of the first pictures, in batches of a size."""
    model = get_handle(name, options).model()
    feature = image_embedding(name)
    ready = [model.prepare(feature, picture(k)) for k in range(n)]
    return np.stack([e.array for e in model.extract(feature, ready, batch_size=size)])


def texts_of(
    name: str, options: BackboneOptions, texts: tuple[str, ...], size: int | None = None
) -> np.ndarray:
    model = get_handle(name, options).model()
    return np.stack([e.array for e in model.extract(text_embedding(name), texts, batch_size=size)])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# Products ---------------------------------------------------------------------------------------


@needs_int8
@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 1, 1), (3, 37, 13), (5, 129, 7), (2, 3072, 5), (400, 192, 576)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_exact_product_of_what_was_rounded(
    m: int, k: int, n: int, bias: bool
) -> None:
    torch.manual_seed(k)
    x, linear = torch.randn(m, k), nn.Linear(k, n, bias=bias)
    levels, step = round_rows(x)
    weight = linear.weight.detach()
    weight_step = weight.abs().amax(1) / 127
    sums = (levels.long() - 128) @ (weight / weight_step[:, None]).round().long().T
    expected = sums.double() * step.double() * weight_step.double()
    if bias:
        expected += linear.bias.detach().double()
    with torch.no_grad():
        found = Int8RowsLinear(linear)(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@needs_int8
def test_sums_that_overflow_16_bits_are_exact() -> None:
    k = 4096
    product = Int8Product(torch.full((2, k), 0.5), None)
    levels = torch.full((3, k), 255, dtype=torch.uint8)
    expected = torch.full((3, 2), 127.0 * k * 127) * (0.5 / 127)
    torch.testing.assert_close(product.multiply(levels), expected, rtol=1e-6, atol=0)


def test_rows_are_rounded_to_their_own_largest() -> None:
    x = torch.tensor([[0.0, 1.0, -2.54], [0.0, 0.0, 0.0], [100.0, 0.3, 0.4]])
    levels, step = round_rows(x)
    assert levels.tolist() == [[128, 178, 1], [128, 128, 128], [255, 128, 129]]
    assert step[0].item() == pytest.approx(0.02)
    assert step[2].item() == pytest.approx(100 / 127)


@needs_int8
def test_zeros_outliers_and_what_is_not_finite_stay_in_their_row() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 8)
    layer = Int8RowsLinear(linear)
    x = torch.randn(5, 64)
    plain = layer(x)
    x[1] = 0
    x[2, 3] = 1e4
    x[3, 0] = float("nan")
    x[4, 0] = float("inf")
    with torch.no_grad():
        found = layer(x)
        exact = linear(x)
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], linear.bias)
    # An outlier costs its row's other numbers their precision: a level is worth 79.
    assert (found[2] - exact[2]).abs().max() < 64 * 40 * 0.125 + 0.01 * exact[2].abs().max()
    assert (found[2] - exact[2]).abs().max() / exact[2].abs().max() < 0.02
    assert not found[3:].isfinite().any()


@needs_int8
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", ["none", "causal", "each"])
def test_attention_is_that_of_torch(batch_first: bool, mask: str) -> None:
    torch.manual_seed(0)
    n, t, d, heads = 3, 9, 48, 4
    theirs = nn.MultiheadAttention(d, heads, batch_first=batch_first).eval()
    nn.init.normal_(theirs.in_proj_bias)
    x = torch.randn((n, t, d) if batch_first else (t, n, d))
    given = None
    if mask != "none":
        given = torch.full((t, t), float("-inf")).triu(1)
    if mask == "each":
        given = given[None] + torch.randn(n * heads, t, t)  # type: ignore[index]
    with torch.no_grad():
        expected = theirs(x, x, x, need_weights=False, attn_mask=given)[0]
        found, weights = Int8SelfAttention(theirs)(x, x, x, need_weights=False, attn_mask=given)
    assert weights is None
    error = (found - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.02  # .009 to .011; below 1e-4 nothing would have been rounded


# Models -----------------------------------------------------------------------------------------


@needs_int8
def test_stacks_are_rounded_and_nothing_else(tiny_open_clip: str) -> None:
    model = get_handle(tiny_open_clip, INT8).model().model
    kinds = {name: type(module) for name, module in model.named_modules()}
    rounded = [name for name, kind in kinds.items() if kind is Int8RowsLinear]
    assert len(rounded) == 5 * 3  # two of an MLP, one of an attention; three blocks and two
    assert all("resblocks" in name for name in rounded)
    assert sum(kind is Int8SelfAttention for kind in kinds.values()) == 5
    assert kinds["visual.conv1"] is nn.Conv2d
    assert nn.MultiheadAttention not in kinds.values()


@needs_int8
def test_attention_between_two_and_heads_stay_as_they_are() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cross_attn = nn.ModuleList([nn.Linear(4, 4)])
            self.resblocks = nn.ModuleList([nn.Linear(4, 4)])

    layer = nn.TransformerEncoderLayer(8, 2)
    model = nn.ModuleDict(
        {
            "tower": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]),
            "other": nn.ModuleList([layer]),
            "decoder": Decoder(),
            "head": nn.Sequential(nn.Linear(4, 4), nn.GELU()),
            "out": nn.Linear(4, 2),
        }
    )
    round_layers(model)
    rounded = [name for name, m in model.named_modules() if isinstance(m, Int8RowsLinear)]
    assert rounded == ["tower.0", "tower.1", "other.0.linear1", "other.0.linear2"]
    assert type(layer.self_attn) is nn.MultiheadAttention
    seen = most_rows(model, lambda: model["tower"][0](torch.zeros(2, 3, 4)))  # type: ignore[index]
    assert seen == 6
    with pytest.raises(UsageError, match="no stack of blocks"):
        round_layers(nn.Sequential(nn.Linear(4, 4), nn.GELU()))


@needs_int8
def test_scores_do_not_depend_on_neighbours(tiny: str) -> None:
    alone = images_of(tiny, INT8, 9, 1), texts_of(tiny, INT8, LONGER, 1)
    for size in (2, 5, 16):
        together = images_of(tiny, INT8, 9, size), texts_of(tiny, INT8, LONGER, size)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(unit(one), unit(other), atol=1e-6)
    turned = texts_of(tiny, INT8, LONGER[::-1], 16)[::-1]
    np.testing.assert_allclose(unit(alone[1]), unit(turned), atol=1e-6)


@needs_int8
def test_texts_are_padded_by_themselves(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = get_handle(tiny, INT8).model()
    assert model.trims
    lengths = []
    inner = type(model).encode_tokens

    def encode_tokens(self: Any, ids: Any, length: int) -> torch.Tensor:
        lengths.append((len(ids), length))
        return inner(self, ids, length)

    monkeypatch.setattr(type(model), "encode_tokens", encode_tokens)
    monkeypatch.setattr(dual, "ROWS", 16)
    found = texts_of(tiny, INT8, LONGER, 16)
    assert sum(n for n, _ in lengths) == len(LONGER)
    assert all(length % 8 == 0 and n * length <= max(16, length) for n, length in lengths)
    monkeypatch.undo()
    np.testing.assert_allclose(found, texts_of(tiny, INT8, LONGER, 16), atol=1e-5)


@needs_int8
def test_a_batch_is_cut_to_the_rows_that_stay_in_the_cache(tiny: str) -> None:
    model = get_handle(tiny, INT8).model()
    assert model._images_at_once == int8.ROWS // 17  # 4 x 4 patches and one more
    assert get_handle(tiny, FP32).model()._images_at_once is None


@needs_int8
def test_close_to_float32_on_random_weights(tiny: str) -> None:
    for exact, rounded in (
        (images_of(tiny, FP32, 12), images_of(tiny, INT8, 12)),
        (texts_of(tiny, FP32, LONGER), texts_of(tiny, INT8, LONGER)),
    ):
        apart = 1 - (unit(exact) * unit(rounded)).sum(-1)
        assert 1e-6 < apart.max() < 4e-3  # 2.1e-3


@needs_int8
def test_close_to_float32_on_the_checkpoint_of_scenes() -> None:
    demo = read_samples(DATA / "demo").samples
    images, texts = [s.image for s in demo], [s.text or "" for s in demo]
    metric = CLIPScore(backbone="scenes-clip")
    exact, rounded = (metric(images, texts, options=options) for options in (FP32, INT8))
    off = rounded - exact
    assert 1e-3 < off.std() < 8e-3
    assert np.abs(off).max() < 0.03
    assert np.corrcoef(np.argsort(np.argsort(exact)), np.argsort(np.argsort(rounded)))[0, 1] > 0.999


@needs_int8
def test_signature_fingerprint_and_cache_are_its_own(tiny_clip: str, tmp_path: Path) -> None:
    images = [picture(k) for k in range(4)]

    def score(dtype: Any, **options: Any) -> Any:
        return scorekit.score(
            images, list(TEXTS), backbone=tiny_clip, dtype=dtype, device="cpu", **options
        )

    plain, rounded = (score(dtype, cache=tmp_path / "cache") for dtype in ("fp32", "int8"))
    again = score("int8", cache=tmp_path / "cache")
    alone = score("int8", cache=False)
    assert "|dtype:int8|" in str(rounded.signatures["clipscore"])
    assert plain.signatures["clipscore"] != rounded.signatures["clipscore"]
    assert (plain.scores("clipscore") != rounded.scores("clipscore")).any()
    assert again.scores("clipscore").tolist() == rounded.scores("clipscore").tolist()
    np.testing.assert_allclose(alone.scores("clipscore"), rounded.scores("clipscore"), atol=1e-6)
    infos = [get_handle(tiny_clip, options).model().info for options in (FP32, INT8)]
    assert infos[0].fingerprint != infos[1].fingerprint
    assert infos[0].identity == infos[1].identity


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_it_is_for_the_cpu(kind: str) -> None:
    with pytest.raises(UsageError, match=rf"for the CPU, not for {kind}: add --device cpu"):
        check_machine(torch.device(kind))


def test_a_loaded_model_is_on_the_cpu(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dual, "pick_device", lambda name: torch.device("meta"))
    unload_backbones()
    with pytest.raises(UsageError, match="not for meta"):
        get_handle(tiny, INT8).model()


@needs_int8
@pytest.mark.parametrize("isa", ["SSE41", "AVX2", "AVX512_CORE"])
def test_a_machine_without_dot_products(isa: str) -> None:
    """As oneDNN computes on one: it adds in 16 bits."""
    code = (
        "import torch; from scorekit.backbones import int8; int8.check_machine(torch.device('cpu'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert "UsageError: --dtype int8 needs a CPU with 8-bit dot products" in done.stderr


@pytest.mark.parametrize("fails", ["saturates", "is missing"])
def test_a_machine_whose_sums_are_not_exact(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def multiply(self: Any, levels: torch.Tensor) -> torch.Tensor:
        if fails == "is missing":
            raise AttributeError("qlinear_pointwise")
        return torch.full((len(levels), 3), -32768.0)

    monkeypatch.setattr(Int8Product, "multiply", multiply)
    with pytest.raises(UsageError, match="needs a CPU with 8-bit dot products"):
        check_machine(CPU)


@needs_int8
def test_gradients_are_refused(tiny: str) -> None:
    metric = CLIPScore(backbone=tiny)
    image = torch.rand(3, 32, 32, requires_grad=True)
    with pytest.raises(UsageError, match="--dtype int8 has no gradients"):
        metric([image], ["a red circle"], differentiable=True, options=INT8)
    with pytest.raises(UsageError, match="--dtype int8 has no gradients"):
        scorekit.score(
            [picture(0)], ["a red circle"], metrics="f_clipscore", backbone=tiny, dtype="int8",
            device="cpu", cache=False,
        )  # fmt: skip
    layer = Int8RowsLinear(nn.Linear(4, 4))
    with pytest.raises(UsageError, match="--dtype int8 has no gradients"):
        layer(torch.zeros(1, 4, requires_grad=True))
    with torch.no_grad():
        layer(torch.zeros(1, 4, requires_grad=True))


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["scorekit", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)  # type: ignore[arg-type]


def test_a_vision_language_model_takes_quantize(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_cli(
        monkeypatch, "score", DATA / "demo", "-m", "vqascore", "--backbone", "scenes-vqa",
        "--dtype", "int8", "--device", "cpu", "--no-cache",
    )  # fmt: skip
    assert code == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "takes --quantize int8 instead" in err
    assert "Traceback" not in err


@needs_int8
def test_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "scores.csv"
    code = run_cli(
        monkeypatch, "score", DATA / "demo", "--backbone", "scenes-clip", "--dtype", "int8",
        "--device", "cpu", "--no-cache", "-o", out,
    )  # fmt: skip
    assert code == 0
    assert "dtype:int8" in " ".join(capsys.readouterr().out.split())
    assert len(out.read_text().splitlines()) == 61
