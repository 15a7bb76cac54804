"""Chat completions over HTTP: several at a time, retried, rate-limited, counted. No torch.

The key is read from the environment at each request, and kept nowhere.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from scorekit.types import InputError, UsageError

DEFAULT_URL = "https://api.openai.com/v1"
KEYS = ("SCOREKIT_API_KEY", "OPENAI_API_KEY")
"""Variables that may hold the key; the first one set wins."""

TRIES = 5
MAX_WAIT = 300.0
"""Seconds; a server that asks for a longer wait is not waited for."""

_SEEN_KEY = 8  # a shorter "key" (EMPTY, none) is no secret, and a word of replies perhaps
_NO_SUCH = re.compile(
    r"unsupported|not supported|does not support|unexpected|unrecognized|unknown"
    r"|not permitted|not allowed",
    re.IGNORECASE,
)
_OPTIONAL = ("seed", "temperature", "max_tokens", "logprobs")


@dataclass(frozen=True)
class Settings:
    """How an endpoint is called, from the environment.

    Attributes
    ----------
    concurrency : int
        Requests at a time: ``SCOREKIT_ENDPOINT_CONCURRENCY``.
    rpm : float or None
        Requests a minute at most: ``SCOREKIT_ENDPOINT_RPM``.
    timeout : float
        Seconds that one reply may take: ``SCOREKIT_ENDPOINT_TIMEOUT``.
    price : (float, float) or None
        Of a million prompt and completion tokens: ``SCOREKIT_ENDPOINT_PRICE=IN,OUT``.
    backoff : float
        Seconds before the second try; doubled at each further one, give or take a half.
    """

    concurrency: int = 8
    rpm: float | None = None
    timeout: float = 120.0
    price: tuple[float, float] | None = None
    backoff: float = 0.5

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings that the environment has.

        Raises
        ------
        UsageError
            If a variable is no positive number; the message names it.
        """
        concurrency = _number_of("SCOREKIT_ENDPOINT_CONCURRENCY", cls.concurrency)
        if concurrency != int(concurrency):
            raise UsageError(f"SCOREKIT_ENDPOINT_CONCURRENCY is a whole number, not {concurrency}")
        rpm = _number_of("SCOREKIT_ENDPOINT_RPM", math.inf)
        return cls(
            int(concurrency),
            None if rpm == math.inf else rpm,
            _number_of("SCOREKIT_ENDPOINT_TIMEOUT", cls.timeout),
            _price(os.environ.get("SCOREKIT_ENDPOINT_PRICE", "")),
        )


@dataclass
class Usage:
    """What has been asked of an endpoint."""

    calls: int = 0
    retries: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0


class TokenBucket:
    """Lets so many requests a minute pass, evenly; and none while the server asked for a pause.

    Parameters
    ----------
    per_minute : float or None
        None sets no limit of one's own.
    clock, sleep : callable
    """

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = math.inf if per_minute is None else per_minute / 60
        # A second's worth at once, since servers count in windows shorter than a minute too.
        self._size = max(1.0, self._rate)
        self._tokens = self._size
        self._clock, self._sleep = clock, sleep
        self._at = clock()
        self._free_at = self._at
        self._lock = threading.Lock()

    def take(self) -> None:
        """Wait until a request may be sent."""
        with self._lock:
            now = self._clock()
            wait = self._free_at - now
            if self._rate < math.inf:
                self._tokens = min(self._size, self._tokens + (now - self._at) * self._rate) - 1
                self._at = now
                wait = max(wait, -self._tokens / self._rate)
        if wait > 0:
            self._sleep(wait)

    def pause(self, seconds: float) -> None:
        """Let nothing pass for so long."""
        with self._lock:
            self._free_at = max(self._free_at, self._clock() + seconds)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why one try gave nothing."""

    note: str
    again: bool = False
    wait: float | None = None
    refused: bool = False
    changed: bool = False
    """Whether the next request leaves out what this one was refused for."""


class ChatClient:
    """Asks an OpenAI-compatible server for chat completions. Safe to call from several threads.

    Parameters
    ----------
    url : str
        Base URL: ``http://127.0.0.1:8000/v1``.
    model : str
        The model's name there.
    settings : Settings
    """

    def __init__(self, url: str, model: str, settings: Settings) -> None:
        self.url, self.model, self.settings = url, model, settings
        self._bucket = TokenBucket(settings.rpm)
        self._lock = threading.Lock()
        self._used = Usage()
        self._answered = False
        self._unknown: set[str] = set()
        self._http = httpx2.Client(
            auth=_KeyFromEnvironment(),
            timeout=httpx2.Timeout(settings.timeout, connect=min(10.0, settings.timeout)),
            limits=httpx2.Limits(max_connections=settings.concurrency),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def complete(
        self, messages: list[dict[str, Any]], *, max_tokens: int, top_logprobs: int = 0
    ) -> dict[str, Any]:
        """The first choice of the reply to messages, as JSON.

        Raises
        ------
        InputError
            ``failed`` if this call gave nothing after `TRIES` tries.
        UsageError
            If every call would fail: no such server, model or permission.
        """
        if not _key() and self.url == DEFAULT_URL:
            raise UsageError(f"{self.url} wants a key: set OPENAI_API_KEY")
        number = 1
        while True:
            outcome = self._try(self._body(messages, max_tokens, top_logprobs))
            if isinstance(outcome, dict):
                return outcome
            if outcome.changed:
                continue
            if not outcome.again or number == TRIES:
                break
            self._count(retries=1)
            wait = self.settings.backoff * 2 ** (number - 1) * random.uniform(0.5, 1.5)
            if outcome.wait is not None:
                self._bucket.pause(max(wait, outcome.wait))  # all threads: they'd be refused too
            else:
                time.sleep(wait)
            number += 1
        self._count(failed=1)
        if outcome.refused and not self._answered:
            raise UsageError(
                f"can't connect to {self.url} ({outcome.note}): is the server running? Set "
                "OPENAI_BASE_URL, or write openai:URL#MODEL"
            )
        tries = "" if number == 1 else f" ({number} tries)"
        raise InputError("failed", f"the endpoint gave no reply{tries}: {outcome.note}")

    def usage(self) -> dict[str, Any]:
        """What was asked since this was last called: one run's calls, tokens and cost.

        Returns
        -------
        dict
            ``cost`` is that of the calls that were answered; None without a price, or where a
            reply told no tokens. ``not_accepted`` are parameters that the server refused and
            that were left out.
        """
        with self._lock:
            used, self._used = self._used, Usage()
            left_out = sorted(self._unknown)
        price = self.settings.price
        cost = None
        if price is not None and not used.uncounted:
            cost = (used.prompt_tokens * price[0] + used.completion_tokens * price[1]) / 1e6
        return {
            "calls": used.calls,
            "retries": used.retries,
            "failed": used.failed,
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "calls_without_counts": used.uncounted,
            "price_per_million": None if price is None else list(price),
            "cost": cost,
            "not_accepted": left_out,
        }

    def _body(
        self, messages: list[dict[str, Any]], max_tokens: int, top_logprobs: int
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        if "temperature" not in self._unknown:
            body["temperature"] = 0
        if "seed" not in self._unknown:
            body["seed"] = 0
        # What reasoning models of OpenAI call it; other servers know the old name alone.
        limit = "max_completion_tokens" if "max_tokens" in self._unknown else "max_tokens"
        body[limit] = max_tokens
        if top_logprobs:
            body.update(logprobs=True, top_logprobs=top_logprobs)
        return body

    def _try(self, body: Mapping[str, Any]) -> dict[str, Any] | _Failure:
        """Send a request once. An exception that knows the request must not get out of here."""
        self._bucket.take()
        failure: _Failure | None = None
        try:
            response = self._http.post(f"{self.url}/chat/completions", json=body)
            text = redact(response.text)
        except httpx2.TimeoutException as error:
            refused = isinstance(error, httpx2.ConnectTimeout)
            failure = _Failure(f"no answer in time ({type(error).__name__})", True, refused=refused)
        except httpx2.TransportError as error:
            refused = isinstance(error, httpx2.ConnectError)
            failure = _Failure(f"{type(error).__name__}: {error}", True, refused=refused)
        except httpx2.HTTPError as error:
            failure = _Failure(f"{type(error).__name__}: {error}")
        if failure is not None:
            return replace(failure, note=redact(failure.note))
        self._answered = True
        if response.status_code == 200:
            return self._read(text)
        return self._refusal(response.status_code, response.headers, text, body)

    def _read(self, text: str) -> dict[str, Any] | _Failure:
        """The first choice of a reply; its tokens are counted."""
        reply = _json(text)
        try:
            choice = reply["choices"][0]
            choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            self._count(calls=1, uncounted=1)
            return _Failure(f"a reply that is no chat completion: {text[:120]!r}")
        counts = reply.get("usage")
        counts = counts if isinstance(counts, dict) else {}
        spent = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
        known = [n if isinstance(n, int) else 0 for n in spent]
        missing = int(any(not isinstance(n, int) for n in spent))
        self._count(calls=1, prompt_tokens=known[0], completion_tokens=known[1], uncounted=missing)
        return dict(choice)

    def _refusal(
        self, status: int, headers: Mapping[str, str], text: str, body: Mapping[str, Any]
    ) -> _Failure:
        """What a status other than 200 means: for this call, or for the whole run."""
        said = _message(text)
        told = f"{status}: {said}" if said else str(status)
        if status in (401, 403):
            raise UsageError(
                f"{self.url} refuses the key ({told}): set {' or '.join(reversed(KEYS))}"
            )
        if status == 404 or 300 <= status < 400:
            raise UsageError(
                f"{self.url} has no chat completions of a model {self.model!r} ({told}): set "
                "OPENAI_BASE_URL to the URL that ends in /v1, or name another model"
            )
        if status == 429 and "insufficient_quota" in text:
            raise UsageError(f"the account at {self.url} has no quota left ({told})")
        if status in (408, 425, 429) or status >= 500:
            wait = _retry_after(headers)
            if wait is not None and wait > MAX_WAIT:
                return _Failure(f"{told}; it asks to wait {wait:.0f} s")
            return _Failure(told, True, wait)
        for name in _OPTIONAL if status in (400, 422) else ():
            if re.search(rf"\b{name}\b", said) and _NO_SUCH.search(said):
                if name == "logprobs":
                    raise UsageError(
                        f"{self.url} gives no log-probabilities of {self.model} ({told}): use "
                        "another server or model"
                    )
                if name in body:
                    with self._lock:
                        self._unknown.add(name)
                    return _Failure(told, changed=True)
        return _Failure(told)

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, n in more.items():
                setattr(self._used, name, getattr(self._used, name) + n)


class _KeyFromEnvironment(httpx2.Auth):
    """Puts the key into a request as it is sent."""

    def auth_flow(self, request: httpx2.Request) -> Any:
        if key := _key():
            request.headers["Authorization"] = f"Bearer {key}"
        yield request


def redact(text: str) -> str:
    """A server's text without the key, should the server repeat it."""
    key = _key()
    return text.replace(key, "[key]") if len(key) >= _SEEN_KEY else text


def _key() -> str:
    """The key, or nothing where none is set."""
    for name in KEYS:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                # The HTTP library would quote it in its own complaint.
                raise UsageError(f"{name} holds characters that no key has")
            return key
    return ""


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _message(text: str) -> str:
    """What a server says of an error, in one short line."""
    found = _json(text)
    if isinstance(found, dict):
        error = found.get("error", found.get("detail", found.get("message", "")))
        if isinstance(error, dict):
            error = error.get("message", "")
        text = str(error)
    return " ".join(text.split())[:200]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait."""
    try:
        if given := headers.get("retry-after-ms"):
            return max(0.0, float(given) / 1000)
        given = headers.get("retry-after")
        if not given:
            return None
        if re.fullmatch(r"[0-9.]+", given.strip()):
            return float(given)
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _number_of(name: str, default: float) -> float:
    given = os.environ.get(name)
    return _number(name, given) if given else default


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{name} has to be a positive number, not {text!r}")
    return value


def _price(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        paid, got = (float(part) for part in text.split(","))
    except ValueError:
        paid = got = math.nan
    if not (0 <= paid < math.inf and 0 <= got < math.inf):
        raise UsageError(f"SCOREKIT_ENDPOINT_PRICE is IN,OUT of a million tokens, not {text!r}")
    return paid, got
