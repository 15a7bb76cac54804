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
    from scorekit.joined import published_scores, read_scores
    from scorekit.manifests import open_ratings
    from scorekit.meta import MetaOptions
    from scorekit.meta_report import meta_evaluate
    from scorekit.ranking import rank
    from scorekit.ratings import RatingSet
    from scorekit.run import RunOptions, score_samples
    from scorekit.table import ScoreTable
    from scorekit.types import InputError, Sample, Signature, UsageError

__version__ = "0.1.0"

_WHERE = {
    "BackboneOptions": "scorekit.backbones.spec",
    "InputError": "scorekit.types",
    "MetaOptions": "scorekit.meta",
    "RatingSet": "scorekit.ratings",
    "RunOptions": "scorekit.run",
    "Sample": "scorekit.types",
    "ScoreTable": "scorekit.table",
    "Signature": "scorekit.types",
    "UsageError": "scorekit.types",
    "meta_evaluate": "scorekit.meta_report",
    "open_ratings": "scorekit.manifests",
    "published_scores": "scorekit.joined",
    "rank": "scorekit.ranking",
    "read_scores": "scorekit.joined",
    "score": "scorekit.api",
    "score_samples": "scorekit.run",
    "unload_backbones": "scorekit.backbones.handle",
}

__all__ = [
    "BackboneOptions",
    "InputError",
    "MetaOptions",
    "RatingSet",
    "RunOptions",
    "Sample",
    "ScoreTable",
    "Signature",
    "UsageError",
    "meta_evaluate",
    "open_ratings",
    "published_scores",
    "rank",
    "read_scores",
    "score",
    "score_samples",
    "unload_backbones",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'scorekit' has no attribute {name!r}")
