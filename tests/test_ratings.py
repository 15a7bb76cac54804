"""RatingSet: keys, missing values, matrices, files."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scorekit.ratings import RatingSet, Scale, number, pairs_of_ranks, rating_set
from scorekit.types import UsageError

ROWS = [
    {"system": s, "item": i, "rater": r, "dimension": "overall", "value": v}
    for s, i, r, v in (
        ("x", "1", "ann", 5),
        ("x", "1", "bob", 3),
        ("y", "1", "ann", 2),
        ("y", "1", "bob", None),
        ("x", "2", "ann", None),
    )
]
SAMPLES = [
    {"system": "x", "item": "1", "text": "a cat", "references": ["one", "two"], "skill": "object"},
    {"system": "y", "item": "1", "text": "a cat", "references": [], "skill": "object"},
]
LIKERT = {"overall": Scale(1, 5)}


def example() -> RatingSet:
    return rating_set(ROWS, SAMPLES, name="try", scales=LIKERT, licence="MIT", notes=("one",))


def test_a_mean_is_of_the_raters_there_are() -> None:
    found = example().mean("overall")
    assert list(found.itertuples(index=False, name=None)) == [
        ("x", "1", 0, 4.0, 2),
        ("y", "1", 0, 2.0, 1),
    ]


def test_a_missing_rating_is_missing_and_not_zero() -> None:
    ratings = example()
    assert ratings.n_missing == 2 and len(ratings) == 5
    assert ratings.ratings()["value"].tolist() == [5, 3, 2]
    values, raters, cells = ratings.matrix()
    np.testing.assert_array_equal(values, [[5, 2], [3, np.nan]])
    assert raters == ("ann", "bob") and cells["system"].tolist() == ["x", "y"]


def test_every_rated_key_has_a_sample() -> None:
    ratings = example()
    assert ratings.samples["item"].tolist() == ["1", "1", "2"]
    assert ratings.tags == ["skill"]


@pytest.mark.parametrize("row", [0, 3])
def test_a_duplicate_is_an_error_even_of_a_missing_rating(row: int) -> None:
    twice = "keys are there twice, first system '.', item '.', index 0, rater '"
    with pytest.raises(UsageError, match=twice):
        rating_set([*ROWS, ROWS[row]], SAMPLES)


def test_a_value_off_the_scale_is_an_error() -> None:
    with pytest.raises(UsageError, match="off the scale 1 to 4, first 5"):
        replace(example(), scales={"overall": Scale(1, 4)})


def test_an_unknown_dimension_is_an_error() -> None:
    with pytest.raises(UsageError, match="no dimension 'style'; there are overall"):
        example().mean("style")


def test_an_empty_item_is_an_error() -> None:
    with pytest.raises(UsageError, match="item is empty in 1 rows"):
        rating_set([{"item": None, "value": 1}])


# Scores -------------------------------------------------------------------------------------


def scores(*rows: tuple[str, str, float | None]) -> pd.DataFrame:
    return pd.DataFrame([{"system": s, "item": i, "metric": "m", "value": v} for s, i, v in rows])


def test_scores_of_other_samples_are_left_out() -> None:
    found = example().aligned(scores(("x", "1", 0.5), ("z", "1", 0.9), ("y", "1", None)))
    assert found["system"].tolist() == ["x", "y"]
    assert found["value"][0] == 0.5 and math.isnan(found["value"][1])


def test_a_transposed_key_is_an_error() -> None:
    with pytest.raises(UsageError, match="1 rows of the scores have system and item in each"):
        example().aligned(scores(("x", "1", 0.5), ("1", "y", 0.9)))


def test_scores_of_another_set_are_an_error() -> None:
    with pytest.raises(UsageError, match="no row of the scores is of try"):
        example().aligned(scores(("x", "one", 0.5)))


def test_a_score_given_twice_is_an_error() -> None:
    with pytest.raises(UsageError, match="twice"):
        example().aligned(scores(("x", "1", 0.5), ("x", "1", 0.5)))


# Preferences --------------------------------------------------------------------------------


def preference(a: str, b: str, choice: str = "a") -> dict[str, str]:
    return {"item": "1", "system_a": a, "system_b": b, "rater": "ann", "choice": choice}


def test_a_pair_in_both_orders_is_an_error() -> None:
    with pytest.raises(UsageError, match="there in both orders"):
        rating_set([preference("x", "y"), preference("y", "x", "b")], kind="preferences")


def test_a_pair_twice_is_an_error() -> None:
    with pytest.raises(UsageError, match="there twice"):
        rating_set([preference("x", "y"), preference("x", "y", "b")], kind="preferences")


def test_a_choice_is_one_of_three() -> None:
    with pytest.raises(UsageError, match="a, b, tie, not 'left'"):
        rating_set([preference("x", "y", "left")], kind="preferences")


def test_a_system_is_not_compared_with_itself() -> None:
    with pytest.raises(UsageError, match="compared with itself"):
        rating_set([preference("x", "x")], kind="preferences")


def test_preferences_of_ranks() -> None:
    rows = pairs_of_ranks("1", {"x": 2, "y": 1, "z": 2}, rater="ann")
    assert [(r["system_a"], r["system_b"], r["choice"]) for r in rows] == [
        ("x", "y", "b"),
        ("x", "z", "tie"),
        ("y", "z", "a"),
    ]


def test_preferences_know_their_samples() -> None:
    samples = [{"item": "1", "system": s, "image": f"{s}.png"} for s in "xyz"]
    rows = pairs_of_ranks("1", {"x": 2, "y": 1, "z": 2})
    ratings = rating_set(rows, samples, kind="preferences")
    found = ratings.aligned(scores(("x", "1", 0.5), ("z", "1", 0.9), ("w", "1", 0.1)))
    assert found["system"].tolist() == ["x", "z"]
    with pytest.raises(UsageError, match="preferences, not ratings"):
        ratings.mean()


# Files --------------------------------------------------------------------------------------


def equal(a: RatingSet, b: RatingSet) -> None:
    pd.testing.assert_frame_equal(a.frame, b.frame)
    for name in ("name", "kind", "scales", "pooling", "licence", "notes"):
        assert getattr(a, name) == getattr(b, name)
    keys = ["system", "item", "index"]
    left, right = (s.samples.sort_values(keys, ignore_index=True) for s in (a, b))
    assert left[keys].equals(right[keys])
    assert left["text"].fillna("").tolist() == right["text"].fillna("").tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv"])
def test_files_give_the_set_back(suffix, tmp_path) -> None:
    ratings = example()
    found = RatingSet.load(ratings.save(tmp_path / f"x{suffix}"))
    equal(ratings, found)
    assert list(found.samples["references"][0]) == ["one", "two"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_files_give_preferences_back(suffix, tmp_path) -> None:
    samples = [{"item": "1", "system": s, "text": "a cat", "skill": "count"} for s in "xyz"]
    rows = pairs_of_ranks("1", {"x": 2, "y": 1, "z": 2})
    ratings = rating_set(rows, samples, kind="preferences", pooling="each")
    found = RatingSet.load(ratings.save(tmp_path / f"x{suffix}"))
    equal(ratings, found)
    assert found.tags == ["skill"]


def test_a_table_of_ones_own_is_enough(tmp_path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("item,system,value,skill\n1,a,0.5,count\n2,a,NaN,colour\n3,a,,count\n")
    ratings = RatingSet.load(path)
    assert ratings.name == "mine" and ratings.dimensions == ["rating"]
    assert ratings.scales == {"rating": Scale(0.5, 0.5, "interval")}
    assert ratings.n_missing == 2 and ratings.tags == ["skill"]


def test_preferences_of_ones_own_are_enough(tmp_path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("item,system_a,system_b,choice\n1,a,b,tie\n2,b,a,a\n")
    ratings = RatingSet.load(path)
    assert ratings.kind == "preferences" and ratings.frame["choice"].tolist() == ["tie", "a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item,value\n1,good\n", "line 2: 'good' is no number"),
        ("item,value\n1,inf\n", "line 2: the value is infinite"),
        ("system,value\na,1\n", "no column item"),
        ("item,system\n1,a\n", "no column value"),
        ("item,value\n1,1\n1,1\n", "twice"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(text: str, message: str, tmp_path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        RatingSet.load(path)


def test_a_score_table_is_no_rating_set(tmp_path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("item,value\n1,1\n")
    path.with_name("scores.csv.json").write_text('{"format": 1, "metrics": {}}')
    with pytest.raises(UsageError, match="something other than ratings"):
        RatingSet.load(path)


@pytest.mark.parametrize("cell", ["", " ", "NaN", "nan", "null", None, float("nan")])
def test_words_for_nothing_are_missing(cell) -> None:
    assert math.isnan(number(cell, "here"))
