"""A model behind an endpoint, against a real server on the loopback interface: the client."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
import traceback
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from loopback import (
    ALIGNMENT,
    HELLO,
    KEY,
    VARIABLES,
    Answer,
    Server,
    client,
    error,
    judge,
    model,
    one,
    row,
    said,
)

from scorekit.backbones import endpoint_client
from scorekit.backbones.endpoint import load, parse_name
from scorekit.backbones.endpoint_client import ChatClient, Settings, TokenBucket
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.metrics.judge import Judge
from scorekit.run import RunOptions, score_samples
from scorekit.types import Extracted, InputError, UsageError

pytestmark = pytest.mark.usefixtures("endpoint_environment")


# What is sent -----------------------------------------------------------------------------------


def test_a_request_is_as_the_api_has_it(server: Server, image: Path) -> None:
    result = one(model(server), ALIGNMENT, row(image))
    assert isinstance(result, Extracted)
    assert result.info == {"scores": [7.0], "reasoning": "good"}
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    body = server.bodies[0]
    assert {k: body[k] for k in body if k != "messages"} == {
        "model": "m",
        "temperature": 0,
        "seed": 0,
        "max_tokens": 1024,
    }
    shown, asked = body["messages"][0]["content"]
    head, _, sent = shown["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(sent) == image.read_bytes()
    assert asked["text"].count("\na red circle\n") == 1


def test_without_a_key_no_header_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    client(server).complete(HELLO, max_tokens=5)
    assert "Authorization" not in server.headers[0]


def test_scorekits_own_variable_wins(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREKIT_API_KEY", " sk-other-0123456789\n")
    client(server).complete(HELLO, max_tokens=5)
    assert server.headers[0]["Authorization"] == "Bearer sk-other-0123456789"


@pytest.mark.parametrize(
    ("complaint", "gone", "there"),
    [
        ("Unsupported value: 'temperature' does not support 0", "temperature", "seed"),
        ("Unexpected fields in the request: {'seed'}", "seed", "temperature"),
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "max_tokens",
            "max_completion_tokens",
        ),
    ],
)
def test_what_a_server_does_not_know_is_left_out(
    server: Server, complaint: str, gone: str, there: str
) -> None:
    server.answers = [error(400, complaint), said("a"), said("b")]
    asked = client(server)
    for _ in range(2):
        asked.complete(HELLO, max_tokens=5)
    assert gone in server.bodies[0]
    assert [gone in body for body in server.bodies[1:]] == [False, False]
    assert there in server.bodies[1]
    assert asked.usage()["not_accepted"] == [gone]


# Retries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_a_passing_error_is_tried_again(server: Server, status: int) -> None:
    server.answers = [error(status), error(status), said("fine")]
    asked = client(server)
    assert asked.complete(HELLO, max_tokens=5)["message"]["content"] == "fine"
    usage = asked.usage()
    assert (usage["calls"], usage["retries"], usage["failed"]) == (1, 2, 0)


def test_a_dropped_connection_is_tried_again(server: Server) -> None:
    server.answers = [Answer(drop=True), said("fine")]
    asked = client(server)
    assert asked.complete(HELLO, max_tokens=5)["message"]["content"] == "fine"
    assert asked.usage()["retries"] == 1


def test_a_slow_answer_is_given_up_and_asked_for_again(server: Server) -> None:
    slow = said("late")
    slow.after = 3.0
    server.answers = [slow, said("in time")]
    asked = client(server, timeout=1.0)  # in which a busy machine gives the second answer
    assert asked.complete(HELLO, max_tokens=5)["message"]["content"] == "in time"
    assert asked.usage()["retries"] == 1


def test_five_tries_and_the_row_has_failed(server: Server) -> None:
    server.answers = [error(503, "overloaded")]
    asked = client(server)
    with pytest.raises(InputError, match=r"5 tries\): 503: overloaded") as caught:
        asked.complete(HELLO, max_tokens=5)
    assert caught.value.status == "failed"
    assert len(server.bodies) == 5
    assert asked.usage()["failed"] == 1


def test_waits_grow_with_jitter(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(endpoint_client.random, "uniform", lambda low, high: (low + high) / 2)
    monkeypatch.setattr(endpoint_client.time, "sleep", waits.append)
    server.answers = [error(500)]
    with pytest.raises(InputError):
        client(server, backoff=0.25).complete(HELLO, max_tokens=5)
    assert waits == [0.25, 0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7),
        ({"Retry_After": "1.5"}, 1.5),
        ({"retry_after_ms": "250"}, 0.25),
        ({"Retry_After": "in 290 s, as a date"}, 290),
    ],
)
def test_retry_after_is_waited_for(server: Server, headers: dict[str, str], seconds: float) -> None:
    waits: list[float] = []
    if seconds == 290:
        headers = {"Retry_After": formatdate(time.time() + seconds, usegmt=True)}
    server.answers = [error(429, **headers), said("fine")]
    asked = client(server)
    asked._bucket = TokenBucket(None, clock=lambda: 0.0, sleep=waits.append)
    asked.complete(HELLO, max_tokens=5)
    assert len(waits) == 1
    # A date has whole seconds, and a loaded machine takes some of its own.
    assert seconds - (60 if seconds == 290 else 1e-9) < waits[0] <= seconds


def test_a_server_that_asks_for_no_wait_is_not_hammered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(endpoint_client.random, "uniform", lambda low, high: 1.0)
    server.answers = [error(429, Retry_After="0"), error(429, Retry_After="0"), said("fine")]
    asked = client(server, backoff=10.0)
    asked._bucket = TokenBucket(None, clock=lambda: 0.0, sleep=waits.append)
    asked.complete(HELLO, max_tokens=5)
    assert waits == [10.0, 20.0]


def test_nobody_waits_for_an_hour(server: Server) -> None:
    server.answers = [error(429, "later", Retry_After="3600")]
    with pytest.raises(InputError, match="asks to wait 3600 s"):
        client(server).complete(HELLO, max_tokens=5)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "answer",
    [
        error(400, "the image is too large"),
        error(413),
        error(422, "bad"),
        Answer(b"<html>not JSON</html>"),
        Answer({"error": {"message": "upstream"}}),
        Answer({"choices": []}),
        Answer([1]),
        said(None, finish_reason="content_filter"),
        said("  ", finish_reason="length"),
    ],
)
def test_what_no_second_try_mends_fails_the_row_at_once(
    server: Server, image: Path, answer: Answer
) -> None:
    server.answers = [answer]
    result = one(model(server), ALIGNMENT, row(image))
    assert isinstance(result, InputError)
    assert result.status == "failed"
    assert len(server.bodies) == 1


def test_one_failed_row_among_good_ones(server: Server, image: Path) -> None:
    def react(body: dict[str, Any]) -> Answer:
        bad = "row 3" in body["messages"][0]["content"][-1]["text"]
        return error(400, "no such thing") if bad else said('{"score": [8]}')

    server.react = react
    results = model(server).extract(ALIGNMENT, [row(image, f"row {i}") for i in range(6)])
    assert [isinstance(r, InputError) for r in results] == [i == 3 for i in range(6)]


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (error(401, "Incorrect API key"), "OPENAI_API_KEY"),
        (error(403, "no access"), "OPENAI_API_KEY"),
        (error(404, "no model m"), "OPENAI_BASE_URL"),
        (Answer(b"", 302, {"location": "http://example.org"}), "OPENAI_BASE_URL"),
        (error(429, "pay first", "insufficient_quota"), "no quota"),
    ],
)
def test_what_every_call_would_meet_ends_the_run(
    server: Server, image: Path, answer: Answer, named: str
) -> None:
    server.answers = [replace(answer, after=0.1)]  # the others go on until the first is heard of
    with pytest.raises(UsageError, match=named) as caught:
        model(server, concurrency=2).extract(ALIGNMENT, [row(image, str(i)) for i in range(50)])
    assert "\n" not in str(caught.value)
    assert len(server.bodies) < 20


def test_no_server_at_all_ends_the_run(server: Server, image: Path) -> None:
    server.close()
    with pytest.raises(UsageError, match=r"can't connect to .* is the server running"):
        one(model(server), ALIGNMENT, row(image))


def test_a_server_that_went_away_fails_the_row(server: Server, image: Path) -> None:
    endpoint = model(server)
    assert isinstance(one(endpoint, ALIGNMENT, row(image)), Extracted)
    server.answers = [Answer(drop=True)]
    result = one(endpoint, ALIGNMENT, row(image))
    assert isinstance(result, InputError)
    assert result.status == "failed"


def test_openai_without_a_key_is_told_before_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="set OPENAI_API_KEY"):
        ChatClient(endpoint_client.DEFAULT_URL, "m", Settings()).complete(HELLO, max_tokens=5)


# Concurrency and rate ---------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
def test_so_many_requests_are_under_way_and_no_more(
    server: Server, image: Path, concurrency: int
) -> None:
    # No reply goes out before as many requests have come in as may be under way.
    gate = threading.Barrier(concurrency, timeout=20)

    def react(body: dict[str, Any]) -> Answer:
        gate.wait()
        return said('{"score": [7]}')

    server.react = react
    endpoint = model(server, concurrency=concurrency)
    results = endpoint.extract(ALIGNMENT, [row(image, f"text {i}") for i in range(12)])
    assert all(isinstance(r, Extracted) for r in results)
    assert server.most == concurrency


def test_results_are_in_the_order_of_the_rows(server: Server, image: Path) -> None:
    def react(body: dict[str, Any]) -> Answer:
        number = int(body["messages"][0]["content"][-1]["text"].rpartition("#")[2])
        answer = said(str(number))
        answer.after = 0.02 * (10 - number)
        return answer

    server.react = react
    feature = judge("#{text}").needs["judgement"]
    results = model(server).extract(feature, [row(image, str(i)) for i in range(10)])
    assert [r.info["scores"][0] for r in results if isinstance(r, Extracted)] == list(range(10))


class Clock:
    """A clock that goes on only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("per_minute", "requests", "seconds"),
    [(60, 5, 4), (30, 4, 6), (6, 3, 20), (600, 10, 0), (600, 110, 10)],
)
def test_the_bucket_keeps_the_rate(per_minute: float, requests: int, seconds: float) -> None:
    clock = Clock()
    bucket = TokenBucket(per_minute, clock, clock.sleep)
    for _ in range(requests):
        bucket.take()
    assert clock.now == pytest.approx(seconds)


def test_an_idle_bucket_saves_up_one_second() -> None:
    clock = Clock()
    bucket = TokenBucket(120, clock, clock.sleep)
    clock.now += 1000
    for _ in range(6):
        bucket.take()
    assert clock.now == pytest.approx(1002)


def test_a_pause_holds_everybody() -> None:
    clock = Clock()
    bucket = TokenBucket(None, clock, clock.sleep)
    bucket.pause(5)
    bucket.pause(2)
    bucket.take()
    assert clock.now == 5
    bucket.take()
    assert clock.now == 5


def test_every_try_is_counted_by_the_rate(server: Server) -> None:
    clock = Clock()
    server.answers = [error(500), error(500), said("fine")]
    asked = client(server, rpm=60)
    asked._bucket = TokenBucket(60, clock, clock.sleep)
    asked.complete(HELLO, max_tokens=5)
    assert clock.now == pytest.approx(2)


# Counts and cost --------------------------------------------------------------------------------


def test_tokens_and_cost(server: Server) -> None:
    server.answers = [said("a", (1000, 10)), said("b", (2000, 30))]
    asked = client(server, price=(2.5, 10.0))
    for _ in range(2):
        asked.complete(HELLO, max_tokens=5)
    usage = asked.usage()
    assert (usage["calls"], usage["prompt_tokens"], usage["completion_tokens"]) == (2, 3000, 40)
    assert usage["cost"] == pytest.approx((3000 * 2.5 + 40 * 10) / 1e6)
    assert json.loads(json.dumps(usage)) == usage
    again = asked.usage()
    assert (again["calls"], again["prompt_tokens"], again["cost"]) == (0, 0, 0)


def test_the_cost_is_null_where_it_is_not_known(server: Server) -> None:
    asked = client(server)
    asked.complete(HELLO, max_tokens=5)
    assert asked.usage()["cost"] is None
    server.answers = [said("a", None)]
    priced = client(server, price=(1.0, 1.0))
    priced.complete(HELLO, max_tokens=5)
    usage = priced.usage()
    assert (usage["cost"], usage["calls_without_counts"]) == (None, 1)


# Names and settings -----------------------------------------------------------------------------


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_name("gpt-4o") == ("https://api.openai.com/v1", "gpt-4o")
    assert parse_name("http://h:1/v1/#org/m") == ("http://h:1/v1", "org/m")
    assert parse_name("http://h/v1#/a/folder#1") == ("http://h/v1", "/a/folder#1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1/")
    assert parse_name("m") == ("http://elsewhere/v1", "m")


@pytest.mark.parametrize(
    "name",
    [
        "http://h/v1",
        "http://h/v1#",
        "http://#m",
        "https://user:hunter2@h/v1#m",
        "https://h/v1?key=hunter2#m",
    ],
)
def test_a_wrong_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_name(name)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONCURRENCY", "0"),
        ("CONCURRENCY", "2.5"),
        ("CONCURRENCY", "many"),
        ("RPM", "-1"),
        ("RPM", "nan"),
        ("TIMEOUT", "inf"),
        ("PRICE", "1"),
        ("PRICE", "1,-2"),
        ("PRICE", "1,2,3"),
        ("PRICE", "a,b"),
    ],
)
def test_a_wrong_setting_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"SCOREKIT_ENDPOINT_{variable}", value)
    with pytest.raises(UsageError, match=f"SCOREKIT_ENDPOINT_{variable}"):
        Settings.from_environment()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment() == Settings(8, None, 120.0, None)
    for name, value in zip(VARIABLES, ("3", "90", "5", "2.5,10"), strict=True):
        monkeypatch.setenv(f"SCOREKIT_ENDPOINT_{name}", value)
    assert Settings.from_environment() == Settings(3, 90.0, 5.0, (2.5, 10.0))


def test_loading_sends_nothing_and_says_what_it_is() -> None:
    named = load(BackboneSpec.parse("openai:http://127.0.0.1:9/v1#m"), BackboneOptions())
    other = load(BackboneSpec.parse("openai:http://127.0.0.1:9/v1#n"), BackboneOptions())
    plain = load(BackboneSpec.parse("openai:m"), BackboneOptions())
    assert len({m.info.fingerprint for m in (named, other, plain)}) == 3
    info = named.info
    assert (info.identity, info.domain, info.resize, info.text_limit, info.files) == (
        "unverified",
        "any",
        "none",
        0,
        (),
    )
    assert info.remote
    assert named.device == "endpoint"
    assert not info.facts
    assert plain.info.facts == {"url": "https://api.openai.com/v1"}


# The key ----------------------------------------------------------------------------------------


def everything_of(error: BaseException) -> str:
    """An exception as any tool might print it: its chain, and the locals of scorekit's frames."""
    parts = []
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        current = todo.pop()
        if current is None or current in seen:
            continue
        seen.append(current)
        todo += [current.__cause__, current.__context__]
        parts += [str(current), repr(current), repr(vars(current))]
        told = traceback.TracebackException.from_exception(current, capture_locals=True)
        parts += [repr(f.locals) for f in told.stack if "/tests/" not in f.filename]
    return "\n".join(parts)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_a_key_that_the_server_repeats_is_in_no_error(
    server: Server, image: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers = [error(status, f"wrong key {KEY}, Bearer {KEY}")]
    caught: BaseException
    try:
        result = one(model(server), ALIGNMENT, row(image))
        assert isinstance(result, InputError)
        caught = result
    except UsageError as raised:
        caught = raised
    assert "[key]" in str(caught)
    assert KEY not in everything_of(caught)
    assert KEY not in caplog.text
    assert server.headers[0]["Authorization"].endswith(KEY)


@pytest.mark.parametrize("answer", [Answer(drop=True), Answer(KEY.encode()), said(KEY)])
def test_no_failure_has_the_key(
    server: Server, image: Path, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers = [answer]
    result = one(model(server), ALIGNMENT, row(image))
    assert isinstance(result, InputError)
    assert KEY not in everything_of(result)
    assert KEY not in caplog.text


def test_a_refused_connection_has_no_key(server: Server, image: Path) -> None:
    server.close()
    with pytest.raises(UsageError) as caught:
        one(model(server), ALIGNMENT, row(image))
    assert KEY not in everything_of(caught.value)


@pytest.mark.parametrize("key", ["sk-secret\r\nX-Evil: 1", "sk-sécret-0123", "sk-\x00secret"])
def test_a_key_that_can_not_be_sent_is_named_and_not_shown(
    server: Server, image: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    if "\x00" in key:  # no environment holds a NUL
        monkeypatch.setattr(endpoint_client.os, "environ", {"OPENAI_API_KEY": key})
    else:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match="OPENAI_API_KEY holds characters") as caught:
        one(model(server), ALIGNMENT, row(image))
    assert "secret" not in str(caught.value)
    assert server.bodies == []


def test_the_key_is_in_no_cache_record_table_or_repr(
    server: Server, image: Path, options: RunOptions, tmp_path: Path
) -> None:
    echo = json.dumps({"score": [7], "reasoning": f"your key is {KEY}"})
    server.answers = [said(echo)]
    metric = Judge(backbone=f"openai:{server.url}#m")
    table = score_samples([row(image)], [metric], options=options)
    assert table.frame["value"].tolist() == [7.0]
    table.save(tmp_path / "scores.csv")
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.suffix == ".sqlite" for p in written)
    for path in written:
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in json.dumps(table.run, default=str)
    endpoint = model(server)
    one(endpoint, ALIGNMENT, row(image))
    shown = [repr(o) for o in (endpoint, endpoint._client, vars(endpoint._client), endpoint.info)]
    shown += [json.dumps(endpoint.usage()), repr(vars(endpoint._client._http))]
    assert KEY not in "".join(shown)


def test_a_word_that_stands_in_for_a_key_is_left_in_replies(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    server.answers = [said("there are none")]
    reply = client(server).complete(HELLO, max_tokens=5)
    assert reply["message"]["content"] == "there are none"
