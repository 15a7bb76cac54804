"""One pair in full: its scores, what each word adds to them, and where in the image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from scorekit.calibrated import origin_of, with_calibration
from scorekit.images import as_uint8
from scorekit.metric import BaseMetric
from scorekit.metrics._words import Mode, Unit, units_of, words_of
from scorekit.metrics.clip4dm import CLIP4DM
from scorekit.metrics.clipscore import CLIPScore
from scorekit.metrics.f_clipscore import FCLIPScore
from scorekit.resize import ImageSpec
from scorekit.run import RunOptions, score_samples
from scorekit.scoring import describe_image
from scorekit.table import EVIDENCE, ScoreTable
from scorekit.types import ImageLike, PathLike, Sample, UsageError

if TYPE_CHECKING:
    from scorekit.backbones.relevance import PatchRelevance

Word = Mapping[str, Any]
"""``word``, ``start``, ``end``, ``attribution``, ``scaled``, ``z``, ``rank``, ``misaligned``."""


@dataclass(frozen=True)
class Explanation:
    """What the scores of one image and text rest on.

    Attributes
    ----------
    image, text, backbone : str
        The image's path, or what it is; the text; the backbone as it was asked for.
    clipscore, f_clipscore, cosine : float
    words : list of Word
        In the text's order.
    mode, eps, unit
        Which words count as misaligned; see `scorekit.metrics.clip4dm.CLIP4DM`.
    eps_from : str
        Where eps is from, where a calibration gave it.
    chosen : Word or None
        The word that was asked for, or else the lowest.
    relevance : PatchRelevance or None
        Of the image's patches for the chosen word, where it was asked for.
    seen : (left, top, right, bottom)
        What part of the image the model sees, in the image's own pixels; beyond its edges
        where the model's input is padded. Where `relevance` lies.
    notes : list of str
        What a reader should know.
    signatures : mapping of str to str
        Of each score.
    """

    image: str
    text: str
    backbone: str
    clipscore: float
    f_clipscore: float
    cosine: float
    words: list[Word]
    mode: Mode
    eps: float
    unit: Unit
    eps_from: str = ""
    chosen: Word | None = None
    relevance: PatchRelevance | None = None
    seen: tuple[float, float, float, float] | None = None
    notes: list[str] = field(default_factory=list)
    signatures: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        out = {**vars(self), "words": [dict(word) for word in self.words]}
        if self.relevance is not None:
            out["relevance"] = {
                **asdict(self.relevance),
                "patches": self.relevance.patches.tolist(),
            }
        return out


def explain(
    image: ImageLike,
    text: str,
    *,
    backbone: str | None = None,
    word: str | None = None,
    relevance: bool = False,
    mode: Mode = "threshold",
    eps: float | None = None,
    unit: Unit = "raw",
    calibration: PathLike | None = None,
    options: RunOptions | None = None,
) -> Explanation:
    """Explain the scores of an image and a text.

    Parameters
    ----------
    image : path, PIL image, array or tensor
    text : str
    backbone : str, optional
        A dual encoder with a causal text tower; None takes clip4dm's default.
    word : str, optional
        The word, or phrase, that `relevance` is of. A phrase is attributed as one word.
    relevance : bool
        Find out which patches of the image the word's attribution hangs on.
    mode, eps, unit
        See `scorekit.metrics.clip4dm.CLIP4DM`.
    calibration : path, optional
        What ``scorekit calibrate`` wrote, in place of `eps` and `unit`.
    options : RunOptions, optional

    Raises
    ------
    UsageError
        If the pair can't be scored, or the text has no such word.

    Examples
    --------
    >>> from importlib.resources import files
    >>> image = files("scorekit.data") / "demo" / "faithful" / "scene-0000.png"
    >>> found = explain(str(image), "a large green star", backbone="scenes-clip")
    >>> [word["word"] for word in found.words if word["rank"] == 1]
    ['star']
    """
    options = options or RunOptions()
    backbone = backbone or CLIP4DM.backbone
    phrases = [] if word is None else _phrases(text, word)
    rule: dict[str, Any] = {"mode": mode, "unit": unit} | ({} if eps is None else {"eps": eps})
    metrics: list[BaseMetric] = [
        CLIPScore(backbone),
        CLIP4DM(backbone, **rule),
        FCLIPScore(backbone, **rule),
    ]
    eps_from = ""
    if calibration is not None:
        metrics, used = with_calibration(metrics, calibration, options)
        eps_from = origin_of(calibration, used)
    judge = metrics[1]
    assert isinstance(judge, CLIP4DM)
    sample = Sample("pair", "explain", text, image, meta={"phrases": phrases})
    table = score_samples([sample], metrics, options=options)
    _check(table, describe_image(image))
    row = table.frame[table.frame["metric"] == judge.name].iloc[0]
    words = json.loads(row[EVIDENCE])
    notes = [row["note"]] if row["note"] else []
    chosen = min(words, key=lambda each: each["rank"])
    if word is not None:
        chosen, note = _choose(words, word)
        notes += [note] if note else []
    found, seen = None, None
    if relevance:
        found, seen = _relevance(image, text, chosen, judge, options)
    return Explanation(
        image=describe_image(image),
        text=text,
        backbone=backbone,
        clipscore=float(table.scores("clipscore")[0]),
        f_clipscore=float(table.scores("f_clipscore")[0]),
        cosine=float(table.scores("clip4dm.cosine")[0]),
        words=words,
        mode=judge.mode,
        eps=judge.eps,
        unit=judge.unit,
        eps_from=eps_from,
        chosen=chosen,
        relevance=found,
        seen=seen,
        notes=notes,
        signatures={m.name: str(table.signatures[m.name]) for m in metrics},
    )


def _phrases(text: str, word: str) -> list[str]:
    """The word that was asked for, where it is not one of the text's words but a phrase of it."""
    words = words_of(text)
    if any(_same(each.text, word) for each in words):
        return []
    if not word.strip() or units_of(text, [word])[1]:
        known = ", ".join(dict.fromkeys(each.text for each in words))
        raise UsageError(f"no word {word!r} in the text; it has {known or 'no words'}")
    return [word]


def _choose(words: list[Word], word: str) -> tuple[Word, str]:
    """The word that was asked for, and what to say of it."""
    same = [each for each in words if _same(each["word"], word)]
    if not same:
        raise UsageError(f"the model does not read {word!r}: the text is cut before it")
    chosen = min(same, key=lambda each: each["rank"])
    if len(same) == 1:
        return chosen, ""
    return chosen, (
        f"{word!r} stands {len(same)} times; the one at character {chosen['start']}, the lowest, "
        "is taken"
    )


def _same(one: str, other: str) -> bool:
    return one.casefold().split() == other.casefold().split()


def _check(table: ScoreTable, image: str) -> None:
    """Raise the first reason for which the pair was not scored."""
    failures = table.failures()
    if not failures.empty:
        first = failures.iloc[0]
        where = image if first["status"].endswith("_image") else "the pair"
        raise UsageError(f"can't score {where}: {first['note']} ({first['status']})")


def _relevance(
    image: ImageLike, text: str, word: Word, metric: CLIP4DM, options: RunOptions
) -> tuple[PatchRelevance, tuple[float, float, float, float]]:
    from scorekit.backbones.handle import get_handle
    from scorekit.backbones.relevance import relevance_of  # it imports torch

    model: Any = get_handle(metric.backbone, options).model()
    if model.resizer == "processor":
        raise UsageError(
            f"{metric.backbone} prepares images by a processor of its own, which does not tell "
            "what it cuts off: no heat map"
        )
    picture = Image.fromarray(as_uint8(image))
    found = relevance_of(
        model,
        picture,
        text,
        (word["start"], word["end"]),
        prefix=metric.prefix,
        last=metric.last,
    )
    return found, seen_box(model.image_spec, picture.width, picture.height)


def seen_box(spec: ImageSpec, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what a model sees of an image, in the image's pixels.

    Examples
    --------
    >>> seen_box(ImageSpec(size=(224, 224)), 448, 224)
    (112.0, 0.0, 336.0, 224.0)
    """
    resized = spec.resized(height, width)
    starts = []
    for have, want in zip(resized, spec.size, strict=True):
        # As `ImageSpec.apply` cuts and pads.
        odd = have - want
        if spec.crop_rounding == "round":
            starts.append(round(odd / 2) if odd > 0 else -(-odd // 2))
        else:
            starts.append(odd // 2)
    (top, left), (high, wide) = starts, spec.size
    x, y = width / resized[1], height / resized[0]
    return left * x, top * y, (left + wide) * x, (top + high) * y
