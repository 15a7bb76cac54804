"""A chat server on the loopback interface that does as it is told, and what asks it."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scorekit.backbones.endpoint import Endpoint
from scorekit.backbones.endpoint_client import ChatClient, Settings
from scorekit.judging import judgement
from scorekit.metrics.judge import Judge
from scorekit.types import Extracted, Feature, InputError, Sample

KEY = "sk-very-secret-0123456789"
VARIABLES = ("CONCURRENCY", "RPM", "TIMEOUT", "PRICE")
HELLO = [{"role": "user", "content": "hello"}]
ALIGNMENT = judgement("openai:m", rubric="alignment", max_side=0)


# The server -------------------------------------------------------------------------------------


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


# What asks it -----------------------------------------------------------------------------------


def client(server: Server, **settings: Any) -> ChatClient:
    return ChatClient(server.url, "m", Settings(**settings))


def model(server: Server, **settings: Any) -> Endpoint:
    return Endpoint(client(server, **settings))


def judge(prompt: str, backbone: str = "openai:m", **params: Any) -> Judge:
    return Judge(backbone=backbone, rubric="free", prompt=prompt, **params)


def row(image: Any, text: str = "a red circle", item: str = "1", **columns: Any) -> Sample:
    return Sample(item, "a", text, image, **columns)


def one(endpoint: Endpoint, feature: Feature, given: Any) -> Extracted | InputError:
    return endpoint.extract(feature, [given])[0]
