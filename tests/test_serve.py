"""A judge behind a real server: `transformers serve` with the small model of scenes-vqa.

``SCOREKIT_SERVE_CHECKPOINT`` names another folder with a vision-language model.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from scorekit import registry
from scorekit.backbones.handle import unload_backbones
from scorekit.metrics.judge import Judge
from scorekit.prompts import read_table
from scorekit.run import RunOptions, score_samples
from scorekit.types import Sample

ROOT = Path(__file__).parent.parent
CHECKPOINT = Path(
    os.environ.get("SCOREKIT_SERVE_CHECKPOINT", ROOT / "data" / "checkpoints" / "scenes-vqa")
)
DEMO = ROOT / "data" / "demo"
NEEDED = ("fastapi", "uvicorn", "openai", "pydantic", "accelerate")
RATE = 'Rate from 0 to 10 how well this figure shows "{text}".'
START_SECONDS = 180

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not CHECKPOINT.is_dir(), reason=f"no checkpoint {CHECKPOINT}"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server says that it is well; what it logged, if it never does."""
    end = time.monotonic() + START_SECONDS
    # No proxy of the environment stands between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end and process.poll() is None:
        try:
            with opener.open(url, timeout=5) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"transformers serve did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a served model; the server runs for this module."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    command = Path(sys.executable).with_name("transformers")
    found = str(command) if command.exists() else shutil.which("transformers")
    if missing or found is None:
        pytest.skip(f"transformers serve lacks {', '.join(missing) or 'its command'}")
    port = free_port()
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    arguments = [found, "serve", str(CHECKPOINT), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*arguments, "--device", "cpu"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"openai:http://127.0.0.1:{port}/v1#{CHECKPOINT}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI_API_KEY", "SCOREKIT_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(registry.BACKBONES, "openai", "scorekit.backbones.endpoint:load")
    yield
    unload_backbones()


def demo(n: int) -> list[Sample]:
    """The first rows of the demo set."""
    columns = read_table(DEMO / "prompts.csv").columns
    rows = zip(*(columns[name][:n] for name in ("item", "system", "text", "image")), strict=True)
    return [Sample(item, system, text, DEMO / image) for item, system, text, image in rows]


def test_a_served_model_judges_the_demo_set(backbone: str, tmp_path: Path) -> None:
    samples = demo(12)
    metric = Judge(backbone=backbone, rubric="free", prompt=RATE)
    options = RunOptions(cache=tmp_path / "cache")

    first = score_samples(samples, [metric], options=options)
    assert first.frame["status"].tolist() == ["ok"] * 12
    values = first.frame["value"].tolist()
    assert all(0 <= value <= 10 and value == int(value) for value in values)
    (usage,) = first.run["counts"]["endpoints"].values()
    assert usage["calls"] == 12
    assert usage["prompt_tokens"] > 12 * 64  # the image's patches alone
    assert usage["completion_tokens"] >= 12
    assert (usage["failed"], usage["cost"]) == (0, None)

    # A reply does not depend on what else the server had to do.
    again = score_samples(samples, [metric], options=RunOptions(cache=tmp_path / "other"))
    assert again.frame["value"].tolist() == values

    second = score_samples(samples, [metric], options=options)
    assert second.frame["value"].tolist() == values
    assert second.run["counts"]["features_from_cache"] == 12
    (usage,) = second.run["counts"]["endpoints"].values()
    assert (usage["calls"], usage["prompt_tokens"]) == (0, 0)
