"""How well scenes-clip finds a foil's wrong words: ``python -m scorekit.scenes.locate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scorekit.metrics._baselines import last_noun, without_each
from scorekit.metrics._words import Word, word_attributions, words_of
from scorekit.metrics.f_clipscore import f_clipscore
from scorekit.misalignment import (
    AttributedText,
    Floats,
    Span,
    location_hits,
    separation,
)
from scorekit.scenes.captions import sample_caption
from scorekit.scenes.draw import render
from scorekit.scenes.evaluate import PREFIX, write_between
from scorekit.scenes.foils import KINDS, Foil, sample_foil
from scorekit.scenes.world import SHAPES, Scene, sample_scene
from scorekit.stats import Estimate, PairedComparison, compare_paired, summarize
from scorekit.types import (
    Extracted,
    Pair,
    UsageError,
    image_embedding,
    text_embedding,
    token_attribution,
)

BACKBONE = "scenes-clip"
METHODS = ("gradient", "leave-one-out", "last noun", "random word")
SCORES = ("F-CLIPScore, gradient", "F-CLIPScore, leave-one-out", "CLIPScore")
BEGIN = "<!-- located, begin -->"
END = "<!-- located, end -->"
_CHUNK = 4096


@dataclass(frozen=True)
class Row:
    """A line of the tables.

    Attributes
    ----------
    name : str
        The kind of the foils.
    located : mapping of str to Estimate
        Location accuracy (overlap) of each of `METHODS`.
    advantage : PairedComparison
        The gradient method against leave-one-out, on the same foils.
    precision : mapping of str to Estimate
        Average precision of original against foil by each of `SCORES`.
    n : int
        Foils.
    """

    name: str
    located: Mapping[str, Estimate]
    advantage: PairedComparison
    precision: Mapping[str, Estimate]
    n: int


def held_out_foils(kind: str, sub_kind: str, n: int) -> list[tuple[Scene, Foil]]:
    """Draw `n` foils from the seeds of `scorekit.scenes.evaluate.held_out`."""
    found: list[tuple[Scene, Foil]] = []
    index = 0
    while len(found) < n:
        seed = f"held-out:{index}"
        index += 1
        scene = sample_scene(seed)
        foil = sample_foil(scene, sample_caption(scene, seed), kind, sub_kind, seed)
        if foil is not None:
            found.append((scene, foil))
    return found


def wrong_spans(foil: Foil) -> list[Span]:
    """Where a foil is wrong: its changed words, but for those that merely agree with them.

    Examples
    --------
    >>> scene = sample_scene("held-out:0")
    >>> foil = sample_foil(scene, sample_caption(scene, 0), "object", "shape", 0)
    >>> [foil.foil.text[start:end] for start, end in wrong_spans(foil)]
    ['cross']
    """
    return [(s.start, s.end) for s in foil.foil_spans if s.role != "agreement"]


def noun_values(text: str, words: Sequence[Word]) -> Floats:
    """-1 for the last word of a text that names a shape, 0 for the others.

    Examples
    --------
    >>> noun_values("two circles, a red star", words_of("two circles, a red star")).tolist()
    [0.0, 0.0, 0.0, 0.0, -1.0]
    """
    nouns = [word.text for word in words if word.text.lower().startswith(SHAPES)]
    last = last_noun(text, nouns)
    return np.array([-1.0 if word == last else 0.0 for word in words])


@dataclass(frozen=True)
class Seen:
    """A text with its image: cosine, words, and their values by each method."""

    cosine: float
    words: list[Word]
    values: Mapping[str, Floats]

    def score(self, method: str) -> float:
        """F-CLIPScore by the most negative word."""
        return f_clipscore(self.cosine, self.values[method].min(keepdims=True))


class Locator:
    """Values of words by each method, by one backbone.

    Parameters
    ----------
    device
        Where to run.
    size
        Pixels at which scenes are drawn.
    """

    def __init__(self, device: str = "cpu", size: int = 224) -> None:
        from scorekit.backbones.handle import get_handle
        from scorekit.backbones.spec import BackboneOptions

        self.model: Any = get_handle(BACKBONE, BackboneOptions(device=device)).model()
        self.size = size
        self._images: dict[Scene, Floats] = {}
        self._texts: dict[str, Floats] = {}

    def see(self, pairs: Sequence[tuple[Scene, str]]) -> list[Seen]:
        """All methods on (scene, text) pairs."""
        self._embed_images([scene for scene, _ in pairs])
        words = [words_of(text) for _, text in pairs]
        cut = [
            [text, *without_each(text, own)] for (_, text), own in zip(pairs, words, strict=True)
        ]
        self._embed_texts([text for texts in cut for text in texts])
        asked = [Pair(text, self._images[scene]) for scene, text in pairs]
        tokens = self._extract(token_attribution(BACKBONE, prefix=PREFIX), asked)
        out = []
        for (scene, text), own, texts, found in zip(pairs, words, cut, tokens, strict=True):
            whole, *less = (_cosine(self._images[scene], self._texts[each]) for each in texts)
            values = {
                "gradient": word_attributions(own, found.info["spans"], found.array),
                # What a word adds is what is lost without it.
                "leave-one-out": whole - np.array(less),
                "last noun": noun_values(text, own),
                # All tied, so that a hit counts what a random choice would give.
                "random word": np.zeros(len(own)),
            }
            out.append(Seen(whole, own, values))
        return out

    def _embed_images(self, scenes: Sequence[Scene]) -> None:
        # The kinds of foils share most of their scenes; each is drawn once.
        fresh = [scene for scene in dict.fromkeys(scenes) if scene not in self._images]
        feature = image_embedding(BACKBONE)
        for k in range(0, len(fresh), _CHUNK):
            part = fresh[k : k + _CHUNK]
            prepared = [self.model.prepare(feature, render(scene, self.size)) for scene in part]
            found = self._extract(feature, prepared)
            self._images.update((s, f.array) for s, f in zip(part, found, strict=True))

    def _embed_texts(self, texts: Sequence[str]) -> None:
        fresh = [text for text in dict.fromkeys(texts) if text not in self._texts]
        found = self._extract(text_embedding(BACKBONE, prefix=PREFIX), fresh)
        self._texts.update((text, f.array) for text, f in zip(fresh, found, strict=True))

    def _extract(self, feature: Any, inputs: Sequence[Any]) -> list[Extracted]:
        out: list[Extracted] = []
        for k in range(0, len(inputs), _CHUNK):
            for result in self.model.extract(feature, inputs[k : k + _CHUNK]):
                if not isinstance(result, Extracted):
                    raise result
                out.append(result)
        return out


def _cosine(one: Floats, two: Floats) -> float:
    return float(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))


@dataclass(frozen=True)
class Judged:
    """What one foil gave: whether each method hit, and the scores of original and foil."""

    item: int
    hits: Mapping[str, float]
    scores: Mapping[str, tuple[float, float]]


def judge(foil: Foil, item: int, right: Seen, wrong: Seen) -> Judged:
    """Judge all methods on one foil."""
    spans = [(word.start, word.end) for word in wrong.words]
    texts = [
        AttributedText(spans, list(wrong.values[method]), wrong_spans(foil)) for method in METHODS
    ]
    hits = location_hits(texts)["overlap"]
    scores = {
        f"F-CLIPScore, {method}": (right.score(method), wrong.score(method))
        for method in METHODS[:2]
    }
    scores["CLIPScore"] = right.cosine, wrong.cosine
    return Judged(item, dict(zip(METHODS, hits.tolist(), strict=True)), scores)


def row_of(name: str, judged: Sequence[Judged]) -> Row:
    """Summarise foils; those of one scene are resampled together."""
    items = np.array([each.item for each in judged])
    hits = {m: np.array([each.hits[m] for each in judged]) for m in METHODS}
    precision = {}
    for score in SCORES:
        both = np.array([each.scores[score] for each in judged])
        found = separation(
            both.T.ravel(),
            np.repeat([False, True], len(both)),
            np.tile(items, 2),
        )
        precision[score] = found.average_precision
    return Row(
        name,
        {method: summarize(hits[method], items) for method in METHODS},
        compare_paired(hits["leave-one-out"], hits["gradient"], items),
        precision,
        len(judged),
    )


def locate(n: int = 1000, size: int = 224, device: str = "cpu") -> list[Row]:
    """Judge all methods on `n` held-out foils of each kind; a row of all kinds comes last."""
    locator = Locator(device, size)
    items: dict[Scene, int] = {}
    rows: list[Row] = []
    everything: list[Judged] = []
    for kind, sub_kind in KINDS:
        foils = held_out_foils(kind, sub_kind, n)
        right = locator.see([(scene, foil.caption.text) for scene, foil in foils])
        wrong = locator.see([(scene, foil.foil.text) for scene, foil in foils])
        judged = [
            judge(foil, items.setdefault(scene, len(items)), one, two)
            for (scene, foil), one, two in zip(foils, right, wrong, strict=True)
        ]
        rows.append(row_of(f"{kind}: {sub_kind}", judged))
        everything += judged
    rows.append(row_of("all", everything))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as two markdown tables and what they say."""
    lines = [
        "Location accuracy, the share of foils whose lowest word is a wrong one:",
        "",
        f"| foils | {' | '.join(METHODS)} | gradient less leave-one-out | p | n |",
        "|---" * (len(METHODS) + 4) + "|",
    ]
    for row in rows:
        cells = [_cell(row.located[method]) for method in METHODS]
        cells.append(_difference(row.advantage))
        p = row.advantage.p_value
        cells.append("-" if p is None else f"{p:.4f}")
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.n} |")
    lines += [
        "",
        "Average precision of originals among originals and foils (.5 says nothing), F-CLIPScore "
        "by the most negative word:",
        "",
        f"| foils | {' | '.join(SCORES)} | n |",
        "|---" * (len(SCORES) + 2) + "|",
    ]
    for row in rows:
        cells = [_cell(row.precision[score]) for score in SCORES]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.n} + {row.n} |")
    return "\n".join([*lines, "", verdict(rows)])


def verdict(rows: Sequence[Row]) -> str:
    """Where the gradient method locates better than leave-one-out, and where worse."""
    sure = [
        row for row in rows if row.advantage.p_value is not None and row.advantage.p_value < 0.05
    ]
    better = [row.name for row in sure if row.advantage.difference > 0]
    worse = [row.name for row in sure if row.advantage.difference < 0]
    open_ = [row.name for row in rows if row.name not in better + worse]
    said = [
        f"{head} for {', '.join(names)}."
        for head, names in (
            ("The gradient method locates better than leave-one-out", better),
            ("It locates worse than leave-one-out", worse),
            ("Neither is better (p >= .05)", open_),
        )
        if names
    ]
    if not better:
        said.insert(0, "The gradient method beats leave-one-out nowhere.")
    return "\n".join(said)


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _difference(found: PairedComparison) -> str:
    if found.low is None:
        return f"{found.difference:+.3f}"
    return f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m scorekit.scenes.locate", description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="foils of each kind")
    parser.add_argument("--size", type=int, default=224, help="pixels at which scenes are drawn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--write", type=Path, action="append", default=[], help="a page with markers; repeatable"
    )
    given = parser.parse_args(arguments)
    try:
        if given.n < 1:
            raise UsageError(f"--n must be 1 or more, not {given.n}")
        text = table(locate(given.n, given.size, given.device))
        print(text)
        for page in given.write:
            write_between(page, text, BEGIN, END)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
