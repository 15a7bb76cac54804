"""The shared vocabulary: samples, features, metrics, signatures. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy.typing as npt

Array = npt.NDArray[Any]

ImageLike = Any
"""What may stand for an image: a path, a PIL image, a numpy array or a torch tensor."""


class UsageError(ValueError):
    """A mistake that concerns the whole run; the command line prints it and exits with 2."""


class InputError(Exception):
    """One input that can't be used; it becomes the `status` and `note` of its row.

    Parameters
    ----------
    status : str
        One word of `STATUSES`.
    note : str
        What is wrong, for people.
    """

    def __init__(self, status: str, note: str) -> None:
        super().__init__(f"{status}: {note}")
        self.status = status
        self.note = note

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        """It travels between processes."""
        return type(self), (self.status, self.note)


STATUSES: Mapping[str, str] = {
    "ok": "scored",
    "missing_image": "no image file where the row says",
    "unreadable_image": "the file is not an image, or is cut short",
    "oversized_image": "more pixels than the decompression-bomb limit",
    "invalid_image": "an array or tensor with a wrong shape, dtype or range",
    "missing_text": "no prompt for this image",
    "empty_text": "the prompt is empty",
    "invalid_text": "not a text, or not valid Unicode",
    "text_too_long": "longer than the model reads, and --long-text error was asked for",
    "invalid_region": "a box or mask that does not fit its image",
    "missing_input": "the metric needs a column that this row lacks (source image, references)",
    "undefined": "the formula has no value here (0/0 and the like)",
    "failed": "the model failed on this row",
    "interrupted": "the run was ended before it came to this row",
}
"""Every status that a row can have, and what it means."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to be scored, with what it is scored against.

    Attributes
    ----------
    item : str
        The prompt's identity, shared by all systems.
    system : str
        The model that generated the image.
    text : str or None
        The prompt; None where none was found.
    image : path, PIL image, array or tensor, or None
    source_image, source_text
        What an edit started from.
    references : tuple of str
        Reference texts (captions written by people).
    nouns : tuple of str
        The text's nouns, for metrics that score each by itself.
    reference_images : tuple of images
    source_attributes, target_attributes : tuple of str
        What the source image shows, and what the target text asks for, as short texts.
    mask : image or None
        Where the edit may change the image: white.
    entities : list of mappings, or the same as JSON, or None
        What the text speaks of, and boxes or masks of it: see `scorekit.entities.entities_of`.
    index : int
        Tells apart several images of one system for one item.
    meta : mapping
        Any further columns of the prompts file, kept in the table.
    """

    item: str
    system: str
    text: str | None
    image: ImageLike
    source_image: ImageLike = None
    source_text: str | None = None
    references: tuple[str, ...] = ()
    reference_images: tuple[ImageLike, ...] = ()
    nouns: tuple[str, ...] = ()
    source_attributes: tuple[str, ...] = ()
    target_attributes: tuple[str, ...] = ()
    mask: ImageLike = None
    entities: Any = None
    index: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)


Params = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """A hashable request for something computed from one field of a sample.

    Attributes
    ----------
    kind : str
        ``image_embedding``, ``text_embedding``, ...; ``value`` is the field itself.
    backbone : str or None
        The specification of the backbone that computes it; None for ``value``.
    field : str
        The sample's field. A field that holds a tuple gives one array of features a row.
        ``sample`` is a record feature: the backbone reads the sample itself (a judge that sees
        two images, a file of answers).
    params : tuple of (name, value)
        What else changes the feature, sorted by name. With the content's hash and the
        backbone's fingerprint, it makes the cache key.
    optional : bool
        A row that lacks the field is still scored: its feature is empty, and of a record
        feature ``{"error": why}``.
    second : str or Feature or None
        For a feature of a pair: the field of its text; a record feature whose ``info`` has
        the texts under ``texts`` (questions that are read or generated); or, of a text, the
        feature of the row's image that it is seen with. Of an image embedding, the texts are
        regions of the image, and each is embedded with all else black.
    given_by : Feature or None
        A record feature whose ``info`` has, under the field's name, what is taken in the
        sample's place (attributes that a model writes).
    """

    kind: str
    backbone: str | None
    field: str
    params: Params = ()
    optional: bool = False
    second: str | Feature | None = None
    given_by: Feature | None = None

    @property
    def several(self) -> bool:
        """Whether a row has a list of these rather than one."""
        return self.field in SEVERAL or self.second in SEVERAL or isinstance(self.second, Feature)

    @property
    def of_regions(self) -> bool:
        """Whether it is the embedding of parts of an image, each by itself."""
        return self.kind == "image_embedding" and isinstance(self.second, Feature)

    @property
    def ragged(self) -> bool:
        """Whether the arrays' lengths differ from input to input."""
        return self.kind in ("token_logprobs", "answer")


SEVERAL = (
    "references",
    "reference_images",
    "nouns",
    "source_attributes",
    "target_attributes",
)
"""Fields of a sample that hold a tuple."""


class Pair(NamedTuple):
    """The two inputs of a pair's feature: a prepared image or a text, and a text or an array."""

    first: Any
    second: Any


def image_embedding(backbone: str, field: str = "image", **params: Any) -> Feature:
    """Request the embedding of an image field, unnormalised, shape (d,)."""
    return Feature("image_embedding", backbone, field, tuple(sorted(params.items())))


def text_embedding(
    backbone: str, field: str = "text", *, given_by: Feature | None = None, **params: Any
) -> Feature:
    """Request the embedding of a text field, unnormalised, shape (d,)."""
    given = {name: value for name, value in params.items() if value != ""}
    asked = tuple(sorted(given.items()))
    return Feature("text_embedding", backbone, field, asked, given_by=given_by)


def model_constant(backbone: str, name: str) -> Feature:
    """Request a number of the backbone itself, such as ``logit_scale`` or ``logit_bias``."""
    return Feature("constant", backbone, name)


def answer_probability(backbone: str, field: str = "image", **params: Any) -> Feature:
    """Request the log-probabilities of an answer's tokens, given an image and a text."""
    given = tuple(sorted(params.items()))
    return Feature("answer_probability", backbone, field, given, second="text")


def token_attribution(backbone: str, *, prefix: str = "", last: int = 3) -> Feature:
    """Request what each token of the text adds to its cosine with the image.

    The metric gets the row's `Extracted`: its array (t,) is the attribution of the caption's
    tokens, and its ``info`` has ``spans`` (start and end of each in the caption's characters),
    ``cosine``, ``heads`` and ``layers``.
    """
    params = (("last", last), ("prefix", prefix))
    return Feature("token_attribution", backbone, "text", params, second=image_embedding(backbone))


def value_of(field: str) -> Feature:
    """Request a sample's field as it is: ``item``, ``system``, ``text``, ..."""
    return Feature("value", None, field)


@dataclass(frozen=True, slots=True)
class Extracted:
    """A feature of one input, with what a reader of its row should know.

    Attributes
    ----------
    array : ndarray
    info : mapping
        JSON values, such as ``{"tokens": 95, "limit": 77}`` for a text that was cut.
    """

    array: Array
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """What a metric gives for n rows.

    Attributes
    ----------
    value : array (n,)
        The headline score.
    components : mapping of str to array (n,)
        Named parts of the score, kept in the table as ``metric.part``.
    undefined : mapping of row to str
        Rows on which the formula has no value, and why.
    notes : mapping of row to str
        What a reader of the row should know.
    evidence : mapping of row to JSON value
        What the score of a row rests on (questions and answers, a judge's reasons), kept in
        the table.
    facts : mapping of str to str
        What the data contributed to the number (a gallery's size and hash): goes into the
        signature.
    part_facts : mapping of str to mapping of str to str
        The same, for one component alone.
    part_undefined : mapping of str to mapping of row to str
        Rows on which one component alone has no value, and why.
    """

    value: Array
    components: Mapping[str, Array] = field(default_factory=dict)
    undefined: Mapping[int, str] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)
    evidence: Mapping[int, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    part_facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    part_undefined: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


Features = Mapping[str, Any]
"""Features by the name a metric gave them in `needs`.

A feature of one array a row is stacked to (n, ...); one with several a row (references) is a
list of n arrays; one whose length varies is a list of arrays; a record feature is a list of n
``info`` mappings; a ``value`` is a list of n values; a ``constant`` is a float.
"""


@runtime_checkable
class Metric(Protocol):
    """A pure function from features to scores, with its name and parameters."""

    name: str
    version: int
    higher_is_better: bool
    range: tuple[float, float]
    scope: Literal["row", "set"]

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The features it needs, by the names that `score` reads."""
        ...

    def score(self, features: Features) -> Array | Scores:
        """Scores of n rows from their features."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A loaded model that turns inputs into features."""

    batch_size: int

    @property
    def fingerprint(self) -> str:
        """Architecture, hash of the weights, preprocessing and dtype, as one short hash."""
        ...

    def prepare(self, feature: Feature, image: Any) -> Any:
        """A decoded image in the form that `extract` takes; called from several threads."""
        ...

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """Features of prepared images, texts, pairs or samples, one an input, in order."""
        ...


@dataclass(frozen=True)
class Signature:
    """The recipe of a score: ordered ``key:value`` pairs, metric first, version last.

    Two scores may be compared only if their signatures are equal.

    Examples
    --------
    >>> s = Signature("clipscore", (("scale", "2.5"), ("trunc", "77(n=0)"), ("v", "1")))
    >>> str(s)
    'clipscore|scale:2.5|trunc:77(n=0)|v:1'
    >>> Signature.parse(str(s)) == s
    True
    """

    metric: str
    pairs: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "|".join([_escape(self.metric), *(f"{k}:{_escape(v)}" for k, v in self.pairs)])

    def __getitem__(self, key: str) -> str:
        return dict(self.pairs)[key]

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Read a signature back from its text.

        Raises
        ------
        UsageError
            If a part is no ``key:value``.
        """
        metric, *rest = text.split("|")
        pairs = [pair.partition(":") for pair in rest]
        for key, colon, _ in pairs:
            if not colon:
                raise UsageError(f"no signature: {key[:40]!r} is no key:value")
        return cls(_unescape(metric), tuple((k, _unescape(v)) for k, _, v in pairs))

    def differences(self, other: Signature) -> list[str]:
        """What differs between two signatures, one line a key.

        Examples
        --------
        >>> a = Signature.parse("clipscore|scale:2.5|v:1")
        >>> a.differences(Signature.parse("clipscore|scale:100|v:1"))
        ['scale: 2.5 against 100']
        """
        mine, theirs = ({"metric": s.metric, **dict(s.pairs)} for s in (self, other))
        return [
            f"{k}: {mine.get(k, '(none)')} against {theirs.get(k, '(none)')}"
            for k in dict.fromkeys([*mine, *theirs])
            if mine.get(k) != theirs.get(k)
        ]


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("|", "%7C").replace("\n", "%0A")


def _unescape(text: str) -> str:
    return text.replace("%0A", "\n").replace("%7C", "|").replace("%25", "%")


PathLike = str | Path

__all__ = [
    "STATUSES",
    "Array",
    "Backbone",
    "Extracted",
    "Feature",
    "Features",
    "ImageLike",
    "InputError",
    "Metric",
    "Pair",
    "Sample",
    "Scores",
    "Signature",
    "UsageError",
    "answer_probability",
    "image_embedding",
    "model_constant",
    "text_embedding",
    "token_attribution",
    "value_of",
]
