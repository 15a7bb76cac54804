"""The one orchestrator: samples and metrics in, a ScoreTable out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scorekit.backbones.spec import BackboneOptions
from scorekit.cache import FeatureCache, default_cache_dir
from scorekit.choose import parse_metrics
from scorekit.engine import ENGINES, EngineName
from scorekit.interrupts import INTERRUPTED, Interrupted
from scorekit.metric import BaseMetric
from scorekit.record import run_record
from scorekit.scoring import Scoring
from scorekit.table import ScoreTable
from scorekit.types import Sample, UsageError


@dataclass(frozen=True)
class RunOptions(BackboneOptions):
    """How a run is done; what it inherits concerns the backbones.

    Attributes
    ----------
    cache : path, None or False
        Folder of the feature cache; None takes the user's cache folder (with the engine ``ray``,
        the memory of each actor), False keeps the features of this run in a temporary file.
    workers : int or None
        Threads that read and decode images; with the engine ``ray``, actors.
    engine : {"local", "ray"}
        Where features are computed: here (in a process each, where `device` names several
        devices with commas between them), or by actors on a Ray cluster.
    address : str or None
        Of the Ray cluster; None starts one on this machine.
    shards : path or None
        Folder that keeps what Ray's actors have finished until the run ends.
    """

    cache: str | Path | bool | None = None
    workers: int | None = None
    engine: EngineName = "local"
    address: str | None = None
    shards: str | Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers must be at least 1, not {self.workers}")
        if self.engine not in ENGINES:
            raise UsageError(f"engine is one of {', '.join(ENGINES)}, not {self.engine!r}")
        if self.engine != "ray" and (self.address is not None or self.shards is not None):
            raise UsageError("address and shards go with the engine ray")

    def open_cache(self) -> FeatureCache:
        """The feature cache that these options name."""
        if self.cache is False or (self.cache is None and self.engine == "ray"):
            return FeatureCache(None)
        given = None if self.cache is True else self.cache
        return FeatureCache(default_cache_dir() if given is None else Path(given))


def score_samples(
    samples: Sequence[Sample],
    metrics: Sequence[str | BaseMetric] | str | BaseMetric = ("clipscore",),
    *,
    backbone: str | None = None,
    options: RunOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
    record: Mapping[str, Any] | None = None,
) -> ScoreTable:
    """Score samples by metrics, each feature computed once.

    Parameters
    ----------
    samples : sequence of Sample
    metrics : metrics, or their texts as on the command line
    backbone : str, optional
        For the metrics that name none.
    options : RunOptions, optional
    progress : callable, optional
        Called with (samples done, samples in all).
    record : mapping, optional
        Further entries of the run record.

    Returns
    -------
    ScoreTable
        Every sample has a row for every metric, whatever became of it.

    Raises
    ------
    UsageError
        If the run can't be done at all: no samples, unknown metric, no such checkpoint.
    Interrupted
        On Ctrl-C; it is a KeyboardInterrupt, with the rows that were done.
    """
    if not samples:
        raise UsageError("there is nothing to score")
    options = options or RunOptions()
    chosen = parse_metrics(metrics, backbone)
    started = time.time()
    with options.open_cache() as cache:
        scoring = Scoring(samples, chosen, options, cache, progress)
        try:
            scoring.run()
        except KeyboardInterrupt as stop:
            raise Interrupted(_partial(scoring, record or {})) from stop
        finally:
            scoring.features.close()
        table = scoring.table()
    counts = {
        "samples": len(samples),
        "features_computed": scoring.features.counts.computed,
        "features_from_cache": scoring.features.counts.cached,
        **({"endpoints": usage} if (usage := scoring.features.usage()) else {}),
        "status": table.frame.groupby(["metric", "status"])
        .size()
        .unstack(fill_value=0)
        .to_dict("index"),
    }
    arguments = {"metrics": list(chosen), "backbone": backbone, **asdict(options)}
    device = scoring.features.device() or "none (all features from the cache)"
    full = run_record(arguments, counts, started, device)
    return ScoreTable(table.frame, table.metrics, {**full, **_warned(scoring), **(record or {})})


def _partial(scoring: Scoring, record: Mapping[str, Any]) -> ScoreTable | None:
    """What an interrupted run has so far."""
    if not scoring.columns:
        return None
    table = scoring.table()
    return ScoreTable(table.frame, table.metrics, {**_warned(scoring), **record, INTERRUPTED: True})


def _warned(scoring: Scoring) -> dict[str, list[str]]:
    """The run record's entry of warnings, where there are any."""
    return {"warnings": found} if (found := scoring.warnings()) else {}


__all__ = ["Interrupted", "RunOptions", "score_samples"]
