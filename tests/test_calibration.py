"""Fitting a threshold of word attributions, its file, and labelled data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from scorekit import __version__
from scorekit.calibration import (
    Calibration,
    Fit,
    calibrate,
    load_calibration,
    read_labelled,
    save_calibration,
)
from scorekit.types import UsageError


def drawn(n_items: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six words an item, two of them misaligned and lower by two deviations."""
    rng = np.random.default_rng(seed)
    wrong = np.tile([True, True, False, False, False, False], n_items)
    return rng.normal(size=6 * n_items) - 2 * wrong, wrong, np.repeat(np.arange(n_items), 6)


# The fit ------------------------------------------------------------------------------------


def test_best_f1_by_hand() -> None:
    # Flagging the lowest 1, 2, 3, 4, 5: F1 = 2/4, 4/5, 4/6, 6/7, 6/8.
    values = [-5.0, -4.0, -3.0, -2.0, -1.0]
    fit = calibrate(values, [1, 1, 0, 1, 0], list("abcde"))
    assert float(fit.eps) == -1.5
    assert float(fit.fitted["f1"]) == pytest.approx(6 / 7)
    assert float(fit.fitted["precision"]) == 0.75
    assert float(fit.fitted["recall"]) == 1
    assert float(fit.fitted["average_precision"]) == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert fit.curve["eps"] == pytest.approx((-4.5, -3.5, -2.5, -1.5, -1.0))
    assert fit.curve["precision"] == pytest.approx((1, 1, 2 / 3, 3 / 4, 3 / 5))
    assert fit.curve["recall"] == pytest.approx((1 / 3, 2 / 3, 2 / 3, 1, 1))
    assert (fit.n_items, fit.n_words, fit.n_misaligned, fit.goal) == (5, 5, 3, "f1")


def test_given_precision_by_hand() -> None:
    values, labels = [-5.0, -4.0, -3.0, -2.0, -1.0], [1, 1, 0, 1, 0]
    fit = calibrate(values, labels, list("abcde"), min_precision=0.9)
    assert float(fit.eps) == -3.5
    assert float(fit.fitted["recall"]) == pytest.approx(2 / 3)
    assert fit.goal == "precision>=0.9"
    # The highest recall, though a higher threshold than that of a better precision.
    assert float(calibrate(values, labels, list("abcde"), min_precision=0.75).eps) == -1.5


def test_equally_good_thresholds_give_the_lowest() -> None:
    # Flagging 1 gives F1 2/3, flagging 1 + 3 gives 2 * 2 / (4 + 2) = 2/3 as well.
    fit = calibrate([-4.0, -3.0, -2.0, -1.0], [1, 0, 0, 1], list("abcd"))
    assert float(fit.eps) == -3.5


def test_equal_values_are_flagged_together() -> None:
    fit = calibrate([-1.0, -1.0, -1.0, 0.0], [1, 0, 1, 0], list("abcd"))
    assert float(fit.eps) == -0.5
    assert float(fit.fitted["precision"]) == pytest.approx(2 / 3)


def test_threshold_between_neighbouring_numbers() -> None:
    low = -1e-5
    high = float(np.nextafter(low, 0))
    fit = calibrate([low, high], [1, 0], ["a", "b"])
    assert low < float(fit.eps) <= high
    assert float(fit.fitted["f1"]) == 1


def test_upper_keeps_words_that_speak_for_the_text() -> None:
    values, labels = [-2.0, -1.0, 1.0, 3.0], [1, 0, 1, 0]
    assert float(calibrate(values, labels, list("abcd")).eps) == 2.0
    held = calibrate(values, labels, list("abcd"), upper=0.0)
    assert float(held.eps) <= 0
    assert max(held.curve["eps"]) <= 0
    assert float(held.fitted["f1"]) == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match="no threshold at or below -5 flags a misaligned word"):
        calibrate(values, labels, list("abcd"), upper=-5.0)


def test_against_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    values, wrong, items = drawn()
    values = np.round(values, 1)
    fit = calibrate(values, wrong, items, n_resamples=50)
    precision, recall, _ = sklearn.precision_recall_curve(wrong, -values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert float(fit.fitted["f1"]) == pytest.approx(f1.max(), abs=1e-12)
    ap = sklearn.average_precision_score(wrong, -values)
    assert float(fit.fitted["average_precision"]) == pytest.approx(ap, abs=1e-12)
    flagged = values < float(fit.eps)
    assert float(fit.fitted["f1"]) == pytest.approx(sklearn.f1_score(wrong, flagged), abs=1e-12)


def test_held_out_by_hand() -> None:
    """Two halves of one kind: each half's eps serves the other as well."""
    values = np.tile([-2.0, -1.0, 1.0, 2.0], 10)
    wrong = np.tile([True, True, False, False], 10)
    fit = calibrate(values, wrong, np.repeat(np.arange(10), 4), n_resamples=50)
    assert fit.held_out is not None
    assert fit.held_out_eps == (0.0, 0.0)
    assert float(fit.held_out["f1"]) == 1
    assert fit.held_out["f1"].n == 40


def test_fitting_flatters() -> None:
    """Where values say nothing, the fitted F1 is never below what held-out halves show."""
    gap = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        wrong = rng.random(60) < 0.3
        fit = calibrate(rng.normal(size=60), wrong, np.arange(60), n_resamples=20, seed=seed)
        assert fit.held_out is not None
        gap.append(float(fit.fitted["f1"]) - float(fit.held_out["f1"]))
    assert np.mean(gap) > 0.02


def test_no_held_out_where_a_half_has_nothing_to_fit_on() -> None:
    fit = calibrate([-1.0, 0.0], [1, 0], ["a", "a"])
    assert (fit.held_out, fit.held_out_eps) == (None, None)
    assert fit.eps.low is None  # one item has no interval


def test_intervals_cover_the_fit_and_narrow() -> None:
    few, many = (calibrate(*drawn(n), n_resamples=200) for n in (20, 200))
    for fit in (few, many):
        for estimate in (fit.eps, *fit.fitted.values()):
            assert estimate.low <= float(estimate) <= estimate.high
    assert many.eps.high - many.eps.low < few.eps.high - few.eps.low
    at = np.linspace(-3, 1, 4001)
    flagged = 2 * norm.cdf(at + 2)
    best = at[np.argmax(2 * flagged / (flagged + 4 * norm.cdf(at) + 2))]
    assert many.eps.low < best < many.eps.high


def test_the_curve_is_short() -> None:
    fit = calibrate(*drawn(200), n_resamples=10)
    assert len(fit.curve["eps"]) == len(fit.curve["recall"]) == 200
    assert list(fit.curve["eps"]) == sorted(fit.curve["eps"])
    assert fit.curve["recall"][-1] == 1


def test_words_without_a_value_are_counted() -> None:
    fit = calibrate([-1.0, float("nan"), 0.0], [1, 1, 0], list("abc"))
    assert (fit.eps.n, fit.eps.n_total, fit.n_words, fit.n_misaligned) == (2, 3, 2, 1)


def test_what_cannot_be_calibrated() -> None:
    with pytest.raises(UsageError, match="no word is misaligned"):
        calibrate([-1.0, 0.0], [0, 0], ["a", "b"])
    with pytest.raises(UsageError, match="no word is aligned"):
        calibrate([-1.0, 0.0], [1, 1], ["a", "b"])
    with pytest.raises(UsageError, match="no word is misaligned"):
        calibrate([], [], [])
    with pytest.raises(UsageError, match="a precision lies between 0 and 1, which 90 does not"):
        calibrate([-1.0, 0.0], [1, 0], ["a", "b"], min_precision=90)
    with pytest.raises(UsageError, match=r"no threshold has precision 0\.9; the best has 0\.500"):
        calibrate([-1.0, -1.0], [1, 0], ["a", "b"], min_precision=0.9)
    with pytest.raises(ValueError, match="equally long"):
        calibrate([-1.0, 0.0], [1, 0], ["a"])


# The file -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit() -> Fit:
    return calibrate(*drawn(20), n_resamples=50)


@pytest.fixture
def calibration(fit: Fit) -> Calibration:
    return Calibration("scenes-clip", "f00d", "A photo depicts ", 3, "raw", fit)


def test_a_file_gives_back_what_was_saved(tmp_path: Path, calibration: Calibration) -> None:
    path = tmp_path / "eps.json"
    saved = save_calibration(path, calibration)
    assert saved.date.endswith("+00:00")
    loaded = load_calibration(
        path, backbone="scenes-clip", fingerprint="f00d", prefix="A photo depicts ", last=3
    )
    assert loaded == saved
    assert loaded.eps == float(calibration.fit.eps)
    assert loaded.scorekit == __version__
    written = json.loads(path.read_text())
    assert written["format"] == "scorekit-calibration/1"
    assert written["fit"]["eps"]["value"] == loaded.eps
    alone = calibrate([-1.0, 0.0], [1, 0], ["a", "a"])
    saved = save_calibration(path, replace(calibration, fit=alone))
    assert load_calibration(path) == saved


def test_another_backbones_file_is_refused(tmp_path: Path, calibration: Calibration) -> None:
    path = tmp_path / "eps.json"
    save_calibration(path, calibration)
    with pytest.raises(UsageError) as error:
        load_calibration(path, backbone="hf:other", fingerprint="beef")
    assert str(error.value) == (
        f"{path} was fitted for scenes-clip (f00d), but hf:other is beef: a model of its "
        "own, so its eps says nothing here"
    )
    with pytest.raises(UsageError, match="scenes-clip is beef: other weights, resize or dtype"):
        load_calibration(path, backbone="scenes-clip", fingerprint="beef")
    with pytest.raises(UsageError, match="fitted with prefix='A photo depicts ', not ''"):
        load_calibration(path, fingerprint="f00d", prefix="")
    with pytest.raises(UsageError, match="fitted with last=3, not 2"):
        load_calibration(path, last=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a calibration of this format"),
        ("{}", "not a calibration of this format"),
        ('{"format": "scorekit-calibration/9"}', "scorekit-calibration/9"),
        ('{"format": "scorekit-calibration/1"}', "damaged"),
    ],
)
def test_files_that_are_no_calibration(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "eps.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        load_calibration(path)


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "percent"},
        {"fit": None},
        {"surplus": 1},
        {"fit": {"eps": {"value": None}}},
    ],
)
def test_damaged_files(tmp_path: Path, calibration: Calibration, change: dict[str, Any]) -> None:
    path = tmp_path / "eps.json"
    save_calibration(path, calibration)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match="damaged calibration"):
        load_calibration(path)


def test_missing_and_unwritable_files(tmp_path: Path, calibration: Calibration) -> None:
    with pytest.raises(UsageError, match="can't read"):
        load_calibration(tmp_path / "nowhere.json")
    with pytest.raises(UsageError, match="can't write"):
        save_calibration(tmp_path / "no" / "folder.json", calibration)


# Labelled data ------------------------------------------------------------------------------


def labelled(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_labelled_data(tmp_path: Path) -> None:
    path = labelled(
        tmp_path / "words.jsonl",
        {"image": "a.png", "text": "a golf ball", "misaligned": ["Golf ball"], "item": 7},
        {"image": "b.png", "caption": "a dog", "misaligned": [[2, 5]]},
        {"image": "b.png", "text": "a dog", "misaligned": []},
    )
    path.write_text(path.read_text().replace("caption", "text"))
    one, two, three = read_labelled(path)
    assert (one.item, one.wrong, one.image) == ("7", ((2, 11),), str(tmp_path / "a.png"))
    assert (two.item, two.wrong) == ("a dog", ((2, 5),))
    assert three.wrong == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"misaligned": ["cat"]}, "'cat' is not in 'a dog by a dog'"),
        ({"misaligned": ["dog"]}, "'dog' stands 2 times in 'a dog by a dog'; give"),
        ({"misaligned": [[2, 50]]}, "not within the text's 14 characters"),
        ({"misaligned": [[5, 5]]}, "not within the text's 14 characters"),
        ({"misaligned": [[2, 5.0]]}, "neither a word nor"),
        ({"misaligned": [[True, 5]]}, "neither a word nor"),
        ({"misaligned": [None]}, "neither a word nor"),
        ({"misaligned": "dog"}, "misaligned must be a list, not 'dog'"),
        ({"misaligned": None}, "misaligned must be a list, not None"),
        ({"text": None}, "no text"),
        ({"image": None}, "no image"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = {"image": "a.png", "text": "a dog by a dog", "misaligned": []}
    path = labelled(tmp_path / "words.jsonl", good, {**good, **change})
    with pytest.raises(UsageError) as error:
        read_labelled(path)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert message in str(error.value)


def test_a_missing_column(tmp_path: Path) -> None:
    path = labelled(tmp_path / "words.jsonl", {"image": "a.png", "text": "a dog"})
    with pytest.raises(UsageError, match="needs a column misaligned"):
        read_labelled(path)
