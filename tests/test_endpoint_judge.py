"""Judgements and answers of a model behind an endpoint, and the metrics made of them."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import ALIGNMENT, Answer, Server, error, judge, model, one, row, said, top
from PIL import Image
from tiny import picture

from scorekit.backbones.endpoint import image_url, log_probability
from scorekit.backbones.handle import unload_backbones
from scorekit.judging import judgement
from scorekit.metrics.checklist import Checklist
from scorekit.metrics.checklist_pair import ChecklistPair
from scorekit.metrics.judge import Judge
from scorekit.metrics.viescore import VIEScore
from scorekit.metrics.vqascore import VQAScore
from scorekit.run import RunOptions, score_samples
from scorekit.types import Extracted, Feature, InputError, Pair, UsageError

pytestmark = pytest.mark.usefixtures("endpoint_environment")


# What is asked, and what is read ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ['say "{text}"', '{"score": [10]} } {', "two\nlines\r\n\t\\n", "%s ${x} {source_text}", "図 é"],
)
def test_texts_arrive_literally(server: Server, image: Path, text: str) -> None:
    one(model(server), ALIGNMENT, row(image, text, source_text="OLD"))
    assert f"<text>\n{text}\n</text>" in server.prompt()
    assert "OLD" not in server.prompt()


def test_a_free_prompt_is_all_that_is_sent(server: Server, image: Path) -> None:
    server.answers = [said(" 6\n")]
    metric = Judge(
        backbone="openai:m",
        rubric="free",
        prompt='Rate from 0 to 10 how well this figure shows "{text}".',
    )
    result = one(model(server), metric.needs["judgement"], row(image, "a {red} circle"))
    assert isinstance(result, Extracted)
    assert result.info["scores"] == [6.0]
    assert server.prompt() == 'Rate from 0 to 10 how well this figure shows "a {red} circle".'


def test_a_completion_is_the_text_of_the_reply(server: Server) -> None:
    server.answers = [said("Is there a circle?\nIs it red?")]
    feature = Feature("completion", "openai:m", "sample", (("template", "Ask about: {text}"),))
    result = one(model(server), feature, row(None))
    assert isinstance(result, Extracted)
    assert result.info == {"text": "Is there a circle?\nIs it red?"}
    assert server.prompt() == "Ask about: a red circle"


def test_a_repair_is_a_second_call(server: Server, image: Path) -> None:
    server.answers = [said("I'd say 7/10"), said('```json\n{"score": [7]}\n```')]
    endpoint = model(server)
    result = one(endpoint, ALIGNMENT, row(image))
    assert isinstance(result, Extracted)
    assert result.info == {"scores": [7.0], "reasoning": "", "repaired": True}
    first, reply, again = server.bodies[1]["messages"]
    assert first == server.bodies[0]["messages"][0]
    assert reply == {"role": "assistant", "content": "I'd say 7/10"}
    assert "could not be read" in again["content"]
    usage = endpoint.usage()
    assert (usage["calls"], usage["retries"]) == (2, 0)


def test_two_replies_that_can_not_be_read_fail_the_row(server: Server, image: Path) -> None:
    server.answers = [said("seven")]
    result = one(model(server), ALIGNMENT, row(image))
    assert isinstance(result, InputError)
    assert result.status == "failed"
    assert "the judge's reply could not be read" in result.note


def test_half_a_surrogate_pair_in_a_reply_does_no_harm(
    server: Server, image: Path, options: RunOptions
) -> None:
    bad, good = said("\ud83d seven"), said('{"score": [7], "reasoning": "so \\ud83d"}')
    server.answers = [bad, good]
    metric = Judge(backbone=f"openai:{server.url}#m")
    table = score_samples([row(image)], [metric], options=options)
    assert table.frame["value"].tolist() == [7.0]
    assert server.bodies[1]["messages"][1]["content"] == "? seven"


# Images -----------------------------------------------------------------------------------------


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def content_of_url(url: str) -> tuple[str, bytes]:
    head, _, data = url.partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WebP", "GIF"])
def test_a_files_own_bytes_are_sent(format: str) -> None:
    data = encoded(picture(3), format)
    assert content_of_url(image_url(data)) == (f"image/{format.lower()}", data)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(3).resize((8, 4)), "JPEG", exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        encoded(picture(3), "BMP"),
        encoded(picture(3), "TIFF"),
        encoded(picture(3).convert("RGBA"), "PNG"),
        encoded(picture(3).convert("CMYK"), "JPEG"),
        encoded(picture(3).convert("I;16"), "PNG"),
        encoded(picture(3), "GIF", save_all=True, append_images=[picture(4)]),
        turned(),
    ],
    ids=["bmp", "tiff", "alpha", "cmyk", "16 bits", "animation", "orientation"],
)
def test_what_servers_may_read_otherwise_is_sent_as_scorekit_sees_it(data: bytes) -> None:
    from scorekit.images import as_uint8

    mime, sent = content_of_url(image_url(data))
    assert mime == "image/png"
    np.testing.assert_array_equal(as_uint8(sent), as_uint8(data))


def test_arrays_and_pil_images_are_sent_as_png() -> None:
    array = np.asarray(picture(5))
    for given in (array, picture(5)):
        mime, sent = content_of_url(image_url(given))
        assert mime == "image/png"
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sent))), array)


@pytest.mark.parametrize(
    ("size", "limit", "sent"),
    [((64, 32), 16, (16, 8)), ((32, 64), 16, (8, 16)), ((64, 1), 16, (16, 1)), ((8, 8), 16, None)],
)
def test_a_long_image_is_shrunk(
    size: tuple[int, int], limit: int, sent: tuple[int, int] | None
) -> None:
    data = encoded(Image.new("RGB", size), "PNG")
    _, got = content_of_url(image_url(data, limit))
    assert Image.open(io.BytesIO(got)).size == (sent or size)
    assert (got == data) == (sent is None)


def test_an_unreadable_image_costs_its_row_and_no_call(server: Server, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(encoded(picture(1), "PNG")[:60])
    endpoint = model(server)
    results = endpoint.extract(ALIGNMENT, [row(broken), row(tmp_path / "none.png")])
    assert [r.status for r in results if isinstance(r, InputError)] == [
        "unreadable_image",
        "missing_image",
    ]
    assert server.bodies == []


# Answer probabilities ---------------------------------------------------------------------------


def answer_feature(**params: Any) -> Feature:
    return Feature("answer_probability", "openai:m", "image", tuple(sorted(params.items())))


def test_variants_of_the_answer_are_summed(server: Server) -> None:
    server.answers = [
        top(("Yes", 0.4), ("yes", 0.1), (" Yes", 0.05), ("YES", 0.02), ("\u2581Yes", 0.01),
            ("Yes", 0.02), ("No", 0.3), ("Yesterday", 0.05))
    ]  # fmt: skip
    endpoint = model(server)
    shown = endpoint.prepare(answer_feature(), picture(1))
    result = one(endpoint, answer_feature(), Pair(shown, 'a "{red}" circle'))
    assert isinstance(result, Extracted)
    assert result.array.shape == (1,)
    assert math.exp(result.array[0]) == pytest.approx(0.6, abs=1e-6)
    body = server.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
    assert server.prompt() == 'Does this figure show "a "{red}" circle"? Please answer Yes or No.'
    assert body["messages"][0]["content"][0]["image_url"]["url"] == shown


def test_question_and_answer_are_parameters(server: Server) -> None:
    server.answers = [top(("no", 0.25), ("yes", 0.75))]
    feature = answer_feature(question="Is there {text}?", answer="No")
    result = one(model(server), feature, Pair("data:,", "a dog"))
    assert isinstance(result, Extracted)
    assert math.exp(result.array[0]) == pytest.approx(0.25)
    assert server.prompt() == "Is there a dog?"


def test_an_answer_that_is_not_among_the_top_tokens_is_undefined(server: Server) -> None:
    server.answers = [top(("No", 0.9), ("Maybe", 0.1))]
    result = one(model(server), answer_feature(), Pair("data:,", "a dog"))
    assert isinstance(result, InputError)
    assert result.status == "undefined"
    assert "not among the top 20 tokens" in result.note


@pytest.mark.parametrize(
    "answer",
    [
        said("Yes"),
        said("Yes", logprobs=None),
        said("Yes", logprobs={"content": []}),
        error(400, "logprobs is not supported by this model"),
    ],
)
def test_a_server_without_log_probabilities_ends_the_run(server: Server, answer: Answer) -> None:
    server.answers = [answer]
    with pytest.raises(UsageError, match="gives no log-probabilities"):
        one(model(server), answer_feature(), Pair("data:,", "a dog"))


@pytest.mark.parametrize("logprob", [math.nan, -math.inf, math.inf, -99999.0])
def test_a_strange_log_probability_counts_for_nothing(logprob: float) -> None:
    assert log_probability([{"token": "Yes", "logprob": logprob}], "Yes") is None


def test_rounding_never_gives_more_than_one() -> None:
    tokens = [{"token": "Yes", "logprob": 1e-7}, {"token": "yes", "logprob": -10.0}]
    assert log_probability(tokens, "Yes") == 0.0


def test_yes_and_no_are_both_told(server: Server) -> None:
    server.answers = [top(("Yes", 0.5), ("No", 0.2), (" no", 0.1))]
    metric = VQAScore(backbone="openai:m", normalize="yes_no")
    result = one(model(server), metric.needs["answer"], Pair("data:,", "a dog"))
    assert isinstance(result, Extracted)
    np.testing.assert_allclose(np.exp(result.array), [0.5, 0.3], atol=1e-6)
    server.answers = [top(("Yes", 0.9), ("Maybe", 0.1))]
    one_of_them = one(model(server), metric.needs["answer"], Pair("data:,", "a dog"))
    assert isinstance(one_of_them, InputError)


@pytest.mark.parametrize(
    "params", [{"preset": "llava-1.5"}, {"answer_tokens": "all"}, {"pad": "square"}]
)
def test_what_only_a_model_at_hand_can_do_is_a_usage_error(
    server: Server, params: dict[str, Any]
) -> None:
    feature = VQAScore(backbone="openai:m", **params).needs["answer"]
    with pytest.raises(UsageError, match="an endpoint"):
        one(model(server), feature, Pair("data:,", "a dog"))
    assert server.bodies == []


def test_vqascore_of_an_endpoint(server: Server, image: Path, options: RunOptions) -> None:
    server.answers = [top(("Yes", 0.6), ("yes", 0.1), ("No", 0.3))]
    metric = VQAScore(backbone=f"openai:{server.url}#m")
    table = score_samples([row(image)], [metric], options=options)
    assert table.frame["value"].tolist() == [pytest.approx(0.7, abs=1e-6)]
    signature = str(table.signatures["vqascore"])
    assert "w:unverified" in signature
    assert "dtype" not in signature
    assert "answer_tokens:first" in signature


def test_other_features_are_a_usage_error(server: Server) -> None:
    feature = Feature("image_embedding", "openai:m", "image")
    with pytest.raises(UsageError, match="has no image embedding"):
        model(server).extract(feature, ["x"])


def test_choices_of_a_question_by_word_and_by_letter(server: Server, image: Path) -> None:
    feature = Feature("answer", "openai:m", "image")
    asked = model(server)
    first = asked.prepare(feature, picture(1))
    server.answers = [top(("Yes", 0.5), (" yes", 0.25), ("No", 0.125))]
    got = one(asked, feature, Pair(first, json.dumps({"question": "Is it red?"})))
    assert isinstance(got, Extracted)
    np.testing.assert_allclose(np.exp(got.array), [0.75, 0.125], atol=1e-6)
    assert got.info["answer"] == "yes"
    server.answers = [top(("B", 0.5), ("b", 0.25), ("C", 0.125))]
    asked_of = json.dumps(
        {"question": "Which?", "choices": ["red", "blue", "no colour"], "answer": "blue"}
    )
    got = one(asked, feature, Pair(first, asked_of))
    assert isinstance(got, Extracted)
    np.testing.assert_allclose(np.exp(got.array), [0, 0.75, 0.125], atol=1e-6)
    assert got.info["answer"] == "blue"
    said_to = server.bodies[-1]["messages"][0]["content"]
    assert "A. red\nB. blue\nC. no colour" in json.dumps(said_to).replace("\\n", "\n")
    server.answers = [top(("Maybe", 0.9))]
    lost = one(asked, feature, Pair(first, asked_of))
    assert isinstance(lost, InputError)
    assert lost.status == "undefined"


# Content keys and the run -----------------------------------------------------------------------


def test_content_is_what_is_sent_and_no_name(server: Server, image: Path, tmp_path: Path) -> None:
    endpoint = model(server)
    copy = tmp_path / "copy.png"
    copy.write_bytes(image.read_bytes())
    other = tmp_path / "other.png"
    picture(2).save(other)
    pq = judgement("openai:m", rubric="viescore_pq", max_side=0)
    base = endpoint.content_of(ALIGNMENT, row(image))
    assert endpoint.content_of(ALIGNMENT, row(copy, item="2")) == base
    assert endpoint.content_of(ALIGNMENT, row(image.read_bytes())) == base
    assert endpoint.content_of(ALIGNMENT, row(other)) != base
    assert endpoint.content_of(ALIGNMENT, row(image, "a blue circle")) != base
    assert endpoint.content_of(pq, row(image)) != base
    for prompt in ("Rate {text}", "Rate this: {text}"):
        feature = judge(prompt).needs["judgement"]
        assert endpoint.content_of(feature, row(image)) != base
    # PQ does not show the text, so the same image with another text is the same question.
    assert endpoint.content_of(pq, row(image)) == endpoint.content_of(pq, row(image, "other"))


def test_content_of_a_row_that_lacks_something_is_its_error(server: Server) -> None:
    with pytest.raises(InputError) as caught:
        model(server).content_of(ALIGNMENT, row(None))
    assert caught.value.status == "missing_image"


def test_a_second_run_makes_no_call(server: Server, image: Path, options: RunOptions) -> None:
    backbone = f"openai:{server.url}#m"
    samples = [row(image, text, text) for text in ("a red circle", "a blue square")]
    first = score_samples(samples, [Judge(backbone=backbone)], options=options)
    assert first.frame["value"].tolist() == [7.0, 7.0]
    assert len(server.bodies) == 2
    server.close()
    unload_backbones()
    second = score_samples(samples, [Judge(backbone=backbone)], options=options)
    assert second.frame["value"].tolist() == [7.0, 7.0]
    assert len(server.bodies) == 2
    assert second.run["counts"]["features_from_cache"] == 2


def test_another_prompt_or_model_is_another_call(
    server: Server, image: Path, options: RunOptions
) -> None:
    server.answers = [said("5")]
    backbone = f"openai:{server.url}#m"
    for metric in (
        judge("Rate {text}", backbone),
        judge("Rate: {text}", backbone),
        judge("Rate {text}", backbone, high=5.0),
        judge("Rate {text}", backbone, max_side=16),
        judge("Rate {text}", f"openai:{server.url}#n"),
    ):
        score_samples([row(image)], [metric], options=options)
    assert len(server.bodies) == 5
    score_samples([row(image)], [judge("Rate {text}", backbone)], options=options)
    assert len(server.bodies) == 5


def test_failed_rows_are_not_cached_and_not_zero(
    server: Server, image: Path, options: RunOptions
) -> None:
    server.answers = [said("seven")]
    metric = Judge(backbone=f"openai:{server.url}#m")
    frame = score_samples([row(image)], [metric], options=options).frame
    assert frame["status"].tolist() == ["failed"]
    assert frame["value"].isna().all()
    server.answers = [said("7")]
    frame = score_samples([row(image)], [metric], options=options).frame
    assert frame["value"].tolist() == [7.0]


def react_to_rubric(body: dict[str, Any]) -> Answer:
    """A judge that answers every rubric of scorekit's, and always prefers what it sees first."""
    text = body["messages"][0]["content"][-1]["text"]
    if "A checklist for it" in text:
        return said('{"answers": ["yes", "no"], "score": 6, "reasoning": "so"}')
    if "A++" in text:
        return said('{"reasoning": "first", "choice": "A+"}')
    if "how natural it looks" in text:
        return said('{"score": [9, 10], "reasoning": "clean"}')
    return said('{"score": [4], "reasoning": "half of it"}')


def test_the_four_metrics_in_one_run(server: Server, image: Path, options: RunOptions) -> None:
    server.react = react_to_rubric
    backbone = f"openai:{server.url}#m"
    sample = row(
        image, meta={"checklist": '["Is it red?", "Is it big?"]'}, reference_images=(image,)
    )
    metrics = [m(backbone=backbone) for m in (Judge, VIEScore, Checklist, ChecklistPair)]
    table = score_samples([sample], metrics, options=options)
    values = dict(zip(table.frame["metric"], table.frame["value"], strict=True))
    assert values["judge"] == 4
    assert values["viescore"] == 6
    assert values["viescore.pq"] == 9
    assert values["checklist"] == 2
    assert values["checklist.passed"] == 0.5
    assert values["checklist_pair"] == 0
    assert values["checklist_pair.row_first"] == 0.5
    assert values["checklist_pair.baseline_first"] == -0.5
    evidence = dict(zip(table.frame["metric"], table.frame["evidence"], strict=True))
    assert json.loads(evidence["checklist"])["checklist"] == [
        {"item": "Is it red?", "answer": "yes"},
        {"item": "Is it big?", "answer": "no"},
    ]
    assert json.loads(evidence["viescore"])["sc"]["reasoning"] == "half of it"
    assert len(server.bodies) == 6


def test_rows_that_lack_something_cost_no_call(
    server: Server, image: Path, options: RunOptions
) -> None:
    server.react = react_to_rubric
    backbone = f"openai:{server.url}#m"
    metrics = [
        VIEScore(backbone=backbone, task="edit"),
        Checklist(backbone=backbone),
        ChecklistPair(backbone=backbone),
    ]
    frame = score_samples([row(image)], metrics, options=options).frame
    assert set(frame["status"]) == {"missing_input"}
    assert len(server.bodies) <= 1  # PQ has all it needs
