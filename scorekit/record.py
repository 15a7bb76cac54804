"""The record of a run: arguments, versions, commit, device, counts. No torch here."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "scorekit",
    "torch",
    "transformers",
    "open_clip_torch",
    "numpy",
    "pillow",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "torchmetrics",
)


def run_record(
    arguments: Mapping[str, Any], counts: Mapping[str, Any], started: float, device: str
) -> dict[str, Any]:
    """What a reader needs to do the run again.

    Parameters
    ----------
    arguments, counts : mapping of JSON values
    started : float
        Time of the start, in seconds since the epoch.
    device : str

    Returns
    -------
    dict
    """
    return {
        "arguments": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in arguments.items()
        },
        "versions": {"python": platform.python_version(), **versions()},
        "git_commit": git_commit(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "counts": dict(counts),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that a score can depend on."""
    out = {}
    for package in PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def git_commit() -> str | None:
    """Commit of the source tree that scorekit runs from; None for an installed wheel."""
    root = Path(__file__).resolve().parents[1]
    try:
        if not (root / ".git").exists():
            return None
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
