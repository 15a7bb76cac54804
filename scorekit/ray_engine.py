"""A run's features by actors on a Ray cluster, through Ray Data.

Ray Data hands batches of rows to a pool of actors, each with its backbones loaded, and these
write what they computed as shards. The driver reads a shard when it is told of it, or finds it.
The shards decide what is done, not what Ray says: an answer may get lost with a node, and a
finished row does not.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import queue
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from scorekit.backbones.handle import BackboneInfo
from scorekit.chunks import Chunk, Counts, chunk_size, union_of
from scorekit.feature_shards import (
    GO_ON,
    DamagedShard,
    ShardFolder,
    everywhere,
    row_keys,
    rows_there_are,
    run_key,
)
from scorekit.inputs import RowResult
from scorekit.processes import PARTS, TRIES, sum_of
from scorekit.ray_actor import Extractor, Job, describe
from scorekit.ray_cluster import (
    Head,
    connect,
    disconnect,
    import_ray,
    in_one_line,
    no_logs,
    quiet,
    share_out,
)
from scorekit.run import RunOptions
from scorekit.types import Feature, InputError, Sample, UsageError

CHUNKS = 8
"""At most so many chunks a batch: what an actor is given at once."""
BATCHES = 4
"""At least so many batches an actor, so that none waits long for the last one."""
HOPELESS = 64
"""So many batches that all kill their actors are the cluster's fault, not the rows'."""
MAX_DEATHS = 1000
"""Of actors, in one run."""
LOOK_SECONDS = 10.0
LOST_LOOKS = 6
"""No node for an actor at so many looks in a row: none will come."""


class RayRun:
    """Computes a run's features on a Ray cluster.

    Parameters
    ----------
    needs : sequence of Feature
    options : RunOptions
    on_progress : callable, optional
        Called with the number of samples that are done.

    Raises
    ------
    UsageError
        If there is no Ray, no such cluster or too small a one, no place for the shards, or no
        such checkpoint on the node that was asked.
    """

    def __init__(
        self,
        needs: Sequence[Feature],
        options: RunOptions,
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        if options.shards is None:
            raise UsageError("the engine ray needs a place for its shards: --out or --shards DIR")
        self.counts = Counts()
        self.infos: Mapping[str, BackboneInfo] = {}
        self.labels: Mapping[str, str] = {}
        self._needs = union_of(needs)
        self._options = options
        self._on_progress = on_progress or (lambda done: None)
        self._devices: dict[str, None] = {}
        self._usage: dict[str, Any] = {}
        self._warned: set[str] = set()
        self._deaths = 0
        self._feed: _Feed | None = None
        self._ray = import_ray()
        self._ours = connect(self._ray, options.address)
        try:
            self._head = Head(self._ray.get_runtime_context().gcs_address)
            self._share = share_out(self._nodes(), options.workers, options.device)
            self._job = Job(
                needs=self._needs,
                options=replace(
                    options,
                    device="cuda" if self._share.gpu else options.device,
                    workers=None,
                ),
                threads=self._share.cpus,
                folder=os.getcwd(),
                place=everywhere(options.shards),
            )
            self._ask_a_node()
        except BaseException:
            self.close()
            raise

    def chunks(self, samples: Sequence[Sample]) -> Iterator[Chunk]:
        """Consecutive samples with their features, as the actors finish them."""
        if not any(map(rows_there_are, self._needs)):
            yield Chunk(0, list(samples))
            return
        rows = _Rows(samples, self._needs)
        folder = ShardFolder(self._job.place, self._job.key)
        seen: set[str] = set()
        yield from self._take(folder, folder.names(), seen, rows, again=True)
        most = chunk_size(self._needs, self._options, on_cpu=not self._share.gpu)
        n = len(rows.waiting)
        size = max(1, min(CHUNKS * most, -(-n // (BATCHES * self._share.actors))))
        deaths: Counter[str] = Counter()
        while rows.waiting:
            batches = rows.batches(size)
            for told in self._compute(batches, size, folder):
                yield from self._take(folder, self._heard(told), seen, rows)
            # What was written and not told of: by an actor that died in the next chunk, say.
            yield from self._take(folder, folder.names(), seen, rows)
            self._check_hope(len(batches), sum(map(rows.waits_for, batches)), last=bool(deaths))
            if size == 1:
                deaths.update(list(rows.waiting))
                gone = [key for key in rows.waiting if deaths[key] >= TRIES]
                if gone:
                    yield from self._take(folder, [self._give_up(folder, gone)], seen, rows)
            size = -(-size // PARTS) if size > PARTS else 1

    def device(self) -> str:
        """The devices that computed features, or "" where all came from a cache or shard."""
        return ", ".join(sorted(self._devices))

    def usage(self) -> dict[str, Any]:
        """Calls, tokens and cost of the endpoints that were asked, by backbone."""
        return self._usage

    def close(self) -> None:
        """End the actors, and the cluster if it was started here; the shards stay."""
        at_work = self._feed is not None and self._feed.stop()
        if self._ours:
            disconnect(self._ray, at_work=at_work)

    def _ask_a_node(self) -> None:
        """Learn of the backbones from a node: they need not be where the driver runs."""
        ray = self._ray
        ask = ray.remote(
            num_cpus=self._share.cpus, num_gpus=int(self._share.gpu), max_calls=1, max_retries=1
        )(describe)
        try:
            answer = ask.remote(self._job)
            while not ray.wait([answer], timeout=LOOK_SECONDS)[0]:
                self._head.answers()
            told = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise UsageError(f"no node could load the backbones: {in_one_line(error)}") from error
        self._heard({"written": [], **told})
        self.infos, self.labels = told["infos"], told["labels"]
        self._job = replace(self._job, key=run_key(self._needs, self.infos, self._options))

    def _compute(
        self, batches: Sequence[pa.Table], size: int, folder: ShardFolder
    ) -> Iterator[dict[str, Any]]:
        """Have batches computed; what the actors tell. A batch whose actor dies is left out."""
        lost = 0
        with no_logs():
            self._feed = feed = _Feed(self._dataset(batches, size))
            try:
                while True:
                    try:
                        told = feed.get(LOOK_SECONDS)
                    except queue.Empty:
                        lost = 0 if self._can_go_on() else lost + 1
                        if lost >= LOST_LOOKS:
                            raise UsageError(f"no node for an actor is left; {GO_ON}") from None
                        # A batch has many chunks: they count before the last one is done.
                        try:
                            names = folder.names()
                        except UsageError:  # its store may answer at the next look
                            continue
                        yield {"written": names}
                        continue
                    if told is None:
                        return
                    lost = 0
                    self._head.answers()
                    yield told
            finally:
                feed.stop()

    def _dataset(self, batches: Sequence[pa.Table], size: int) -> Any:
        data = self._ray.data
        with quiet():
            # Not from_arrow, which has a task look at each batch, and waits for a CPU for it.
            rows = data.from_blocks(list(batches))
            rows.context.enable_progress_bars = False
            rows.context.print_on_execution_start = False
            rows.context.max_errored_blocks = -1  # what is missing is seen by the shards
            return rows.map_batches(
                Extractor,
                fn_constructor_args=(self._job,),
                batch_size=size,  # of each of them, so that none is joined to another or cut
                batch_format="pyarrow",
                num_cpus=self._share.cpus,
                num_gpus=int(self._share.gpu),
                # One batch an actor: what waits behind a row that kills is not blamed for it.
                compute=data.ActorPoolStrategy(
                    size=min(self._share.actors, len(batches)), max_tasks_in_flight_per_actor=1
                ),
                # An actor that has no restart left stays in the pool, and the run waits for it
                # for ever. So they always restart, and no batch is tried again as it is: deaths
                # are bounded by the number of batches.
                max_restarts=-1,
                max_task_retries=0,
            )

    def _take(
        self,
        folder: ShardFolder,
        names: Sequence[str],
        seen: set[str],
        rows: _Rows,
        again: bool = False,
    ) -> Iterator[Chunk]:
        """The rows of shards that were not seen before; `again` if an earlier run wrote them."""
        for name in names:
            if name in seen:
                continue
            seen.add(name)
            try:
                shard = folder.read(name)
            except DamagedShard as error:
                warnings.warn(f"the shard {error} is damaged and is computed anew", stacklevel=2)
                folder.remove(name)
                continue
            except FileNotFoundError:
                raise UsageError(
                    f"the shard {name} is not there: the folder of --shards must be one that all "
                    "nodes share, and of two runs at a time each needs its own"
                ) from None
            except OSError as error:
                raise UsageError(
                    f"a shard that a node wrote can't be read ({error}): the folder of --shards "
                    "must be one that all nodes share"
                ) from None
            about = shard.about
            if not again:
                self.counts.computed += about.get("computed", 0)
                self.counts.cached += about.get("cached", 0)
                self._usage = sum_of(self._usage, about.get("usage", {}))
                self._devices.update(dict.fromkeys(filter(None, [about.get("device")])))
            # What failed may do better now: a store that was silent, a file without permission to
            # read. What killed its actor must not get to do it again.
            retry = again and not about.get("died")
            for chunk in rows.chunks_of(shard.rows, retry_failed=retry):
                if again:
                    self.counts.cached += _features_in(chunk)
                yield chunk
            self._on_progress(rows.done)

    def _heard(self, told: Mapping[str, Any]) -> Sequence[str]:
        """The shards that an actor tells of."""
        for text in told.get("warnings", ()):
            if text not in self._warned:
                self._warned.add(text)
                warnings.warn(text, stacklevel=2)
        if "usage" in told:
            raise UsageError(told["usage"])
        if "error" in told:
            raise RuntimeError(f"an actor failed {told['error']}")
        written: Sequence[str] = told["written"]
        return written

    def _give_up(self, folder: ShardFolder, keys: Sequence[str]) -> str:
        """Keep of rows that they killed their actors."""
        error = InputError("failed", "the actor that scored this row alone died, twice")
        results = [error for need in self._needs if rows_there_are(need)]
        return folder.write([(key, results) for key in keys], {"died": True})

    def _check_hope(self, batches: int, lost: int, *, last: bool) -> None:
        """Stop where it is not single rows that actors die of."""
        self._deaths += lost
        # In a last round are single rows that an actor has died of: there it may be all of them.
        if lost == batches > HOPELESS and not last:
            raise UsageError(f"{lost} actors died and finished nothing; {GO_ON}")
        if self._deaths > MAX_DEATHS:
            raise UsageError(f"actors died {self._deaths} times; {GO_ON}")

    def _nodes(self) -> list[Mapping[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _can_go_on(self) -> bool:
        # Of a head that is silent nobody learns of the nodes; it may answer at the next look.
        return not self._head.answers() or any(
            node.get("CPU", 0) >= self._share.cpus and node.get("GPU", 0) >= self._share.gpu
            for node in self._nodes()
        )


class _Rows:
    """The rows of a run, and which of them wait for their features.

    Attributes
    ----------
    waiting : dict of str to list of int
        By the row's identity, the positions that it has among the samples.
    done : int
        Samples that wait no more.
    """

    def __init__(self, samples: Sequence[Sample], needs: Sequence[Feature]) -> None:
        self._samples = samples
        self._needs = [need for need in needs if rows_there_are(need)]
        self.waiting: dict[str, list[int]] = {}
        self.done = 0
        for i, key in enumerate(row_keys(samples)):
            self.waiting.setdefault(key, []).append(i)

    def batches(self, size: int) -> list[pa.Table]:
        """What waits, as tables of so many rows."""
        keys = list(self.waiting)
        tables = []
        for start in range(0, len(keys), size):
            part = keys[start : start + size]
            samples = [pickle.dumps(self._samples[self.waiting[key][0]]) for key in part]
            tables.append(pa.table({"row": part, "sample": pa.array(samples, pa.large_binary())}))
        return tables

    def waits_for(self, batch: pa.Table) -> bool:
        """Whether a batch has rows that still wait."""
        return any(key in self.waiting for key in batch.column("row").to_pylist())

    def chunks_of(
        self, found: Mapping[str, Sequence[RowResult]], *, retry_failed: bool
    ) -> Iterator[Chunk]:
        """Features of rows that wait for them, as chunks of consecutive samples."""
        at: dict[int, Sequence[RowResult]] = {}
        for key, results in found.items():
            if retry_failed and any(isinstance(result, InputError) for result in results):
                continue
            at.update(dict.fromkeys(self.waiting.pop(key, ()), results))
        self.done += len(at)
        positions = sorted(at)
        starts = [i for i, p in enumerate(positions) if not i or p != positions[i - 1] + 1]
        for i, j in itertools.pairwise([*starts, len(positions)]):
            first, end = positions[i], positions[j - 1] + 1
            features = {
                need: [at[p][k] for p in range(first, end)] for k, need in enumerate(self._needs)
            }
            yield Chunk(first, list(self._samples[first:end]), features)


class _Feed:
    """The answers of a dataset, taken on a thread: a run that waits for Ray can still be ended."""

    def __init__(self, dataset: Any) -> None:
        self._answers: queue.Queue[Any] = queue.Queue()
        self._stopped = False
        self._thread = threading.Thread(target=self._drain, args=(dataset,), daemon=True)
        self._thread.start()

    def get(self, timeout: float) -> dict[str, Any] | None:
        """The next answer; None after the last.

        Raises
        ------
        queue.Empty
            If there is none in time.
        UsageError
            If Ray has failed.
        """
        answer = self._answers.get(timeout=timeout)
        if isinstance(answer, BaseException):
            raise UsageError(f"Ray stopped: {in_one_line(answer)}; {GO_ON}") from answer
        if answer is None:
            self._thread.join()  # with it goes what it holds of the actors
            return None
        told: dict[str, Any] = json.loads(answer)
        return told

    def stop(self) -> bool:
        """Take no more: the dataset ends with its next answer. Whether it is still at work."""
        self._stopped = True
        return self._thread.is_alive()

    def _drain(self, dataset: Any) -> None:
        try:
            for row in dataset.iter_rows():
                if self._stopped:
                    return
                self._answers.put(row["told"])
            self._answers.put(None)
        except BaseException as error:
            self._answers.put(error)


def _features_in(chunk: Chunk) -> int:
    """How many features there are of a chunk's rows, without those that failed."""
    results = itertools.chain.from_iterable(chunk.features.values())
    return sum(
        len(result) if isinstance(result, list) else 1
        for result in results
        if not isinstance(result, InputError)
    )
