"""Questions: their files, their dependencies, and the text models that write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.question_writer import QuestionWriter, load, prompt_of, read_reply
from scorekit.backbones.questions_file import KnownQuestions
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.question_files import read_questions
from scorekit.questions import Question, graph_faults, questions_of
from scorekit.registry import BACKBONES
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError

AWKWARD = 'a sign that says "{text}" \\n {"questions": []}\nand </description> on two lines'
QUESTIONS = Feature("questions", "questions:meta", "sample")


@pytest.fixture(autouse=True)
def _families(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, module in (("ask", "question_writer"), ("openai", "endpoint")):
        monkeypatch.setitem(BACKBONES, family, f"scorekit.backbones.{module}:load")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return file


def asked(path: Path, item: str = "a", text: str | None = None) -> Sequence[Question]:
    found = read_questions(path).find(item, text)
    assert found is not None
    return found.questions


# One question ---------------------------------------------------------------------------------


def test_question_round_trip() -> None:
    question = Question("q1", AWKWARD, "ja", ("ja", "nein, | {x}"), ("0a",), "other")
    assert Question.parse(question.dumps()) == question
    assert Question.parse(question.asked).prompt == question.prompt


def test_what_is_asked_is_equal_for_questions_that_differ_in_the_rest() -> None:
    one, other = Question("1", "A dog?", parents=("2",)), Question("7", "A dog?", "no")
    assert one.asked == other.asked


@pytest.mark.parametrize("choices", [(), ("yes", "no"), ("No", "Yes")])
def test_prompt_of_a_yes_no_question(choices: tuple[str, ...]) -> None:
    question = Question("1", "Is there a {dog}?", choices[0] if choices else "yes", choices)
    assert question.prompt == "Is there a {dog}? Please answer yes or no."


@pytest.mark.parametrize(
    ("given", "expected", "right"),
    [
        ("yes", "yes", True),
        ("Yes.", "yes", True),
        ("yes, it is", "yes", True),
        ("no bananas", "no", True),
        ("not at all", "no", False),
        ("", "yes", False),
        ("  ", "yes", False),
        ("Dark  red", "dark red", True),
        ("red", "dark red", False),
        ("unsuitable", "yes", False),
    ],
)
def test_is_right(given: str, expected: str, right: bool) -> None:
    assert Question("1", "?", expected).is_right(given) is right


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "JSON list"),
        ("[]", "at least one"),
        ("Is there a dog?", "JSON list"),
        ([3], "question 1: a question is a text or an object"),
        ([{"question": " "}], "question 1: the question is empty"),
        ([{"question": "?", "answer": True}], "answer is a text, not True"),
        ([{"question": "?", "answer": "red"}], "needs choices"),
        ([{"question": "?", "answer": "red", "choices": ["a", "b"]}], "none of the choices"),
        ([{"question": "?", "choices": ["a", "a"], "answer": "a"}], "there twice"),
        ([{"question": "?", "choices": ["a"], "answer": "a"}], "no choice"),
        ([{"question": "?", "id": 1}, {"question": "!", "id": 1}], "two questions have the id 1"),
        ([{"question": "?", "parents": [2]}], "depends on 2, which is no question"),
        ([{"question": "?", "id": "x", "parents": ["x"]}], "question x depends on itself"),
    ],
)
def test_questions_that_make_no_sense(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        questions_of(given)


def test_circles_are_named_and_what_hangs_on_them_is_not() -> None:
    parents = {"1": (), "2": ("1", "4"), "3": ("2",), "4": ("3",), "5": ("4",)}
    faults = graph_faults([Question(i, "?", parents=p) for i, p in parents.items()])
    assert faults == ["questions depend in a circle: 2 > 4 > 3 > 2"]


def test_a_long_chain_is_no_circle() -> None:
    chain = [Question(str(i), "?", parents=(str(i + 1),)) for i in range(1, 3000)]
    assert graph_faults([*chain, Question("3000", "?")]) == []


# Files ----------------------------------------------------------------------------------------


def test_dsg_file(shared_data: Path) -> None:
    file = read_questions(shared_data / "dsg" / "dsg-1k-anns.csv")
    assert len(file.sets) == 1060
    assert sum(len(s.questions) for s in file.sets) == 8182
    found = file.find("whoops_5", None)
    assert found is not None
    assert found.questions[1] == Question(
        "2", "Is the rubix cube purple?", parents=("1",), category="attribute"
    )
    assert found.notes == []


def test_faults_of_the_published_file_are_notes(shared_data: Path) -> None:
    file = read_questions(shared_data / "dsg" / "dsg-1k-anns.csv")
    notes = {s.item: s.notes for s in file.sets if s.notes}
    assert len(notes) == 47
    assert notes["tifa160_13"] == ["question 4 depends on itself"]
    assert notes["tifa160_67"] == ["question 8 depends on outside, which is no question"]
    assert notes["drawtext_45"] == ["questions depend in a circle: 10 > 11 > 10"]
    found = file.find("tifa160_13", None)
    assert found is not None
    assert found.questions[3].parents == ("1",)


def test_tifa_file(write: Callable[[str, str], Path]) -> None:
    entries = [
        {
            "id": "coco_1",
            "caption": "A red dog.",
            "question": "what colour is the dog?",
            "choices": ["red", "blue"],
            "answer": "red",
            "answer_type": "color",
        },
        {
            "id": "coco_1",
            "caption": "A red dog.",
            "question": "is there a dog?",
            "choices": ["yes", "no"],
            "answer": "yes",
            "answer_type": "animal/human",
        },
    ]
    path = write("tifa.json", json.dumps(entries))
    first, second = asked(path, "coco_1")
    assert first == Question("1", "what colour is the dog?", "red", ("red", "blue"), (), "color")
    assert second.id == "2"
    assert asked(path, "an item that it lacks", "A red dog.")[0] == first


def test_plain_table_as_csv(write: Callable[[str, str], Path]) -> None:
    path = write(
        "q.csv",
        "item,question,answer,choices,id,parents\n"
        "a,Is there a dog?,,,d,\n"
        "a,Which colour?,red,red|light blue,c,d\n"
        'a,"How {many}\n""dogs""?",1,"[1, 2]",n,"d,c"\n',
    )
    assert list(asked(path)) == [
        Question("d", "Is there a dog?"),
        Question("c", "Which colour?", "red", ("red", "light blue"), ("d",)),
        Question("n", 'How {many}\n"dogs"?', "1", ("1", "2"), ("d", "c")),
    ]


def test_plain_table_as_jsonl_by_text(write: Callable[[str, str], Path]) -> None:
    rows = [{"text": "a  dog", "question": "Is there a dog?", "parents": []}]
    path = write("q.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert asked(path, "whatever", "a dog")[0].text == "Is there a dog?"
    assert read_questions(path).find("whatever", "a cat") is None
    assert read_questions(path).find("whatever", None) is None


def test_an_item_goes_before_a_text_and_another_text_is_noted(
    write: Callable[[str, str], Path],
) -> None:
    path = write("q.csv", "item,text,question\na,a dog,A dog?\nb,a cat,A cat?\n")
    found = read_questions(path).find("a", "a cat")
    assert found is not None
    assert found.questions[0].text == "A dog?"
    assert "another" in found.notes[0]
    again = read_questions(path).find("a", "a  dog")
    assert again is not None
    assert again.notes == []


HEAD = "item,question,answer,id,parents\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", "item,text\na,b\n", "needs a column question"),
        ("q.csv", "question\nA dog?\n", "needs a column item or text"),
        ("q.csv", HEAD + "a,A dog?,,1,\n,A cat?,,1,\n", "line 3: neither an item nor a text"),
        ("q.csv", HEAD + "a,A dog?,,1,\na,,,2,\n", "line 3: the question is empty"),
        ("q.csv", HEAD + "a,A dog?,red,1,\n", "line 2: .*needs choices"),
        ("q.csv", HEAD + "a,A dog?,,1,\na,A cat?,,1,\n", r"line 3: question 1 is there twice \(l"),
        ("q.csv", HEAD + "a,A dog?,,1,\na,Red?,,2,7\n", "line 3: question 2 depends on 7"),
        ("q.csv", HEAD + "a,A?,,1,\na,B?,,2,3\na,C?,,3,2\n", "line 3: .*circle: 2 > 3 > 2"),
        ("q.csv", HEAD + "a,A?,,a b,a b\n", "line 2: question a b depends on itself"),
        ("q.csv", "item,text,question\na,b,A?\na,c,B?\n", "line 3: item a has another text"),
        ("q.json", '[{"id": "a"},\n oops]', "line 2: not JSON"),
        ("q.json", "{}", "no JSON list of questions"),
        ("q.json", "[1]", "entry 1: not an object"),
        ("q.json", '[{"id": "a", "question": "A?", "answer": 1.5}]', "entry 1: answer is a text"),
        ("q.jsonl", '{"item": "a", "question": 7.5}', "line 1: question is a text"),
        ("q.txt", "A dog?", "not a table"),
    ],
)
def test_files_that_make_no_sense(
    write: Callable[[str, str], Path], name: str, content: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_questions(write(name, content))


@pytest.mark.parametrize("name", ["none.csv", "none.json"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"can't read .*{name}: No such file"):
        read_questions(tmp_path / name)


def test_backbone_of_a_file(write: Callable[[str, str], Path]) -> None:
    path = write("q.csv", "item,question\na,A dog?\n")
    model = KnownQuestions(path)
    got, lacking = model.extract(
        QUESTIONS, [Sample("a", "s", None, None), Sample("b", "s", "text", None)]
    )
    assert isinstance(got, Extracted)
    assert [Question.parse(text) for text in got.info["texts"]] == [Question("1", "A dog?")]
    assert isinstance(lacking, InputError)
    assert lacking.status == "missing_input"
    assert "q.csv has no questions for item 'b'" in lacking.note
    path.write_text("item,question\na,A cat?\n")
    assert KnownQuestions(path).fingerprint != model.fingerprint


def test_own_questions() -> None:
    def of(**meta: Any) -> Extracted | InputError:
        return KnownQuestions(None).extract(QUESTIONS, [Sample("a", "s", None, None, meta=meta)])[0]

    for given in (["A dog?"], '["A dog?"]', [{"question": "A dog?"}]):
        got = of(questions=given)
        assert isinstance(got, Extracted)
        assert got.info["questions"][0]["question"] == "A dog?"
    for missing in ({}, {"questions": None}, {"questions": ""}, {"questions": float("nan")}):
        got = of(**missing)
        assert isinstance(got, InputError)
        assert got.status == "missing_input"
        assert "questions=FILE" in got.note
    got = of(questions='[{"question": "A dog?", "parents": [3]}]')
    assert isinstance(got, InputError)
    assert got.status == "invalid_text"
    assert "depends on 3" in got.note


# Text models ----------------------------------------------------------------------------------

GOOD = '{"questions": [{"id": 1, "tuple": "dog", "parents": [], "question": "A dog?"}]}'
CHOICE = '{"questions": [{"question": "How many?", "choices": ["1", "2"], "answer": "2"}]}'


class FakeText:
    """Replies in turn, and remembers what it was asked."""

    device = "fake"
    batch_size = 4
    info = BackboneInfo("f", "i", 0, {}, "any", "", ())

    def __init__(self, *replies: str | InputError) -> None:
        self.replies = list(replies)
        self.prompts: list[str] = []

    def complete(self, prompts: Sequence[str]) -> list[str | InputError]:
        self.prompts += prompts
        return [self.replies.pop(0) for _ in prompts]


def ask(form: str = "dsg") -> Feature:
    return Feature("questions", "ask:fake", "sample", (("form", form),))


def sample(text: str | None = "a dog") -> Sample:
    return Sample("a", "s", text, None)


@pytest.mark.parametrize("form", ["dsg", "tifa"])
def test_a_text_arrives_literally(form: str) -> None:
    model = FakeText(GOOD if form == "dsg" else CHOICE)
    QuestionWriter(model).extract(ask(form), [sample(AWKWARD)])
    assert f"<description>\n{AWKWARD}\n</description>" in model.prompts[0]


@pytest.mark.parametrize("form", ["dsg", "tifa"])
def test_the_examples_of_the_prompts_are_read_as_replies(form: str) -> None:
    examples = [line for line in prompt_of(form, "x").split("\n") if line.startswith("{")]
    assert examples
    for example in examples:
        assert len(read_reply(form, example)) >= 2


def test_replies_in_a_fence_or_among_words() -> None:
    for reply in (GOOD, f"```json\n{GOOD}\n```", f"Here {{you}} are: {GOOD} Done."):
        assert read_reply("dsg", reply) == (Question("1", "A dog?"),)
    assert read_reply("tifa", CHOICE) == (Question("1", "How many?", "2", ("1", "2")),)


@pytest.mark.parametrize(
    ("form", "reply", "message"),
    [
        ("dsg", "", "no JSON object"),
        ("dsg", GOOD[:-3], "no JSON object"),
        ("dsg", GOOD + GOOD, "2 JSON objects"),
        ("dsg", '{"questions": {}}', "not a list"),
        ("dsg", '{"questions": []}', "not a list|at least one"),
        ("dsg", '{"questions": [], "questions": []}', "twice"),
        ("dsg", '{"questions": [{"id": 1, "parents": []}]}', "the question is empty"),
        ("dsg", '{"questions": [{"question": "A?", "answer": "no"}]}', "to be answered yes"),
        ("dsg", '{"questions": [{"question": "A?", "parents": [1]}]}', "depends on itself"),
        ("tifa", GOOD, "no choices"),
        ("tifa", CHOICE.replace('"2"}', '"3"}'), "none of the choices"),
    ],
)
def test_replies_are_read_strictly(form: str, reply: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_reply(form, reply)


def test_one_repair_and_the_good_ones_are_not_asked_again() -> None:
    model = FakeText(GOOD, "oops {text}", GOOD)
    first, second = QuestionWriter(model).extract(ask(), [sample("a cat"), sample("a dog")])
    assert isinstance(first, Extracted)
    assert isinstance(second, Extracted)
    assert len(model.prompts) == 3
    assert "a dog" in model.prompts[2]
    assert "oops {text}" in model.prompts[2]
    assert "no JSON object" in model.prompts[2]


def test_a_second_bad_reply_fails_its_row() -> None:
    model = FakeText("oops", InputError("failed", "no connection"), "oops " * 50)
    bad, broken = QuestionWriter(model).extract(ask(), [sample(), sample()])
    assert isinstance(bad, InputError)
    assert bad.status == "failed"
    assert "could not be read" in bad.note
    assert len(bad.note) < 250
    assert isinstance(broken, InputError)
    assert broken.note == "no connection"


@pytest.mark.parametrize(("text", "status"), [(None, "missing_text"), (" ", "empty_text")])
def test_no_text_no_question(text: str | None, status: str) -> None:
    writer = QuestionWriter(FakeText())
    (got,) = writer.extract(ask(), [sample(text)])
    assert isinstance(got, InputError)
    assert got.status == status
    with pytest.raises(InputError):
        writer.content_of(ask(), sample(text))


def test_content_is_text_and_form() -> None:
    writer = QuestionWriter(FakeText())
    keys = [writer.content_of(ask(f), sample(t)) for f in ("dsg", "tifa") for t in ("a", "b", "a")]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("name", ["ask:open_clip:ViT-B-32/openai", "ask:questions:x.csv"])
def test_what_writes_no_texts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(BACKBONES, "questions", "scorekit.backbones.questions_file:load")
    with pytest.raises(UsageError, match="openai:MODEL or hf:NAME"):
        load(BackboneSpec.parse(name), BackboneOptions())


def test_an_endpoint_is_sent_the_prompt_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("scorekit.backbones.endpoint_client")
    sent: list[Any] = []

    def complete(self: Any, messages: list[dict[str, Any]], **_: Any) -> dict[str, Any]:
        sent.extend(messages)
        return {"message": {"content": GOOD}}

    monkeypatch.setattr(client.ChatClient, "complete", complete)
    writer = load(BackboneSpec.parse("ask:openai:http://127.0.0.1:9/v1#m"), BackboneOptions())
    (got,) = writer.extract(ask(), [sample(AWKWARD)])
    assert isinstance(got, Extracted)
    assert got.info["questions"][0]["question"] == "A dog?"
    texts = [part["text"] for message in sent for part in message["content"]]
    assert texts == [prompt_of("dsg", AWKWARD)]
    assert writer.info.remote
    assert "calls" in writer.usage()


# A local model --------------------------------------------------------------------------------

CHAT = "{% for m in messages %}{{ m.content }}{% endfor %} dog"


def make_language_model(folder: Path, *, apart: bool, chat: bool = False, limit: int = 2048) -> str:
    """A tiny language model with random weights."""
    import torch
    from tiny import save_tokenizer
    from transformers import AutoTokenizer, BartConfig, GPT2Config, GPT2LMHeadModel
    from transformers import BartForConditionalGeneration as Bart

    n = save_tokenizer(folder, limit=limit, start=False, end=apart)
    if chat:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    ends = {"bos_token_id": n - 2, "eos_token_id": n - 1, "pad_token_id": 0}
    if apart:
        config = BartConfig(
            vocab_size=n,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_position_embeddings=limit,
            decoder_start_token_id=n - 1,
            **ends,
        )
        Bart(config).save_pretrained(folder)
    else:
        GPT2LMHeadModel(
            GPT2Config(vocab_size=n, n_embd=16, n_layer=1, n_head=2, n_positions=limit, **ends)
        ).save_pretrained(folder)
    return f"ask:hf:{folder}"


@pytest.fixture
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorekit.backbones.question_writer.MAX_TOKENS", 6)


@pytest.mark.usefixtures("short_replies")
@pytest.mark.parametrize(("apart", "chat"), [(False, False), (False, True), (True, False)])
def test_garbage_of_a_local_model_fails_the_row(tmp_path: Path, apart: bool, chat: bool) -> None:
    name = make_language_model(tmp_path, apart=apart, chat=chat)
    writer = load(BackboneSpec.parse(name), BackboneOptions(device="cpu"))
    results = writer.extract(ask(), [sample(), sample(None), sample("a red <eos> circle")])
    assert [r.status for r in results if isinstance(r, InputError)] == [
        "failed",
        "missing_text",
        "invalid_text",
    ]
    replies = writer.model.complete(["a red circle", "a red circle", "two dog"])
    assert replies[0] == replies[1]
    assert all(isinstance(r, str) and len(r.split()) <= 6 for r in replies)


@pytest.mark.usefixtures("short_replies")
def test_decoding_is_greedy_whatever_the_checkpoint_asks_for(tmp_path: Path) -> None:
    name = make_language_model(tmp_path, apart=False)
    plain = load(BackboneSpec.parse(name), BackboneOptions(device="cpu"))
    own = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "num_beams": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps({**own, "no_repeat_ngram_size": 1}))
    other = load(BackboneSpec.parse(name), BackboneOptions(device="cpu"))
    assert other.model.model.generation_config.repetition_penalty == 9.0
    prompts = ["a red circle", "two", "the dog chases"]
    assert other.model.complete(prompts) == plain.model.complete(prompts)


@pytest.mark.usefixtures("short_replies")
def test_a_prompt_over_the_limit_is_an_error_of_the_row(tmp_path: Path) -> None:
    name = make_language_model(tmp_path, apart=False, limit=32)
    writer = load(BackboneSpec.parse(name), BackboneOptions(device="cpu"))
    (got,) = writer.extract(ask(), [sample()])
    assert isinstance(got, InputError)
    assert got.status == "text_too_long"
    assert len(str(writer.model.complete(["a red circle " * 10])[0]).split()) <= 2


def test_a_missing_local_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        load(BackboneSpec.parse(f"ask:hf:{tmp_path / 'none'}"), BackboneOptions())
