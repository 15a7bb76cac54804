"""Where features are computed: in this process, in one for each device, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from scorekit.cache import FILE_NAME, Cache, FeatureCache
from scorekit.types import Feature, Sample, UsageError

if TYPE_CHECKING:
    from scorekit.backbones.handle import BackboneInfo
    from scorekit.chunks import Chunk, Counts
    from scorekit.run import RunOptions

EngineName = Literal["local", "ray"]
ENGINES: tuple[EngineName, ...] = ("local", "ray")


class Engine(Protocol):
    """What computes a run's features; formulas and tables are the same for all of them.

    Attributes
    ----------
    infos : mapping of str to BackboneInfo
        What signatures need to know of each backbone, by its specification.
    labels : mapping of str to str
        Each backbone's name for signatures.
    counts : Counts
        Features computed and found so far.
    """

    counts: Counts

    @property
    def infos(self) -> Mapping[str, BackboneInfo]: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    def chunks(self, samples: Sequence[Sample]) -> Iterator[Chunk]:
        """Consecutive samples with their features; every sample once, chunks in any order."""
        ...

    def device(self) -> str:
        """The devices that computed features, or "" where none was needed."""
        ...

    def usage(self) -> dict[str, Any]:
        """Calls, tokens and cost of the endpoints that were asked, by backbone."""
        ...

    def close(self) -> None:
        """End what the engine started."""
        ...


def open_engine(
    needs: Sequence[Feature],
    options: RunOptions,
    cache: Cache,
    on_progress: Callable[[int], None] | None = None,
) -> Engine:
    """The engine that the options ask for.

    Parameters
    ----------
    needs : sequence of Feature
        What the metrics need.
    options : RunOptions
    cache : Cache
        Of this process; others open the same one.
    on_progress : callable, optional
        Called with the number of samples that are done.

    Raises
    ------
    UsageError
        If it can't be started: no such checkpoint, no Ray, too few devices.
    """
    if options.engine == "ray":
        if len(options.devices) > 1:
            raise UsageError("with the engine ray, --workers says how many devices take part")
        from scorekit.ray_engine import RayRun

        return RayRun(needs, options, on_progress=on_progress)
    if len(options.devices) > 1:
        from scorekit.processes import ProcessRun

        return ProcessRun(needs, _sharing(cache, options), on_progress=on_progress)
    from scorekit.features import FeatureRun

    return FeatureRun(needs, options, cache, workers=options.workers, on_progress=on_progress)


def _sharing(cache: Cache, options: RunOptions) -> RunOptions:
    """Options by which another process opens this one's cache, a temporary one as well.

    One that is killed could not remove a temporary folder of its own.
    """
    if isinstance(cache, FeatureCache) and cache.path.name == FILE_NAME:
        return replace(options, cache=cache.path.parent)
    return options  # there was no room for a file
