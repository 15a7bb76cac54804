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
