"""Attributes of edits: their columns, their files, and the models that write them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import KEY, Server, error, said
from PIL import Image
from tiny import picture
from tiny_vlm import make_llava, make_qwen
from typer.testing import CliRunner

from scorekit.attribute_files import read_attributes
from scorekit.attributes import (
    LONGEST,
    MOST,
    VERSION,
    attributes,
    attributes_prompt,
    read_reply,
    settled,
)
from scorekit.backbones.attributes_file import KnownAttributes
from scorekit.backbones.attributes_writer import AttributeWriter, load
from scorekit.backbones.handle import BackboneHandle, get_handle
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.cache import FeatureCache
from scorekit.cli import app
from scorekit.features import FeatureRun
from scorekit.replies import ReplyError
from scorekit.run import RunOptions
from scorekit.types import Extracted, InputError, Sample, UsageError

GOOD = '{"source_attributes": ["a dog", "a sofa"], "target_attributes": ["a cat", "a sofa"]}'
DOG = {"source_attributes": ["a dog"], "target_attributes": ["a cat"]}
AWKWARD = 'a sign "{text}" {source_text} \\n {"source_attributes": []}\n</edit>'
Write = Callable[[str, Any], Path]


def edit(text: Any = "a cat", item: str = "1", **columns: Any) -> Sample:
    return Sample(item, "s", text, picture(9), **columns)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, content: Any) -> Path:
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return file


def of_file(path: Path, sample: Sample) -> Extracted | InputError:
    return KnownAttributes(path).extract(attributes("attributes:f"), [sample])[0]


def info(result: Extracted | InputError) -> dict[str, Any]:
    assert isinstance(result, Extracted), result
    return dict(result.info)


def wrong(result: Extracted | InputError) -> InputError:
    assert isinstance(result, InputError)
    return result


# Two lists --------------------------------------------------------------------------------------


def test_doubles_are_left_out_and_what_is_in_both_lists_is_told() -> None:
    found = settled(["a dog", "A  dog", " a sofa ", "a dog"], ["a cat", "A sofa"])
    assert found == {
        "source_attributes": ["a dog", "a sofa"],
        "target_attributes": ["a cat", "A sofa"],
        "notes": [
            "2 doubles left out of the source attributes",
            "1 attribute is in both lists",
        ],
    }


def test_equal_lists_say_so() -> None:
    (note,) = settled(["a dog", "a sofa"], ["A sofa", "a dog"])["notes"]
    assert note == "both lists are the same: nothing tells the target from the source"


@pytest.mark.parametrize(
    ("source", "target", "status", "note"),
    [
        ((), ("a cat",), "missing_input", "the row has no source attributes"),
        (("a dog",), [], "missing_input", "the row has no target attributes"),
        (("a dog", 3), ("a cat",), "invalid_text", "source attributes: a int is no text"),
        (("a dog",), (None,), "invalid_text", "target attributes: a NoneType is no text"),
        (("a dog", " "), ("a cat",), "empty_text", "source attributes: the text is empty"),
        (("\ud83d",), ("a cat",), "invalid_text", "source attributes: not valid Unicode"),
        ("a dog", ("a cat",), "invalid_text", "source_attributes is a list of texts"),
    ],
)
def test_columns_that_are_of_no_use(source: Any, target: Any, status: str, note: str) -> None:
    columns = get_handle("attributes:columns").model()
    row = edit(source_attributes=source, target_attributes=target)
    found = wrong(columns.extract(attributes("attributes:columns"), [row])[0])
    assert (found.status, found.note[: len(note)]) == (status, note)


def test_columns_are_given_as_the_row_has_them() -> None:
    columns = get_handle("attributes:columns").model()
    row = edit(source_attributes=("a dog",), target_attributes=("a cat",))
    assert info(columns.extract(attributes("x"), [row])[0]) == {**DOG, "notes": []}


# Replies ----------------------------------------------------------------------------------------


def test_a_reply_in_a_fence_among_words() -> None:
    found = read_reply(f"Here {{you}} are:\n```json\n{GOOD}\n```\nBye.")
    assert found["source_attributes"] == ["a dog", "a sofa"]
    assert found["target_attributes"] == ["a cat", "a sofa"]


def reply(source: Any, target: Any) -> str:
    return json.dumps({"source_attributes": source, "target_attributes": target})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a dog, a sofa", 'no JSON object with "source_attributes"'),
        (GOOD[:-3], 'no JSON object with "source_attributes"'),
        (GOOD + GOOD, "there are 2 JSON objects"),
        ('{"source_attributes": ["a dog"]}', 'no list "target_attributes"'),
        (reply("a dog", ["a cat"]), 'no list "source_attributes"'),
        (reply(["a dog"], []), f'"target_attributes" has from 1 to {MOST} entries, not 0'),
        (reply(["a dog"], ["a"] * (MOST + 1)), f"entries, not {MOST + 1}"),
        (reply(["a dog"], [1]), 'an entry of "target_attributes": a int is no text'),
        (reply(["a dog"], [["a"]]), "a list is no text"),
        (reply([" "], ["a cat"]), "the text is empty"),
        (reply(["a dog"], ["\ud83d"]), "not valid Unicode"),
        (reply(["a" * (LONGEST + 1)], ["a cat"]), "is no short phrase"),
    ],
)
def test_replies_that_are_of_no_use(text: str, why: str) -> None:
    with pytest.raises(ReplyError) as caught:
        read_reply(text)
    assert why in str(caught.value)


def test_the_longest_reply_is_read() -> None:
    most = [f"{k:>{LONGEST}}".replace(" ", "x") for k in range(MOST)]
    assert read_reply(reply(most, most[:1]))["source_attributes"] == most


# What is asked ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [AWKWARD, "{before}", "%s ${x}", "図 é"])
def test_texts_arrive_literally(text: str) -> None:
    image = picture(1)
    prompt = attributes_prompt(edit(text, source_image=image, source_text="OLD {text}"))
    assert f"<edit>\n{text}\n</edit>" in prompt.text
    assert "<image>\nOLD {text}\n</image>" in prompt.text
    assert prompt.images == (image,)
    without = attributes_prompt(edit(text, source_image=image))
    assert "<image>" not in without.text


@pytest.mark.parametrize(
    ("sample", "status"),
    [
        (edit(), "missing_input"),
        (edit(None, source_image=picture(1)), "missing_text"),
        (edit(" ", source_image=picture(1)), "empty_text"),
        (edit(source_image=picture(1), source_text=7), "invalid_text"),
    ],
)
def test_rows_that_can_not_be_asked_about(sample: Sample, status: str) -> None:
    with pytest.raises(InputError) as caught:
        attributes_prompt(sample)
    assert caught.value.status == status


# Files ------------------------------------------------------------------------------------------

CSV = 'item,source_attributes,target_attributes\n1,a dog|a sofa,"[""a cat"", ""a|b""]"\n'


@pytest.mark.parametrize(
    ("name", "content", "target"),
    [
        ("f.json", {"1": DOG}, ["a cat"]),
        ("f.json", [{"item": "1", **DOG}], ["a cat"]),
        ("f.json", {"made_by": "x", "attributes": [{"item": "1", **DOG}]}, ["a cat"]),
        ("f.jsonl", json.dumps({"item": 1, **DOG}), ["a cat"]),
        ("f.csv", CSV, ["a cat", "a|b"]),
        ("f.json", [{"prompt": "a cat", **DOG}], ["a cat"]),
        ("f.json", {"attributes": DOG, "1": DOG}, ["a cat"]),  # an item of that name
    ],
)
def test_layouts(write: Write, name: str, content: Any, target: list[str]) -> None:
    found = info(of_file(write(name, content), edit()))
    assert found["target_attributes"] == target
    assert found["notes"] == []


def test_entries_by_source_image_and_text(write: Write) -> None:
    path = write(
        "f.json",
        [
            {"source_image": "a.png", "text": "a  cat", **DOG},
            {"source_image": "a.png", **DOG, "target_attributes": ["any"]},
            {"source_image": "x/a.png", "text": "a cat", **DOG, "target_attributes": ["inside x"]},
            {"text": "a fox", **DOG, "target_attributes": ["a fox"]},
            {"item": "7", "source_image": "a.png", "text": "a fox", **DOG},
        ],
    )

    def target(image: Any, text: str, item: str = "1") -> Any:
        row = edit(text, item, source_image=image)
        result = of_file(path, row)
        return (
            result.status if isinstance(result, InputError) else info(result)["target_attributes"]
        )

    assert target("/data/a.png", "a cat ") == ["a cat"]
    assert target(Path("/data/x/a.png"), "a cat") == ["inside x"]
    assert target("/data/yx/a.png", "a cat") == ["a cat"]
    assert target("/data/a.png", "a fox") == ["any"]
    assert target("/data/ba.png", "a fox") == ["a fox"]
    assert target(picture(1), "a fox") == ["a fox"]
    assert target("/data/ba.png", "a cat") == "missing_input"
    assert target("/data/ba.png", "a cat", "7") == ["a cat"]


def test_an_items_attributes_for_another_edit_are_noted(write: Write) -> None:
    path = write("f.json", {"1": {"text": "a cat", "source_image": "old/a.png", **DOG}})
    same = edit("a  cat", source_image="/new/a.png")
    assert info(of_file(path, same))["notes"] == []
    other = edit("a fox", source_image="/new/b.png")
    assert info(of_file(path, other))["notes"] == [
        "the attributes are those of the item, whose source image is another there",
        "the attributes are those of the item, whose text is another there",
    ]


def test_a_list_that_was_left_empty_costs_its_rows(write: Write) -> None:
    path = write("f.json", {"1": {**DOG, "target_attributes": []}, "2": DOG})
    found = wrong(of_file(path, edit()))
    assert found.status == "missing_input"
    assert found.note == "f.json, item '1': the row has no target attributes"
    missing = wrong(of_file(path, edit(item="3")))
    assert missing.note == "f.json has no attributes for item '3', nor for its edit"
    assert info(of_file(path, edit(item="2")))["source_attributes"] == ["a dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.json", '{"1":\n {"source_attributes": [}}', "f.json, line 2: not JSON"),
        ("f.json", '{"1": {}, "1": {}}', "two values for '1'"),
        ("f.json", "[]", "has no attributes"),
        ("f.json", "3", "neither a JSON list nor a JSON object"),
        ("f.json", {"1": ["a dog"]}, "item '1': not an object"),
        ("f.json", [DOG, 3], "entry 2: not an object"),
        ("f.json", [DOG], "needs a column item or source_image or text"),
        ("f.json", [{"item": "1", "source_attributes": ["x"]}], "a column target_attributes"),
        ("f.json", [{"item": "1", **DOG}, DOG], "entry 2: neither an item nor"),
        ("f.json", [{"item": "1", **DOG}] * 2, "entry 2: of the same as entry 1"),
        ("f.json", [{"text": "x", **DOG}, {"text": " x", **DOG}], "entry 2: of the same as"),
        ("f.json", {"1": {**DOG, "target_attributes": [{}]}}, "target_attributes must be a text"),
        ("f.json", {"1": {**DOG, "source_attributes": [" "]}}, "source_attributes: the text is"),
        ("f.jsonl", f'{json.dumps({"item": "1", **DOG})}\n{{"item": 2', "line 2: not JSON"),
        ("f.csv", CSV + "2,a dog,[a cat", "line 3: target_attributes starts with '['"),
        ("f.txt", "x", "is not a table"),
    ],
)
def test_files_that_are_of_no_use(write: Write, name: str, content: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_attributes(write(name, content))
    assert message in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't read"):
        read_attributes(tmp_path / "none.json")


def test_a_files_origin_is_its_content(write: Write) -> None:
    one, same, other = (
        KnownAttributes(write(f"{name}.json", {"1": {**DOG, "notes": [note]}})).info
        for name, note in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    assert one.identity == same.identity != other.identity
    assert one.remote
    assert KnownAttributes(None).info.identity not in (one.identity, other.identity)


# Behind an endpoint -----------------------------------------------------------------------------


def run_of(name: str, samples: list[Sample], folder: Path) -> list[Any]:
    feature = attributes(name)
    with FeatureCache(folder) as cache:
        (chunk,) = FeatureRun([feature], RunOptions(), cache).chunks(samples)
        return list(chunk.features[feature])


@pytest.fixture
def name(server: Server, endpoint_environment: None) -> str:
    server.answers = [said(GOOD)]
    return f"describe:openai:{server.url}#m"


def test_what_an_endpoint_is_sent(server: Server, name: str, image: Path) -> None:
    writer = get_handle(name).model()
    row = edit(AWKWARD, source_image=image, source_text="a dog on a sofa")
    found = info(writer.extract(attributes(name), [row])[0])
    assert found["target_attributes"] == ["a cat", "a sofa"]
    assert found["notes"] == ["1 attribute is in both lists"]
    (body,) = server.bodies
    shown, asked = body["messages"][0]["content"]
    assert asked["text"] == attributes_prompt(row).text
    sent = base64.b64decode(shown["image_url"]["url"].partition(";base64,")[2])
    assert sent == image.read_bytes()  # the source, not the edited image
    assert (body["temperature"], body["max_tokens"]) == (0, 1024)
    assert KEY not in json.dumps(body)


def test_a_large_image_is_sent_smaller(server: Server, name: str) -> None:
    row = edit(source_image=Image.new("RGB", (2048, 512), "red"))
    info(get_handle(name).model().extract(attributes(name), [row])[0])
    url = server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.partition(";base64,")[2])))
    assert sent.size == (1024, 256)


def test_nothing_is_paid_twice(server: Server, name: str, image: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(image.read_bytes())
    rows = [
        edit(source_image=image),
        edit(item="2", source_image=copy),  # the same edit under other names
        edit("a fox", "3", source_image=image),
        edit("a fox", "4", source_image=image, source_text="a dog"),
    ]
    first = run_of(name, rows, tmp_path / "cache")
    assert len(server.bodies) == 3
    assert [info(r)["source_attributes"] for r in first] == [["a dog", "a sofa"]] * 4
    server.answers = [error(500)]
    again = run_of(name, rows, tmp_path / "cache")
    assert [info(r) for r in again] == [info(r) for r in first]
    assert len(server.bodies) == 3


def test_garbage_is_sent_back_once(server: Server, name: str, image: Path) -> None:
    server.answers = [said('{"source_attributes": ["a dog"]}'), said(GOOD)]
    writer = get_handle(name).model()
    found = info(writer.extract(attributes(name), [edit(source_image=image)])[0])
    assert found["source_attributes"] == ["a dog", "a sofa"]
    again = server.bodies[1]["messages"][-1]["content"]
    assert 'there is no list "target_attributes"' in again
    assert '{"source_attributes": ["...", ...]' in again


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("I can't see images.", 'there is no JSON object with "source_attributes" in it'),
        ('{"source_attributes": ["a dog"]}', 'there is no list "target_attributes"'),
        (reply([], []), "entries, not 0"),
    ],
)
def test_two_replies_of_no_use_fail_the_row(
    server: Server, name: str, image: Path, tmp_path: Path, text: str, why: str
) -> None:
    server.answers = [said(text)]
    found = wrong(run_of(name, [edit(source_image=image)], tmp_path / "cache")[0])
    assert found.status == "failed"
    assert found.note.startswith("the model's reply could not be read: ")
    assert why in found.note
    assert repr(text[:20])[1:-1] in found.note
    assert len(server.bodies) == 2
    server.answers = [said(GOOD)]  # a failure is not kept
    info(run_of(name, [edit(source_image=image)], tmp_path / "cache")[0])


def test_a_server_that_is_busy_is_asked_again(server: Server, name: str, image: Path) -> None:
    server.answers = [error(429, "slow down", retry_after="0"), error(503), said(GOOD)]
    writer = get_handle(name).model()
    info(writer.extract(attributes(name), [edit(source_image=image)])[0])
    usage = writer.usage()
    assert (usage["calls"], usage["retries"]) == (1, 2)


def test_a_server_that_stays_busy_fails_the_row(server: Server, name: str, image: Path) -> None:
    server.answers = [error(429, f"slow down, {KEY}")]
    writer = get_handle(name).model()
    found = wrong(writer.extract(attributes(name), [edit(source_image=image)])[0])
    assert found.status == "failed"
    assert "429: slow down, [key]" in found.note
    assert len(server.bodies) == 5


def test_rows_that_lack_something_cost_no_call(
    server: Server, name: str, image: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:60])
    rows = [
        edit(),
        edit(None, source_image=image),
        edit(source_image=tmp_path / "none.png"),
        edit(source_image=broken),
    ]
    writer = get_handle(name).model()
    results = writer.extract(attributes(name), rows)
    assert [wrong(r).status for r in results] == [
        "missing_input",
        "missing_text",
        "missing_image",
        "unreadable_image",
    ]
    assert server.bodies == []
    found = run_of(name, [*rows, edit(source_image=image)], tmp_path / "cache")
    assert [type(r).__name__ for r in found] == ["InputError"] * 4 + ["Extracted"]


def test_the_origin_is_told(name: str, server: Server) -> None:
    spec = BackboneSpec.parse(name)
    model = BackboneHandle(spec, BackboneOptions()).model()
    assert spec.label == f"describe/openai/{server.url}#m"
    assert model.info.identity == "unverified"
    assert model.info.facts["describer"] == str(VERSION)
    inner = get_handle(name.removeprefix("describe:")).model()
    assert model.fingerprint != inner.fingerprint


@pytest.mark.parametrize("name", ["describe:questions:meta", "describe:attributes:columns"])
def test_what_writes_no_attributes(name: str) -> None:
    with pytest.raises(UsageError, match="what writes attributes is openai:MODEL"):
        load(BackboneSpec.parse(name), BackboneOptions())


def test_other_features_are_a_usage_error(name: str, image: Path) -> None:
    from scorekit.judging import judgement

    for backbone in (name, "attributes:columns"):
        model = get_handle(backbone).model()
        with pytest.raises(UsageError, match="no judgement"):
            model.extract(judgement(backbone), [edit(source_image=image)])


# Local models -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> AttributeWriter:
    folder = make_llava(tmp_path_factory.mktemp("vlm") / "llava", limit=4096)
    spec = BackboneSpec.parse(f"describe:hf:{folder}")
    return load(spec, BackboneOptions(device="cpu"))


@pytest.fixture
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorekit.backbones.attributes_writer.MAX_TOKENS", 6)


@pytest.mark.usefixtures("short_replies")
def test_garbage_of_a_local_model_fails_the_row(llava: AttributeWriter) -> None:
    rows = [
        edit(source_image=picture(1)),
        edit(),
        edit("a red <eos> circle", source_image=picture(1)),
    ]
    results = [wrong(r) for r in llava.extract(attributes("x"), rows)]
    assert [r.status for r in results] == ["failed", "missing_input", "invalid_text"]
    assert "the model's reply could not be read" in results[0].note


def test_a_local_models_origin_is_told(llava: AttributeWriter) -> None:
    assert llava.info.facts == {"preset": "llava-1.5", "describer": str(VERSION)}
    assert llava.info.identity == llava.model.info.identity
    assert llava.fingerprint != llava.model.info.fingerprint
    assert not llava.info.remote


def test_a_local_model_is_told_what_was_wrong(
    llava: AttributeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    replies = iter(["a dog", GOOD])

    def said_by(image: Image.Image, text: str, **_: Any) -> str:
        assert image.size == picture(1).size
        prompts.append(text)
        return next(replies)

    monkeypatch.setattr(llava.model.model, "reply", said_by)  # type: ignore[attr-defined]
    row = edit(source_image=picture(1))
    found = info(llava.extract(attributes("x"), [row])[0])
    assert found["source_attributes"] == ["a dog", "a sofa"]
    assert prompts[0] == attributes_prompt(row).text
    assert prompts[1].startswith(prompts[0] + "\n\nYou replied")
    assert "<reply>\na dog\n</reply>" in prompts[1]
    assert "Answer again" in prompts[1]


@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_a_reply_is_the_models_own_greedy_one(tmp_path: Path, family: str) -> None:
    """Against the argmax of plain forwards, token by token; the image makes a difference."""
    import torch

    from scorekit.backbones.hf import load as load_hf
    from scorekit.backbones.vlm import square

    folder = make_llava(tmp_path) if family == "llava" else make_qwen(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"repetition_penalty": 9.0}))
    model = load_hf(BackboneSpec.parse(f"hf:{folder}"), BackboneOptions(device="cpu"))
    from scorekit.backbones.question_writer import GREEDY

    def reply_to(seed: int) -> str:
        return str(model.reply(picture(seed), "a red dog", max_new_tokens=5, **GREEDY))

    template = model._probed()
    shown = square(picture(1), model.mean_colour()) if template.square else picture(1)
    prompt = model.render(template, "a red dog", with_image=True)
    ids: list[int] = []
    with torch.inference_mode():
        for _ in range(5):
            ids.append(int(model._plain(shown, prompt, ids)[-1].argmax()))
            if ids[-1] == model.tokenizer.eos_token_id:
                break
    assert reply_to(1) == model.tokenizer.decode(ids, skip_special_tokens=True)
    assert len({reply_to(seed) for seed in range(6)}) > 1


def test_a_prompt_over_the_limit_is_an_error_of_the_row(tmp_path: Path) -> None:
    folder = make_llava(tmp_path, limit=64)
    writer = load(BackboneSpec.parse(f"describe:hf:{folder}"), BackboneOptions(device="cpu"))
    found = wrong(writer.extract(attributes("x"), [edit(source_image=picture(1))])[0])
    assert found.status == "text_too_long"
    assert "the model reads 64" in found.note


def test_a_model_that_writes_nothing_is_refused(tiny_clip: str) -> None:
    with pytest.raises(UsageError, match="what writes attributes"):
        load(BackboneSpec.parse(f"describe:{tiny_clip}"), BackboneOptions(device="cpu"))


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    """Two items of two systems; the second item's source is missing."""
    (tmp_path / "src").mkdir()
    picture(1).save(tmp_path / "src" / "1.png")
    lines = ["image,source_image,text,item,system"]
    for system in ("a", "b"):
        for item, text in (("1", "a cat"), ("2", "a fox")):
            picture(5).save(tmp_path / f"{system}{item}.png")
            lines.append(f"{system}{item}.png,src/{item}.png,{text},{item},{system}")
    path = tmp_path / "edits.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_attributes_are_written_once_reviewed_and_read(
    server: Server, name: str, edits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "attrs.json"
    command = ["attributes", str(edits), "--with", name, "-o", str(out), "--json", "-q"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1, result.output
    told = json.loads(result.stdout)
    assert (told["items"], told["usage"]["calls"]) == (1, 1)
    assert told["made_by"] == f"describe/openai/{server.url}#m|w:unverified|describer:1"
    assert [f["status"] for f in told["failed"]] == ["missing_image"] * 2
    assert "2 of 4 rows have no attributes" in result.stderr
    written = json.loads(out.read_text("utf-8"))
    assert written["made_by"] == told["made_by"]
    (entry,) = written["attributes"]
    assert entry == {
        "item": "1",
        "source_image": "src/1.png",
        "text": "a cat",
        "source_attributes": ["a dog", "a sofa"],
        "target_attributes": ["a cat", "a sofa"],
        "notes": ["1 attribute is in both lists"],
    }
    row = edit(source_image=str(tmp_path / "src" / "1.png"))
    assert info(of_file(out, row))["notes"] == ["1 attribute is in both lists"]
    # A file that people mended is not lost; and what was paid for is not paid again.
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, UsageError)
    assert "--overwrite replaces it" in str(again.exception)
    picture(2).save(tmp_path / "src" / "2.png")
    full = CliRunner().invoke(app, [*command, "--overwrite"])
    assert full.exit_code == 0, full.output
    assert json.loads(full.stdout)["usage"]["calls"] == 1
    assert [e["item"] for e in json.loads(out.read_text("utf-8"))["attributes"]] == ["1", "2"]


def test_nothing_is_written_where_all_failed(
    server: Server, name: str, edits: Path, tmp_path: Path
) -> None:
    server.answers = [said("no")]
    out = tmp_path / "attrs.json"
    result = CliRunner().invoke(app, ["attributes", str(edits), "--with", name, "-o", str(out)])
    assert result.exit_code == 1
    assert "nothing was written" in result.stdout
    assert "a/1: failed: the model's reply could not be read" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [("attrs.csv", "must end in .json"), ("none/attrs.json", "no such folder")],
)
def test_places_that_can_not_be_written(edits: Path, out: str, message: str) -> None:
    place = str(edits.parent / out)
    command = ["attributes", str(edits), "--with", "attributes:columns", "-o", place]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_an_item_of_two_edits_is_refused(write: Write, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "item": "1", "system": system, "text": text, **DOG}
        for system, text in (("a", "a cat"), ("b", "a fox"))
    ]
    table = write("t.jsonl", "\n".join(map(json.dumps, rows)))
    command = ["attributes", str(table), "--with", "attributes:columns"]
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "o.json")])
    assert isinstance(result.exception, UsageError)
    assert "item '1' stands for two edits" in str(result.exception)


# In a metric ------------------------------------------------------------------------------------


def test_signatures_tell_the_attributes_of_one_file_from_those_of_another(
    write: Write, tiny_clip: str
) -> None:
    from scorekit.run import score_samples

    row = edit(source_image=picture(1))
    signatures, values = [], []
    for k, target in enumerate((["a cat"], ["a fox"])):
        folder = write(f"f{k}.json", {"1": {**DOG, "target_attributes": target}})
        metric = f"augclip:attributes=attributes:{folder}@{tiny_clip}"
        table = score_samples([row], metric, options=RunOptions(cache=False, device="cpu"))
        frame = table.frame[table.frame["metric"] == "augclip"]
        assert frame["status"].tolist() == ["ok"], frame["note"].tolist()
        values.append(frame["value"].iloc[0])
        signatures.append(str(table.signatures["augclip"]))
    assert all(f"attributes/f{k}.json|w:" in signatures[k] for k in (0, 1))
    one, other = (s.replace("f0.json", "f").replace("f1.json", "f") for s in signatures)
    assert one != other
    assert values[0] != values[1]
