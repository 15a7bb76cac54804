"""Runs from end to end on a tiny checkpoint: rows, errors, cache, order, signatures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TEXTS, make_clip, picture

from scorekit.backbones.handle import get_handle, unload_backbones
from scorekit.io import read_samples, samples_from
from scorekit.registry import METRICS, load_metric
from scorekit.run import RunOptions, score_samples
from scorekit.types import Sample, Signature, UsageError

NO_CACHE = RunOptions(cache=False)


def hand_scores(name: str, images: list[Any], texts: list[str]) -> np.ndarray:
    """CLIPScore by the shortest way: one pair at a time, numpy for the formula."""
    from scorekit.types import image_embedding, text_embedding

    model, out = get_handle(name).model(), []
    f, t = image_embedding(name), text_embedding(name, prefix="A photo depicts ")
    for image, text in zip(images, texts, strict=True):
        a = model.extract(f, [model.prepare(f, image)])[0].array.astype(float)
        b = model.extract(t, [text])[0].array.astype(float)
        out.append(2.5 * max(a @ b / np.linalg.norm(a) / np.linalg.norm(b), 0))
    return np.array(out)


def test_scores_are_those_of_one_pair_at_a_time(tiny_clip: str) -> None:
    images = [picture(i, 40 + 7 * i, 60 - 3 * i) for i in range(9)]
    texts = [TEXTS[i % 4] for i in range(9)]
    table = score_samples(
        samples_from(images, texts), "clipscore", backbone=tiny_clip, options=NO_CACHE
    )
    want = hand_scores(tiny_clip, images, texts)
    np.testing.assert_allclose(table.scores("clipscore"), want, atol=1e-5)
    assert want.std() > 0.05  # a check that could fail


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_batch_size_changes_nothing(image_folder: Path, tiny_clip: str, batch_size: int) -> None:
    samples = read_samples(image_folder).samples
    table = score_samples(
        samples,
        ["clipscore", "clip_t"],
        backbone=tiny_clip,
        options=RunOptions(cache=False, batch_size=batch_size),
    )
    reference = score_samples(
        samples, ["clipscore", "clip_t"], backbone=tiny_clip, options=NO_CACHE
    )
    np.testing.assert_allclose(
        table.to_pandas()["value"], reference.to_pandas()["value"], atol=1e-5
    )


def test_row_order_changes_nothing(image_folder: Path, tiny_clip: str) -> None:
    samples = read_samples(image_folder).samples
    forth = score_samples(samples, "clipscore", backbone=tiny_clip, options=NO_CACHE)
    back = score_samples(samples[::-1], "clipscore", backbone=tiny_clip, options=NO_CACHE)
    np.testing.assert_allclose(forth.scores("clipscore"), back.scores("clipscore")[::-1], atol=1e-5)


def test_more_rows_than_a_chunk(tiny_clip: str, count_forwards: Callable[[], Any]) -> None:
    """300 rows of 12 pictures and 4 texts: each goes through the model once."""
    pictures = [picture(i) for i in range(12)]
    samples = samples_from(
        [pictures[i % 12] for i in range(300)], [TEXTS[i % 4] for i in range(300)]
    )
    unload_backbones()
    get_handle(tiny_clip).model()
    before = count_forwards()
    seen: list[tuple[int, int]] = []
    table = score_samples(
        samples,
        "clipscore",
        backbone=tiny_clip,
        options=NO_CACHE,
        progress=lambda done, total: seen.append((done, total)),
    )
    after = count_forwards()
    assert after["images"] - before["images"] == 12
    assert after["texts"] - before["texts"] == 4
    assert seen[-1] == (300, 300)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    values = table.scores("clipscore")
    np.testing.assert_array_equal(values[:12], values[288:])


def test_features_once_for_all_metrics(
    image_folder: Path, tiny_clip: str, count_forwards: Callable[[], Any]
) -> None:
    samples = read_samples(image_folder).samples
    get_handle(tiny_clip).model()
    before = count_forwards()
    table = score_samples(
        samples,
        ["clipscore", "clipscore:scale=100,clamp=none", "clip_t:prefix=A photo depicts "],
        backbone=tiny_clip,
        options=NO_CACHE,
    )
    after = count_forwards()
    assert after["images"] - before["images"] == 8
    assert after["texts"] - before["texts"] == 4
    plain = table.scores("clip_t")
    np.testing.assert_allclose(
        table.scores("clipscore:scale=100.0,clamp=none"), 100 * plain, atol=1e-4
    )


def test_a_second_run_computes_nothing(
    image_folder: Path, tiny_clip: str, tmp_path: Path, count_forwards: Callable[[], Any]
) -> None:
    samples = read_samples(image_folder).samples
    options = RunOptions(cache=tmp_path / "c")
    first = score_samples(samples, "clipscore", backbone=tiny_clip, options=options)
    before = count_forwards()
    second = score_samples(samples, "clipscore", backbone=tiny_clip, options=options)
    assert count_forwards() == before
    np.testing.assert_array_equal(first.scores("clipscore"), second.scores("clipscore"))
    assert first.signatures == second.signatures
    assert second.run["counts"]["features_computed"] == 0
    assert second.run["counts"]["features_from_cache"] == 12


def test_a_renamed_file_is_known_and_a_changed_one_is_not(
    image_folder: Path, tiny_clip: str, tmp_path: Path, count_forwards: Callable[[], Any]
) -> None:
    options = RunOptions(cache=tmp_path / "c")

    def run() -> np.ndarray:
        samples = read_samples(image_folder).samples
        return score_samples(samples, "clipscore", backbone=tiny_clip, options=options).scores(
            "clipscore"
        )

    first = run()
    before = count_forwards()
    os.replace(image_folder / "good" / "0.png", image_folder / "good" / "x.png")
    os.replace(image_folder / "good" / "1.png", image_folder / "good" / "0.png")
    os.replace(image_folder / "good" / "x.png", image_folder / "good" / "1.png")
    swapped = run()
    assert count_forwards() == before
    assert abs(swapped[0] - first[0]) > 1e-4
    picture(99).save(image_folder / "good" / "0.png")
    run()
    assert count_forwards()["images"] == before["images"] + 1


def test_two_models_of_one_name_never_share_features(tmp_path: Path) -> None:
    """A cache keyed by names gives the old model's scores to the new one."""
    options = RunOptions(cache=tmp_path / "c")
    samples = samples_from([picture(0)], [TEXTS[0]])
    folder = make_clip(tmp_path / "model", seed=0)
    a = score_samples(samples, "clip_t", backbone=f"hf:{folder}", options=options)
    unload_backbones()
    time.sleep(0.01)
    make_clip(folder, seed=1)
    b = score_samples(samples, "clip_t", backbone=f"hf:{folder}", options=options)
    assert abs(a.scores("clip_t")[0] - b.scores("clip_t")[0]) > 1e-3
    assert a.signatures["clip_t"]["w"] != b.signatures["clip_t"]["w"]


BAD_FILES: dict[str, bytes] = {
    "zero.png": b"",
    "text.png": b"<!DOCTYPE html><html>not found</html>",
    "cut.png": b"",  # filled in by the test
}


def test_bad_files_cost_their_rows_alone(tmp_path: Path, tiny_clip: str) -> None:
    whole = tmp_path / "whole.png"
    picture(0, 200, 200).save(whole)
    for name, content in BAD_FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    names = ["whole.png", "zero.png", "text.png", "cut.png", "gone.png", "whole.png"]
    samples = [Sample(str(i), "s", TEXTS[0], str(tmp_path / name)) for i, name in enumerate(names)]
    samples += [
        Sample("6", "s", None, str(whole)),
        Sample("7", "s", "  ", str(whole)),
        Sample("8", "s", TEXTS[0], None),
        Sample("9", "s", TEXTS[0], np.full((4, 4, 3), 7.0)),
    ]
    table = score_samples(samples, ["clipscore", "clip_i"], backbone=tiny_clip, options=NO_CACHE)
    frame = table.to_pandas()
    status = frame[frame["metric"] == "clipscore"]["status"].tolist()
    assert status == [
        "ok",
        "unreadable_image",
        "unreadable_image",
        "unreadable_image",
        "missing_image",
        "ok",
        "missing_text",
        "empty_text",
        "missing_image",
        "invalid_image",
    ]
    bad = frame[frame["status"] != "ok"]
    assert bad["value"].isna().all()
    assert (bad["note"].str.len() > 5).all()
    values = table.scores("clipscore")
    assert values[0] == values[5]
    estimate = table.mean("clipscore")
    assert (estimate.n, estimate.n_total) == (2, 10)
    assert estimate.value == pytest.approx(values[0])
    assert set(frame[frame["metric"] == "clip_i"]["status"]) >= {"missing_input"}


def test_every_metric_survives_one_failed_row(tmp_path: Path, tiny_clip: str) -> None:
    """For each metric: the same scores with and without a bad row among the good ones."""
    good = [
        Sample(
            str(i),
            "s",
            TEXTS[i],
            picture(i),
            source_image=picture(i + 5),
            references=(TEXTS[(i + 1) % 4], TEXTS[(i + 2) % 4]),
            reference_images=(picture(i + 9),),
        )
        for i in range(4)
    ]
    bad = Sample(
        "bad",
        "s",
        TEXTS[0],
        str(tmp_path / "gone.png"),
        source_image=picture(1),
        references=(TEXTS[1],),
        reference_images=(picture(1),),
    )
    chosen = []
    for name in METRICS:
        cls = load_metric(name)
        params = {"candidates": 3} if name == "clip_r_precision" else {}
        needs = cls().needs.values()
        # Those of other models have this test beside their models'.
        of_clip = {n.kind for n in needs} <= {
            "image_embedding",
            "text_embedding",
            "constant",
            "value",
        }
        if of_clip and name != "blip2_itc" and "logit_bias" not in {n.field for n in needs}:
            chosen.append(cls(backbone=tiny_clip, **params))
    assert len(chosen) >= 9
    clean = score_samples(good, chosen, options=NO_CACHE)
    mixed = score_samples([*good[:2], bad, *good[2:]], chosen, options=NO_CACHE)
    headlines = [name for name in clean.metrics if "." not in name]
    assert headlines == [metric.name for metric in chosen]
    parts = [name for name in clean.metrics if name.startswith("retrieval")]
    assert parts[0] == "retrieval"
    assert list(clean.metrics)[list(clean.metrics).index("retrieval") :][: len(parts)] == parts
    for name in clean.metrics:
        got = mixed.scores(name)
        assert np.isnan(got[2]), name
        np.testing.assert_allclose(np.delete(got, 2), clean.scores(name), atol=1e-5, err_msg=name)
        frame = mixed.to_pandas()
        row = frame[(frame["metric"] == name) & (frame["item"] == "bad")].iloc[0]
        assert row["status"] == "missing_image", name
        signature = mixed.signatures[name]
        assert Signature.parse(str(signature)) == signature
        assert len(dict(signature.pairs)) == len(signature.pairs), name
        assert str(signature).startswith(name)
        assert str(signature).endswith("|v:1")


def test_signature_says_all_that_changes_the_number(image_folder: Path, tiny_clip: str) -> None:
    samples = read_samples(image_folder).samples[:2]

    def signature(metric: str = "clipscore", **options: Any) -> Signature:
        run = RunOptions(cache=False, **options)
        return score_samples(samples, metric, backbone=tiny_clip, options=run).signatures[
            "clipscore"
        ]

    base = signature()
    assert [k for k, _ in base.pairs] == [
        "bb",
        "w",
        "scale",
        "prefix",
        "clamp",
        "resize",
        "trunc",
        "dtype",
        "v",
    ]
    assert base["bb"] == "hf/tiny-clip"
    assert base["trunc"] == "16(n=0)"
    assert signature(batch_size=1) == base
    others = [
        signature("clipscore:scale=100"),
        signature("clipscore:prefix="),
        signature("clipscore:clamp=none"),
        signature(resize="fast"),
        signature(dtype="bf16"),
        signature(long_text="window"),
        signature(long_text="error"),
    ]
    assert len({str(s) for s in [base, *others]}) == 8


def test_long_texts_are_counted_and_noted(tiny_clip: str) -> None:
    texts = ["a dog", "a red circle. " * 10]
    samples = samples_from([picture(0), picture(1)], texts)
    cut = score_samples(samples, "clipscore", backbone=tiny_clip, options=NO_CACHE)
    assert cut.signatures["clipscore"]["trunc"] == "16(n=1)"
    assert cut.to_pandas()["note"].tolist() == ["", "text cut from 45 to 16 tokens"]
    window = score_samples(
        samples,
        "clipscore",
        backbone=tiny_clip,
        options=RunOptions(cache=False, long_text="window"),
    )
    assert "windows" in window.to_pandas()["note"][1]
    refused = score_samples(
        samples,
        "clipscore",
        backbone=tiny_clip,
        options=RunOptions(cache=False, long_text="error"),
    )
    assert refused.to_pandas()["status"].tolist() == ["ok", "text_too_long"]
    assert window.scores("clipscore")[0] == pytest.approx(cut.scores("clipscore")[0], abs=1e-6)


def test_names_of_one_metric_in_several_forms(tiny_clip: str, tmp_path: Path) -> None:
    other = f"hf:{make_clip(tmp_path / 'other', seed=4)}"
    samples = samples_from([picture(0)], [TEXTS[0]])
    table = score_samples(samples, [f"clip_t@{tiny_clip}", f"clip_t@{other}"], options=NO_CACHE)
    assert list(table.metrics) == [f"clip_t@{tiny_clip}", f"clip_t@{other}"]
    with pytest.raises(UsageError, match="asked for twice"):
        score_samples(samples, ["clip_t", "clip_t"], backbone=tiny_clip, options=NO_CACHE)


def test_wrong_use_is_one_error(tiny_clip: str) -> None:
    samples = samples_from([picture(0)], [TEXTS[0]])
    for metric, message in [
        ("clipscoer", "did you mean clipscore"),
        ("clipscore:scale=big", "must be a float"),
        ("clipscore:scal=1", "has no parameter 'scal'; it has scale, prefix, clamp"),
        ("clipscore:clamp=maybe", "one of sample, none"),
        ("clipscore@", "names no backbone"),
        ("siglip_score", "needs a backbone with a logit_bias"),
    ]:
        with pytest.raises(UsageError, match=message):
            score_samples(samples, metric, backbone=tiny_clip, options=NO_CACHE)
    with pytest.raises(UsageError, match="nothing to score"):
        score_samples([], "clipscore", backbone=tiny_clip)
    with pytest.raises(UsageError, match="workers must be at least 1"):
        RunOptions(workers=-1)


def test_kept_columns_reach_the_table(tiny_clip: str) -> None:
    samples = [Sample("a", "s", TEXTS[0], picture(0), meta={"skill": "colour"})]
    frame = score_samples(samples, "clip_t", backbone=tiny_clip, options=NO_CACHE).to_pandas()
    assert frame["skill"].tolist() == ["colour"]
    assert frame["image"].tolist() == ["<Image 48x40>"]


def test_run_record(tiny_clip: str) -> None:
    samples = samples_from([picture(0)], [TEXTS[0]])
    run = score_samples(samples, "clip_t", backbone=tiny_clip, options=NO_CACHE).run
    assert run["device"] == "cpu"
    assert set(run["versions"]) >= {"python", "scorekit", "torch", "transformers", "pillow"}
    assert run["counts"]["status"] == {"clip_t": {"ok": 1}}
    assert run["arguments"]["dtype"] == "fp32"


def test_a_retrained_checkpoint_is_noticed_in_one_process(tmp_path: Path) -> None:
    """The record beside the cache must not outlive the files that it tells of."""
    options = RunOptions(cache=tmp_path / "c")
    samples = samples_from([picture(0)], [TEXTS[0]])
    more = samples_from([picture(0), picture(1)], [TEXTS[0], TEXTS[1]])
    folder = make_clip(tmp_path / "model", seed=0)
    name = f"hf:{folder}"
    old = score_samples(samples, "clip_t", backbone=name, options=options).scores("clip_t")
    unload_backbones()
    cached = score_samples(samples, "clip_t", backbone=name, options=options).scores("clip_t")
    assert not get_handle(name).loaded
    np.testing.assert_array_equal(cached, old)
    make_clip(folder, seed=1)
    new = score_samples(more, "clip_t", backbone=name, options=options).scores("clip_t")
    assert abs(new[0] - old[0]) > 1e-3
    unload_backbones()
    make_clip(folder, seed=0)
    back = score_samples(more, "clip_t", backbone=name, options=options).scores("clip_t")
    np.testing.assert_allclose(back[0], old[0], atol=1e-6)
    unload_backbones()
    fresh = score_samples(more, "clip_t", backbone=name, options=NO_CACHE).scores("clip_t")
    np.testing.assert_allclose(back, fresh, atol=1e-6)


def test_a_link_that_is_turned_elsewhere_is_noticed(tmp_path: Path) -> None:
    options = RunOptions(cache=tmp_path / "c")
    samples = samples_from([picture(0)], [TEXTS[0]])
    link = tmp_path / "current"
    scores = []
    for seed in (0, 1):
        target = make_clip(tmp_path / f"v{seed}", seed=seed)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        table = score_samples(samples, "clip_t", backbone=f"hf:{link}", options=options)
        scores.append(table.scores("clip_t")[0])
        unload_backbones()
    assert abs(scores[0] - scores[1]) > 1e-3


def test_a_checkpoint_that_cannot_be_loaded_ends_the_run(tmp_path: Path) -> None:
    options = RunOptions(cache=tmp_path / "c")
    folder = make_clip(tmp_path / "model")
    score_samples(
        samples_from([picture(0)], [TEXTS[0]]), "clip_t", backbone=f"hf:{folder}", options=options
    )
    unload_backbones()
    weights = folder / "model.safetensors"
    stat = weights.stat()
    content = bytearray(weights.read_bytes())
    content[:8] = b"\xff" * 8
    weights.write_bytes(content)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if nothing had happened
    with pytest.raises(UsageError, match="can't load model"):
        score_samples(
            samples_from([picture(i) for i in range(5)], TEXTS[0]),
            "clip_t",
            backbone=f"hf:{folder}",
            options=options,
        )
    unload_backbones()


def test_columns_named_as_ours_do_not_win(tiny_clip: str) -> None:
    meta = {"metric": "x", "value": 7.0, "status": "bad", "note": "n", "skill": "s"}
    samples = [Sample("a", "s", TEXTS[0], picture(0), meta=meta)]
    table = score_samples(samples, "clip_t", backbone=tiny_clip, options=NO_CACHE)
    row = table.to_pandas().iloc[0]
    assert row["status"] == "ok"
    assert row["value"] != 7.0
    assert (row["input.value"], row["input.metric"], row["skill"]) == (7.0, "x", "s")
    assert table.mean("clip_t").n == 1


def test_components_share_the_status_of_their_headline(tmp_path: Path, tiny_clip: str) -> None:
    gone = [
        Sample(str(i), "s", TEXTS[0], str(tmp_path / f"{i}.png"), references=(TEXTS[1],))
        for i in range(130)
    ]
    good = [Sample("g", "s", TEXTS[0], picture(0), references=(TEXTS[1],))]
    table = score_samples([*gone, *good], "ref_clipscore", backbone=tiny_clip, options=NO_CACHE)
    frame = table.to_pandas()
    parts = frame[frame["metric"] != "ref_clipscore"]
    assert parts["status"].value_counts().to_dict() == {"missing_image": 260, "ok": 2}
    assert (parts[parts["status"] != "ok"]["note"] != "").all()


def test_directions_of_components(tiny_clip: str) -> None:
    samples = samples_from([picture(i) for i in range(4)], list(TEXTS))
    table = score_samples(samples, "retrieval", backbone=tiny_clip, options=NO_CACHE)
    assert table.metrics["retrieval"].higher_is_better
    assert not table.metrics["retrieval.rank"].higher_is_better
    assert table.metrics["retrieval.rank"].aggregate == "median"


def test_a_preference_knows_its_rivals(tiny_clip: str) -> None:
    def preference(systems: list[str]) -> Signature:
        samples = [Sample("a", s, TEXTS[0], picture(i)) for i, s in enumerate(systems)]
        table = score_samples(samples, "pickscore", backbone=tiny_clip, options=NO_CACHE)
        assert "rivals" not in dict(table.signatures["pickscore"].pairs)
        return table.signatures["pickscore.preference"]

    assert preference(["x", "y"]) == preference(["y", "x"])
    assert preference(["x", "y"]) != preference(["x", "z"])


def test_texts_that_are_none(tiny_clip: str) -> None:
    texts: list[Any] = ["a dog", "\ud800 lone", 5, " "]
    samples = [Sample(str(i), "s", t, picture(0)) for i, t in enumerate(texts)]
    frame = score_samples(samples, "clip_t", backbone=tiny_clip, options=NO_CACHE).to_pandas()
    assert frame["status"].tolist() == ["ok", "invalid_text", "invalid_text", "empty_text"]


def test_an_empty_prefix_is_no_prefix(tiny_clip: str) -> None:
    samples = samples_from([picture(0)], [TEXTS[0]])
    table = score_samples(
        samples, ["clip_t", "pickscore", "clipscore:prefix="], backbone=tiny_clip, options=NO_CACHE
    )
    assert table.run["counts"]["features_computed"] == 2


def test_a_record_in_every_cache(tmp_path: Path, tiny_clip: str) -> None:
    """A second cache used in one process must let a later process go without torch, too."""
    samples = samples_from([picture(0)], [TEXTS[0]])
    for name in "ab":
        score_samples(
            samples, "clip_t", backbone=tiny_clip, options=RunOptions(cache=tmp_path / name)
        )
    unload_backbones()
    for name in "ab":
        score_samples(
            samples, "clip_t", backbone=tiny_clip, options=RunOptions(cache=tmp_path / name)
        )
    assert not get_handle(tiny_clip).loaded


RESUME = """
import sys
from scorekit.backbones import hf_dual
from scorekit.io import read_samples
from scorekit.run import RunOptions, score_samples
import time
whole = hf_dual.HfDual.encode_images
def slowly(self, pixels):
    print('batch', flush=True)
    time.sleep(0.05)
    return whole(self, pixels)
hf_dual.HfDual.encode_images = slowly
score_samples(read_samples(sys.argv[1], text='a dog').samples, 'clipscore', backbone=sys.argv[2],
              options=RunOptions(cache=sys.argv[3], batch_size=2))
"""


def test_a_killed_run_resumes(tmp_path: Path, tiny_clip: str) -> None:
    """kill -9 in the middle: the second run computes only what is missing."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(40):
        picture(i).save(folder / f"{i:02}.png")
    arguments = [sys.executable, "-c", RESUME, str(folder), tiny_clip, str(tmp_path / "cache")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(6):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    samples = read_samples(folder, text="a dog").samples
    cached = RunOptions(cache=tmp_path / "cache", batch_size=2)
    table = score_samples(samples, "clipscore", backbone=tiny_clip, options=cached)
    fresh = score_samples(samples, "clipscore", backbone=tiny_clip, options=NO_CACHE)
    assert table.run["counts"]["features_from_cache"] >= 8
    assert table.run["counts"]["features_computed"] <= 33
    np.testing.assert_allclose(table.scores("clipscore"), fresh.scores("clipscore"), atol=1e-5)
    assert len(table) == 40


def test_a_cached_run_loads_no_torch(image_folder: Path, tiny_clip: str, tmp_path: Path) -> None:
    code = (
        "import sys; from scorekit.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: print('exit', e.code)\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    arguments = [
        sys.executable,
        "-c",
        code,
        "score",
        str(image_folder),
        "--backbone",
        tiny_clip,
        "--cache",
        str(tmp_path / "c"),
    ]
    first = subprocess.run(arguments, capture_output=True, text=True, check=True)
    second = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert first.stdout.splitlines()[-1] == "True True"
    assert second.stdout.splitlines()[-1] == "False False"
    assert first.stdout.splitlines()[:-1] == second.stdout.splitlines()[:-1]


@pytest.mark.parametrize(
    "code",
    [
        "import scorekit",
        "import scorekit.cli",
        "import scorekit.metrics; scorekit.metrics.CLIPScore",
        "from scorekit.table import ScoreTable",
        "import scorekit.stats",
    ],
)
def test_light_imports(code: str) -> None:
    check = f"{code}\nimport sys; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
