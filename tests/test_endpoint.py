"""A model behind an endpoint, against a real server on the loopback interface."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import picture

from scorekit import registry
from scorekit.backbones import endpoint_client
from scorekit.backbones.endpoint import Endpoint, image_url, load, log_probability, parse_name
from scorekit.backbones.endpoint_client import ChatClient, Settings, TokenBucket
from scorekit.backbones.handle import unload_backbones
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.judging import judgement
from scorekit.metrics.checklist import Checklist
from scorekit.metrics.checklist_pair import ChecklistPair
from scorekit.metrics.judge import Judge
from scorekit.metrics.viescore import VIEScore
from scorekit.metrics.vqascore import VQAScore
from scorekit.run import RunOptions, score_samples
from scorekit.types import Extracted, Feature, InputError, Pair, Sample, UsageError

KEY = "sk-very-secret-0123456789"
VARIABLES = ("CONCURRENCY", "RPM", "TIMEOUT", "PRICE")

# A server that does as it is told ---------------------------------------------------------------


@dataclass
class Answer:
    """What the server sends; `drop` closes the connection instead."""

    body: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    after: float = 0.0


def said(text: str | None, tokens: tuple[int, int] | None = (100, 7), **choice: Any) -> Answer:
    body: dict[str, Any] = {
        "choices": [{"message": {"role": "assistant", "content": text}, **choice}]
    }
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return Answer(body)


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer({"error": {"message": message, "code": code}}, status, named)


def top(*tokens: tuple[str, float], spoken: str | None = None) -> Answer:
    entries = [{"token": t, "logprob": math.log(p)} for t, p in tokens]
    first = next((e for e in entries if e["token"] == spoken), entries[0])
    return said(first["token"], logprobs={"content": [{**first, "top_logprobs": entries}]})


class Server:
    """Answers in the order of `answers`, the last one for ever after; or as `react` says."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [said('{"score": [7], "reasoning": "good"}')]
        self.react: Callable[[dict[str, Any]], Answer] | None = None
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.under_way = self.most = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["content-length"])))
        with self._lock:
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            self.paths.append(request.path)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        if self.react is not None:
            answer = self.react(body)
        if answer.after:
            time.sleep(answer.after)
        with self._lock:
            self.under_way -= 1
        if answer.drop:
            request.close_connection = True
            return
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        request.send_response(answer.status)
        for name, value in {**answer.headers, "content-length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)

    def prompt(self, number: int = -1) -> str:
        return str(self.bodies[number]["messages"][0]["content"][-1]["text"])

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI_BASE_URL", "SCOREKIT_API_KEY", "http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in VARIABLES:
        monkeypatch.delenv(f"SCOREKIT_ENDPOINT_{name}", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setitem(registry.BACKBONES, "openai", "scorekit.backbones.endpoint:load")
    # No test waits between tries; what is waited for is told by the bucket's clock.
    monkeypatch.setattr(endpoint_client.random, "uniform", lambda low, high: 0.0)
    yield
    unload_backbones()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def client(server: Server, **settings: Any) -> ChatClient:
    return ChatClient(server.url, "m", Settings(**settings))


def model(server: Server, **settings: Any) -> Endpoint:
    return Endpoint(client(server, **settings))


HELLO = [{"role": "user", "content": "hello"}]
ALIGNMENT = judgement("openai:m", rubric="alignment", max_side=0)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "one.png"
    picture(1).save(path)
    return path


def row(image: Any, text: str = "a red circle", item: str = "1", **columns: Any) -> Sample:
    return Sample(item, "a", text, image, **columns)


def one(endpoint: Endpoint, feature: Feature, given: Any) -> Extracted | InputError:
    return endpoint.extract(feature, [given])[0]


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
    slow.after = 1.0
    server.answers = [slow, said("in time")]
    asked = client(server, timeout=0.3)
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
        ({"Retry_After": formatdate(time.time() + 290, usegmt=True)}, 290),
    ],
)
def test_retry_after_is_waited_for(server: Server, headers: dict[str, str], seconds: float) -> None:
    waits: list[float] = []
    server.answers = [error(429, **headers), said("fine")]
    asked = client(server)
    asked._bucket = TokenBucket(None, sleep=waits.append)
    asked.complete(HELLO, max_tokens=5)
    # A date was made when the test was read, which a loaded machine may have done long ago.
    assert len(waits) == 1
    assert seconds - (120 if seconds == 290 else 0.5) < waits[0] <= seconds


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
    server.answers = [answer]
    with pytest.raises(UsageError, match=named) as caught:
        model(server, concurrency=2).extract(ALIGNMENT, [row(image, str(i)) for i in range(50)])
    assert "\n" not in str(caught.value)
    assert len(server.bodies) < 10


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


# Content keys and the run -----------------------------------------------------------------------


def judge(prompt: str, backbone: str = "openai:m", **params: Any) -> Judge:
    return Judge(backbone=backbone, rubric="free", prompt=prompt, **params)


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


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    return RunOptions(cache=tmp_path / "cache")


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
