"""Images that go, change or were never any good: their rows say so, and no other row is touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults.harness import make_images
from PIL import Image
from tiny import make_clip, picture

from scorekit.io import read_samples
from scorekit.run import RunOptions, score_samples
from scorekit.table import ScoreTable
from scorekit.types import Sample

N = 300  # three chunks of reading
METRIC = "clip_t"  # not clamped: another image's score is another


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf:{make_clip(tmp_path_factory.mktemp('checkpoint'))}"


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return read_samples(make_images(tmp_path / "images", N)).samples


def score(
    samples: list[Sample],
    backbone: str,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    table: ScoreTable = score_samples(
        samples, METRIC, backbone=backbone, options=RunOptions(cache=cache), progress=progress
    )
    return table.frame


def vanish(path: Path) -> None:
    path.unlink()


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def lead_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def be_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def be_emptied(path: Path) -> None:
    path.write_bytes(b"")


def be_another(path: Path) -> None:
    picture(5000).save(path)


CHANGES: dict[Callable[[Path], None], tuple[str, str]] = {
    vanish: ("missing_image", "no file"),
    become_a_folder: ("missing_image", "is a folder"),
    become_a_pipe: ("missing_image", "not a regular file"),
    lead_nowhere: ("missing_image", "can't read"),
    be_cut: ("unreadable_image", "cut short"),
    be_emptied: ("unreadable_image", "zero bytes"),
    be_another: ("ok", ""),
}


def assert_only_the_changed_differ(
    frame: pd.DataFrame, before: pd.DataFrame, changed: dict[int, Callable[[Path], None]]
) -> None:
    others = [i for i in range(len(frame)) if i not in changed]
    same = frame["value"].to_numpy()[others] - before["value"].to_numpy()[others]
    assert np.abs(same).max() < 1e-5
    assert set(frame["status"].to_numpy()[others]) == {"ok"}
    for i, change in changed.items():
        status, note = CHANGES[change]
        row = frame.iloc[i]
        assert row["status"] == status
        assert note in row["note"]
        if status == "ok":
            assert abs(row["value"] - before.iloc[i]["value"]) > 1e-4
        else:
            assert np.isnan(row["value"])


def change_some(samples: list[Sample], rows: range) -> dict[int, Callable[[Path], None]]:
    """Change some files, each in another way; which, and how. No row's file is another's copy."""
    contents = [Path(str(s.image)).read_bytes() for s in samples]
    alone = [i for i in rows if contents.count(contents[i]) == 1]
    chosen = dict(zip(alone, CHANGES, strict=False))
    for i, change in chosen.items():
        change(Path(str(samples[i].image)))
    return chosen


def test_between_listing_and_reading(samples: list[Sample], backbone: str, tmp_path: Path) -> None:
    before = score(samples, backbone, tmp_path / "a")
    changed = change_some(samples, range(40, 60))
    assert len(changed) == len(CHANGES)
    assert_only_the_changed_differ(score(samples, backbone, tmp_path / "b"), before, changed)


def test_while_the_run_goes_on(samples: list[Sample], backbone: str, tmp_path: Path) -> None:
    """After the run has begun, and before it comes to these files."""
    before = score(samples, backbone, tmp_path / "a")
    changed: dict[int, Callable[[Path], None]] = {}

    def progress(done: int, total: int) -> None:
        if done and not changed:
            changed.update(change_some(samples, range(260, 290)))

    frame = score(samples, backbone, tmp_path / "b", progress)
    assert len(changed) == len(CHANGES)
    assert_only_the_changed_differ(frame, before, changed)


def test_between_a_run_and_the_next(samples: list[Sample], backbone: str, tmp_path: Path) -> None:
    """Never with the old file's feature, however alike the names and the cache."""
    before = score(samples, backbone, tmp_path / "cache")
    times = {i: os.stat(str(samples[i].image)) for i in range(N)}
    changed = change_some(samples, range(40, 60))
    for i, change in changed.items():
        if change is be_another:  # as a copying program keeps the old time
            os.utime(str(samples[i].image), ns=(times[i].st_atime_ns, times[i].st_mtime_ns))
    assert_only_the_changed_differ(score(samples, backbone, tmp_path / "cache"), before, changed)


# One in a hundred is no image -------------------------------------------------------------------


def damaged(kind: str, path: Path) -> bytes:
    sound = path.read_bytes()
    return {
        "zero": b"",
        "cut": sound[: len(sound) // 2],
        "garbage": np.random.default_rng(len(sound)).bytes(200),
        "text": b"<html><body>403 Forbidden</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }[kind]


NOTES = {
    "zero": "zero bytes",
    "cut": "cut short",
    "garbage": "not an image",
    "text": "not an image",
    "pointer": "Git LFS pointer",
}


@pytest.mark.faults
def test_one_in_a_hundred_of_ten_thousand_is_corrupt(tmp_path: Path, backbone: str) -> None:
    from faults.harness import ended, start

    folder, n = tmp_path / "images", 10_000
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = dict(zip(rng.choice(n, n // 100, replace=False).tolist(), [*NOTES] * n, strict=False))
    for i in range(n):
        path = folder / f"{i:05}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        if i in kinds:
            path.write_bytes(damaged(kinds[i], path))
        elif i % 100 == 7:  # a suffix that is not the format's is no fault
            Image.open(path).save(path, format="JPEG")
    out = tmp_path / "scores.csv"
    options = ("--text", "a dog", "--backbone", backbone, "--no-cache", "--out", out)
    code, errors = ended(start(folder, *options, metrics=("clipscore",)))
    assert code == 1
    assert "100" in errors

    table = ScoreTable.load(out)
    failed = table.failures()
    assert sorted(int(Path(p).stem) for p in failed["image"]) == sorted(kinds)
    assert set(failed["status"]) == {"unreadable_image"}
    assert failed["value"].isna().all()
    for path, note in zip(failed["image"], failed["note"], strict=True):
        assert NOTES[kinds[int(Path(path).stem)]] in note
    assert table.run["counts"]["status"] == {"clipscore": {"ok": 9_900, "unreadable_image": 100}}
    (estimate,) = [e for _, _, e in table.summary()]
    assert (estimate.n, estimate.n_total) == (9_900, 10_000)
