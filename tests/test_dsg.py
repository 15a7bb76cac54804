"""TIFA and DSG, from files of answers and from a model that is asked, through the real path."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny import picture

from scorekit.backbones.handle import BackboneInfo
from scorekit.metrics._dependencies import counted, score_questions
from scorekit.questions import Question
from scorekit.registry import BACKBONES, METRICS, load_backbone_family, load_metric
from scorekit.run import RunOptions, score_samples
from scorekit.table import ScoreTable
from scorekit.types import Extracted, Feature, InputError, Pair, Sample, UsageError

OPTIONS = RunOptions(cache=False)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cls in (("tifa", "TIFA"), ("dsg", "DSG")):
        monkeypatch.setitem(METRICS, name, f"scorekit.metrics.{name}:{cls}")
    for family, module in (
        ("questions", "questions_file"),
        ("answers", "answers_file"),
        ("ask", "question_writer"),
    ):
        monkeypatch.setitem(BACKBONES, family, f"scorekit.backbones.{module}:load")


def headline(table: ScoreTable) -> pd.DataFrame:
    name = next(name for name, info in table.metrics.items() if info.headline)
    return table.frame[table.frame["metric"] == name].reset_index(drop=True)


# Published numbers ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ratings(shared_data: Path) -> pd.Series[float]:
    """The mean rating of each of TIFA-160's 800 images."""
    frame = pd.read_csv(shared_data / "dsg" / "tifa160-likert-anns.csv")
    return frame.groupby(["t2i_model", "item_id"])["answer"].mean()


@pytest.fixture
def score_answers(
    shared_data: Path, ratings: pd.Series[float]
) -> Callable[[str, str], pd.DataFrame]:
    """Scores of the 800 images from one of the published files of answers."""

    def score(metric: str, name: str) -> pd.DataFrame:
        samples = [Sample(item, system, None, None) for system, item in ratings.index]
        file = shared_data / "dsg" / f"{name}.csv"
        return headline(score_samples(samples, f"{metric}@answers:{file}", options=OPTIONS))

    return score


PUBLISHED = [
    # metric, file, Spearman, Kendall. DSG's paper has .463 and .380 for mPLUG, and .571 for PaLI;
    # the others were computed once with pandas alone.
    ("dsg", "mplug_dsg", 0.463, 0.380),
    ("dsg", "pali17b_dsg", 0.570, 0.458),
    ("dsg", "instructblip_dsg", 0.442, 0.364),
    ("dsg:dependency=false", "mplug_dsg", 0.464, 0.378),
    ("dsg:dependency=false", "pali17b_dsg", 0.570, 0.457),
    ("dsg:dependency=false", "instructblip_dsg", 0.436, 0.355),
    ("tifa", "mplug_dsg", 0.464, 0.378),
    ("tifa", "mplug_vq2a", 0.212, 0.164),
    ("tifa", "pali17b_vq2a", 0.207, 0.157),
    ("tifa", "instructblip_vq2a", 0.426, 0.352),
    ("dsg", "instructblip_vq2a", 0.426, 0.352),
]


@pytest.mark.parametrize(("metric", "name", "spearman", "kendall"), PUBLISHED)
def test_agreement_with_the_raters(
    score_answers: Callable[[str, str], pd.DataFrame],
    ratings: pd.Series[float],
    metric: str,
    name: str,
    spearman: float,
    kendall: float,
) -> None:
    rows = score_answers(metric, name)
    assert len(rows) == len(ratings) == 800
    # The authors give 0 to an image without questions; here it has no score.
    lacking = rows["status"] == "missing_input"
    assert set(rows["item"][lacking]) == ({"tifa160_134"} if name.endswith("_dsg") else set())
    assert (rows["status"][~lacking] == "ok").all()
    values = rows["value"].fillna(0)
    assert round(stats.spearmanr(ratings, values).statistic, 3) == spearman
    assert round(stats.kendalltau(ratings, values).statistic, 3) == kendall


def test_agreement_of_the_images_that_have_questions(
    score_answers: Callable[[str, str], pd.DataFrame], ratings: pd.Series[float]
) -> None:
    rows = score_answers("dsg", "mplug_dsg")
    good = (rows["status"] == "ok").to_numpy()
    assert good.sum() == 795
    found = stats.spearmanr(ratings[good], rows["value"][good]).statistic
    assert found == pytest.approx(0.4567, abs=5e-5)


def test_a_fault_of_a_published_file_is_noted(
    score_answers: Callable[[str, str], pd.DataFrame],
) -> None:
    rows = score_answers("dsg", "mplug_dsg").set_index(["system", "item"])
    assert rows.loc[("sd1dot1", "tifa160_13"), "note"] == "question 4 depends on itself"
    assert rows.loc[("sd1dot1", "tifa160_0"), "note"] == ""


# Files of answers -----------------------------------------------------------------------------

HEAD = "system,item,question,answer,expected,id,parents\n"
FILE = HEAD + (
    "good,a,Is there a dog?,yes,,1,\n"
    "good,a,Is it red?,Yes.,,2,1\n"
    'good,a,"How many {dogs}\nin ""all""?",two,two,3,1\n'
    "bad,a,Is there a dog?,,,1,\n"
    "bad,a,Is it red?,yes,,2,1\n"
    "bad,a,Is there a cat?,no,no,3,\n"
)
BOTH = [Sample("a", "good", None, None), Sample("a", "bad", None, None)]


@pytest.fixture
def answers(tmp_path: Path) -> Callable[[str], str]:
    """A backbone's name of a file of answers."""

    def write(text: str, name: str = "answers.csv") -> str:
        (tmp_path / name).write_text(text)
        return f"answers:{tmp_path / name}"

    return write


def test_evidence(answers: Callable[[str], str]) -> None:
    rows = headline(score_samples(BOTH, f"dsg@{answers(FILE)}", options=OPTIONS))
    assert rows["value"].tolist() == pytest.approx([1, 1 / 3])
    good, bad = (json.loads(cell) for cell in rows["evidence"])
    assert good[2] == {
        "id": "3",
        "question": 'How many {dogs}\nin "all"?',
        "expected": "two",
        "answer": "two",
        "probability": None,
        "correct": True,
        "counted": True,
        "parents": ["1"],
    }
    assert [(e["correct"], e["counted"]) for e in bad] == [
        (False, True),
        (True, False),
        (True, True),
    ]


def test_tifa_knows_no_dependency(answers: Callable[[str], str]) -> None:
    rows = headline(score_samples(BOTH, f"tifa@{answers(FILE)}", options=OPTIONS))
    assert rows["value"].tolist() == pytest.approx([1, 2 / 3])


def test_number_of_questions_is_a_component(answers: Callable[[str], str]) -> None:
    frame = score_samples(BOTH, f"dsg@{answers(FILE)}", options=OPTIONS).frame
    assert frame["value"][frame["metric"] == "dsg.n_questions"].tolist() == [3, 3]


def test_what_the_file_lacks_is_missing(answers: Callable[[str], str]) -> None:
    samples = [
        Sample("b", "good", None, None),
        Sample("a", "other", None, None),
        Sample("a", "good", None, None, index=1),
        *BOTH,
    ]
    rows = headline(score_samples(samples, f"dsg@{answers(FILE)}", options=OPTIONS))
    assert rows["status"].tolist() == ["missing_input"] * 3 + ["ok"] * 2
    assert rows["value"].isna().tolist() == [True] * 3 + [False] * 2
    assert "answers.csv has no answers for system 'good', item 'b'" in rows["note"][0]
    assert "no column index" in rows["note"][2]


def test_an_id_may_be_0(answers: Callable[[str], str]) -> None:
    text = HEAD + "bad,a,A dog?,no,,0,\nbad,a,Is it red?,yes,,1,0\n"
    rows = headline(score_samples(BOTH[1:], f"dsg@{answers(text)}", options=OPTIONS))
    assert rows["value"].tolist() == [0]


def test_several_images_of_an_item(answers: Callable[[str], str]) -> None:
    backbone = answers("system,item,index,question,answer\ns,a,0,A dog?,yes\ns,a,1,A dog?,no\n")
    samples = [Sample("a", "s", None, None, index=i) for i in (0, 1)]
    rows = headline(score_samples(samples, f"tifa@{backbone}", options=OPTIONS))
    assert rows["value"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item,question,answer\na,A?,yes\n", "needs a column system or t2i_model"),
        ("system,question,answer\na,A?,yes\n", "needs a column item or item_id"),
        ("system,item,answer\na,b,yes\n", "needs a column question"),
        ("system,item,question\na,b,A?\n", "needs a column answer"),
        ("", "is empty"),
        (HEAD, "has no rows"),
        (HEAD + "s,,A?,yes,,1,\n", "line 2: item is empty"),
        (HEAD + "s,a,,yes,,1,\n", "line 2: the question is empty"),
        (HEAD + "s,a,A?,yes,,1,\ns,a,B?,yes,,1,\n", r"line 3: question 1 is there twice \(line 2"),
        (
            "system,item,question,answer\ns,a,A?,yes\ns,a,A?,no\n",
            r"line 3: the question is there twice \(line 2\), and without ids",
        ),
        (HEAD + "s,a,A?,yes,,1,9\n", "line 2: question 1 depends on 9, which is no question"),
        (HEAD + "s,a,A?,yes,,1,2\ns,a,B?,yes,,2,1\n", "line 2: questions depend in a circle: 1 >"),
    ],
)
def test_files_that_make_no_sense(answers: Callable[[str], str], text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        score_samples(BOTH, f"dsg@{answers(text)}", options=OPTIONS)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't read .*none\.csv: No such file"):
        score_samples(BOTH, f"dsg@answers:{tmp_path}/none.csv", options=OPTIONS)


def test_a_relative_path_means_one_file(
    answers: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(FILE)
    monkeypatch.chdir(tmp_path)
    table = score_samples(BOTH, "dsg@answers:answers.csv", options=OPTIONS)
    signature = table.metrics["dsg"].signature
    assert signature["bb"] == "answers/answers.csv"
    assert "dtype" not in dict(signature.pairs)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(UsageError, match="can't read"):
        score_samples(BOTH, "dsg@answers:answers.csv", options=OPTIONS)


def test_the_signature_has_the_hash_of_the_answers(answers: Callable[[str], str]) -> None:
    weights = set()
    for text in (FILE, FILE.replace("Yes.", "no")):
        name = answers(text, f"{len(text)}.csv")
        weights.add(
            score_samples(BOTH, f"dsg@{name}", options=OPTIONS).metrics["dsg"].signature["w"]
        )
    assert len(weights) == 2


def test_answers_bring_their_questions() -> None:
    with pytest.raises(UsageError, match="has its own questions"):
        load_metric("dsg")(backbone="answers:a.csv", questions="q.csv")


# A model that is asked ------------------------------------------------------------------------


class Sees:
    """Answers yes to what it knows, and takes the last of the choices otherwise."""

    batch_size = 4
    device = "fake"
    info = BackboneInfo("sees", "sees", 0, {}, "any", "none", ())
    knows: tuple[str, ...] = ("dog", "ball")
    asked: list[str]

    def __init__(self) -> None:
        self.asked = []

    def prepare(self, feature: Feature, image: Any) -> Any:
        return image

    def extract(
        self, feature: Feature, inputs: Sequence[Pair], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        assert feature.kind == "answer"
        out: list[Extracted | InputError] = []
        for pair in inputs:
            question = Question.parse(pair.second)
            self.asked.append(question.text)
            best = len(question.options) - 1
            if any(word in question.text for word in self.knows):
                best = 0
            if "unanswerable" in question.text:
                out.append(InputError("failed", "no answer"))
                continue
            logs = [math.log(0.8 if i == best else 0.1) for i in range(len(question.options))]
            out.append(Extracted(np.array(logs, np.float32)))
        return out


@pytest.fixture
def sees(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[str, Sees]:
    """A backbone's name, and the model behind it."""
    model = Sees()

    def load(family: str) -> Any:
        return (lambda *_: model) if family == "sees" else load_backbone_family(family)

    monkeypatch.setitem(BACKBONES, "sees", "a test's own")
    monkeypatch.setattr("scorekit.backbones.handle.load_backbone_family", load)
    return f"sees:{request.node.name}", model


QUESTIONS = [
    {"id": "d", "question": "Is there a dog?"},
    {"id": "r", "question": "Is the dog on a ball?", "parents": ["d"]},
    {"id": "c", "question": "Is there a cat?"},
    {"id": "w", "question": "Does the cat have a ball?", "parents": ["c"]},
    {"id": "n", "question": "How many?", "choices": ["one", "two", "three"], "answer": "three"},
]


def test_own_questions_are_asked(sees: tuple[str, Sees]) -> None:
    name, model = sees
    samples = [
        Sample("a", "s", "a text", picture(1), meta={"questions": json.dumps(QUESTIONS)}),
        Sample("b", "s", "a text", picture(2), meta={"questions": ["unanswerable"]}),
        Sample("c", "s", "a text", picture(3)),
        Sample("d", "s", "a text", "none.png", meta={"questions": ["A dog?"]}),
    ]
    table = score_samples(samples, [f"dsg@{name}", f"tifa@{name}"], options=OPTIONS)
    rows = table.frame[table.frame["metric"] == "dsg"].reset_index(drop=True)
    assert rows["status"].tolist() == ["ok", "failed", "missing_input", "missing_image"]
    assert rows["value"][0] == pytest.approx(3 / 5)
    tifa = table.frame[table.frame["metric"] == "tifa"].reset_index(drop=True)
    assert tifa["value"][0] == pytest.approx(4 / 5)
    assert "questions=FILE" in rows["note"][2]
    found = {entry["id"]: entry for entry in json.loads(rows["evidence"][0])}
    assert found["n"]["answer"] == "three"
    assert found["n"]["probability"] == pytest.approx(0.8)
    assert found["d"]["probability"] == pytest.approx(0.8 / 0.9)
    assert found["w"]["correct"]
    assert not found["w"]["counted"]
    assert len(model.asked) == len(set(model.asked)) == 6


def test_questions_of_a_file_are_asked(sees: tuple[str, Sees], tmp_path: Path) -> None:
    name, _ = sees
    path = tmp_path / "q.jsonl"
    lines = [json.dumps({"text": "a text", **q, "note": "{x}\n"}) for q in QUESTIONS]
    path.write_text("\n".join(lines))
    samples = [Sample("a", "s", "a text", picture(1)), Sample("b", "s", "another", picture(1))]
    table = score_samples(samples, f"dsg:questions={path}@{name}", options=OPTIONS)
    rows = headline(table)
    assert rows["value"][0] == pytest.approx(3 / 5)
    assert rows["status"][1] == "missing_input"
    text = str(table.metrics["dsg"].signature)
    assert "bb:questions/q.jsonl" in text
    assert str(tmp_path) not in text


def test_equal_questions_of_an_image_are_asked_once(sees: tuple[str, Sees]) -> None:
    name, model = sees
    twice = [{"id": i, "question": "A dog?"} for i in "ab"]
    sample = Sample("a", "s", "a text", picture(1), meta={"questions": twice})
    rows = headline(score_samples([sample], f"dsg@{name}", options=OPTIONS))
    assert rows["value"].tolist() == [1]
    assert model.asked == ["A dog?"]


class Writes:
    """Writes one question a text, but for a text about cats."""

    device = "fake"
    batch_size = 4
    info = BackboneInfo("writes", "writes", 0, {}, "any", "", ())

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def complete(self, prompts: Sequence[str]) -> list[str | InputError]:
        self.prompts += prompts
        good = '{"questions": [{"id": 1, "parents": [0], "question": "Is there a dog?"}]}'
        return ["meow" if "a cat\n</description>" in p else good for p in prompts]


def test_questions_are_written_once_and_kept(
    sees: tuple[str, Sees], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, _ = sees
    writer = Writes()
    monkeypatch.setattr("scorekit.backbones.question_writer.load_local", lambda *_: writer)
    texts = ["a dog", "a cat", "a dog", None]
    samples = [Sample(str(i), "s", text, picture(i)) for i, text in enumerate(texts)]
    metric = f"dsg:questions=ask:hf:writes-once@{name}"
    for asked in (1 + 2, 2):  # the second time, that of the cat and its repair alone
        writer.prompts.clear()
        table = score_samples(samples, metric, options=RunOptions(cache=tmp_path / "cache"))
        rows = headline(table)
        assert rows["status"].tolist() == ["ok", "failed", "ok", "missing_text"]
        assert "could not be read" in rows["note"][1]
        assert rows["value"][0] == 1
        assert len(writer.prompts) == asked
    signature = dict(table.metrics["dsg"].signature.pairs)
    assert signature["writer"] == "1"
    assert "questions" not in signature


# The formula ----------------------------------------------------------------------------------


def test_an_unknown_parent_is_no_condition() -> None:
    assert counted({"a": True}, {"a": ["gone"]}) == {"a": True}


def test_in_a_circle_each_counts_if_the_other_is_right() -> None:
    parents = {"a": ["b"], "b": ["a"]}
    assert counted({"a": True, "b": False}, parents) == {"a": False, "b": True}


def test_no_questions_is_undefined() -> None:
    answered = [{"questions": [], "answers": [], "notes": ["why"]}]
    scores = score_questions({"answered": answered}, dependency=True)
    assert scores.undefined == {0: "there are no questions"}
    assert scores.notes == {0: "why"}
    assert np.isfinite(scores.value).all()


@pytest.mark.parametrize("name", ["dsg", "tifa"])
def test_a_plain_path_is_a_file_of_questions(name: str) -> None:
    cls = load_metric(name)
    needs = cls(questions="some/q.csv").needs
    assert needs["questions"].backbone == "questions:some/q.csv"
    assert needs["answers"].second == needs["questions"]
    assert cls(questions="ask:openai:m").needs["questions"].params == (("form", name),)
    assert cls().needs["questions"].backbone == "questions:meta"
    assert set(cls(backbone="answers:a.csv").needs) == {"answered"}
