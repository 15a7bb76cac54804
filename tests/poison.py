"""A backbone that needs no weights and kills its process on a red image: ``poison:NAME``.

For tests of runs in several processes. ``poison:once/FOLDER`` kills one process in all and leaves
a mark in FOLDER; ``poison:slow/FILE`` takes its time while FILE is there; ``poison:wide`` gives
large features; ``poison:farewell`` dies when all is done; ``poison:late`` fails to load, after a
while, on any device but ``cpu``; ``poison:twofaced`` is another model on each;
``poison:stillborn/N/FOLDER`` is killed N times while it loads on any device but ``cpu``, once
``cpu`` has begun, and ``cpu`` goes on after that; ``poison:gpu/FOLDER`` names as its device the
GPU that it was left, and its first image waits for the other of two to have one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scorekit.backbones.files import short_hash
from scorekit.backbones.handle import BackboneInfo
from scorekit.types import Extracted, UsageError

RED = (255, 0, 0)


def install(folder: Path) -> Path:
    """Write the entry point that makes the family known where `folder` is on the path."""
    info = folder / "poison-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: poison\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[scorekit.backbones]\npoison = poison:load\n")
    return folder


def load(spec: Any, options: Any) -> Poison:
    if spec.name == "late" and options.device != "cpu":
        time.sleep(60)
        raise UsageError("too late")
    word, _, rest = spec.name.partition("/")
    if word == "stillborn" and options.device != "cpu":
        _be_killed(int(rest.partition("/")[0]), Path(rest.partition("/")[2]))
    return Poison(spec.name, options.device)


def _be_killed(times: int, folder: Path) -> None:
    _wait_for(folder / "begun")
    deaths = len(list(folder.glob("death*")))
    if deaths < times:
        (folder / f"death{deaths + 1}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _wait_for(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)


class Poison:
    batch_size = 4
    device = "cpu"

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self._marked = False
        if name.startswith("gpu/"):
            self.device = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        identity = short_hash(["poison", device if name == "twofaced" else 1])
        self.info = BackboneInfo(
            fingerprint=identity,
            identity=identity,
            text_limit=0,
            constants={},
            domain="any",
            resize="none",
            files=(),
            remote=True,
        )

    @property
    def fingerprint(self) -> str:
        return self.info.fingerprint

    def prepare(self, feature: Any, image: Any) -> Any:
        pixels = np.asarray(image, dtype=np.float32)
        if (pixels == RED).all() and self._kills():
            os.kill(os.getpid(), signal.SIGKILL)
        word, _, flag = self.name.partition("/")
        if word == "twofaced" or (word == "slow" and Path(flag).exists()):
            time.sleep(0.1)
        if word == "gpu" and not self._marked:
            self._marked = True
            (Path(flag) / f"gpu{self.device}").touch()
            _wait_for(Path(flag) / ("gpu1" if self.device == "0" else "gpu0"))
        if word == "stillborn":
            times, _, folder = flag.partition("/")
            (Path(folder) / "begun").touch()
            _wait_for(Path(folder) / f"death{times}")
        return pixels.mean((0, 1)) + 1

    def _kills(self) -> bool:
        word, _, folder = self.name.partition("/")
        if word != "once":
            return True
        try:
            (Path(folder) / "killed").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def extract(
        self, feature: Any, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Any]:
        if feature.kind == "image_embedding":
            return [Extracted(np.resize(mean, self._width)) for mean in inputs]
        return [Extracted(np.resize([len(t), 1, 1], self._width)) for t in inputs]

    @property
    def _width(self) -> int:
        return 100_002 if self.name == "wide" else 3

    def usage(self) -> dict[str, Any]:
        if self.name == "farewell":
            os.kill(os.getpid(), signal.SIGKILL)
        return {}
