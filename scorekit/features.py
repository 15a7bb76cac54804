"""Features of chunks of samples: from the cache, or computed once and stored there.

Files are read, hashed, looked up, decoded and resized on worker threads, one chunk ahead of
the forward passes.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from scorekit.backbones.handle import BackboneHandle, BackboneInfo, get_handle
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.cache import Cache, feature_key
from scorekit.images import as_uint8, content_key, decode, read_bytes
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError

IMAGE_FIELDS = ("image", "source_image", "reference_images", "mask")
TEXT_FIELDS = ("text", "source_text", "references")
SEVERAL = ("references", "reference_images")
_REQUIRED = {"image": "missing_image", "text": "missing_text"}

CHUNK_CPU = 128
CHUNK_GPU = 1024

Result = Extracted | InputError
RowResult = Extracted | list[Extracted] | InputError


@dataclass
class Counts:
    """How many features a run computed, and how many it found."""

    computed: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class ImageWork:
    """One image after its thread: what the cache had, and the rest ready for the model."""

    keys: dict[Feature, bytes]
    found: dict[bytes, Extracted]
    prepared: dict[Feature, Any]


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


class FeatureRun:
    """Computes a run's features, each once.

    Parameters
    ----------
    needs : iterable of Feature
        The union of what the metrics need.
    options : BackboneOptions
    cache : FeatureCache or MemoryCache
    workers : int or None
        Threads that read and decode; None takes the number of cores, 8 at most.
    on_progress : callable, optional
        Called with the number of samples whose images are done.
    """

    def __init__(
        self,
        needs: Iterable[Feature],
        options: BackboneOptions,
        cache: Cache,
        *,
        workers: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self.needs = [f for f in dict.fromkeys(needs) if f.backbone is not None]
        self.options = options
        self.cache = cache
        self.workers = workers or min(8, os.cpu_count() or 1)
        self.counts = Counts()
        self.handles: dict[str, BackboneHandle] = {}
        self.infos: dict[str, BackboneInfo] = {}
        self.labels: dict[str, str] = {}
        for feature in self.needs:
            name = str(feature.backbone)
            if name not in self.handles:
                self.handles[name] = get_handle(name, options)
                self.infos[name] = self.handles[name].info(cache)
                self.labels[name] = BackboneSpec.parse(name).label
        self._on_progress = on_progress or (lambda done: None)
        self._recent: deque[dict[bytes, Extracted]] = deque(maxlen=2)

    def chunks(self, samples: Sequence[Sample]) -> Iterator[Chunk]:
        """The samples in order, with their features."""
        size = CHUNK_CPU if self._on_cpu() else CHUNK_GPU
        size = max(size, self.options.batch_size or 0)
        starts = range(0, len(samples), size)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="scorekit-read") as pool:
            ahead: deque[tuple[Chunk, dict[Any, Future[ImageWork]]]] = deque()
            try:
                for start in starts:
                    chunk = Chunk(start, list(samples[start : start + size]))
                    ahead.append((chunk, self._submit(pool, chunk)))
                    if len(ahead) > 1:
                        yield self._finish(*ahead.popleft())
                while ahead:
                    yield self._finish(*ahead.popleft())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _on_cpu(self) -> bool:
        # A size of chunk is not worth importing torch for: a run from the cache never does.
        if self.options.device in ("cpu", "mps"):
            return True
        return not any(h.loaded and h.model().device.type == "cuda" for h in self.handles.values())

    # Images -------------------------------------------------------------------------------

    def _submit(self, pool: ThreadPoolExecutor, chunk: Chunk) -> dict[Any, Future[ImageWork]]:
        """Start reading every image of a chunk, each for all the features it needs."""
        wanted: dict[Any, tuple[Any, list[Feature]]] = {}
        for feature in self.needs:
            if feature.field not in IMAGE_FIELDS:
                continue
            for sample in chunk.samples:
                for raw in _inputs(sample, feature.field):
                    features = wanted.setdefault(_identity(raw), (raw, []))[1]
                    if not features or features[-1] is not feature:
                        features.append(feature)
        return {
            identity: pool.submit(self._read_image, raw, tuple(dict.fromkeys(features)))
            for identity, (raw, features) in wanted.items()
        }

    def _read_image(self, raw: Any, features: tuple[Feature, ...]) -> ImageWork:
        """Read, hash, look up, and decode and resize what is missing. On a worker thread."""
        data: bytes | None = None
        if isinstance(raw, str | Path | bytes):
            data = raw if isinstance(raw, bytes) else read_bytes(raw)
            content = hashlib.sha256(data).hexdigest()
        else:
            content = content_key(raw)
        keys = {feature: self._key(feature, content) for feature in features}
        found = self.cache.get_many(keys.values())
        missing = [f for f in features if keys[f] not in found]
        prepared: dict[Feature, Any] = {}
        if missing:
            image = decode(data) if data is not None else Image.fromarray(as_uint8(raw))
            done: dict[bytes, Any] = {}
            for feature in missing:
                key = keys[feature]
                if key not in done:  # image and source_image of one file share a feature
                    model = self.handles[str(feature.backbone)].model()
                    done[key] = model.prepare(feature, image)
                prepared[feature] = done[key]
        return ImageWork(keys, found, prepared)

    def _finish(self, chunk: Chunk, futures: dict[Any, Future[ImageWork]]) -> Chunk:
        done: dict[bytes, Result] = {}
        failed: dict[Any, InputError] = {}
        keys: dict[Any, dict[Feature, bytes]] = {}
        waiting: dict[Feature, dict[bytes, Any]] = {}
        for number, (identity, future) in enumerate(futures.items()):
            try:
                work = future.result()
            except InputError as error:
                failed[identity] = error
                continue
            except UsageError:
                raise
            except Exception as error:  # whatever one image does, it costs its row alone
                failed[identity] = InputError("failed", f"{type(error).__name__}: {error}")
                continue
            keys[identity] = work.keys
            done.update(work.found)
            self.counts.cached += len(work.found)
            for feature, prepared in work.prepared.items():
                key = work.keys[feature]
                if key in done:
                    continue
                if (recent := self._recall(key)) is not None:
                    done[key] = recent
                    continue
                batch = waiting.setdefault(_same_batch(feature), {})
                batch[key] = prepared
                if len(batch) >= self._batch_size(feature):
                    self._extract(feature, batch, done)
            share = (number + 1) / len(futures)
            self._on_progress(chunk.start + int(share * len(chunk.samples)))
        for feature, batch in waiting.items():
            self._extract(feature, batch, done)
        self._recent.append({k: v for k, v in done.items() if isinstance(v, Extracted)})
        for feature in self.needs:
            if feature.field in IMAGE_FIELDS:
                lookup = partial(_lookup, feature=feature, keys=keys, done=done, failed=failed)
                chunk.features[feature] = [_row(feature, s, lookup) for s in chunk.samples]
            elif feature.field in TEXT_FIELDS:
                chunk.features[feature] = self._texts(feature, chunk.samples)
        self._on_progress(chunk.start + len(chunk.samples))
        return chunk

    def _recall(self, key: bytes) -> Extracted | None:
        """A feature that was computed while this chunk's threads were looking it up."""
        for recent in self._recent:
            if key in recent:
                return recent[key]
        return None

    # Texts --------------------------------------------------------------------------------

    def _texts(self, feature: Feature, samples: Sequence[Sample]) -> list[RowResult]:
        texts = {t for s in samples for t in _inputs(s, feature.field) if text_error(t) is None}
        keys = {text: self._key(feature, "text:" + text) for text in sorted(texts)}
        done: dict[bytes, Result] = dict(self.cache.get_many(keys.values()))
        self.counts.cached += len(done)
        self._extract(feature, {k: t for t, k in keys.items() if k not in done}, done)

        def lookup(text: str) -> Result:
            return text_error(text) or done[keys[text]]

        return [_row(feature, sample, lookup) for sample in samples]

    # Both ---------------------------------------------------------------------------------

    def _extract(
        self, feature: Feature, batch: dict[bytes, Any], done: dict[bytes, Result]
    ) -> None:
        """Compute a batch, store it in the cache, empty it."""
        if not batch:
            return
        name = str(feature.backbone)
        asked = with_options(feature, self.options)
        results = (
            self.handles[name]
            .model()
            .extract(asked, list(batch.values()), batch_size=self._batch_size(feature))
        )
        entries = list(zip(batch, results, strict=True))
        done.update(entries)
        sound = [(key, r) for key, r in entries if isinstance(r, Extracted)]
        self.counts.computed += len(sound)
        self.cache.put_many(self.labels[name], feature.kind, sound)
        batch.clear()

    def _key(self, feature: Feature, content: str) -> bytes:
        info = self.infos[str(feature.backbone)]
        params = with_options(feature, self.options).params
        return feature_key(info.fingerprint, feature.kind, params, content)

    def _batch_size(self, feature: Feature) -> int:
        if self.options.batch_size is not None:
            return self.options.batch_size
        size: int = self.handles[str(feature.backbone)].model().batch_size
        return size


def with_options(feature: Feature, options: BackboneOptions) -> Feature:
    """The feature with what of the options changes it."""
    if feature.field not in TEXT_FIELDS:
        return feature
    return replace(feature, params=(*feature.params, ("long_text", options.long_text)))


def text_error(text: Any) -> InputError | None:
    """What is wrong with a text before any model sees it."""
    if not isinstance(text, str):
        return InputError("invalid_text", f"a {type(text).__name__} is no text")
    if not text.strip():
        return InputError("empty_text", "the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return InputError("invalid_text", f"not valid Unicode: {error.reason} at {error.start}")
    return None


def _inputs(sample: Sample, name: str) -> Sequence[Any]:
    """The inputs of a field: none, one or several."""
    value = getattr(sample, name)
    if name in SEVERAL:
        return tuple(value)
    return () if value is None else (value,)


def _row(feature: Feature, sample: Sample, lookup: Callable[[Any], Result]) -> RowResult:
    """A row's feature from those of its inputs."""
    inputs = _inputs(sample, feature.field)
    if not inputs:
        if feature.optional:
            return []
        status = _REQUIRED.get(feature.field, "missing_input")
        return InputError(status, f"the row has no {feature.field.replace('_', ' ')}")
    results: list[Extracted] = []
    for raw in inputs:
        result = lookup(raw)
        if isinstance(result, InputError):
            if feature.field in ("image", "text"):
                return result
            return InputError(result.status, f"{feature.field.replace('_', ' ')}: {result.note}")
        results.append(result)
    return results if feature.field in SEVERAL else results[0]


def _lookup(
    raw: Any,
    feature: Feature,
    keys: dict[Any, dict[Feature, bytes]],
    done: dict[bytes, Result],
    failed: dict[Any, InputError],
) -> Result:
    identity = _identity(raw)
    if identity in failed:
        return failed[identity]
    return done[keys[identity][feature]]


def _identity(raw: Any) -> Any:
    """What makes two inputs one and the same before their content is known."""
    if isinstance(raw, str | Path):
        return str(raw)
    return raw if isinstance(raw, bytes) else id(raw)


def _same_batch(feature: Feature) -> Feature:
    """Features that differ in the field alone go through the model together."""
    return Feature(feature.kind, feature.backbone, IMAGE_FIELDS[0], feature.params)
