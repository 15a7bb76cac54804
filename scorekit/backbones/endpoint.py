"""A model behind an OpenAI-compatible endpoint: judgements, completions, answers. No torch.

``openai:MODEL`` asks ``OPENAI_BASE_URL``, else OpenAI itself; ``openai:URL#MODEL`` asks that
server (``openai:http://127.0.0.1:8000/v1#llava``). `endpoint_client` has the variables.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import string
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import ExifTags, Image

from scorekit.backbones.endpoint_client import DEFAULT_URL, ChatClient, Settings
from scorekit.backbones.files import short_hash
from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.images import as_uint8, content_key, decode, read_bytes
from scorekit.judging import Message, Prompt, converse, fill, prompt_of
from scorekit.presets import Preset, preset_named
from scorekit.questions import YES_NO, Question
from scorekit.types import Extracted, Feature, ImageLike, InputError, Pair, Sample, UsageError

MAX_TOKENS = 1024
"""Longest reply of a judge; enough for a checklist's answers with a reason."""

TOP = 20
"""Tokens whose probability is asked for: the most that the API allows."""

_EMPTY = np.zeros(0, np.float32)
_PROTOCOL = 1
"""Raised whenever what is sent for the same parameters changes: it is in the fingerprint."""

_MIME = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (8, b"WEBP", "image/webp"),
    (0, b"GIF8", "image/gif"),
)


class Endpoint:
    """A model that is asked over HTTP.

    Parameters
    ----------
    client : ChatClient
    facts : mapping of str to str, optional
        What signatures show beside the backbone's name.
    """

    device = "endpoint"

    def __init__(self, client: ChatClient, facts: Mapping[str, str] | None = None) -> None:
        self._client = client
        # What runs behind a URL can't be verified: the same name may become another model.
        self.info = BackboneInfo(
            fingerprint=short_hash(["openai", client.url, client.model, _PROTOCOL]),
            identity="unverified",
            text_limit=0,
            constants={},
            domain="any",
            resize="none",
            files=(),
            facts=facts or {},
            remote=True,
        )
        self.batch_size = 4 * client.settings.concurrency

    @property
    def fingerprint(self) -> str:
        """Hash of URL, model and protocol."""
        return self.info.fingerprint

    def usage(self) -> dict[str, Any]:
        """Calls, tokens and cost since this was last asked."""
        return self._client.usage()

    def content_of(self, feature: Feature, sample: Sample) -> str:
        """Hash of all that is sent for a sample, images by their content.

        Raises
        ------
        InputError
            If the row lacks something, or an image can't be read.
        """
        params = dict(feature.params)
        if feature.kind == "completion":
            parts: list[Any] = [fill(params["template"], sample)]
        elif feature.kind == "judgement":
            prompt = prompt_of(params, sample)
            parts = [prompt.text, prompt.form, *map(content_key, prompt.images)]
        else:
            raise _no_such(feature)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def prepare(self, feature: Feature, image: Image.Image) -> str:
        """A decoded image as the data URL that is sent."""
        return _png_url(_shrunk(image, dict(feature.params).get("max_side", 0)))

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """What the model says of samples, or of (prepared image, text) pairs.

        Raises
        ------
        UsageError
            If no call can succeed: no server, no permission, no such model or feature.
        """
        asked: Mapping[str, Callable[[Mapping[str, Any], Any], Extracted]] = {
            "judgement": self._judge,
            "completion": self._complete,
            "answer_probability": self._answer,
            "answer": self._choose,
        }
        if feature.kind not in asked:
            raise _no_such(feature)
        return self._each(partial(asked[feature.kind], dict(feature.params)), inputs)

    def converse(
        self, prompts: Sequence[Prompt], *, max_tokens: int, max_side: int = 0
    ) -> list[Extracted | InputError]:
        """What the model says to prompts with images; see `scorekit.judging.converse`.

        Raises
        ------
        UsageError
            As `extract`.
        """
        return self._each(partial(self._converse, max_tokens, max_side), prompts)

    def _each(
        self, ask: Callable[[Any], Extracted], inputs: Sequence[Any]
    ) -> list[Extracted | InputError]:
        """Ask about several inputs at a time; the results stand in their order."""

        def one(given: Any) -> Extracted | InputError:
            try:
                return ask(given)
            except InputError as error:
                return error

        # The batch size is of no concern here: how many go at a time is for the server to bear.
        workers = min(self._client.settings.concurrency, max(1, len(inputs)))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="scorekit-endpoint")
        try:
            return list(pool.map(one, inputs))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _judge(self, params: Mapping[str, Any], sample: Sample) -> Extracted:
        """One row's judgement; its ``info`` is what `scorekit.judging` made of the reply."""
        max_tokens, max_side = params.get("max_tokens", MAX_TOKENS), params.get("max_side", 0)
        return self._converse(max_tokens, max_side, prompt_of(params, sample))

    def _converse(self, max_tokens: int, max_side: int, prompt: Prompt) -> Extracted:
        urls = [image_url(image, max_side) for image in prompt.images]

        def ask(messages: list[Message]) -> str:
            return self._text(messages, max_tokens)

        return Extracted(_EMPTY, converse(prompt, [_message(prompt.text, urls)], ask))

    def _complete(self, params: Mapping[str, Any], sample: Sample) -> Extracted:
        """The reply to a template with the row's texts in it."""
        messages = [_message(fill(params["template"], sample), [])]
        return Extracted(
            _EMPTY, {"text": self._text(messages, params.get("max_tokens", MAX_TOKENS))}
        )

    def _text(self, messages: list[Message], max_tokens: int) -> str:
        choice = self._client.complete(messages, max_tokens=max_tokens)
        content = choice["message"]["content"]
        if isinstance(content, str) and content.strip():
            # Half a surrogate pair, as JSON may have it, could be neither kept nor sent back.
            return content.encode(errors="replace").decode()
        why = choice.get("finish_reason") or choice["message"].get("refusal") or "no reason given"
        raise InputError("failed", f"the endpoint's reply is empty ({why})")

    def _answer(self, params: Mapping[str, Any], pair: Pair) -> Extracted:
        """Log of the probability that the reply's first token is the answer, for each answer."""
        preset = preset_of(params)
        both = params.get("normalize", "none") == "yes_no"
        choice = self._client.complete(
            [_message(preset.ask(pair.second), [pair.first])], max_tokens=1, top_logprobs=TOP
        )
        tokens = _first_token(choice, self._client)
        logs = []
        for answer in YES_NO if both else (preset.answer,):
            log = log_probability(tokens, answer)
            if log is None:
                raise InputError("undefined", f"{answer!r} is not among the top {TOP} tokens")
            logs.append(log)
        return Extracted(np.asarray(logs, np.float32))

    def _choose(self, params: Mapping[str, Any], pair: Pair) -> Extracted:
        """Log of the probability of each choice of a question, told by its letter or word."""
        question = Question.parse(pair.second)
        choices = question.options
        words, prompt = choices, question.prompt
        if {choice.casefold() for choice in choices} != set(YES_NO):
            # A choice of several tokens has no probability at the first: its letter has.
            words = tuple(string.ascii_uppercase[: len(choices)])
            listed = "\n".join(f"{w}. {c}" for w, c in zip(words, choices, strict=False))
            prompt = f"{question.text}\n{listed}\nAnswer with the letter alone."
        if len(words) < len(choices):
            raise InputError("failed", f"more than {len(words)} choices")
        choice = self._client.complete(
            [_message(prompt, [pair.first])], max_tokens=1, top_logprobs=TOP
        )
        tokens = _first_token(choice, self._client)
        logs = [log_probability(tokens, word) for word in words]
        if all(log is None for log in logs):
            raise InputError("undefined", f"no choice is among the top {TOP} tokens")
        array = np.asarray([-np.inf if log is None else log for log in logs], np.float32)
        return Extracted(array, {"answer": choices[int(array.argmax())]})


def preset_of(params: Mapping[str, Any]) -> Preset:
    """How an endpoint is asked for an answer's probability.

    Raises
    ------
    UsageError
        If the parameters ask for what only a model at hand can do: a server puts its own frame
        around the question, and tells the first token alone.
    """
    name = str(params.get("preset", "auto"))
    preset = preset_named("generic" if name == "auto" else name)
    if preset.frame or preset.counts_end or preset.square:
        raise UsageError(f"an endpoint can't be asked by preset={name}; preset=generic can")
    if params.get("answer_tokens") == "all":
        raise UsageError(
            "an endpoint tells the first token of an answer alone: answer_tokens=first"
        )
    if params.get("pad") == "square":
        raise UsageError("an endpoint is sent images as they are: pad=none")
    return preset.with_words(str(params.get("question", "")), str(params.get("answer", "")))


def load(spec: BackboneSpec, options: BackboneOptions) -> Endpoint:
    """The endpoint that a backbone's name means; nothing is sent yet.

    Raises
    ------
    UsageError
        If the name or a variable of the environment makes no sense.
    """
    url, model = parse_name(spec.name)
    facts = {} if spec.name.startswith(url) else {"url": url}
    return Endpoint(ChatClient(url, model, Settings.from_environment()), facts)


def parse_name(name: str) -> tuple[str, str]:
    """Base URL and model of ``MODEL`` or ``URL#MODEL``.

    Raises
    ------
    UsageError
        If the model is missing, or the URL is none, or has a password or a key in it.

    Examples
    --------
    >>> parse_name("http://127.0.0.1:8000/v1#llava")
    ('http://127.0.0.1:8000/v1', 'llava')
    """
    url, model = os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL, name
    if name.startswith(("http://", "https://")):
        url, _, model = name.partition("#")
    if not model:
        raise UsageError("an endpoint's name is openai:MODEL or openai:URL#MODEL")
    try:
        parsed = httpx2.URL(url)
        sound = parsed.scheme in ("http", "https") and bool(parsed.host)
        secret = bool(parsed.userinfo or parsed.query)
    except (httpx2.InvalidURL, ValueError):
        sound = secret = False
    if secret:  # the URL is shown in signatures: don't show this one
        raise UsageError("no password and no query in an endpoint's URL; set OPENAI_API_KEY")
    if not sound:
        raise UsageError(f"{url!r} is not the URL of an endpoint; it starts with http(s)://")
    return url.rstrip("/"), model


def image_url(image: ImageLike, max_side: int = 0) -> str:
    """An image as a data URL: a file's own bytes where a server can't misread them, else PNG.

    Parameters
    ----------
    image : path, bytes, PIL image, array or tensor
    max_side : int
        A longer image is shrunk to this; 0 leaves it.

    Raises
    ------
    InputError
        If it can't be read or decoded.
    """
    data: bytes | None = None
    if isinstance(image, str | Path):
        data = read_bytes(image)
    elif isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
    decoded = decode(data) if data is not None else Image.fromarray(as_uint8(image))
    shrunk = _shrunk(decoded, max_side)
    mime = None if data is None or shrunk is not decoded or not _is_plain(data) else _mime_of(data)
    if data is None or mime is None:
        return _png_url(shrunk)
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def log_probability(tokens: Sequence[Mapping[str, Any]], answer: str) -> float | None:
    """Log of the summed probability of a word's variants among a position's top tokens.

    Parameters
    ----------
    tokens : sequence of mappings
        ``token`` and ``logprob`` of each.
    answer : str
        Variants differ in case, and in a space before.

    Returns
    -------
    float or None
        At most 0; None where no token is a variant.

    Examples
    --------
    >>> top = [{"token": "Yes", "logprob": math.log(0.5)}, {"token": " yes", "logprob": -3.0}]
    >>> round(math.exp(log_probability(top, "Yes")), 4)
    0.5498
    """
    wanted = answer.strip().casefold()
    # Some servers spell the space as their tokenizers do; NaN compares as false.
    shares = [
        math.exp(min(0.0, entry["logprob"]))
        for entry in tokens
        if entry["token"].strip(" \t\n\u2581\u0120").casefold() == wanted
        and entry["logprob"] < math.inf
    ]
    total = math.fsum(shares)
    return None if total <= 0 else min(0.0, math.log(total))


def _first_token(choice: Mapping[str, Any], client: ChatClient) -> Sequence[Mapping[str, Any]]:
    """The first position's top tokens, the one that was said among them."""
    try:
        said = choice["logprobs"]["content"][0]
        top = [_token(entry) for entry in said["top_logprobs"] or ()]
        said = _token(said)
    except (KeyError, IndexError, TypeError, ValueError):
        said = None
    if said is None:
        raise UsageError(
            f"{client.url} gives no log-probabilities of {client.model}: use a server that does "
            "(vLLM, llama.cpp, OpenAI with gpt-4o)"
        )
    if all(entry["token"] != said["token"] for entry in top):
        top.append(said)
    return top


def _token(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"token": str(entry["token"]), "logprob": float(entry["logprob"])}


def _message(text: str, urls: Sequence[str]) -> Message:
    """What the user says: images first, as most models' own templates have them."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*images, {"type": "text", "text": text}]}


def _shrunk(image: Image.Image, max_side: int) -> Image.Image:
    longest = max(image.size)
    if not max_side or longest <= max_side:
        return image
    size = (max(1, round(side * max_side / longest)) for side in image.size)
    width, height = size
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _png_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _is_plain(data: bytes) -> bool:
    """Whether a decoded file is no more than its pixels.

    What servers make of transparency, orientation, CMYK, 16 bits and animations differs.
    """
    with Image.open(io.BytesIO(data)) as image:
        return (
            image.mode in ("1", "L", "P", "RGB")
            and "transparency" not in image.info
            and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            and getattr(image, "n_frames", 1) == 1
        )


def _mime_of(data: bytes) -> str | None:
    for start, magic, mime in _MIME:
        if data.startswith(magic, start):
            return mime
    return None


def _no_such(feature: Feature) -> UsageError:
    return UsageError(
        f"an endpoint gives judgements, completions and answer probabilities; {feature.backbone} "
        f"has no {feature.kind.replace('_', ' ')}"
    )
