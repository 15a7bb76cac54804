"""Chunks of samples with their features, and what a run's features are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from scorekit.backbones.spec import BackboneOptions
from scorekit.inputs import IMAGE_FIELDS, RowResult
from scorekit.types import Feature, Sample

CUT = ("text_embedding", "match_probability", "token_attribution")
"""Features of texts that may be cut to the model's limit; all others refuse a longer text."""
CHUNK_CPU = 128
CHUNK_GPU = 1024


@dataclass
class Counts:
    """How many features a run computed, and how many it found."""

    computed: int = 0
    cached: int = 0


@dataclass
class Chunk:
    """Consecutive samples with their features.

    Attributes
    ----------
    start : int
        Position of the first sample in the run.
    samples : list of Sample
    features : mapping of Feature to list of RowResult
        One a sample: a feature, a list of them for a field with several, or what went wrong.
    """

    start: int
    samples: list[Sample]
    features: dict[Feature, list[RowResult]] = field(default_factory=dict)


def union_of(needs: Iterable[Feature]) -> list[Feature]:
    """Each feature once that a backbone computes, those that others rest on included."""
    asked = [f for need in needs for f in (need.given_by, need.second, need)]
    given = [f for f in asked if isinstance(f, Feature)]
    return [f for f in dict.fromkeys(given) if f.backbone is not None]


def chunk_size(needs: Iterable[Feature], options: BackboneOptions, *, on_cpu: bool) -> int:
    """How many samples are read before their forward passes."""
    # Of pairs, every image's pixels wait for all of its texts: fewer at a time.
    paired = any(f.field in IMAGE_FIELDS and f.second is not None for f in needs)
    return max(CHUNK_CPU if paired or on_cpu else CHUNK_GPU, options.batch_size or 0)


def with_options(feature: Feature, options: BackboneOptions) -> Feature:
    """The feature with what of the options changes it."""
    if feature.kind not in CUT:
        return feature
    return replace(feature, params=(*feature.params, ("long_text", options.long_text)))
