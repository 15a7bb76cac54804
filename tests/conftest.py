"""Small checkpoints of the real architectures with random weights, and small image sets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import TEXTS, make_clip, picture

# No test may reach a hub by accident, nor touch the user's own cache.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What they assert are numbers of the CPU, whatever stands beside it.
GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Typer and rich write colours and widths as these say, and a build server sets some of them.
for name in ("FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERM", "COLUMNS"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "hub" in (config.getoption("-m") or "") and "not hub" not in config.getoption("-m"):
        os.environ.pop("HF_HUB_OFFLINE", None)
        if GPUS is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = GPUS


@pytest.fixture(autouse=True)
def _environment_of_a_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A cache of its own; no checkpoints of a hub and no proxies, as this machine may have."""
    from huggingface_hub import constants

    monkeypatch.setenv("SCOREKIT_CACHE", str(tmp_path / "user-cache"))
    if request.node.get_closest_marker("hub") is not None:
        return
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; exit code, output, errors."""
    from scorekit import cli

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scorekit", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small models on one thread of torch: the others only wait for each other."""
    import torch

    from scorekit.backbones.handle import unload_backbones

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    unload_backbones()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real files beside a checkout; a test that needs them skips without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The backbone's name of a tiny random CLIP."""
    return f"hf:{make_clip(tmp_path_factory.mktemp('ckpt') / 'tiny-clip')}"


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two systems, four items each, with a prompts.csv."""
    folder = tmp_path / "images"
    lines = ["image,text,item,system"]
    for s, system in enumerate(("good", "bad")):
        (folder / system).mkdir(parents=True)
        for i, text in enumerate(TEXTS):
            picture(10 * s + i).save(folder / system / f"{i}.png")
            lines.append(f'{system}/{i}.png,"{text}",{i},{system}')
    (folder / "prompts.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def count_forwards(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """How many images and texts went through a model."""
    from scorekit.backbones import hf_dual

    counts = {"images": 0, "texts": 0}
    images, tokens = hf_dual.HfDual.encode_images, hf_dual.HfDual.encode_tokens

    def encode_images(self: Any, pixels: Any) -> Any:
        counts["images"] += len(pixels)
        return images(self, pixels)

    def encode_tokens(self: Any, ids: Any, length: int) -> Any:
        counts["texts"] += len(ids)
        return tokens(self, ids, length)

    monkeypatch.setattr(hf_dual.HfDual, "encode_images", encode_images)
    monkeypatch.setattr(hf_dual.HfDual, "encode_tokens", encode_tokens)
    return lambda: dict(counts)


# A model behind an endpoint. scorekit is imported where it is used: after HF_HUB_OFFLINE is set --


@pytest.fixture
def endpoint_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A key, no other setting of an endpoint, and no wait between tries."""
    from loopback import KEY, VARIABLES

    from scorekit import registry
    from scorekit.backbones import endpoint_client
    from scorekit.backbones.handle import unload_backbones

    for name in ("OPENAI_BASE_URL", "SCOREKIT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in VARIABLES:
        monkeypatch.delenv(f"SCOREKIT_ENDPOINT_{name}", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setitem(registry.BACKBONES, "openai", "scorekit.backbones.endpoint:load")
    # No test waits between tries; what is waited for is told by the bucket's clock.
    monkeypatch.setattr(endpoint_client.random, "uniform", lambda low, high: 0.0)
    yield
    unload_backbones()


@pytest.fixture
def server() -> Iterator[Any]:
    """A `loopback.Server`, running."""
    from loopback import Server

    running = Server()
    yield running
    running.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file with a small picture."""
    path = tmp_path / "one.png"
    picture(1).save(path)
    return path


@pytest.fixture
def options(tmp_path: Path) -> Any:
    """A run's `RunOptions`, with a cache of its own."""
    from scorekit.run import RunOptions

    return RunOptions(cache=tmp_path / "cache")
