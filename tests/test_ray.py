"""The engine ray: the same table as the local one, whatever dies on the way."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import poison
import pytest
from PIL import Image

from scorekit.feature_shards import row_keys
from scorekit.io import read_samples
from scorekit.run import RunOptions, score_samples
from scorekit.types import Extracted, InputError, Sample, UsageError

ray = pytest.importorskip("ray", reason="Ray is not installed")

from scorekit import ray_actor, ray_cluster, ray_engine  # noqa: E402
from scorekit.ray_cluster import Share, connect, import_ray, share_out  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo"
LOCAL = RunOptions(cache=False)
TOKEN = "0123456789abcdef" * 4


def short_folder() -> str:
    """For Ray: a socket's path has some hundred bytes at most, and a TMPDIR may be long."""
    return tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.access("/tmp", os.W_OK) else None)


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the actors inherit: where the poison is, and a cache that is not the user's."""
    site = poison.install(tmp_path_factory.mktemp("site"))
    paths = [str(site), str(Path(__file__).parent)]
    place = short_folder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", place)
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)  # else Ray writes one into the home
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("SCOREKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.syspath_prepend(str(site))
        yield
        ray.shutdown()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def session() -> None:
    """A Ray that is connected already, of three CPUs: starting it takes seconds."""
    if not ray.is_initialized():
        import_ray()
        ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)


@pytest.fixture
def no_session() -> Iterator[None]:
    ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture
def three_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray counts where scorekit starts it, however many this machine has."""
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 3}')


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    return RunOptions(cache=False, engine="ray", workers=2, shards=tmp_path / "shards")


def coloured(folder: Path, n: int, red: set[int] | frozenset[int] = frozenset()) -> list[Sample]:
    """So many images, of which some kill the process that reads them with the poison."""
    folder.mkdir(exist_ok=True)
    samples = []
    for i in range(n):
        colour = poison.RED if i in red else (i % 200, 90, (7 * i) % 256)
        Image.new("RGB", (8, 8), colour).save(folder / f"{i:03}.png")
        samples.append(Sample(f"{i}", "s", "word " * (i % 3 + 1), str(folder / f"{i:03}.png")))
    return samples


def score(samples: list[Sample], options: RunOptions, name: str = "all", **more: Any) -> Any:
    return score_samples(samples, "clipscore", backbone=f"poison:{name}", options=options, **more)


def assert_same(a: Any, b: Any) -> None:
    """Two tables that differ in their record and in rounding alone."""
    pd.testing.assert_frame_equal(a.frame, b.frame, check_exact=False, rtol=0, atol=1e-5)
    assert a.signatures == b.signatures


def shards_in(options: RunOptions) -> list[Path]:
    return sorted(Path(str(options.shards)).glob("*/*.parquet"))


@pytest.mark.usefixtures("session")
def test_the_same_table_as_the_local_engine(
    tmp_path: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad files, a metric of the whole set, and paths that start in the working folder."""
    shutil.copytree(DEMO, tmp_path / "demo")
    (tmp_path / "demo" / "careless" / "scene-0000.png").write_bytes(b"")
    (tmp_path / "demo" / "faithful" / "scene-0003.png").unlink()
    monkeypatch.chdir(tmp_path)
    samples = read_samples("demo").samples
    samples.append(Sample("none", "faithful", None, samples[4].image))
    samples.append(replace(samples[5], item="twice", references=("a red circle", "a square")))
    samples.append(replace(samples[6], item="url", image="http://127.0.0.1/a.png"))
    metrics = ["clipscore", "retrieval", "ref_clipscore", "psnr"]
    here = score_samples(samples, metrics, backbone="scenes-clip", options=LOCAL)
    told: list[int] = []
    there = score_samples(
        samples,
        metrics,
        backbone="scenes-clip",
        options=options,
        progress=lambda done, total: told.append(done),
    )
    assert_same(here, there)
    assert there.mean("clipscore").n == 59  # of 60, one came twice and two are bad
    assert set(there.frame["status"]) >= {
        "ok", "unreadable_image", "missing_image", "missing_text", "missing_input"
    }  # fmt: skip
    assert told == sorted(told)
    assert told[-1] == len(samples)
    assert there.run["device"] == "cpu"
    assert there.run["counts"]["features_computed"] >= here.run["counts"]["features_computed"]


@pytest.mark.usefixtures("session")
def test_going_on_from_shards(
    tmp_path: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = coloured(tmp_path / "images", 40)
    first = score(samples, options)
    assert_same(first, score(samples, LOCAL))
    made = shards_in(options)
    assert len(made) >= 8  # several for each actor

    # All is there, some of it twice: no actor is started.
    folder = ray_engine.ShardFolder(str(options.shards), made[0].parent.name)
    twice = folder.read(made[3].name).rows
    folder.write(twice.items(), {})
    with monkeypatch.context() as patch:
        patch.setattr(ray_engine.RayRun, "_compute", None)
        again = score(samples, options)
    assert_same(first, again)
    assert again.run["counts"]["features_computed"] == 0
    assert again.run["counts"]["features_from_cache"] == 80
    assert again.run["device"] == "none (all features from the cache)"

    # Half of it is there, and one shard is damaged.
    for path in set(shards_in(options)) - {*made[1::2]}:
        path.unlink()
    made[1].write_bytes(made[1].read_bytes()[:-9])
    asked = spy_on_rows(monkeypatch)
    with pytest.warns(UserWarning, match=r"the shard .* is damaged and is computed anew"):
        assert_same(first, score(samples, options))
    assert 0 < len(asked) < 40

    # An image has changed, and another row has come.
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "images" / "011.png")
    os.utime(tmp_path / "images" / "011.png", ns=(0, 0))
    samples.append(replace(samples[3], item="new", text="one more text of five words"))
    asked.clear()
    changed = score(samples, options)
    assert {sample.item for sample in asked} == {"11", "new"}
    assert_same(changed, score(samples, LOCAL))
    assert changed.scores("clipscore")[11] != first.scores("clipscore")[11]

    # What went wrong is tried again, and known when it goes wrong in the same way.
    (tmp_path / "images" / "007.png").write_bytes(b"no image")
    for name in folder.names():
        folder.remove(name)
    wrong = [InputError("missing_image", "no answer from s3://bucket")] * 2
    folder.write([(key, wrong) for key in row_keys(samples)], {})
    changed = score(samples, options)
    assert_same(changed, score(samples, LOCAL))
    assert list(changed.failures().index) == [7]
    asked.clear()
    assert_same(changed, score(samples, options))
    assert [sample.item for sample in asked] == ["7"]

    # Shards of another run are none of this one's.
    asked.clear()
    other = replace(options, long_text="window")
    assert score(samples, other).scores("clipscore") == pytest.approx(
        changed.scores("clipscore"), nan_ok=True
    )
    assert len(asked) == 41


def spy_on_rows(monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """The samples that Ray is given."""
    import pickle

    seen: list[Sample] = []
    batches = ray_engine._Rows.batches

    def spied(self: Any, size: int) -> Any:
        tables = batches(self, size)
        for table in tables:
            seen.extend(map(pickle.loads, table.column("sample").to_pylist()))
        return tables

    monkeypatch.setattr(ray_engine._Rows, "batches", spied)
    return seen


@pytest.mark.usefixtures("session")
def test_rows_that_kill_their_actors_cost_themselves_alone(
    tmp_path: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = coloured(tmp_path / "images", 60, red={0, 33})
    table = score(samples, options)
    failed = table.failures()
    assert list(failed.index) == [0, 33]
    assert set(failed["status"]) == {"failed"}
    assert set(failed["note"]) == {"the actor that scored this row alone died, twice"}
    sound = [s for i, s in enumerate(samples) if i not in (0, 33)]
    want = score(sound, LOCAL).scores("clipscore")
    np.testing.assert_allclose(np.delete(table.scores("clipscore"), [0, 33]), want, atol=1e-5)
    # Going on does not let them kill again.
    monkeypatch.setattr(ray_engine.RayRun, "_compute", None)
    assert_same(table, score(samples, options))


@pytest.mark.usefixtures("session")
def test_an_actor_that_dies_once_costs_nothing(tmp_path: Path, options: RunOptions) -> None:
    samples = coloured(tmp_path / "images", 6, red={4})  # each is a batch by itself
    table = score(samples, options, f"once/{tmp_path}")
    assert (tmp_path / "killed").exists()
    assert table.failures().empty


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize(
    ("backbone", "changes", "message"),
    [
        ("hf:/no/such/folder", {}, "no folder /no/such/folder to load"),
        ("poison:all", {"workers": 3}, "3 workers need a CPU each and one CPU must stay free"),
        ("poison:all", {"device": "cuda"}, "the cluster has no GPU"),
        ("poison:all", {"device": "cuda:1"}, "Ray says which GPU an actor takes"),
        ("poison:all", {"shards": None}, "needs a place for its shards: --out or --shards DIR"),
    ],
)
def test_mistakes_of_the_whole_run(
    tmp_path: Path, options: RunOptions, backbone: str, changes: dict[str, Any], message: str
) -> None:
    samples = coloured(tmp_path / "images", 2)
    with pytest.raises(UsageError, match=message) as told:
        score_samples(samples, "clipscore", backbone=backbone, options=replace(options, **changes))
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("session")
def test_images_in_memory_are_refused(options: RunOptions) -> None:
    sample = Sample("i", "s", "text", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="takes paths and URLs"):
        score([sample], options)


@pytest.mark.usefixtures("session")
def test_nodes_with_different_checkpoints(tmp_path: Path, options: RunOptions) -> None:
    """What an actor has loaded must be what the run was told of."""
    samples = coloured(tmp_path / "images", 4)
    run = ray_engine.RayRun(needs_of_clipscore(), options)
    run._job = replace(run._job, key="told by another checkpoint")
    with pytest.raises(UsageError, match="has another checkpoint"):
        list(run.chunks(samples))


@pytest.mark.usefixtures("session")
def test_deaths_are_bounded(
    tmp_path: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "MAX_DEATHS", 2)
    samples = coloured(tmp_path / "images", 24, red={2, 9, 22})
    # What Ray gives an actor that it has not yet seen die is lost as well.
    with pytest.raises(UsageError, match=r"actors died [3-8] times; what is finished is in the sh"):
        score(samples, options)


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "share"),
    [
        ([{"CPU": 2}, {"CPU": 2}, {"CPU": 2}], 3, "cpu", (3, 1, False)),
        ([{"CPU": 2}, {"CPU": 2}, {"CPU": 2}], 2, "cpu", (2, 2, False)),
        ([{"CPU": 32}], None, "cpu", (7, 4, False)),
        ([{"CPU": 1}, {"CPU": 16}], None, "cpu", (4, 3, False)),
        ([{"CPU": 0}, {"CPU": 3.0}], None, "auto", (1, 2, False)),
        ([{"CPU": 8}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], None, "auto", (2, 8, True)),
        ([{"CPU": 8, "GPU": 8}], None, "cuda", (7, 1, True)),
        ([{"CPU": 8, "GPU": 8}], 2, "cpu", (2, 3, False)),
    ],
)
def test_how_a_cluster_is_shared_out(
    nodes: list[dict[str, float]], workers: int | None, device: str, share: tuple[int, int, bool]
) -> None:
    assert share_out(nodes, workers, device) == Share(*share)


def needs_of_clipscore() -> list[Any]:
    from scorekit.choose import parse_metric

    return list(parse_metric("clipscore@poison:all").needs.values())


def test_a_look_that_gets_no_answer_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[Any] = [UsageError("can't list s3://bucket/shards"), ["a.parquet"]]

    class Folder:
        def names(self) -> Any:
            answer = names.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    class Feed:
        def __init__(self, _: Any) -> None:
            pass

        def get(self, _: float) -> None:
            if names:
                raise queue.Empty

        def stop(self) -> bool:
            return False

    monkeypatch.setattr(ray_engine, "_Feed", Feed)
    monkeypatch.setattr(ray_engine.RayRun, "_dataset", lambda *_: None)
    monkeypatch.setattr(ray_engine.RayRun, "_can_go_on", lambda _: True)
    run = object.__new__(ray_engine.RayRun)
    assert list(run._compute([], 1, Folder())) == [{"written": ["a.parquet"]}]  # type: ignore[arg-type]


def test_a_head_that_dies_while_answers_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors need none for their batches; Ray ends the driver all the same."""

    class Feed:
        def __init__(self, _: Any) -> None:
            pass

        def get(self, _: float) -> dict[str, Any]:
            time.sleep(0.05)
            return {"written": []}

        def stop(self) -> bool:
            return False

    monkeypatch.setattr(ray_engine, "_Feed", Feed)
    monkeypatch.setattr(ray_engine.RayRun, "_dataset", lambda *_: None)
    monkeypatch.setattr(ray_cluster, "HEAD_SECONDS", 0.5)
    run = object.__new__(ray_engine.RayRun)
    with socket.create_server(("127.0.0.1", 0)) as server:
        run._head = ray_cluster.Head(f"127.0.0.1:{server.getsockname()[1]}")
        answers = run._compute([], 1, None)  # type: ignore[arg-type]
        assert next(answers) == {"written": []}
    with pytest.raises(UsageError, match="the cluster's head does not answer; what is finished"):
        list(answers)


def test_one_look_without_an_answer_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = OSError("refused")
    answers: list[Any] = [None, refused, None, refused, refused, refused]

    def call(*_: Any) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    monkeypatch.setattr(ray_cluster, "_call", call)
    monkeypatch.setattr(ray_cluster, "HEAD_SECONDS", 0)
    head = ray_cluster.Head("127.0.0.1:6379")
    assert [head.answers() for _ in range(3)] == [False, True, False]
    with pytest.raises(UsageError, match="head does not answer"):
        head.answers()
    far = ray_cluster.Head("127.0.0.1:6379")  # never known to answer
    assert far.answers()
    assert far.answers()
    assert not answers


def test_a_shard_that_another_run_has_removed(options: RunOptions) -> None:
    run = object.__new__(ray_engine.RayRun)
    folder = ray_engine.ShardFolder(str(options.shards), "key")
    rows = ray_engine._Rows([], [])
    with pytest.raises(UsageError, match=r"gone\.parquet is not there: .* two runs at a t"):
        list(run._take(folder, ["gone.parquet"], set(), rows))


def test_the_users_cache_is_not_opened_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Homes may be shared over a network, where SQLite is not safe."""
    monkeypatch.setenv("SCOREKIT_CACHE", str(tmp_path / "users"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    for cache, there in ((None, False), (False, False), (tmp_path / "mine", True)):
        job = ray_actor.Job(
            needs_of_clipscore(), RunOptions(cache=cache), 1, str(tmp_path), str(tmp_path)
        )
        run = ray_actor._open(job)
        assert isinstance(run.cache, ray_actor.Memory) is not there
        RunOptions(cache=cache, engine="ray").open_cache().close()  # what the driver opens
        assert (tmp_path / "mine").exists() == there
    assert not (tmp_path / "users").exists()


def test_what_an_actor_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actor, "REMEMBERED_BYTES", 1000)
    memory = ray_actor.Memory()
    for i in range(5):
        memory.put_many("b", "k", [(b"%d" % i, Extracted(np.zeros(50)))])  # 400 bytes
    assert sorted(memory.get_many([b"%d" % i for i in range(5)])) == [b"3", b"4"]
    memory.put_many("b", "k", [(b"large", Extracted(np.zeros(1000)))])
    assert memory.get_many([b"4", b"large"]) == {}


@pytest.mark.usefixtures("session")
def test_hopeless_clusters_are_given_up(
    tmp_path: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "HOPELESS", 3)
    samples = coloured(tmp_path / "images", 12, red=set(range(12)))
    with pytest.raises(UsageError, match="actors died and finished nothing"):
        score(samples, options)


@pytest.mark.usefixtures("no_session")
def test_a_node_that_is_killed_midway(tmp_path: Path, options: RunOptions) -> None:
    """Three nodes, one of which goes: nothing is lost, nothing comes twice."""
    from ray.cluster_utils import Cluster

    import_ray()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        samples = coloured(tmp_path / "images", 240)
        seen: list[int] = []
        killed: list[int] = []

        def progress(done: int, total: int) -> None:
            seen.append(done)
            if 0 < done < total and not killed:
                killed.append(done)
                cluster.remove_node(nodes[1], allow_graceful=False)

        three = replace(options, workers=3, address=cluster.address)
        table = score(samples, three, "slow", progress=progress)
        assert killed
        assert_same(table, score(samples, LOCAL, "slow"))
        assert seen[-1] == 240
        assert seen == sorted(seen)
        assert not ray.is_initialized()  # the connection was ours to end
    finally:
        ray.shutdown()
        cluster.shutdown()


# Threads of Ray Data end by SystemExit when the connection does.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("no_session")
def test_no_node_is_left(
    tmp_path: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only node with room for an actor goes: the run says so and can go on."""
    from ray.cluster_utils import Cluster

    import_ray()
    monkeypatch.setattr(ray_engine, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(ray_engine, "LOST_LOOKS", 3)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=3)
        samples = coloured(tmp_path / "images", 160)
        killed: list[int] = []

        def progress(done: int, total: int) -> None:
            if 0 < done < total and not killed:
                killed.append(done)
                cluster.remove_node(node, allow_graceful=False)

        one = replace(options, workers=1, address=cluster.address)
        with pytest.raises(UsageError, match="no node for an actor is left"):
            score(samples, one, "slow", progress=progress)
        assert shards_in(options)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.usefixtures("no_session")
def test_too_few_cpus(tmp_path: Path, options: RunOptions) -> None:
    samples = coloured(tmp_path / "images", 3)
    import_ray()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    with pytest.raises(UsageError, match="needs 2 CPUs, and the cluster has 1"):
        score(samples, replace(options, workers=None))


@pytest.mark.usefixtures("no_session")
def test_two_cpus_are_enough(tmp_path: Path, options: RunOptions) -> None:
    samples = coloured(tmp_path / "images", 20)
    import_ray()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    table = score(samples, replace(options, workers=None, cache=None))
    assert_same(table, score(samples, LOCAL))
    assert not (tmp_path / "user-cache").exists()


@pytest.mark.usefixtures("no_session")
def test_one_gpu_an_actor(
    tmp_path: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hands GPUs out by number; whether there are any, nobody asks here."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # no more than these may be claimed
    samples = coloured(tmp_path / "images", 21, red={20})
    import_ray()
    ray.init(address="local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False)
    table = score(samples, replace(options, workers=None), f"gpu/{tmp_path}")
    assert table.run["device"] == "0, 1"
    assert list(table.failures().index) == [20]
    assert table.mean("clipscore").n == 20


@pytest.mark.usefixtures("no_session", "three_cpus")
def test_images_and_shards_in_an_object_store(
    tmp_path: Path, options: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs", reason='needs s3fs: pip install "scorekit[s3]"')
    pytest.importorskip("moto.server", reason="needs moto[s3], flask and flask-cors")
    from moto.server import ThreadedMotoServer
    from test_remote_s3 import speak_to

    from scorekit import remote

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        speak_to("http://{}:{}".format(*server.get_host_and_port()), monkeypatch)
        remote._filesystem("s3://b").mkdir("bucket")
        samples = []
        for sample in coloured(tmp_path / "images", 12):
            url = f"s3://bucket/{Path(str(sample.image)).name}"
            remote.write(url, Path(str(sample.image)).read_bytes())
            samples.append(replace(sample, image=url))
        samples.append(replace(samples[0], item="gone", image="s3://bucket/gone.png"))
        stored = replace(options, shards="s3://bucket/shards", workers=1)
        first = score(samples, stored)
        assert_same(first, score(samples, LOCAL))
        assert first.mean("clipscore").n == 12
        remote.write("s3://bucket/003.png", Path(tmp_path, "images", "004.png").read_bytes())
        asked = spy_on_rows(monkeypatch)
        score(samples, stored)
        assert [sample.item for sample in asked] == ["3", "gone"]
    finally:
        server.stop()


@pytest.mark.usefixtures("no_session")
def test_an_address_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    # Another cluster may well run on this machine.
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", none)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for address, message in (
        (f"127.0.0.1:{port}", f"no Ray cluster answers at 127.0.0.1:{port}"),
        ("ray://127.0.0.1:10001", "HOST:PORT of a node of the cluster, or auto"),
        ("somewhere", "HOST:PORT or auto, not 'somewhere'"),
        ("auto", "no Ray cluster runs on this machine"),
    ):
        with pytest.raises(UsageError, match=message):
            connect(ray, address)


HINT = "; if it asks for a token, set RAY_AUTH_MODE=token"


@pytest.mark.parametrize(
    ("error", "mode", "message"),
    [
        (RuntimeError("Another version:\n  \x1b[31m1.0\x1b[39m"), "", "Another version: 1.0"),
        (ConnectionError("Failed to connect"), "", f"Failed to connect{HINT}"),
        (ConnectionError("Failed to connect"), "token", "Failed to connect"),
        (ray.exceptions.AuthenticationError("no token was found"), "token", "no token was found"),
    ],
)
def test_a_cluster_that_can_not_be_used(
    monkeypatch: pytest.MonkeyPatch, error: Exception, mode: str, message: str
) -> None:
    given: list[str] = []

    def refuse(address: str, **_: Any) -> None:
        given.append(address)
        raise error

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda _: found)
        for address in (found, "auto"):
            with pytest.raises(UsageError) as told:
                connect(ray, address)
            text = str(told.value)
            assert text.startswith(f"the Ray cluster at {found} can't be used: {message}")
            assert (HINT in text) == (HINT in message)
            assert "\n" not in str(told.value)
    assert given == [found, "auto"]  # for auto alone Ray sends the token


@pytest.mark.usefixtures("no_session")
def test_ray_can_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RAY_TMPDIR", "/dev/null/ray")
        with pytest.raises(UsageError, match=r"^Ray did not start: .*Not a directory.*ray'$"):
            connect(ray, None)

    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/home/a/.ray/auth_token")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UsageError, match=r"^Ray did not start: .*denied: '/home/a/.ray/auth_tok"):
        connect(ray, None)


def test_ray_is_not_installed(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "scorekit\[ray\]"'):
        score([Sample("i", "s", "t", "a.png")], options)


# The command line ---------------------------------------------------------------------------------


def command(*args: str | Path) -> list[str]:
    return [
        *(sys.executable, "-m", "scorekit.cli", "score", "images", "--text", "a word"),
        *("-m", "clipscore", "--engine", "ray", "--no-cache", *map(str, args)),
    ]


@pytest.mark.usefixtures("no_session", "three_cpus")
def test_ended_from_outside_and_the_same_command_again(tmp_path: Path) -> None:
    coloured(tmp_path / "images", 400)
    run = command("--backbone", "poison:slow", "-o", "t.csv", "--workers", "1", "--json")
    kept: list[Path] = []
    for sent, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = subprocess.Popen(
            run,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background may have been told to ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_for(lambda: set(tmp_path.glob("t.csv.shards/*/*.parquet")) > set(kept))  # noqa: B023
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code
        assert out == ""
        assert "Traceback" not in err
        assert "Error" not in err
        now = list(tmp_path.glob("t.csv.shards/*/*.parquet"))
        assert set(now) > set(kept)
        kept = now
    assert "the same command goes on from there" in err
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"rows": 400' in done.stdout
    assert done.stdout.startswith("{")  # and nothing of Ray's
    assert "ray" not in done.stderr.lower()
    assert '"features_computed": 0' not in done.stdout
    assert not (tmp_path / "t.csv.shards").exists()  # the table is written
    assert len(pd.read_csv(tmp_path / "t.csv")) == 400


@pytest.mark.usefixtures("no_session", "three_cpus")
def test_a_mistake_on_the_nodes_is_one_line(tmp_path: Path) -> None:
    coloured(tmp_path / "images", 2)
    run = command("--backbone", "hf:./nowhere", "--shards", "kept")
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.usefixtures("no_session", "three_cpus")
def test_modules_in_the_working_folder_are_not_run(tmp_path: Path) -> None:
    coloured(tmp_path / "images", 4)
    for name in ("pickle", "scorekit"):
        text = f"open({str(tmp_path / 'fired')!r}, 'w')\nraise SystemExit\n"
        (tmp_path / f"{name}.py").write_text(text)
    python, *run = command("--backbone", "poison:all", "--shards", "kept", "--workers", "1")
    done = subprocess.run(
        [python, "-P", *run], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert not (tmp_path / "fired").exists()
    assert done.returncode == 0, done.stderr


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, int]]]:
    """A cluster of `ray start` that asks for the token in the home; its processes, by name."""
    home, place = tmp_path / "home", short_folder()
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RAY_TMPDIR", place)

    def processes() -> dict[str, int]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_text()
                if place in line:
                    found[Path(line.split("\0")[0]).name] = int(folder.name)
        return found

    start = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port=0"),
        *("--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"),
    ]
    try:
        subprocess.run(start, check=True, capture_output=True, timeout=120)
        yield processes
    finally:
        while left := processes():
            for pid in left.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.usefixtures("no_session", "head")
def test_a_cluster_that_asks_for_a_token(tmp_path: Path) -> None:
    coloured(tmp_path / "images", 8)
    run = command("--backbone", "poison:all", "-o", "t.csv", "--workers", "1", "--address", "auto")
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "t.csv")) == 8


@pytest.mark.usefixtures("no_session")
def test_the_head_dies(tmp_path: Path, head: Callable[[], dict[str, int]]) -> None:
    """Before Ray ends the process, which it does after a minute and without a word."""
    coloured(tmp_path / "images", 1200)
    run = command("--backbone", "poison:slow", "-o", "t.csv", "-q", "--address", "auto")
    process = subprocess.Popen(
        run, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: any(tmp_path.glob("t.csv.shards/*/*.parquet")))
    os.kill(head()["gcs_server"], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert err == (
        "error: the cluster's head does not answer; what is finished is in the shards, and the "
        "same command goes on from there\n"
    )
    assert process.returncode == 2
    assert out == ""


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
