"""Questions that a text model writes: ``ask:openai:MODEL``, ``ask:hf:NAME`` or ``ask:hf:FOLDER``.

Two forms, in words of scorekit's own: DSG's (Cho et al., ICLR 2024, arXiv:2310.18235) goes from
atomic facts to what they rest on to yes/no questions; TIFA's (Hu et al., ICCV 2023,
arXiv:2303.11897) asks with choices. torch is imported for a local model alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from scorekit.backbones.files import checkpoint_folder, one_line_errors, weight_files
from scorekit.backbones.handle import BackboneInfo
from scorekit.backbones.questions_file import extracted
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.backbones.writer import Writer
from scorekit.inputs import text_error
from scorekit.question_files import QuestionSet
from scorekit.questions import Question, questions_of
from scorekit.replies import ReplyError, excerpt, object_with
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError

VERSION = 1
"""Raised whenever a prompt or the reading of replies changes: it is in the cache's keys."""

MAX_TOKENS = 2048
"""Longest reply: some forty questions."""

GREEDY: Mapping[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""A checkpoint's own ways of decoding forbid repetition, of which JSON is full."""

MARK = "{text}"
PROMPTS: Mapping[str, str] = {
    "dsg": (
        "Break a description of an image into atomic facts, and ask about each. Number the facts "
        "from 1. A fact is one entity, one attribute of an entity (colour, number, material, "
        "state, ...), one relation or action, or one property of the whole image (its style, "
        "say). Leave nothing out and add nothing. The parents of a fact are the numbers of the "
        "facts without which it makes no sense: an attribute rests on its entity, a relation on "
        "all that it relates; an entity rests on nothing. The question of a fact is short and is "
        "answered yes if the image shows the fact.\n\n"
        "Description: A watercolour of two red apples beside a jug.\n"
        '{"questions": ['
        '{"id": 1, "tuple": "entity (apples)", "parents": [], "question": "Are there apples?"}, '
        '{"id": 2, "tuple": "attribute, number (apples, two)", "parents": [1], "question": '
        '"Are there two apples?"}, '
        '{"id": 3, "tuple": "attribute, colour (apples, red)", "parents": [1], "question": '
        '"Are the apples red?"}, '
        '{"id": 4, "tuple": "entity (jug)", "parents": [], "question": "Is there a jug?"}, '
        '{"id": 5, "tuple": "relation (apples, jug, beside)", "parents": [1, 4], "question": '
        '"Are the apples beside the jug?"}, '
        '{"id": 6, "tuple": "global, style (watercolour)", "parents": [], "question": '
        '"Is this a watercolour?"}]}\n\n'
        "Description: Nobody sits on the bench.\n"
        '{"questions": ['
        '{"id": 1, "tuple": "entity (bench)", "parents": [], "question": "Is there a bench?"}, '
        '{"id": 2, "tuple": "attribute, state (bench, empty)", "parents": [1], "question": '
        '"Is the bench empty?"}]}\n\n'
        "Reply with the one JSON object for this description, which stands between the tags, and "
        "with nothing else.\n<description>\n{text}\n</description>"
    ),
    "tifa": (
        "Write questions that tell whether an image shows what its description says. For every "
        "thing, animal, person, activity, place, attribute, number, colour, material, shape, "
        "relation and style in it, ask one question whose answer the description states, and one "
        "yes/no question. Each has from two to four different choices, exactly one of which is "
        "right by the description; the answer is that choice, letter by letter. Ask about nothing "
        "that the description does not say.\n\n"
        "Description: Two red apples beside a jug.\n"
        '{"questions": ['
        '{"question": "Are there apples?", "choices": ["yes", "no"], "answer": "yes", '
        '"category": "food"}, '
        '{"question": "What fruit is beside the jug?", "choices": ["apples", "pears", "plums", '
        '"lemons"], "answer": "apples", "category": "food"}, '
        '{"question": "How many apples are there?", "choices": ["1", "2", "3", "5"], "answer": '
        '"2", "category": "counting"}, '
        '{"question": "What colour are the apples?", "choices": ["green", "yellow", "red"], '
        '"answer": "red", "category": "color"}, '
        '{"question": "Are the apples beside a jug?", "choices": ["yes", "no"], "answer": "yes", '
        '"category": "spatial"}]}\n\n'
        "Reply with the one JSON object for this description, which stands between the tags, and "
        "with nothing else.\n<description>\n{text}\n</description>"
    ),
}
FORMS: Mapping[str, str] = {
    "dsg": '{"questions": [{"id": 1, "parents": [ids], "question": "..."}, ...]}',
    "tifa": '{"questions": [{"question": "...", "choices": ["...", "..."], "answer": "..."}, ...]}',
}


class TextModel(Protocol):
    """What writes: a model of texts."""

    info: BackboneInfo
    device: Any
    batch_size: int

    def complete(self, prompts: Sequence[str]) -> list[str | InputError]:
        """The replies to prompts, greedily decoded."""
        ...


def load(spec: BackboneSpec, options: BackboneOptions) -> QuestionWriter:
    """Load the text model that ``ask:`` names.

    Raises
    ------
    UsageError
        If there is none, or it is of a family that writes no texts.
    """
    inner = BackboneSpec.parse(spec.name)
    if inner.family == "openai":
        return QuestionWriter(EndpointText(inner, options))
    if inner.family == "hf":
        return QuestionWriter(load_local(inner, options))
    raise UsageError(f"{spec.given}: what writes questions is openai:MODEL or hf:NAME")


class QuestionWriter(Writer):
    """Writes the questions of samples' texts; a reply that can't be read is asked for once more.

    Parameters
    ----------
    model : TextModel
    """

    def __init__(self, model: TextModel) -> None:
        super().__init__(model, "ask", "writer", VERSION)
        self.model = model

    def content_of(self, feature: Feature, sample: Sample) -> str:
        """Hash of the text, and of what it is asked with.

        Raises
        ------
        InputError
            If the row has no text.
        """
        parts = json.dumps([_form_of(feature), VERSION, MAX_TOKENS, _text_of(sample)])
        return hashlib.sha256(parts.encode()).hexdigest()

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """The questions of samples, as a file of questions gives them.

        Returns
        -------
        list
            ``failed`` where neither the first nor the second reply could be read.
        """
        form = _form_of(feature)
        out: list[Extracted | InputError | None] = [None] * len(inputs)
        prompts: dict[int, str] = {}
        for i, sample in enumerate(inputs):
            try:
                prompts[i] = prompt_of(form, _text_of(sample))
            except InputError as error:
                out[i] = error
        again: dict[int, str] = {}
        for i, reply in zip(prompts, self.model.complete(list(prompts.values())), strict=True):
            try:
                out[i] = _read(form, reply)
            except ReplyError as error:
                again[i] = repair_of(form, prompts[i], str(reply), error)
        # What could be read is kept; the others are asked together.
        replies = self.model.complete(list(again.values())) if again else []
        for i, reply in zip(again, replies, strict=True):
            try:
                out[i] = _read(form, reply)
            except ReplyError as error:
                said = excerpt(str(reply))
                note = f"the questions written could not be read: {error} (it said {said})"
                out[i] = InputError("failed", note)
        return [result for result in out if result is not None]


def prompt_of(form: str, text: str) -> str:
    """The prompt for a text, every letter of which arrives as it is.

    Examples
    --------
    >>> prompt_of("dsg", 'a sign "{text}"').endswith('a sign "{text}"\\n</description>')
    True
    """
    head, _, tail = PROMPTS[form].partition(MARK)
    return head + text + tail


def repair_of(form: str, prompt: str, reply: str, error: Exception) -> str:
    """The second prompt: the first, what was replied, and what is wrong with it."""
    return (
        f"{prompt}\n\nYou replied, between the tags:\n<reply>\n{reply}\n</reply>\n\nThis could not "
        f"be read: {error}. Reply again, with nothing but a JSON object of this form: "
        f"{FORMS[form]}."
    )


def read_reply(form: str, reply: str) -> tuple[Question, ...]:
    """The questions of a reply. Nothing is guessed, nothing left out.

    Parameters
    ----------
    form : {"dsg", "tifa"}
    reply : str
        Its one JSON object with ``questions``, perhaps in a code fence or among words.

    Raises
    ------
    ReplyError
        If there is no such object or more than one, or a question, a dependency or an answer
        in it makes no sense.

    Examples
    --------
    >>> read_reply("dsg", '{"questions": [{"id": 1, "question": "A dog?", "parents": [2]}]}')
    Traceback (most recent call last):
    scorekit.replies.ReplyError: question 1 depends on 2, which is no question
    """
    given = object_with("questions", reply)["questions"]
    try:
        questions = questions_of(given) if isinstance(given, list) else ()
    except ValueError as error:
        raise ReplyError(str(error)) from None
    if not questions:
        raise ReplyError('"questions" is not a list')
    for question in questions:
        if form == "dsg" and (question.choices or question.answer != "yes"):
            raise ReplyError(f"question {question.id} is not one to be answered yes")
        if form == "tifa" and not question.choices:
            raise ReplyError(f"question {question.id} has no choices")
    return questions


def _read(form: str, reply: str | InputError) -> Extracted | InputError:
    if isinstance(reply, InputError):
        return reply
    return extracted(QuestionSet(None, None, read_reply(form, reply)))


def _form_of(feature: Feature) -> str:
    form = str(dict(feature.params).get("form", "dsg"))
    if feature.kind != "questions" or form not in PROMPTS:
        raise UsageError(f"a writer of questions gives no {feature.kind} of the form {form}")
    return form


def _text_of(sample: Sample) -> str:
    if sample.text is None:
        raise InputError("missing_text", "the row has no text to ask about")
    if error := text_error(sample.text):
        raise error
    return sample.text


# The models -----------------------------------------------------------------------------------


class EndpointText:
    """A text model behind an OpenAI-compatible endpoint."""

    def __init__(self, spec: BackboneSpec, options: BackboneOptions) -> None:
        from scorekit.backbones.endpoint import load as load_endpoint

        self._endpoint = load_endpoint(spec, options)
        self.info: BackboneInfo = self._endpoint.info
        self.device: Any = self._endpoint.device
        self.batch_size = self._endpoint.batch_size
        self.usage = self._endpoint.usage
        # The prompt goes as the text: no brace in it can be taken for a place to fill.
        params = (("max_tokens", MAX_TOKENS), ("template", MARK))
        self._feature = Feature("completion", spec.given, "sample", params)

    def complete(self, prompts: Sequence[str]) -> list[str | InputError]:
        """The replies to prompts."""
        samples = [Sample(str(i), "", prompt, None) for i, prompt in enumerate(prompts)]
        results = self._endpoint.extract(self._feature, samples)
        return [r if isinstance(r, InputError) else str(r.info["text"]) for r in results]


def load_local(spec: BackboneSpec, options: BackboneOptions) -> LocalText:
    """Load a causal or sequence-to-sequence language model of transformers.

    Raises
    ------
    UsageError
        If it can't be had.
    """
    folder = checkpoint_folder(spec.name, allow_pickle=options.allow_pickle)
    weights = weight_files(folder, allow_pickle=options.allow_pickle)
    if not weights:
        raise UsageError(f"{folder} is no transformers checkpoint: it lacks weights")
    return LocalText(folder, weights, options)


class LocalText:
    """A language model of transformers, greedily decoded, one prompt at a time.

    A batch's padding would change the numbers in the last place, and with them a reply.
    """

    batch_size = 8

    def __init__(self, folder: Path, weights: list[Path], options: BackboneOptions) -> None:
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForSeq2SeqLM,
            AutoTokenizer,
        )

        from scorekit.backbones.dual import pick_device
        from scorekit.backbones.hf_seq2seq import NO_LIMIT, checkpoint_info
        from scorekit.backbones.loading import load_model

        self.device: Any = pick_device(options.device)
        with one_line_errors(folder.name):
            given: dict[str, Any] = {
                "local_files_only": True,
                "trust_remote_code": options.trust_remote_code,
            }
            config = AutoConfig.from_pretrained(folder, **given)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **given)
        # An encoder-decoder has room for the reply beside the prompt, not after it.
        self._apart = bool(config.is_encoder_decoder)
        kind = AutoModelForSeq2SeqLM if self._apart else AutoModelForCausalLM
        self.model = load_model(kind, folder, weights, options, self.device)
        # What tokenizers say of T5's length is no limit of the model.
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        self._limit = int(positions) if positions else NO_LIMIT
        self.info: BackboneInfo = checkpoint_info(
            folder, weights, self.model.config.to_dict(), options, limit=self._limit
        )

    def complete(self, prompts: Sequence[str]) -> list[str | InputError]:
        """The replies to prompts."""
        return [self._complete(prompt) for prompt in prompts]

    def _complete(self, prompt: str) -> str | InputError:
        import torch

        for word in self.tokenizer.all_special_tokens:
            if word in prompt:
                return InputError("invalid_text", f"the model's special token {word!r} is in it")
        try:
            inputs = self._inputs(prompt)
            length = int(inputs["input_ids"].shape[1])
            room = self._limit if self._apart else self._limit - length
            if length > self._limit or room < 1:
                note = f"the prompt has {length} tokens, the model reads {self._limit}"
                return InputError("text_too_long", note)
            with torch.inference_mode():
                ids = self.model.generate(
                    **inputs,
                    max_new_tokens=min(MAX_TOKENS, room),
                    pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
                    **GREEDY,
                )[0]
        except torch.OutOfMemoryError:
            raise UsageError(
                "one reply alone does not fit into the device's memory; try --dtype bf16 or "
                "--device cpu"
            ) from None
        except UsageError:
            raise
        except Exception as error:
            return InputError("failed", f"{type(error).__name__}: {error}")
        reply = ids if self._apart else ids[length:]
        return str(self.tokenizer.decode(reply, skip_special_tokens=True))

    def _inputs(self, prompt: str) -> dict[str, Any]:
        if self.tokenizer.chat_template:
            encoded = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            encoded = self.tokenizer(prompt, return_tensors="pt")
        names = ("input_ids", "attention_mask")
        return {name: encoded[name].to(self.device) for name in names if name in encoded}
