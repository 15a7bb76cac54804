"""Features that a row may lack, texts that another feature gives, and components alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from scorekit.backbones.handle import BackboneInfo
from scorekit.inputs import asked_of
from scorekit.metric import BaseMetric
from scorekit.registry import BACKBONES, load_backbone_family
from scorekit.run import RunOptions, score_samples
from scorekit.table import ScoreTable
from scorekit.types import (
    Extracted,
    Feature,
    Features,
    InputError,
    Sample,
    Scores,
    text_embedding,
    value_of,
)


class Teller:
    """Tells of a row the words of its source text; a text's embedding is its length."""

    batch_size = 2
    device = "cpu"
    fingerprint = "teller"
    info = BackboneInfo("teller", "teller", 0, {}, "any", "", (), remote=True)

    def __init__(self) -> None:
        self.told: list[str | None] = []
        self.read: list[str] = []

    def content_of(self, feature: Feature, sample: Sample) -> str:
        """The source text; a row without one has nothing to tell."""
        if sample.source_text is None:
            raise InputError("missing_input", "the row has no source text")
        return sample.source_text

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """Lengths of texts, or words of samples."""
        if feature.kind == "text_embedding":
            self.read += inputs
            return [Extracted(np.array([float(len(text))])) for text in inputs]
        self.told += [sample.source_text for sample in inputs]
        return [
            InputError("failed", "it said nothing")
            if sample.source_text == "broken"
            else Extracted(np.zeros(0), {"nouns": sample.source_text.split()})
            for sample in inputs
        ]


@pytest.fixture
def teller(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[str, Teller]:
    """A backbone's name, and the model behind it."""
    model = Teller()

    def load(family: str) -> Any:
        return (lambda *_: model) if family == "teller" else load_backbone_family(family)

    monkeypatch.setitem(BACKBONES, "teller", "a test's own")
    monkeypatch.setattr("scorekit.backbones.handle.load_backbone_family", load)
    return f"teller:{request.node.name}", model


@dataclass(frozen=True)
class Longest(BaseMetric):
    """The length of the longest noun: the row's own, or one that the backbone tells."""

    name = "longest"
    title = "Longest"

    backbone: str = ""
    told: bool = True

    @property
    def needs(self) -> Mapping[str, Feature]:
        """Embeddings of the nouns."""
        given = Feature("words", self.backbone, "sample") if self.told else None
        return {"nouns": text_embedding(self.backbone, "nouns", given_by=given)}

    def score(self, features: Features) -> Scores:
        """The headline, and how many nouns there are."""
        lengths = features["nouns"]
        return Scores(
            np.array([rows.max() for rows in lengths]),
            {"count": np.array([float(len(rows)) for rows in lengths])},
        )


@dataclass(frozen=True)
class Words(BaseMetric):
    """The length of the text, and as a component how many words the backbone tells."""

    name = "words"
    title = "Words"
    scope: ClassVar[Literal["row", "set"]] = "row"

    backbone: str = ""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The text, and the words where there are some."""
        words = Feature("words", self.backbone, "sample", optional=True)
        return {"text": value_of("text"), "words": words}

    def score(self, features: Features) -> Scores:
        """An empty text has no length; a row without words no count."""
        told = features["words"]
        texts = features["text"]
        return Scores(
            np.array([float(len(text)) for text in texts]),
            {
                "count": np.array([float(len(each.get("nouns", ()))) for each in told]),
                "twice": np.array([2.0 * len(text) for text in texts]),
            },
            undefined={i: "no text" for i, text in enumerate(texts) if not text},
            notes={i: "one letter" for i, text in enumerate(texts) if len(text) == 1},
            part_facts={"count": {"counted": "words"}},
            part_undefined={"count": {i: e["error"] for i, e in enumerate(told) if "error" in e}},
        )


class WordsOfAll(Words):
    """The same, scored once over the whole set."""

    scope = "set"


def row(
    item: str, text: str | None = "abc", source_text: str | None = "a bird", **more: Any
) -> Sample:
    return Sample(item, "s", text, None, source_text=source_text, **more)


def scored(samples: list[Sample], metric: BaseMetric) -> ScoreTable:
    return score_samples(samples, [metric], options=RunOptions(cache=False, device="cpu"))


def column(table: ScoreTable, metric: str) -> list[tuple[float | None, str, str]]:
    rows = table.frame[table.frame["metric"] == metric]
    return [(r.value if r.status == "ok" else None, r.status, r.note) for r in rows.itertuples()]


# Given by another feature.


def test_texts_that_a_feature_gives_take_the_place_of_the_rows_own(
    teller: tuple[str, Teller],
) -> None:
    name, model = teller
    samples = [
        row("0", source_text="a bird", nouns=("elephant",)),
        row("1", source_text="a large dog"),
        row("2", source_text="a bird"),
    ]
    table = scored(samples, Longest(name))
    assert column(table, "longest") == [(4, "ok", ""), (5, "ok", ""), (4, "ok", "")]
    assert [value for value, *_ in column(table, "longest.count")] == [2, 3, 2]
    # Each record is asked for once, and each text that they tell is read once.
    assert model.told == ["a bird", "a large dog"]
    assert sorted(model.read) == ["a", "bird", "dog", "large"]
    own = scored(samples, Longest(name, told=False))
    assert column(own, "longest") == [
        (8, "ok", ""),
        (None, "missing_input", "the row has no nouns"),
        (None, "missing_input", "the row has no nouns"),
    ]


def test_a_row_of_which_nothing_is_told_has_the_tellers_error(teller: tuple[str, Teller]) -> None:
    name, _ = teller
    samples = [row("0", source_text=None), row("1", source_text="broken"), row("2")]
    table = scored(samples, Longest(name))
    expected = [
        (None, "missing_input", "the row has no source text"),
        (None, "failed", "it said nothing"),
    ]
    assert column(table, "longest")[:2] == expected
    assert column(table, "longest.count")[:2] == expected
    assert column(table, "longest")[2] == (4, "ok", "")


def test_what_is_told_of_a_row_that_lacks_it_is_nothing(teller: tuple[str, Teller]) -> None:
    name, _ = teller
    # An empty list is told: the row has the field's own status.
    table = scored([row("0", source_text=" "), row("1")], Longest(name))
    assert column(table, "longest") == [
        (None, "missing_input", "the row has no nouns"),
        (4, "ok", ""),
    ]


def test_inputs_of_a_feature_are_the_samples_or_the_givers() -> None:
    giver = Feature("words", "b", "sample")
    given, own = text_embedding("b", "nouns", given_by=giver), text_embedding("b", "nouns")
    error = InputError("failed", "no")
    known = {giver: [Extracted(np.zeros(0), {"nouns": ["x", "y"]}), error]}
    sample = row("0", nouns=("z",))
    assert asked_of(given, sample, 0, known) == ("x", "y")
    assert asked_of(given, sample, 1, known) is error
    assert asked_of(own, sample, 0, known) == ("z",)
    # They are one model's features of texts, whoever gives these.
    assert given != own
    assert (given.kind, given.params, given.several) == (own.kind, own.params, own.several)


# Optional records, and components without a value.


@pytest.mark.parametrize("cls", [Words, WordsOfAll])
def test_a_row_without_an_optional_record_lacks_a_component(
    teller: tuple[str, Teller], cls: type[Words]
) -> None:
    name, _ = teller
    samples = [
        row("0"),
        row("1", source_text=None),
        row("2", source_text="broken", text="x"),
        row("3", text=""),
        row("4", text="", source_text=None),
    ]
    table = scored(samples, cls(name))
    missing = (None, "undefined", "the row has no source text")
    no_text = (None, "undefined", "no text")
    assert column(table, "words") == [
        (3, "ok", ""), (3, "ok", ""), (1, "ok", "one letter"), no_text, no_text,
    ]  # fmt: skip
    # Where the headline has no value, its reason is the component's.
    assert column(table, "words.count") == [
        (2, "ok", ""), missing, (None, "undefined", "it said nothing"), no_text, no_text,
    ]  # fmt: skip
    assert [value for value, *_ in column(table, "words.twice")] == [6, 6, 2, None, None]
    partial = table.partial_failures()
    assert partial[["metric", "item"]].to_numpy().tolist() == [
        ["words.count", "1"],
        ["words.count", "2"],
    ]
    assert len(table.failures()) == len(partial) + 3 * 2


def test_an_optional_record_is_in_no_signature_but_by_its_facts(
    teller: tuple[str, Teller],
) -> None:
    name, _ = teller
    signatures = scored([row("0")], Words(name)).signatures
    assert str(signatures["words"]) == "words|v:1"
    assert str(signatures["words.count"]) == "words.count|counted:words|v:1"
    assert str(signatures["words.twice"]) == "words.twice|v:1"


def test_one_row_or_many_make_no_difference(teller: tuple[str, Teller]) -> None:
    name, _ = teller
    samples = [row(str(k), source_text=None if k % 3 else "a b") for k in range(7)]
    together = column(scored(samples, Words(name)), "words.count")
    alone = [column(scored([sample], Words(name)), "words.count")[0] for sample in samples]
    assert together == alone
    assert [status for _, status, _ in together].count("ok") == 3
