"""Published numbers of published checkpoints: ``pytest -m hub`` (downloads gigabytes)."""

from __future__ import annotations

import hashlib
import io
import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scorekit.registry import load_metric

GOLDEN = Path(__file__).parent / "golden"
ENTRIES = [
    pytest.param(path.stem, entry, id=f"{path.stem}: {entry['name']}")
    for path in sorted(GOLDEN.glob("*.json"))
    for entry in json.loads(path.read_text()).get("hub", [])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


def image_of(described: Any, folder: Path) -> Image.Image:
    """An image from a URL, or the one that torch draws for a seed and a shape (c, h, w)."""
    if isinstance(described, str):
        path = folder / hashlib.sha256(described.encode()).hexdigest()
        if not path.exists():
            request = urllib.request.Request(described, headers={"User-Agent": "scorekit tests"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                path.write_bytes(answer.read())
        return Image.open(io.BytesIO(path.read_bytes()))
    import torch

    drawn = described["random_uint8"]
    generator = torch.Generator().manual_seed(drawn["seed"])
    values = torch.randint(255, tuple(drawn["shape"]), generator=generator)
    return Image.fromarray(values.permute(1, 2, 0).numpy().astype(np.uint8))


@pytest.mark.hub
@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_published_number(name: str, entry: dict[str, Any], folder: Path) -> None:
    metric = load_metric(name)(backbone=entry["backbone"], **entry["params"])
    images = [image_of(described, folder) for described in entry["images"]]
    scores = np.asarray(metric(images, entry["texts"], **entry.get("columns", {})))
    if "expected" in entry:
        np.testing.assert_allclose(scores, entry["expected"], rtol=0, atol=entry["atol"])
    else:
        assert scores.mean() == pytest.approx(entry["expected_mean"], abs=entry["atol"])


@pytest.mark.hub
@pytest.mark.parametrize("backbone", ["hf:zhiqiulin/clip-flant5-xl", "hf:llava-hf/llava-1.5-7b-hf"])
def test_vqascore_tells_who_is_angry(backbone: str, shared_data: Path) -> None:
    """The example of t2v_metrics' README: each caption goes with its own image."""
    from scorekit.backbones.spec import BackboneOptions

    folder = shared_data / "images" / "t2v"
    images = [Image.open(folder / f"{k}.png") for k in (0, 0, 1, 1)]
    texts = [
        "someone talks on the phone angrily while another person sits happily",
        "someone talks on the phone happily while another person sits angrily",
    ] * 2
    metric = load_metric("vqascore")(backbone=backbone)
    options = BackboneOptions(dtype="bf16", allow_pickle=True)
    own, other, swapped, its_own = np.asarray(metric(images, texts, options=options))
    assert own > other
    assert its_own > swapped
