"""The metrics: one formula file and one card each, installed as ``scorekit.metrics``."""

from __future__ import annotations

from typing import Any

if __name__ != "scorekit.metrics":
    raise ImportError("import scorekit.metrics, not the folder metrics")

from scorekit.registry import METRICS, load_metric


def __getattr__(name: str) -> Any:
    """Load a metric class on first use, by class name (``CLIPScore``)."""
    for entry in METRICS.values():
        if entry.rpartition(":")[2] == name:
            return load_metric(next(k for k, v in METRICS.items() if v == entry))
    raise AttributeError(f"module 'scorekit.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(entry.rpartition(":")[2] for entry in METRICS.values())
