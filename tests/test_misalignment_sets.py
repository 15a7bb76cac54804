"""Readers of published sets of foils, on made-up records of their formats and on real files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scorekit.misalignment_sets import (
    READERS,
    FoilCase,
    changed_words,
    pairs_of,
    places_of,
    read_foil,
    read_hat,
    read_nocaps_foil,
    read_richhf,
    read_seetrue,
    read_seetrue_feedback,
    read_sugar_crepe,
)
from scorekit.types import UsageError

SUGAR_CREPE = {
    "add_att": 692,
    "add_obj": 2062,
    "replace_att": 788,
    "replace_obj": 1652,
    "replace_rel": 1406,
    "swap_att": 666,
    "swap_obj": 246,
}


def write(path: Path, data: Any, indent: int | None = None) -> Path:
    path.write_text(json.dumps(data, indent=indent), encoding="utf-8")
    return path


def wrong_words(case: FoilCase) -> list[str]:
    return [case.text[start:end] for start, end in case.spans]


# Words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "ours", "theirs"),
    [
        ("A cat on a mat.", "A dog on a mat.", ["cat"], ["dog"]),
        ("A cat on a mat.", "A very old dog on a mat.", ["cat"], ["very old dog"]),
        ("Two cats, a dog.", "Two dogs, a cat.", ["cats", "dog"], ["dogs", "cat"]),
        ("A red ball.", "A ball.", ["red"], []),
        ("the dog", "The dog!", ["the"], ["The"]),
        ("A dog.", "A dog", [], []),
    ],
)
def test_changed_words(one: str, two: str, ours: list[str], theirs: list[str]) -> None:
    spans = changed_words(one, two)
    assert [one[a:b] for a, b in spans[0]] == ours
    assert [two[a:b] for a, b in spans[1]] == theirs


def test_places_of_whole_words_only() -> None:
    assert places_of("Cats and a cat, cat-like", "cat") == ((11, 14), (16, 19))
    assert places_of("a hot   dog", "Hot Dog") == ((2, 11),)
    assert places_of("一只猫和狗", "狗") == ((4, 5),)
    assert places_of("a dog", "cat") == ()
    assert places_of("a dog", "  ") == ()


# Real files ---------------------------------------------------------------------------------


def test_all_of_sugar_crepe(shared_data: Path) -> None:
    folder = shared_data / "sugar_crepe"
    cases = read_sugar_crepe(folder)
    assert Counter(case.kind for case in cases if case.misaligned) == SUGAR_CREPE
    pairs = pairs_of(cases)
    assert len(pairs) == sum(SUGAR_CREPE.values())
    for original, foil in pairs:
        assert original.text == foil.original != foil.text
        assert foil.spans
        assert original.image == foil.image
        for text, spans in ((foil.text, foil.spans), (original.text, foil.original_spans)):
            assert all(0 <= start < end <= len(text) for start, end in spans)
            assert list(spans) == sorted(spans)
        # What is not marked is the same in both.
        assert _rest(foil.text, foil.spans) == _rest(original.text, foil.original_spans)
    for kind, count in SUGAR_CREPE.items():
        assert len(read_sugar_crepe(folder / f"{kind}.json")) == 2 * count


def _rest(text: str, spans: tuple[tuple[int, int], ...]) -> list[str]:
    from scorekit.metrics._words import words_of

    marked = [w for w in words_of(text) if not any(a <= w.start < b for a, b in spans)]
    return [word.text.casefold() for word in marked]


def test_first_of_sugar_crepe(shared_data: Path) -> None:
    original, foil = read_sugar_crepe(shared_data / "sugar_crepe" / "replace_att.json")[:2]
    assert original.item == foil.item == "replace_att/0"
    assert foil.image == "000000331352.jpg"
    assert wrong_words(foil) == ["white"]
    assert [original.text[a:b] for a, b in foil.original_spans] == ["tan"]
    assert (original.misaligned, original.spans) == (False, ())


def test_all_of_seetrue(shared_data: Path) -> None:
    cases = read_seetrue(shared_data / "seetrue" / "SeeTRUE.csv")
    assert len(cases) == 6930
    assert Counter(case.kind for case in cases) == {
        "editbench": 3827,
        "coco_t2i": 1791,
        "drawbench": 1312,
    }
    assert cases[0].text == "A zebra to the right of a fire hydrant."
    assert cases[0].misaligned and not cases[0].spans


# Formats ------------------------------------------------------------------------------------


def foil_file() -> dict[str, Any]:
    common = {"image_id": 42, "id": 7}
    return {
        "info": {},
        "licenses": [],
        "images": [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}],
        "annotations": [
            {
                **common,
                "foil_id": 1,
                "caption": "A dog chases a dog.",
                "foil": False,
                "target_word": "ORIG",
                "foil_word": "ORIG",
            },
            {
                **common,
                "foil_id": 1,
                "caption": "A dog chases a hot dog.",
                "foil": True,
                "target_word": "dog",
                "foil_word": "hot dog",
            },
            {
                **common,
                "foil_id": 2,
                "caption": "A cat chases a dog.",
                "foil": True,
                "target_word": "dog",
                "foil_word": "cat",
            },
        ],
    }


def test_foil(tmp_path: Path) -> None:
    cases = read_foil(write(tmp_path / "foilv1.0_test_2017.json", foil_file()))
    assert [case.misaligned for case in cases] == [False, True, True]
    assert {case.item for case in cases} == {"7"}
    assert cases[0].image == "COCO_val2014_000000000042.jpg"
    assert wrong_words(cases[1]) == ["hot dog"]
    assert wrong_words(cases[2]) == ["cat"]
    assert [pair[0].text for pair in pairs_of(cases)] == ["A dog chases a dog."] * 2


def test_foil_without_its_original(tmp_path: Path) -> None:
    data = foil_file()
    data["annotations"] = data["annotations"][1:]
    cases = read_foil(write(tmp_path / "foil.json", data))
    assert [case.original for case in cases] == [None, None]
    assert wrong_words(cases[0]) == ["hot dog"]
    assert pairs_of(cases) == []


def test_nocaps_foil(tmp_path: Path) -> None:
    def entry(right: str, wrong: str, replacement: list[str]) -> dict[str, Any]:
        return {
            "image_path": "0a.jpg",
            "references": ["A shirt."],
            "baseline": right,
            "foil": wrong,
            "replacement": replacement,
            "domain": "near-domain",
        }

    data = [
        entry(
            "The batter hits the ball. ", "The batter hits the golf ball. ", ["ball", "golf ball"]
        ),
        entry(
            "A lynx by another lynx.",
            "A bell pepper by another bell pepper.",
            ["lynx", "bell pepper"],
        ),
        entry("A BLACK CAMERA.", "A BLACK ant.", ["camera", "ant"]),
        entry("A man.", "A man.", ["man", "man"]),
    ]
    cases = read_nocaps_foil(write(tmp_path / "nocaps-val-foil.json", data))
    assert [case.misaligned for case in cases] == [False, True, False, True, False, True, False]
    assert wrong_words(cases[1]) == ["golf ball"]
    assert wrong_words(cases[3]) == ["bell pepper", "bell pepper"]
    assert wrong_words(cases[5]) == ["ant"]
    assert cases[0].references == ("A shirt.",)
    assert cases[0].kind == "near-domain"
    assert len(pairs_of(cases)) == 3


def test_hat(tmp_path: Path) -> None:
    def entry(caption: str, wrong: set[int], **more: Any) -> dict[str, Any]:
        return {
            "caption": caption,
            "grounding": [[token, k in wrong] for k, token in enumerate(caption.split())],
            "contains_hallucination": bool(wrong),
            "image_path": "COCO.jpg",
            "references": ["A sign."],
            **more,
        }

    data = [
        entry("A sign pointing in different directions.", {2, 3, 4, 5}, sample_id="253a"),
        entry("A man, (possibly a man), and a man.", {4, 7}),
        entry("A dog.", set()),
    ]
    cases = read_hat(write(tmp_path / "hat-trainval.json", data))
    assert cases[0].item == "253a"
    assert wrong_words(cases[0]) == ["pointing in different directions"]
    assert [case.misaligned for case in cases] == [True, True, False]
    assert cases[1].spans == ((19, 22), (31, 34))
    assert wrong_words(cases[1]) == ["man", "man"]
    assert cases[1].item == "1"
    assert cases[2].spans == ()


RICHHF = "filename,prompt,prompt_misalignment_label,misalignment_score\n"


def test_richhf(tmp_path: Path) -> None:
    path = tmp_path / "richhf.csv"
    path.write_text(RICHHF + 'a.png,"a red cat, on: a mat!",1 0 0 1 1 1,0.75\nb.png,dog,1,1\n')
    wrong, right = read_richhf(path)
    assert wrong_words(wrong) == ["red cat"]
    assert (wrong.image, wrong.rating, wrong.misaligned) == ("a.png", 0.75, True)
    assert (right.spans, right.misaligned) == ((), False)
    # The same as a JSON list, labels as a list.
    record = {"filename": "a.png", "caption": "a cat", "prompt_misalignment_label": [1, 0]}
    (case,) = read_richhf(write(tmp_path / "richhf.json", [record]))
    assert wrong_words(case) == ["cat"]
    assert case.rating is None


def test_seetrue_feedback(tmp_path: Path) -> None:
    path = tmp_path / "SeeTRUE_Feedback.csv"
    path.write_text(
        ",image_caption,image_name,dataset_source,caption_misalignment\n"
        '0,"""A woman with a blue shirt.""",a.jpg,cococon,blue shirt\n'
        "1,A LADY PLAYS GOLF,b.jpg,cococon,lady plays golf\n"
        "2,A MAN WITH A CUPCAKE BLOWING OUT CANDLES,c.png,coco_t2i,man blowing out candles\n"
        "3,A dog.,d.png,drawbench,two cats\n"
    )
    cases = read_seetrue_feedback(path)
    assert cases[0].text == "A woman with a blue shirt."
    assert [wrong_words(case) for case in cases] == [
        ["blue shirt"],
        ["LADY PLAYS GOLF"],
        ["MAN", "BLOWING OUT CANDLES"],
        [],
    ]
    assert all(case.misaligned for case in cases)
    assert cases[3].named == "two cats"


def test_every_reader_has_its_name() -> None:
    assert list(READERS) == [
        "foil",
        "nocaps-foil",
        "hat",
        "richhf",
        "seetrue",
        "seetrue-feedback",
        "sugar-crepe",
    ]


# What goes wrong ----------------------------------------------------------------------------


def sugar(**changed: Any) -> dict[str, Any]:
    good = {"filename": "a.jpg", "caption": "A cat.", "negative_caption": "A dog."}
    return {"0": good, "1": {**good, **changed}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"caption": None}, "line 7: no caption"),
        ({"caption": 1.5}, "line 7: caption must be a text, not '1.5'"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "swap_obj.json", sugar(**changed), indent=1)
    with pytest.raises(UsageError) as error:
        read_sugar_crepe(path)
    assert str(error.value) == f"{path}, {message}"


def test_errors_within_a_part_name_the_line(tmp_path: Path) -> None:
    data = foil_file()
    data["annotations"][2]["foil_word"] = "zebra"
    data["annotations"][2]["caption"] = "A dog chases a dog."
    path = write(tmp_path / "foil.json", data, indent=1)
    line = next(
        k for k, text in enumerate(path.read_text().splitlines(), 1) if '"foil_id": 2' in text
    )
    with pytest.raises(UsageError, match="the foil 'zebra' is not in the caption") as error:
        read_foil(path)
    found = int(str(error.value).split("line ")[1].split(":")[0])
    assert line - 3 <= found <= line
    data["annotations"][2]["image_id"] = 43
    with pytest.raises(UsageError, match="no image 43"):
        read_foil(write(path, data))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: not JSON"),
        ('{"0": \n{', "line 2: not JSON"),
        ("3", "has no list of records"),
        ('{"0": [1]}', "line 1: not a JSON object"),
        ("[1]", "line 1: not a JSON object"),
    ],
)
def test_files_that_are_no_such_thing(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "swap_obj.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_sugar_crepe(path)


def test_missing_files_and_parts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't read"):
        read_hat(tmp_path / "nowhere.json")
    with pytest.raises(UsageError, match="holds no JSON files"):
        read_sugar_crepe(tmp_path)
    with pytest.raises(UsageError, match="has no list of images"):
        read_foil(write(tmp_path / "a.json", {"annotations": []}))
    (tmp_path / "b.json").write_bytes(b"[\xff]")
    with pytest.raises(UsageError, match="is not JSON in UTF-8"):
        read_hat(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,a cat,1 0 1,1", "line 2: 3 labels for the 2 tokens"),
        ("a.png,a cat,1 2,1", "line 2: prompt_misalignment_label must be 0s and 1s"),
        ("a.png,a cat,,1", "line 2: prompt_misalignment_label must be 0s and 1s"),
        ("a.png,a cat,1 0,high", "line 2: misalignment_score must be a number"),
        (",a cat,1 0,1", "line 2: no filename"),
        ("a.png,,1 0,1", "line 2: no prompt or caption or text"),
    ],
)
def test_richhf_errors(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "richhf.csv"
    path.write_text(RICHHF + row + "\n")
    with pytest.raises(UsageError, match=message):
        read_richhf(path)


def test_other_errors(tmp_path: Path) -> None:
    path = tmp_path / "seetrue.csv"
    path.write_text("image,text,label,dataset_source\na.png,A cat.,yes,x\n")
    with pytest.raises(UsageError, match="line 2: label must be 0 or 1, not 'yes'"):
        read_seetrue(path)
    entry = {
        "caption": "A cat.",
        "grounding": [["dog", True]],
        "contains_hallucination": True,
        "image_path": "a.jpg",
    }
    with pytest.raises(UsageError, match="line 1: the token 'dog' is not in the caption"):
        read_hat(write(tmp_path / "hat.json", [entry]))
    with pytest.raises(UsageError, match="grounding must be pairs"):
        read_hat(write(tmp_path / "hat.json", [{**entry, "grounding": ["A"]}]))
    with pytest.raises(UsageError, match="contains_hallucination must be true or false"):
        read_hat(
            write(tmp_path / "hat.json", [{**entry, "grounding": [], "contains_hallucination": 1}])
        )
