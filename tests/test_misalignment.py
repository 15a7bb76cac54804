"""Location accuracy, word detection and separation, by hand and against scikit-learn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scorekit.curves import average_precision
from scorekit.misalignment import (
    AttributedText,
    location_accuracy,
    location_hits,
    separation,
    word_detection,
    word_labels,
)

# "a golf ball": words at these characters; "golf ball" is wrong.
WORDS = [(0, 1), (2, 6), (7, 11)]


def hits(values: list[float], wrong: list[tuple[int, int]]) -> tuple[float, float, float]:
    found = location_hits([AttributedText(WORDS, values, wrong)])
    return float(found["exact"][0]), float(found["head"][0]), float(found["overlap"][0])


@pytest.mark.parametrize(
    ("values", "wrong", "expected"),
    [
        ([0.0, 0.0, -1.0], [(7, 11)], (1, 1, 1)),
        ([0.0, -1.0, 0.0], [(2, 11)], (0, 0, 1)),
        ([0.0, 0.0, -1.0], [(2, 11)], (0, 1, 1)),
        ([-1.0, 0.0, 0.0], [(2, 11)], (0, 0, 0)),
        # A span that ends within a word, and one that touches a word without a character of it.
        ([0.0, 0.0, -1.0], [(2, 9)], (0, 1, 1)),
        ([0.0, -1.0, 0.0], [(6, 11)], (0, 0, 0)),
        # Two wrong spans: either will do.
        ([-1.0, 0.0, 0.0], [(0, 1), (7, 11)], (1, 1, 1)),
        # Ties: the share of the tied.
        ([-1.0, -1.0, 0.0], [(2, 11)], (0, 0, 1 / 2)),
        ([0.0, 0.0, 0.0], [(2, 11)], (0, 1 / 3, 2 / 3)),
    ],
)
def test_hits_by_hand(
    values: list[float], wrong: list[tuple[int, int]], expected: tuple[float, ...]
) -> None:
    assert hits(values, wrong) == pytest.approx(expected)


def test_a_phrase_may_be_a_candidate() -> None:
    text = AttributedText([(0, 1), (2, 11)], [0.0, -1.0], [(2, 11)])
    assert [found[0] for found in location_hits([text]).values()] == [1, 1, 1]


def test_exact_implies_head_implies_overlap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        ends = np.cumsum(rng.integers(1, 5, 6))
        words = [(int(a), int(b)) for a, b in pairwise(ends)]
        wrong = [words[rng.integers(5)], (words[1][0], words[3][1])]
        values = rng.integers(-2, 2, 5).astype(float).tolist()
        found = location_hits([AttributedText(words, values, wrong)])
        assert found["exact"][0] <= found["head"][0] <= found["overlap"][0]


def test_ties_do_not_depend_on_order() -> None:
    words = [(k, k + 1) for k in range(4)]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        values = np.array([-1.0, -1.0, 0.0, -1.0])[order].tolist()
        text = AttributedText([words[k] for k in order], values, [words[0]])
        assert location_hits([text])["overlap"][0] == pytest.approx(1 / 3)


def test_texts_that_cannot_be_judged_are_counted() -> None:
    texts = [
        AttributedText(WORDS, [0.0, 0.0, -1.0], [(7, 11)], "1"),
        AttributedText(WORDS, [0.0, 0.0, -1.0], [(0, 1)], "2"),
        AttributedText(WORDS, [0.0, 0.0, -1.0], [], "3"),  # not a foil
        AttributedText(WORDS, [0.0, float("nan"), -1.0], [(7, 11)], "4"),
        AttributedText([], [], [(0, 1)], "5"),
    ]
    found = location_accuracy(texts)
    assert (found.exact.value, found.exact.n, found.exact.n_total) == (0.5, 2, 5)
    assert location_accuracy([]).overlap.value is None
    with pytest.raises(ValueError, match="3 words, but 2 values"):
        AttributedText(WORDS, [0.0, 1.0], [])


def test_items_are_resampled_whole() -> None:
    """Ten copies of each text hold no more information than one."""
    rng = np.random.default_rng(1)
    once = [
        AttributedText(WORDS, rng.normal(size=3).tolist(), [(7, 11)], str(k)) for k in range(40)
    ]
    alone, copied = location_accuracy(once).overlap, location_accuracy(once * 10).overlap
    assert alone.value == copied.value
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)


# Words --------------------------------------------------------------------------------------


def test_word_detection_by_hand() -> None:
    #           tp fp fn tn tp
    flagged = [1, 1, 0, 0, 1]
    wrong = [1, 0, 1, 0, 1]
    found = word_detection(flagged, wrong, ["a", "a", "b", "b", "c"])
    assert (found.true_positives, found.false_positives, found.false_negatives) == (2, 1, 1)
    assert float(found.precision) == pytest.approx(2 / 3)
    assert float(found.recall) == pytest.approx(2 / 3)
    assert float(found.f1) == pytest.approx(2 / 3)
    assert found.f1.n == 5
    assert 0 <= found.f1.low <= float(found.f1) <= found.f1.high <= 1


def test_nothing_flagged_has_no_precision() -> None:
    found = word_detection([0, 0], [1, 0])
    assert (found.precision.value, found.recall.value, found.f1.value) == (None, 0, 0)
    found = word_detection([1, 0], [0, 0])
    assert (found.precision.value, found.recall.value, found.f1.value) == (0, None, 0)
    found = word_detection([0, 0], [0, 0])
    assert (found.precision.value, found.recall.value, found.f1.value) == (None, None, None)
    assert word_detection([], []).f1.value is None
    with pytest.raises(ValueError, match="equally long"):
        word_detection([1], [1, 0])
    with pytest.raises(ValueError, match="2 rows need 2 groups"):
        word_detection([1, 0], [1, 0], ["a"])


def test_word_labels() -> None:
    assert word_labels(WORDS, [(5, 8)]).tolist() == [False, True, True]
    assert word_labels(WORDS, []).tolist() == [False] * 3
    assert word_labels([], [(0, 1)]).tolist() == []


# Original against foil ----------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    # Ranks 1 and 3 are positive: (1/1 + 2/3) / 2.
    assert average_precision([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx(5 / 6)
    # The first two tie: one threshold with precision 1/2, then 2/3.
    assert average_precision([4, 4, 2, 1], [1, 0, 1, 0]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision([4, 4, 2, 1], [0, 1, 1, 0]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert np.isnan(average_precision([1, 2], [0, 0]))
    assert np.isnan(average_precision([], []))


def test_average_precision_and_auroc_as_scikit_learn_has_them() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    for seed in range(20):
        n = int(rng.integers(5, 80))
        wrong = rng.random(n) < 0.4
        wrong[:2] = True, False
        scores = np.round(rng.normal(size=n) - wrong, seed % 3)  # with many ties, and few
        for positive in ("original", "foil"):
            found = separation(scores, wrong, positive=positive, n_resamples=5)
            truth, sign = (wrong, -1) if positive == "foil" else (~wrong, 1)
            ap = sklearn.average_precision_score(truth, sign * scores)
            assert float(found.average_precision) == pytest.approx(ap, abs=1e-12)
            roc = sklearn.roc_auc_score(~wrong, scores)
            assert float(found.auroc) == pytest.approx(roc, abs=1e-12)
            assert found.prevalence == pytest.approx(truth.mean())


def test_all_scores_equal_say_nothing() -> None:
    found = separation([1.0] * 8, [True, False] * 4)
    assert float(found.average_precision) == 0.5
    assert float(found.auroc) == 0.5


def test_unscored_texts_and_missing_classes() -> None:
    found = separation([0.9, float("nan"), 0.1], [False, True, True])
    assert (found.auroc.value, found.auroc.n, found.auroc.n_total) == (1, 2, 3)
    assert (found.n_original, found.n_foil) == (1, 1)
    alone = separation([0.9, 0.1], [True, True])
    assert alone.auroc.value is None
    assert alone.average_precision.value is None
    assert separation([], []).prevalence is None


def test_lower_may_be_better() -> None:
    scores, wrong = np.array([0.1, 0.5, 0.4, 0.9]), [False, False, True, True]
    flipped = separation(scores, wrong, higher_is_better=False)
    assert float(flipped.auroc) == 0.75
    assert float(separation(-scores, wrong).average_precision) == float(flipped.average_precision)


def test_interval_of_the_auroc_covers() -> None:
    from math import erf

    truth = 0.5 * (1 + erf(1 / 2))  # of two unit normals one apart
    rng, inside = np.random.default_rng(3), 0
    for seed in range(100):
        wrong = np.arange(120) % 2 == 0
        found = separation(rng.normal(size=120) - wrong, wrong, n_resamples=300, seed=seed).auroc
        inside += found.low <= truth <= found.high
    assert 0.87 <= inside / 100 <= 1.0


def test_pairs_of_one_item_are_resampled_together() -> None:
    items = np.repeat(np.arange(30), 2)
    wrong = np.tile([False, True], 30)
    scores = np.where(wrong, 0.0, 1.0)
    found = separation(scores, wrong, items)
    assert (found.auroc.low, found.auroc.high) == (1.0, 1.0)
    assert separation(scores, wrong, items) == found


# On scenes ----------------------------------------------------------------------------------


def test_locate_on_a_few_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from scorekit.scenes import locate

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    page = tmp_path / "scenes.md"
    page.write_text(f"before\n{locate.BEGIN}\nold\n{locate.END}\nafter\n")
    try:
        assert locate.main(["--n", "3", "--size", "96", "--write", str(page)]) == 0
    finally:
        torch.set_num_threads(threads)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("| negation: named |") == 2
    assert "| all |" in text and "random word" in text
    assert capsys.readouterr().out.strip() in text


def test_locate_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scorekit.scenes import locate

    assert locate.main(["--n", "0"]) == 2
    assert "--n must be 1 or more" in capsys.readouterr().err
    page = tmp_path / "page.md"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the markers"):
        locate.write_between(page, "x")
