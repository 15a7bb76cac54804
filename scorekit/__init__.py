"""scorekit: how good are generated images?

Import is light: torch and the models are loaded by the first call that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scorekit.api import score
    from scorekit.backbones.handle import unload_backbones
    from scorekit.backbones.spec import BackboneOptions
    from scorekit.run import RunOptions, score_samples
    from scorekit.table import ScoreTable
    from scorekit.types import InputError, Sample, Signature, UsageError

__version__ = "0.1.0"

_WHERE = {
    "BackboneOptions": "scorekit.backbones.spec",
    "InputError": "scorekit.types",
    "RunOptions": "scorekit.run",
    "Sample": "scorekit.types",
    "ScoreTable": "scorekit.table",
    "Signature": "scorekit.types",
    "UsageError": "scorekit.types",
    "score": "scorekit.api",
    "score_samples": "scorekit.run",
    "unload_backbones": "scorekit.backbones.handle",
}

__all__ = [
    "BackboneOptions",
    "InputError",
    "RunOptions",
    "Sample",
    "ScoreTable",
    "Signature",
    "UsageError",
    "score",
    "score_samples",
    "unload_backbones",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'scorekit' has no attribute {name!r}")
