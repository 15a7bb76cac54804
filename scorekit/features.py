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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from scorekit.backbones.handle import BackboneHandle, BackboneInfo, get_handle
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.cache import Cache, feature_key
from scorekit.chunks import Chunk, Counts, chunk_size, union_of, with_options
from scorekit.entities import only
from scorekit.images import as_uint8, content_key, decode, read_bytes
from scorekit.inputs import (
    IMAGE_FIELDS,
    RECORD,
    TEXT_FIELDS,
    Result,
    RowResult,
    asked_of,
    identity_of,
    inputs_of,
    missing_field,
    row_of,
    seconds_of,
    text_error,
)
from scorekit.types import Extracted, Feature, InputError, Pair, Sample, UsageError

Ask = tuple[Feature, str | None]
"""A feature of one image, and the text that goes with it if it is a pair's."""


@dataclass(frozen=True, slots=True)
class ImageWork:
    """One image after its thread: what the cache had, and the rest ready for the model."""

    keys: dict[Ask, bytes]
    found: dict[bytes, Extracted]
    prepared: dict[Ask, Any]
    failed: dict[bytes, InputError]


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
        self.needs = union_of(needs)
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
        # What gives other features their texts is known before these are asked for.
        givers = [s for f in self.needs for s in (f.given_by, f.second) if isinstance(s, Feature)]
        self._first = tuple(dict.fromkeys(g for g in givers if g.field == RECORD))
        self._on_progress = on_progress or (lambda done: None)
        self._recent: deque[dict[bytes, Extracted]] = deque(maxlen=2)

    def chunks(self, samples: Sequence[Sample]) -> Iterator[Chunk]:
        """The samples in order, with their features."""
        size = chunk_size(self.needs, self.options, on_cpu=self._on_cpu())
        return self.run(
            Chunk(start, list(samples[start : start + size]))
            for start in range(0, len(samples), size)
        )

    def run(self, chunks: Iterable[Chunk | None]) -> Iterator[Chunk]:
        """Fill chunks with their features, in order, reading one ahead.

        None among them says that the next is not known yet: what was begun is finished first.
        """
        with ThreadPoolExecutor(self.workers, thread_name_prefix="scorekit-read") as pool:
            ahead: deque[tuple[Chunk, dict[Any, Future[ImageWork]]]] = deque()
            try:
                for chunk in chunks:
                    if chunk is not None:
                        ahead.append((chunk, self._submit(pool, chunk)))
                    while len(ahead) > (chunk is not None):
                        yield self._finish(*ahead.popleft())
                while ahead:
                    yield self._finish(*ahead.popleft())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def device(self) -> str:
        """The device that computed features, or "" where all came from the cache."""
        devices = {str(h.model().device) for h in self.handles.values() if h.loaded}
        return ", ".join(sorted(devices))

    def usage(self) -> dict[str, Any]:
        """Calls, tokens and cost of the endpoints that were asked, by backbone."""
        return {
            self.labels[name]: handle.model().usage()
            for name, handle in self.handles.items()
            if handle.loaded and hasattr(handle.model(), "usage")
        }

    def close(self) -> None:
        """Nothing is held: the models stay for the next run of this process."""

    def _on_cpu(self) -> bool:
        # A size of chunk is not worth importing torch for: a run from the cache never does.
        if self.options.device in ("cpu", "mps"):
            return True
        if self.options.device.startswith("cuda"):  # loaded or not: a resumed run's batches
            return False
        return not any(
            h.loaded and str(h.model().device).startswith("cuda") for h in self.handles.values()
        )

    # Images -------------------------------------------------------------------------------

    def _submit(self, pool: ThreadPoolExecutor, chunk: Chunk) -> dict[Any, Future[ImageWork]]:
        """Start reading every image of a chunk, each for all that is asked of it."""
        for feature in self._first:
            chunk.features[feature] = self._records(feature, chunk.samples)
        wanted: dict[Any, tuple[Any, dict[Ask, None]]] = {}
        for feature in self.needs:
            if feature.field not in IMAGE_FIELDS:
                continue
            for row, sample in enumerate(chunk.samples):
                texts = self._seconds(feature, sample, row, chunk)
                if isinstance(texts, InputError):
                    continue
                for raw in inputs_of(sample, feature.field):
                    asked = wanted.setdefault(identity_of(raw), (raw, {}))[1]
                    asked.update(dict.fromkeys((feature, text) for text in texts))
        return {
            identity: pool.submit(self._read_image, raw, tuple(asked))
            for identity, (raw, asked) in wanted.items()
        }

    def _read_image(self, raw: Any, asked: tuple[Ask, ...]) -> ImageWork:
        """Read, hash, look up, and decode and resize what is missing. On a worker thread."""
        data: bytes | None = None
        if isinstance(raw, str | Path | bytes):
            data = raw if isinstance(raw, bytes) else read_bytes(raw)
            content = hashlib.sha256(data).hexdigest()
        else:
            content = content_key(raw)
        keys = {ask: self._key(ask[0], content, ask[1]) for ask in asked}
        found = self.cache.get_many(keys.values())
        missing = [ask for ask in asked if keys[ask] not in found]
        prepared: dict[Ask, Any] = {}
        failed: dict[bytes, InputError] = {}
        if missing:
            image = decode(data) if data is not None else Image.fromarray(as_uint8(raw))
            done: dict[Ask, Any] = {}
            for feature, text in missing:
                region = text if feature.of_regions else None
                same = _same_batch(feature), region
                if same not in done:  # image and source_image of one file share their work
                    part = image if region is None else only(image, region)
                    done[same] = self._prepare(feature, part)
                first = done[same]
                if isinstance(first, InputError):
                    failed[keys[feature, text]] = first
                else:
                    single = text is None or region is not None
                    prepared[feature, text] = first if single else Pair(first, text)
        return ImageWork(keys, found, prepared, failed)

    def _prepare(self, feature: Feature, image: Image.Image) -> Any:
        """An image as a backbone wants it; what one of them rejects, another may take."""
        try:
            return self.handles[str(feature.backbone)].model().prepare(feature, image)
        except UsageError:
            raise
        except InputError as error:
            return error
        except Exception as error:
            return InputError("failed", f"{type(error).__name__}: {error}")

    def _finish(self, chunk: Chunk, futures: dict[Any, Future[ImageWork]]) -> Chunk:
        done: dict[bytes, Result] = {}
        failed: dict[Any, InputError] = {}
        keys: dict[Any, dict[Ask, bytes]] = {}
        waiting: dict[Feature, dict[bytes, Any]] = {}
        total = len(futures)
        for number, identity in enumerate(list(futures)):
            try:
                work = futures.pop(identity).result()  # the pixels go once they are used
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
            done.update(work.failed)
            self.counts.cached += len(work.found)
            touched: dict[Feature, Feature] = {}
            for ask, prepared in work.prepared.items():
                key = work.keys[ask]
                if key in done:
                    continue
                if (recent := self._recall(key)) is not None:
                    done[key] = recent
                    continue
                same = _same_batch(ask[0])
                waiting.setdefault(same, {})[key] = prepared
                touched[same] = ask[0]
            for same, feature in touched.items():
                # Between images only: the texts of one image go together.
                if _distinct(waiting[same]) >= self._batch_size(feature):
                    self._extract(feature, waiting[same], done)
            share = (number + 1) / total
            self._on_progress(chunk.start + int(share * len(chunk.samples)))
        for feature, batch in waiting.items():
            self._extract(feature, batch, done)
        self._recent.append({k: v for k, v in done.items() if isinstance(v, Extracted)})
        # What is seen with a feature of the image comes after it.
        ordered = sorted(self.needs, key=lambda f: f.field in TEXT_FIELDS and _seen_with(f))
        for feature in ordered:
            if feature.field in IMAGE_FIELDS:
                lookup = partial(_lookup, feature=feature, keys=keys, done=done, failed=failed)
                chunk.features[feature] = self._rows(feature, chunk, lookup)
            elif feature.field in TEXT_FIELDS and _seen_with(feature):
                chunk.features[feature] = self._seen(feature, chunk)
            elif feature.field in TEXT_FIELDS:
                chunk.features[feature] = self._texts(feature, chunk)
            elif feature.field == RECORD and feature not in chunk.features:
                chunk.features[feature] = self._records(feature, chunk.samples)
        self._on_progress(chunk.start + len(chunk.samples))
        return chunk

    @staticmethod
    def _seconds(
        feature: Feature, sample: Sample, row: int, chunk: Chunk
    ) -> Sequence[str | None] | InputError:
        """The texts that go with each of a row's inputs: one None for a single feature."""
        if feature.second is None:
            return (None,)
        return seconds_of(feature, sample, row, chunk.features)

    def _rows(
        self, feature: Feature, chunk: Chunk, lookup: Callable[[Any, str | None], Result]
    ) -> list[RowResult]:
        out: list[RowResult] = []
        for row, sample in enumerate(chunk.samples):
            inputs = asked_of(feature, sample, row, chunk.features)
            paired = feature.second is not None
            seconds = seconds_of(feature, sample, row, chunk.features) if paired else None
            out.append(row_of(feature, inputs, lookup, seconds))
        return out

    def _recall(self, key: bytes) -> Extracted | None:
        """A feature that was computed while this chunk's threads were looking it up."""
        for recent in self._recent:
            if key in recent:
                return recent[key]
        return None

    # Texts and records ----------------------------------------------------------------------

    def _texts(self, feature: Feature, chunk: Chunk) -> list[RowResult]:
        """A feature of a text, or of a text and another."""
        asked: set[tuple[str, str | None]] = set()
        for row, sample in enumerate(chunk.samples):
            seconds = self._seconds(feature, sample, row, chunk)
            if isinstance(seconds, InputError):
                continue
            firsts = asked_of(feature, sample, row, chunk.features)
            if isinstance(firsts, InputError):
                continue
            sound = [text for text in firsts if text_error(text) is None]
            asked.update((first, second) for first in sound for second in seconds)
        ordered = sorted(asked, key=lambda pair: (pair[0], pair[1] or ""))
        keys = {pair: self._key(feature, "text:" + pair[0], pair[1]) for pair in ordered}
        done: dict[bytes, Result] = dict(self.cache.get_many(keys.values()))
        self.counts.cached += len(done)
        batch: dict[bytes, Any] = {
            key: first if second is None else Pair(first, second)
            for (first, second), key in keys.items()
            if key not in done
        }
        self._extract(feature, batch, done)

        def lookup(text: Any, second: str | None) -> Result:
            return text_error(text) or done[keys[text, second]]

        return self._rows(feature, chunk, lookup)

    def _seen(self, feature: Feature, chunk: Chunk) -> list[RowResult]:
        """A feature of a text together with its row's image, by the image's own feature."""
        assert isinstance(feature.second, Feature)
        out: list[RowResult | None] = [None] * len(chunk.samples)
        rows: dict[bytes, list[int]] = {}
        batch: dict[bytes, Any] = {}
        images = chunk.features[feature.second]
        for i, (sample, image) in enumerate(zip(chunk.samples, images, strict=True)):
            text = next(iter(inputs_of(sample, feature.field)), None)
            if text is None:
                out[i] = missing_field(feature.field)
            elif error := text_error(text):
                out[i] = error
            elif isinstance(image, InputError):
                out[i] = image
            else:
                assert isinstance(image, Extracted)
                digest = hashlib.sha256(image.array.tobytes()).hexdigest()
                key = self._key(feature, "text:" + text, digest)
                rows.setdefault(key, []).append(i)
                batch[key] = Pair(text, image.array)
        done: dict[bytes, Result] = dict(self.cache.get_many(batch))
        self.counts.cached += len(done)
        self._extract(feature, {k: p for k, p in batch.items() if k not in done}, done)
        for key, places in rows.items():
            for i in places:
                out[i] = done[key]
        return [result for result in out if result is not None]

    def _records(self, feature: Feature, samples: Sequence[Sample]) -> list[RowResult]:
        """A feature that the backbone makes of the samples themselves."""
        name = str(feature.backbone)
        model = self.handles[name].model()
        if not hasattr(model, "content_of"):
            raise UsageError(f"{name} gives no {feature.kind.replace('_', ' ')}")
        out: list[RowResult | None] = [None] * len(samples)
        rows: dict[bytes, list[int]] = {}
        batch: dict[bytes, Any] = {}
        for i, sample in enumerate(samples):
            try:
                content = model.content_of(feature, sample)
            except InputError as error:
                out[i] = error
                continue
            if content is None:  # what a file says of this row is no feature of its content
                out[i] = model.extract(feature, [sample])[0]
                continue
            key = self._key(feature, content)
            rows.setdefault(key, []).append(i)
            batch[key] = sample
        done: dict[bytes, Result] = dict(self.cache.get_many(batch))
        self.counts.cached += len(done)
        missing = [key for key in batch if key not in done]
        size = self._batch_size(feature) if missing else 1
        for start in range(0, len(missing), size):  # a reply that was paid for is kept at once
            part = missing[start : start + size]
            self._extract(feature, {key: batch[key] for key in part}, done)
        for key, places in rows.items():
            for i in places:
                out[i] = done[key]
        return [result for result in out if result is not None]

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

    def _key(self, feature: Feature, content: str, second: str | None = None) -> bytes:
        info = self.infos[str(feature.backbone)]
        params = with_options(feature, self.options).params
        if second is not None:
            content += ":" + hashlib.sha256(second.encode()).hexdigest()
        return feature_key(info.fingerprint, feature.kind, params, content)

    def _batch_size(self, feature: Feature) -> int:
        if self.options.batch_size is not None:
            return self.options.batch_size
        size: int = self.handles[str(feature.backbone)].model().batch_size
        return size


def _same_batch(feature: Feature) -> Feature:
    """Features that differ in their fields alone go through the model together."""
    return Feature(feature.kind, feature.backbone, IMAGE_FIELDS[0], feature.params)


def _seen_with(feature: Feature) -> bool:
    """Whether a text's feature needs one of its row's image."""
    return isinstance(feature.second, Feature) and feature.second.field in IMAGE_FIELDS


def _distinct(batch: dict[bytes, Any]) -> int:
    """How many inputs a batch has; of pairs, how many first ones: their texts share its work."""
    return len({id(v.first) if isinstance(v, Pair) else k for k, v in batch.items()})


def _lookup(
    raw: Any,
    text: str | None,
    feature: Feature,
    keys: dict[Any, dict[Ask, bytes]],
    done: dict[bytes, Result],
    failed: dict[Any, InputError],
) -> Result:
    identity = identity_of(raw)
    if identity in failed:
        return failed[identity]
    return done[keys[identity][feature, text]]
