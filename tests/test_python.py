"""The Python interface: `scorekit.score`, metrics called on pairs, gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TEXTS, picture

import scorekit
from scorekit.backbones.spec import BackboneOptions
from scorekit.metrics import CLIPI, CLIPScore, RefCLIPScore, Retrieval
from scorekit.types import InputError, UsageError


def test_score_from_memory_and_from_a_folder(image_folder: Path, tiny_clip: str) -> None:
    paths = sorted((image_folder / "good").glob("*.png"))
    table = scorekit.score(
        paths, TEXTS, metrics=["clipscore", "clip_t"], backbone=tiny_clip, cache=False
    )
    folder = scorekit.score(image_folder, metrics=["clipscore"], backbone=tiny_clip, cache=False)
    good = folder.to_pandas().query("system == 'good'")["value"]
    np.testing.assert_allclose(table.scores("clipscore"), good, atol=1e-6)
    assert list(table.to_pandas().columns[:9]) == [
        "system",
        "item",
        "index",
        "image",
        "text",
        "metric",
        "value",
        "status",
        "note",
    ]
    assert float(table.mean("clipscore")) == pytest.approx(good.mean())
    assert str(table.signatures["clipscore"]).startswith("clipscore|bb:hf/tiny-clip|w:")
    assert folder.systems == ["bad", "good"] or folder.systems == ["good", "bad"]


def test_one_picture_in_every_form(tiny_clip: str, tmp_path: Path) -> None:
    image = picture(3)
    image.save(tmp_path / "x.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms: list[Any] = [
        image,
        str(tmp_path / "x.png"),
        tmp_path / "x.png",
        array,
        array / 255.0,
        tensor,
        tensor.float() / 255,
        (tmp_path / "x.png").read_bytes(),
    ]
    values = CLIPScore(backbone=tiny_clip)(forms, TEXTS[1])
    np.testing.assert_allclose(values, values[0], atol=1e-6)
    assert values.shape == (8,)
    assert values.dtype == np.float64


def test_a_batch_of_tensors_from_a_sampler(tiny_clip: str) -> None:
    metric = CLIPScore(backbone=tiny_clip)
    batch = torch.stack(
        [torch.from_numpy(np.asarray(picture(i)).copy()).permute(2, 0, 1) for i in range(3)]
    )
    got = metric(batch, list(TEXTS[:3]))
    want = metric([picture(i) for i in range(3)], list(TEXTS[:3]))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_model_stays_loaded(tiny_clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scorekit.backbones import hf_dual

    scorekit.unload_backbones()
    loads = []
    whole = hf_dual._load_model
    monkeypatch.setattr(hf_dual, "_load_model", lambda *a: loads.append(1) or whole(*a))
    for _ in range(3):
        CLIPScore(backbone=tiny_clip)([picture(0)], TEXTS[0])
        scorekit.score([picture(1)], TEXTS[0], backbone=tiny_clip, cache=False)
    assert len(loads) == 1


def test_texts_of_a_pipeline_are_embedded_once(
    tiny_clip: str, count_forwards: Callable[[], Any]
) -> None:
    metric = CLIPScore(backbone=tiny_clip)
    metric([picture(20)], "a dog and a cat and rain")
    before = count_forwards()
    metric([picture(21)], "a dog and a cat and rain")
    assert count_forwards()["texts"] == before["texts"]
    assert count_forwards()["images"] == before["images"] + 1


def test_gradients_and_their_values(tiny_clip: str) -> None:
    metric = CLIPScore(backbone=tiny_clip, clamp="none")
    images = torch.stack(
        [torch.from_numpy(np.asarray(picture(i)).copy()).permute(2, 0, 1) / 255 for i in range(2)]
    ).requires_grad_()
    scores = metric(images, list(TEXTS[:2]), differentiable=True)
    assert scores.shape == (2,)
    exact = metric(images.detach(), list(TEXTS[:2]))
    np.testing.assert_allclose(scores.detach().numpy(), exact, atol=0.02)
    scores.sum().backward()
    assert images.grad is not None
    gradient = images.grad.clone()
    assert torch.isfinite(gradient).all()
    # The gradient is that of the score: a small step along it gains what it says.
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        inside = (images + step).clamp(0, 1)
        gain = metric(inside.requires_grad_(), list(TEXTS[:2]), differentiable=True).sum()
    expected = float(((inside - images).detach() * gradient).sum())
    assert float((gain - scores.sum()).detach()) == pytest.approx(expected, rel=0.1)


def test_guidance_raises_the_score(tiny_clip: str) -> None:
    metric = CLIPScore(backbone=tiny_clip, clamp="none")
    x = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.02)
    first = None
    for _ in range(15):
        score = metric(x.clamp(0, 1), ["a red circle"], differentiable=True).sum()
        first = float(score.detach()) if first is None else first
        optimizer.zero_grad()
        (-score).backward()
        optimizer.step()
    assert float(score.detach()) > first + 0.05


def test_other_fields(tiny_clip: str) -> None:
    same = CLIPI(backbone=tiny_clip)([picture(0)], source_image=[picture(0)])
    assert same[0] == pytest.approx(1, abs=1e-6)
    both = RefCLIPScore(backbone=tiny_clip)(
        [picture(0)], [TEXTS[0]], references=[[TEXTS[0], TEXTS[1]]]
    )
    clip_s = CLIPScore(backbone=tiny_clip)([picture(0)], [TEXTS[0]])[0]
    assert both[0] == pytest.approx(2 * clip_s / (1 + clip_s), abs=1e-6)


def test_a_pair_that_fails_is_named(tiny_clip: str) -> None:
    metric = CLIPScore(backbone=tiny_clip)
    with pytest.raises(InputError, match=r"missing_image: pair 1: .*gone\.png"):
        metric([picture(0), "gone.png"], "a dog")
    with pytest.raises(InputError, match="invalid_image: pair 0"):
        metric(torch.full((1, 3, 8, 8), 1.5), "a dog")
    with pytest.raises(InputError, match="a float image lies in 0 to 1"):
        metric(torch.full((1, 3, 8, 8), 1.5), "a dog", differentiable=True)
    with pytest.raises(InputError, match="gradients need a float tensor"):
        metric([picture(0)], "a dog", differentiable=True)
    with pytest.raises(UsageError, match=r"2.*3|3.*2"):
        metric([picture(0), picture(1)], ["a", "b", "c"])
    with pytest.raises(UsageError, match="no gradient"):
        Retrieval(backbone=tiny_clip)(torch.rand(2, 3, 32, 32), ["a", "b"], differentiable=True)


def test_long_and_empty_texts_with_gradients_as_without(tiny_clip: str) -> None:
    metric = CLIPScore(backbone=tiny_clip, clamp="none")
    image = torch.from_numpy(np.asarray(picture(0, 32, 32)).copy()).permute(2, 0, 1)[None] / 255
    long = "a red circle. a blue square. a dog and a cat. rain."
    for how in ("truncate", "window"):
        options = scorekit.BackboneOptions(long_text=how)
        plain = metric(image, [long], options=options)
        with_gradient = metric(image, [long], options=options, differentiable=True)
        assert float(with_gradient[0].detach()) == pytest.approx(plain[0], abs=1e-3)
    for texts, options, status in (
        ([long], scorekit.BackboneOptions(long_text="error"), "text_too_long"),
        (["  "], scorekit.BackboneOptions(), "empty_text"),
    ):
        with pytest.raises(InputError, match=f"{status}: pair 0"):
            metric(image, texts, options=options, differentiable=True)


def test_what_does_not_go_together(image_folder: Path, tiny_clip: str) -> None:
    with pytest.raises(UsageError, match="nothing to score"):
        CLIPScore(backbone=tiny_clip)([], [])
    with pytest.raises(UsageError, match="brings its own"):
        scorekit.score(image_folder, ["a", "b"], backbone=tiny_clip)
    with pytest.raises(UsageError, match="prompts go with a folder"):
        scorekit.score([picture(0)], ["a"], prompts="p.csv", backbone=tiny_clip)


def test_readme_names() -> None:
    for name in scorekit.__all__:
        assert getattr(scorekit, name) is not None
    with pytest.raises(AttributeError):
        scorekit.nothing  # noqa: B018


def test_pairs_take_one_device() -> None:
    with pytest.raises(UsageError, match="takes one device"):
        CLIPScore("scenes-clip")([picture(0)], ["a"], options=BackboneOptions(device="cpu,cpu"))
