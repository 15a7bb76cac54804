"""How well the small models tell truth from foils: ``python -m scorekit.scenes.evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from scorekit.scenes.captions import sample_caption
from scorekit.scenes.draw import render
from scorekit.scenes.foils import KINDS, sample_foil
from scorekit.scenes.language import Caption, is_true
from scorekit.scenes.world import Scene, sample_scene

PREFIX = "A photo depicts "
RANDOM = ("random", "caption")
ONE_ATTRIBUTE = (("object", "shape"), ("attribute", "colour"), ("attribute", "size"))
"""The kinds that change one word about one object; a row of the table pools them."""

BEGIN = "<!-- measured, begin -->"
END = "<!-- measured, end -->"
CHECKPOINTS = Path("data/checkpoints")


@dataclass(frozen=True)
class Pair:
    """A held-out scene with a true and a false caption."""

    scene: Scene
    true: Caption
    false: Caption


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    kind, sub_kind
        Of the false captions; ("random", "caption") are true captions of other scenes.
    auc
        Of all true against all false scores.
    low, high
        95% bootstrap interval of `auc`, over pairs.
    pairwise
        The share of pairs whose true caption scores higher; a tie counts half.
    n
        The number of pairs.
    """

    kind: str
    sub_kind: str
    auc: float
    low: float
    high: float
    pairwise: float
    n: int


def held_out(kind: str, sub_kind: str, n: int) -> list[Pair]:
    """Draw `n` pairs from seeds that training never uses."""
    return [pair for pair, _ in zip(_pairs(kind, sub_kind), range(n), strict=False)]


def _pairs(kind: str, sub_kind: str) -> Iterator[Pair]:
    index = 0
    while True:
        seed = f"held-out:{index}"
        index += 1
        scene = sample_scene(seed)
        true = sample_caption(scene, seed)
        if (kind, sub_kind) == RANDOM:
            other = f"held-out other:{index}"
            false = sample_caption(sample_scene(other), other)
            if not is_true(scene, false):
                yield Pair(scene, true, false)
            continue
        foil = sample_foil(scene, true, kind, sub_kind, seed)
        if foil is not None:
            yield Pair(scene, true, foil.foil)


def auc(true: np.ndarray, false: np.ndarray) -> float:
    """The area under the ROC curve: how often a true score beats a false one, ties half.

    Examples
    --------
    >>> auc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    0.875
    """
    ordered = np.sort(false)
    below = np.searchsorted(ordered, true, "left") + np.searchsorted(ordered, true, "right")
    return float(below.mean() / (2 * len(ordered)))


def row_of(
    kind: str, sub_kind: str, true: np.ndarray, false: np.ndarray, resamples: int = 1000
) -> Row:
    """Summarise the scores of pairs."""
    rng = np.random.default_rng(0)
    n = len(true)
    drawn = [rng.integers(0, n, n) for _ in range(resamples)]
    low, high = np.quantile([auc(true[rows], false[rows]) for rows in drawn], [0.025, 0.975])
    pairwise = float(np.mean((true > false) + 0.5 * (true == false)))
    return Row(kind, sub_kind, auc(true, false), float(low), float(high), pairwise, n)


class Scorer(Protocol):
    """Scores of true and false texts of images, by one checkpoint."""

    def images(self, images: list[Image.Image]) -> Any:
        """What `score` wants of each image, a sequence."""
        ...

    def score(
        self, images: Sequence[Any], true: list[str], false: list[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n,) of n true texts and of n false ones."""
        ...


def scorer_of(checkpoint: str | Path, device: str = "cpu") -> Scorer:
    """The scorer for a checkpoint of the CLIP or of the LLaVA kind."""
    config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] == "llava":
        return VqaScorer(checkpoint, device)
    return ClipScorer(checkpoint, device)


class VqaScorer:
    """VQAScore by the code that scores every vision-language model.

    Parameters
    ----------
    checkpoint
        A folder that transformers can load.
    device
        Where to run.
    """

    def __init__(self, checkpoint: str | Path, device: str = "cpu") -> None:
        from scorekit.backbones.handle import get_handle
        from scorekit.backbones.spec import BackboneOptions
        from scorekit.types import answer_probability

        name = f"hf:{Path(checkpoint).resolve()}"
        self.model: Any = get_handle(name, BackboneOptions(device=device)).model()
        self.feature = answer_probability(name)

    def images(self, images: list[Image.Image]) -> Sequence[Any]:
        """Images as the model reads them."""
        return [self.model.prepare(self.feature, image) for image in images]

    def score(
        self, images: Sequence[Any], true: list[str], false: list[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """P(yes) of both texts of each image."""
        from scorekit.metrics.vqascore import vqascore
        from scorekit.types import Extracted
        from scorekit.types import Pair as ImageAndText

        asked = [
            ImageAndText(image, text)
            for image, pair in zip(images, zip(true, false, strict=True), strict=True)
            for text in pair
        ]
        found = []
        for k in range(0, len(asked), 512):
            for result in self.model.extract(self.feature, asked[k : k + 512], batch_size=64):
                if not isinstance(result, Extracted):
                    raise result
                found.append(float(vqascore(result.array)))
        values = np.array(found).reshape(-1, 2)
        return values[:, 0], values[:, 1]


class ClipScorer:
    """Cosines of images and texts by a checkpoint of the CLIP kind.

    Parameters
    ----------
    checkpoint
        A folder that transformers can load.
    device
        Where to run.
    """

    def __init__(self, checkpoint: str | Path, device: str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        folder = str(checkpoint)
        self.device = device
        self.model: Any = AutoModel.from_pretrained(folder).to(device).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.processor: Any = AutoImageProcessor.from_pretrained(folder)

    def score(
        self, images: Sequence[Any], true: list[str], false: list[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cosines of both texts of each image."""
        rows = np.stack(list(images))
        one, two = (self.texts([PREFIX + text for text in side]) for side in (true, false))
        return (rows * one).sum(1), (rows * two).sum(1)

    def images(self, images: list[Image.Image], batch: int = 64) -> np.ndarray:
        """Unit image embeddings, one row an image."""
        import torch

        rows = []
        with torch.inference_mode():
            for k in range(0, len(images), batch):
                pixels = self.processor(images=images[k : k + batch], return_tensors="pt")
                states = self.model.vision_model(pixels["pixel_values"].to(self.device))
                rows.append(self.model.visual_projection(states.pooler_output).cpu().numpy())
        return unit(np.concatenate(rows))

    def texts(self, texts: list[str], batch: int = 256) -> np.ndarray:
        """Unit text embeddings, one row a text."""
        import torch

        rows = []
        with torch.inference_mode():
            for k in range(0, len(texts), batch):
                tokens = self.tokenizer(
                    texts[k : k + batch], padding=True, truncation=True, return_tensors="pt"
                ).to(self.device)
                states = self.model.text_model(**tokens)
                rows.append(self.model.text_projection(states.pooler_output).cpu().numpy())
        return unit(np.concatenate(rows))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their length."""
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def evaluate(
    checkpoint: str | Path, n: int = 2000, size: int = 224, device: str = "cpu"
) -> list[Row]:
    """Measure a checkpoint on held-out scenes.

    Parameters
    ----------
    checkpoint
        Folder of the model.
    n
        Pairs of each foil kind.
    size
        Pixels at which the scenes are drawn, before the checkpoint's own resizing.
    device
        Where to run.

    Returns
    -------
    list of Row
        Random captions first, then every foil kind, then those of one attribute pooled.
    """
    scorer = scorer_of(checkpoint, device)
    known: dict[Scene, Any] = {}
    rows = []
    pooled: list[tuple[np.ndarray, np.ndarray]] = []
    for kind, sub_kind in (RANDOM, *KINDS):
        pairs = held_out(kind, sub_kind, n)
        fresh = [pair.scene for pair in pairs if pair.scene not in known]
        if fresh:
            # The kinds share most of their scenes; each is embedded once.
            found = scorer.images([render(scene, size) for scene in fresh])
            known.update(zip(fresh, found, strict=True))
        images = [known[pair.scene] for pair in pairs]
        scores = scorer.score(
            images, [pair.true.text for pair in pairs], [pair.false.text for pair in pairs]
        )
        rows.append(row_of(kind, sub_kind, *scores))
        if (kind, sub_kind) in ONE_ATTRIBUTE:
            pooled.append(scores)
    true, false = (np.concatenate(side) for side in zip(*pooled, strict=True))
    rows.append(row_of("shape, colour or size", "pooled", true, false))
    return rows


def table(measured: Mapping[str, list[Row]]) -> str:
    """The rows of each model beside each other, as a markdown table."""
    names = list(measured)
    heads = [head for name in names for head in (f"{name}: AUC", "95% interval", "pairwise")]
    lines = [
        f"| false captions | {' | '.join(heads)} | n |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for rows in zip(*measured.values(), strict=True):
        first = rows[0]
        name = "random caption" if first.kind == "random" else f"{first.kind}: {first.sub_kind}"
        cells = [
            f"{row.auc:.3f} | {row.low:.3f} to {row.high:.3f} | {row.pairwise:.3f}" for row in rows
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {first.n} |")
    return "\n".join(lines)


def write_between(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between two markers of a file.

    Raises
    ------
    ValueError
        If the file does not have both markers, in order.
    """
    page = path.read_text(encoding="utf-8")
    start, stop = page.find(begin), page.find(end)
    if start < 0 or stop < start:
        raise ValueError(f"{path} lacks the markers {begin} and {end}")
    page = page[: start + len(begin)] + f"\n{text}\n" + page[stop:]
    path.write_text(page, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m scorekit.scenes.evaluate", description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, action="append", help="folder; repeatable (default: both)"
    )
    parser.add_argument("--n", type=int, default=2000, help="pairs of each kind")
    parser.add_argument("--size", type=int, default=224, help="pixels at which scenes are drawn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--write", type=Path, action="append", default=[], help="a page with markers; repeatable"
    )
    given = parser.parse_args(arguments)
    folders = given.checkpoint or [CHECKPOINTS / "scenes-clip", CHECKPOINTS / "scenes-vqa"]
    for folder in folders:
        if not (folder / "config.json").is_file():
            print(f"error: {folder} holds no checkpoint", file=sys.stderr)
            return 2
    text = table({each.name: evaluate(each, given.n, given.size, given.device) for each in folders})
    print(text)
    try:
        for page in given.write:
            write_between(page, text)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
