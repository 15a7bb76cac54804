"""Open-vocabulary detectors of transformers, which find the entities of a text in its image.

OWL-ViT and OWLv2 (Minderer et al., arXiv:2205.06230, arXiv:2306.09683) score each query by itself;
Grounding DINO (Liu et al., arXiv:2303.05499) reads all of them as one caption. An entity's place is
the box with its highest score.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scorekit.backbones.dual import pick_device
from scorekit.backbones.files import one_line_errors, short_hash
from scorekit.backbones.hf_seq2seq import checkpoint_info
from scorekit.backbones.loading import load_model, quantize
from scorekit.backbones.spec import DTYPES, BackboneOptions
from scorekit.entities import Box, Entity, entities_of, placed, size_of
from scorekit.images import as_uint8, content_key
from scorekit.inputs import missing_field, text_error
from scorekit.noun_phrases import noun_phrases, parser_version
from scorekit.types import Extracted, Feature, InputError, Sample, UsageError

VERSION = 1
"""Raised whenever queries, thresholds or the choice of boxes change: it is in the cache's keys."""

CPU_BATCH = 2
GPU_BATCH = 16

Found = tuple[Box, float]
"""A box in pixels, and the detector's score of it, 0 to 1."""


def load(folder: Path, weights: list[Path], options: BackboneOptions) -> Detector:
    """Load an open-vocabulary detector.

    Raises
    ------
    UsageError
        If it can't be loaded, or does not fit in memory.
    """
    with one_line_errors(folder.name):
        kind = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
    family = GroundingDino if kind == "grounding-dino" else Owl
    return family(folder, weights, options)


@dataclass(frozen=True)
class Search:
    """A row's entities, and which of them are to be looked for.

    Attributes
    ----------
    sample : Sample
    entities : list of Entity
    sought : list of int
        Positions of those without a place.
    notes : list of str
        What the detector does not read of them.
    """

    sample: Sample
    entities: list[Entity]
    sought: list[int]
    notes: list[str]

    @property
    def queries(self) -> list[str]:
        """The texts of what is sought."""
        return [self.entities[k].text for k in self.sought]


class Detector:
    """Base of the detectors; a family gives `look` and `limit`, and may refuse queries.

    Attributes
    ----------
    threshold : float
        What ``auto`` stands for: a lower score is no find.
    """

    threshold: float
    batch_size: int

    def __init__(self, folder: Path, weights: list[Path], options: BackboneOptions) -> None:
        from transformers import (
            AutoImageProcessor,
            AutoModelForZeroShotObjectDetection,
            AutoTokenizer,
        )

        self.options = options
        self.device = pick_device(options.device)
        self.dtype: torch.dtype = getattr(torch, DTYPES[options.dtype])
        self.batch_size = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        auto = AutoModelForZeroShotObjectDetection
        model = load_model(auto, folder, weights, options, self.device)
        self.model = quantize(model, options)
        trust = {"local_files_only": True, "trust_remote_code": options.trust_remote_code}
        with one_line_errors(folder.name):
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
            self.processor = AutoImageProcessor.from_pretrained(folder, **trust)
        info = checkpoint_info(
            folder,
            weights,
            self.model.config.to_dict(),
            options,
            limit=self.limit,
            image=self.processor.to_dict(),
        )
        self.info = replace(
            info,
            fingerprint=short_hash(["detector", VERSION, info.fingerprint]),
            facts={**info.facts, "threshold": f"{self.threshold:g}"},
        )

    @property
    def limit(self) -> int:
        """How many tokens of a query, or of all of them, the model reads."""
        raise NotImplementedError

    def look(
        self, images: Sequence[Image.Image], queries: Sequence[Sequence[str]]
    ) -> list[list[Found]]:
        """For each image and each of its queries, the box with the highest score."""
        raise NotImplementedError

    def unread(self, queries: Sequence[str]) -> list[str]:
        """What the model would not read of an image's queries, as notes.

        Raises
        ------
        InputError
            If it could not be asked for them.
        """
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Architecture, weights, preprocessing, dtype, and the version of what is done here."""
        return self.info.fingerprint

    def prepare(self, feature: Feature, image: Image.Image) -> Any:
        """Refuse an image by itself.

        Raises
        ------
        UsageError
            Always.
        """
        raise _no_such(feature)

    def content_of(self, feature: Feature, sample: Sample) -> str:
        """Hash of the image, and of the entities that are placed or sought in it.

        Raises
        ------
        InputError
            If the row lacks something, or it can't be read.
        """
        parser = str(dict(feature.params)["parser"])
        search = self._search(sample, parser)
        parts = [
            [e.text, e.boxes, e.relative, None if e.mask is None else content_key(e.mask)]
            for e in search.entities
        ]
        content = [content_key(sample.image), parser_version(parser), parts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def extract(
        self, feature: Feature, inputs: Sequence[Any], *, batch_size: int | None = None
    ) -> list[Extracted | InputError]:
        """The entities of samples with their places, as `scorekit.entities.placed` gives them.

        An entity that the caller has placed stays where it is. What is not found is said of
        the entity (``found``), not an error of its row.
        """
        if feature.kind != "entities":
            raise _no_such(feature)
        params = dict(feature.params)
        given = params["threshold"]
        threshold = self.threshold if given == "auto" else float(given)
        out: list[Extracted | InputError | None] = [None] * len(inputs)
        searches: list[tuple[int, Search]] = []
        for i, sample in enumerate(inputs):
            try:
                searches.append((i, self._search(sample, str(params["parser"]))))
            except InputError as error:
                out[i] = error
        size = batch_size or self.batch_size
        for start in range(0, len(searches), size):
            part = searches[start : start + size]
            results = self._run([search for _, search in part], threshold)
            for (i, _), result in zip(part, results, strict=True):
                out[i] = result
        return [result for result in out if result is not None]

    def _search(self, sample: Sample, parser: str) -> Search:
        if sample.image is None:
            raise missing_field("image")
        entities = entities_of(sample.entities)
        if entities is None:
            if sample.text is None:
                raise missing_field("text")
            if error := text_error(sample.text):
                raise error
            entities = [Entity(phrase) for phrase in noun_phrases(sample.text, parser)]
            if not entities:
                raise InputError("undefined", "no entity was found in the text")
        sought = [k for k, entity in enumerate(entities) if not entity.placed]
        queries = [entities[k].text for k in sought]
        return Search(sample, entities, sought, self.unread(queries) if queries else [])

    def _run(self, searches: Sequence[Search], threshold: float) -> list[Extracted | InputError]:
        try:
            asked = [search for search in searches if search.sought]
            images = [Image.fromarray(as_uint8(search.sample.image)) for search in asked]
            looked = self.look(images, [search.queries for search in asked]) if asked else []
            answers = iter(zip(images, looked, strict=True))
            return [
                _result(s, threshold, *(next(answers) if s.sought else (None, [])))
                for s in searches
            ]
        except InputError as error:
            if len(searches) == 1:
                return [error]
        except Exception as error:
            memory = isinstance(error, torch.OutOfMemoryError)
            if len(searches) == 1 and memory:
                raise UsageError(
                    "one image alone does not fit into the device's memory; try --dtype bf16 "
                    "or --device cpu"
                ) from None
            if len(searches) == 1:
                return [InputError("failed", f"{type(error).__name__}: {error}")]
            if memory:
                self.batch_size = max(1, len(searches) // 2)
                torch.cuda.empty_cache()
        # Each by itself: what is wrong with one costs no other.
        return [result for search in searches for result in self._run([search], threshold)]


def _result(
    search: Search, threshold: float, image: Image.Image | None, looked: Sequence[Found]
) -> Extracted:
    size = size_of(search.sample.image) if image is None else image.size
    found: dict[int, Found] = {}
    for position, (box, score) in zip(search.sought, looked, strict=True):
        x0, y0, x1, y1 = np.clip(box, 0, [*size, *size]).tolist()
        if score >= threshold and x0 < x1 and y0 < y1:
            found[position] = ((x0, y0, x1, y1), score)
    return placed(search.entities, size, found, search.notes)


def _best(scores: torch.Tensor, boxes: torch.Tensor, scale: Sequence[int]) -> list[Found]:
    """The best box of each query: scores (n, queries), boxes (n, 4) as centre and size, 0 to 1."""
    best = scores.argmax(dim=0)
    x, y, w, h = boxes[best].double().cpu().unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)
    pixels = corners * torch.tensor(scale, dtype=corners.dtype)
    top = scores.max(dim=0).values.tolist()
    return [
        ((float(box[0]), float(box[1]), float(box[2]), float(box[3])), float(score))
        for box, score in zip(pixels.tolist(), top, strict=True)
    ]


class Owl(Detector):
    """OWL-ViT and OWLv2: a query's score depends on no other query."""

    threshold = 0.1
    query = "a photo of {}"

    @property
    def limit(self) -> int:
        """Tokens of one query, special tokens included."""
        return int(self.model.config.text_config.max_position_embeddings)

    def unread(self, queries: Sequence[str]) -> list[str]:
        """Queries that are cut, as notes."""
        asked = [self.query.format(each) for each in queries]
        lengths = [len(ids) for ids in self.tokenizer(asked, verbose=False)["input_ids"]]
        return [
            f"the detector reads {self.limit} of {length} tokens of {query!r}"
            for query, length in zip(queries, lengths, strict=True)
            if length > self.limit
        ]

    def look(
        self, images: Sequence[Image.Image], queries: Sequence[Sequence[str]]
    ) -> list[list[Found]]:
        """For each image and each of its queries, the box with the highest score."""
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        tokens = self.tokenizer(
            [self.query.format(each) for row in queries for each in row],
            padding="max_length",
            truncation=True,
            max_length=self.limit,
            return_tensors="pt",
        )
        # Every image gets as many queries as the one with most; those of zeros are ignored.
        most = max(map(len, queries))
        shape = (len(images), most, self.limit)
        own = torch.tensor([k < len(row) for row in queries for k in range(most)])
        ids, mask = (torch.zeros(shape, dtype=torch.long).flatten(0, 1) for _ in range(2))
        ids[own], mask[own] = tokens["input_ids"], tokens["attention_mask"]
        with torch.inference_mode():
            out = self.model(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                pixel_values=pixels.to(self.device, self.dtype),
            )
        padded = self.model.config.model_type == "owlv2"  # to a square, at right and bottom
        found = []
        for image, row, logits, boxes in zip(
            images, queries, out.logits, out.pred_boxes, strict=True
        ):
            scale = (max(image.size),) * 4 if padded else (*image.size, *image.size)
            found.append(_best(logits[:, : len(row)].float().sigmoid(), boxes, scale))
        return found


class GroundingDino(Detector):
    """Grounding DINO: one image at a time, since the padding of a batch would change its boxes."""

    threshold = 0.25

    @property
    def limit(self) -> int:
        """Tokens of all queries of an image, special tokens included."""
        positions = int(self.model.config.text_config.max_position_embeddings)
        return min(int(self.model.config.max_text_len), positions)

    def unread(self, queries: Sequence[str]) -> list[str]:
        """Nothing: too many queries are refused.

        Raises
        ------
        InputError
            ``text_too_long``
        """
        length = len(self.tokenizer(_caption(queries)[0], verbose=False)["input_ids"])
        if length > self.limit:
            note = f"the entities have {length} tokens, the detector reads {self.limit}"
            raise InputError("text_too_long", note)
        return []

    def look(
        self, images: Sequence[Image.Image], queries: Sequence[Sequence[str]]
    ) -> list[list[Found]]:
        """For each image and each of its queries, the box with the highest score."""
        return [self._look(*each) for each in zip(images, queries, strict=True)]

    def _look(self, image: Image.Image, queries: Sequence[str]) -> list[Found]:
        caption, spans = _caption(queries)
        tokens = self.tokenizer(caption, return_offsets_mapping=True, return_tensors="pt")
        places = tokens.pop("offset_mapping")[0].tolist()
        pixels = self.processor(images=image, return_tensors="pt")
        with torch.inference_mode():
            out = self.model(
                **{key: value.to(self.device) for key, value in tokens.items()},
                pixel_values=pixels["pixel_values"].to(self.device, self.dtype),
                pixel_mask=pixels["pixel_mask"].to(self.device),
            )
        each = out.logits[0].float().sigmoid()  # (boxes, tokens)
        own = [
            [k for k, (a, b) in enumerate(places) if start <= a < b <= end] for start, end in spans
        ]
        # A query's score is that of its best token, as the authors have it.
        scores = torch.stack([each[:, tokens].max(dim=1).values for tokens in own], dim=1)
        return _best(scores, out.pred_boxes[0], (*image.size, *image.size))


def _caption(queries: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """All queries as one caption, a full stop behind each, and their places in it."""
    caption = ""
    spans: list[tuple[int, int]] = []
    for query in queries:
        # Full stops and question marks are what divides queries.
        plain = " ".join(re.sub(r"[.?]", " ", query.lower()).split())
        spans.append((len(caption), len(caption) + len(plain)))
        caption += f"{plain}. "
    return caption.rstrip(), spans


def _no_such(feature: Feature) -> UsageError:
    return UsageError(
        f"{feature.backbone} is a detector: it finds entities (detector=) and gives no "
        f"{feature.kind.replace('_', ' ')}"
    )


__all__ = ["Detector", "GroundingDino", "Owl", "load"]
