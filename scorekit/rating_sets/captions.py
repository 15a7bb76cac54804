"""Ratings of captions: of the same images, written by systems or by people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scorekit.rating_sets._files import columns_of, get, json_lines, table_of
from scorekit.ratings import RatingSet, number, rating_set
from scorekit.types import UsageError


def read_flickr8k_expert(folder: Path) -> RatingSet:
    """Flickr8k-Expert (Hodosh et al., JAIR 2013).

    ``ExpertAnnotations.txt``: image, caption id and three experts' ratings (1 to 4), separated by
    tabs. ``Flickr8k.token.txt``: caption id (``<image>#<0-4>``) and caption. Candidates whose text
    is one of the image's own captions are left out, as Anderson et al. (SPICE, 2016) do: 158 of
    5,822 pairs. Kendall's tau-c counts each of the remaining 16,992 ratings as a row.

    The item is the image, the system the caption's id, the references the image's five captions.
    """
    captions, references = _tokens(folder)
    rows, samples, dropped = [], [], 0
    for where, image, ident, cells in _pairs(folder / "ExpertAnnotations.txt", 5, captions):
        if captions[ident] in references[_stem(image)]:
            dropped += 1
            continue
        key = {"system": ident, "item": image}
        for expert, cell in enumerate(cells, 1):
            rows.append({**key, "rater": f"expert{expert}", "value": number(cell, where)})
        refs = references[_stem(image)]
        samples.append({**key, "text": captions[ident], "image": image, "references": refs})
    notes = (f"{dropped} candidates that are among the image's references were left out",)
    return rating_set(_of("quality", rows), samples, pooling="each", notes=notes)


def read_flickr8k_cf(folder: Path) -> RatingSet:
    """Flickr8k-CF (Hodosh et al., JAIR 2013): ``CrowdFlowerAnnotations.txt`` and the captions.

    Image, caption id, share of yes, number of yes, number of no, separated by tabs. The share is
    the rating; Kendall's tau-b. A candidate that is one of the image's captions leaves that
    image's references, for all rows of the image (Hessel et al., 2021).
    """
    captions, references = _tokens(folder)
    pairs = list(_pairs(folder / "CrowdFlowerAnnotations.txt", 5, captions))
    left = {_stem(image): list(references[_stem(image)]) for _, image, _, _ in pairs}
    for _, image, ident, _ in pairs:
        if captions[ident] in left[_stem(image)]:
            left[_stem(image)].remove(captions[ident])
    rows, samples = [], []
    for where, image, ident, cells in pairs:
        share, yes, no = (number(cell, where) for cell in cells)
        if not abs(share - yes / max(yes + no, 1)) < 1e-5:
            raise UsageError(f"{where}: {yes:g} yes and {no:g} no do not make a share of {share:g}")
        key = {"system": ident, "item": image}
        rows.append({**key, "rater": "crowd", "value": share})
        refs = left[_stem(image)]
        samples.append({**key, "text": captions[ident], "image": image, "references": refs})
    return rating_set(_of("yes", rows), samples)


def _tokens(folder: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Captions by id, and the captions of each image by the image's name without suffix."""
    captions: dict[str, str] = {}
    references: dict[str, list[str]] = {}
    for where, (ident, caption) in columns_of(folder / "Flickr8k.token.txt", 2):
        if ident in captions:
            raise UsageError(f"{where}: the caption {ident} is there twice")
        captions[ident] = caption
        references.setdefault(_stem(ident), []).append(caption)
    return captions, references


def _pairs(
    path: Path, count: int, captions: dict[str, str]
) -> Iterator[tuple[str, str, str, list[str]]]:
    known = {_stem(ident) for ident in captions}
    for where, (image, ident, *cells) in columns_of(path, count):
        if "#" in image and "#" not in ident:
            raise UsageError(f"{where}: image and caption id are in each other's place")
        if ident not in captions:
            raise UsageError(f"{where}: no caption {ident!r} in Flickr8k.token.txt")
        if _stem(image) not in known:
            raise UsageError(f"{where}: no image {image!r} in Flickr8k.token.txt")
        yield where, image, ident, cells


def _stem(name: str) -> str:
    return name.partition(".")[0]


def read_composite(folder: Path) -> RatingSet:
    """Composite (Aditya et al., 2015): ``8k_``, ``30k_`` and ``coco_correctness.csv``,
    ``..._throughness.csv`` (spelt so), of which not all need be there.

    Mechanical Turk's export, separated by semicolons: ``Input.image_url``, ``Input.text1`` to 3 or
    4, ``Answer.Q1Answer`` to as many. Rows without an image or with a missing answer are kept out
    or unscored. The item is the image's file name, the system ``text1`` and so on: one text of
    each image was written by people, and which one is not said.
    """
    rows: list[dict[str, Any]] = []
    samples: dict[tuple[str, str], dict[str, Any]] = {}
    skipped = 0
    raters: Counter[tuple[str, str, str]] = Counter()
    places: dict[tuple[str, str], str] = {}
    taken: Counter[str] = Counter()
    files = [
        (corpus, spelt, dimension, path)
        for spelt, dimension in (("correctness", "correctness"), ("throughness", "thoroughness"))
        for corpus in ("8k", "30k", "coco")
        if (path := folder / f"{corpus}_{spelt}.csv").is_file()
    ]
    if not files:
        raise UsageError(f"{folder} holds no 8k_correctness.csv or the like")
    for corpus, _, dimension, path in files:
        for where, record in table_of(path, "Input.image_url", sep=";"):
            image = record["Input.image_url"].rpartition("/")[2]
            texts = [n for n in range(1, 5) if record.get(f"Input.text{n}")]
            if not image or not texts:
                skipped += 1
                continue
            for n in texts:
                text = record[f"Input.text{n}"].strip()
                if (image, text) not in places:
                    taken[image] += 1
                    places[image, text] = f"text{taken[image]}"
                key = {"system": places[image, text], "item": image}
                at = raters[image, text, dimension] = raters[image, text, dimension] + 1
                value = number(record.get(f"Answer.Q{n}Answer"), where)
                more = {"rater": f"rater{at}", "dimension": dimension, "value": value}
                rows.append({**key, **more})
                sample = {**key, "text": text, "image": image, "corpus": corpus}
                samples.setdefault((image, text), sample)
    notes = (f"{skipped} rows without an image or texts were left out",) if skipped else ()
    return rating_set(rows, samples.values(), notes=notes)


THUMB_DIMENSIONS = {
    "P": "precision",
    "R": "recall",
    "Fl": "fluency",
    "Con": "conciseness",
    "Inc": "inclusive",
    "human_score": "overall",
}


def read_thumb(folder: Path) -> RatingSet:
    """THumB 1.0 (Kasai et al., NAACL 2022): ``mscoco_THumB-1.0.jsonl``.

    A record a caption: ``SYS``, ``seg_id`` (the image's COCO id), ``hyp``, ``image``, ``P`` and
    ``R`` (1 to 5), penalties ``Fl``, ``Con``, ``Inc`` (0 or below; the README calls the first
    Flu), ``human_score`` = (P + R)/2 + penalties. The references are in
    ``mscoco_references.json`` (JSON lines of ``seg_id``, ``refs``), where it lies beside.
    """
    path = folder / "mscoco_THumB-1.0.jsonl"
    beside = folder / "mscoco_references.json"
    references = {
        str(record.get("seg_id")): get(record, "refs", where, list)
        for where, record in (json_lines(beside) if beside.is_file() else ())
    }
    rows, samples = [], []
    for where, record in json_lines(path):
        item = str(record.get("seg_id"))
        key = {"system": get(record, "SYS", where), "item": item}
        for column, dimension in THUMB_DIMENSIONS.items():
            value = number(record.get(column), where) + 0.0  # no negative zeros
            rows.append({**key, "rater": "thumb", "dimension": dimension, "value": value})
        text, image = get(record, "hyp", where), get(record, "image", where)
        refs = references.get(item, [])
        samples.append({**key, "text": text, "image": image, "references": refs})
    return rating_set(rows, samples)


PASCAL_CATEGORIES = {1: "HC", 2: "HI", 3: "HM", 4: "MM"}


def read_pascal50s(folder: Path) -> RatingSet:
    """Pascal-50S (Vedantam et al., CVPR 2015): ``pair_pascal.mat``, ``consensus_pascal.mat``.

    The first (from pyCIDErConsensus): ``new_input``, image and two captions a pair, ``category``
    (1 HC, 2 HI, 3 HM, 4 MM); the second: ``triplets``, 48 a pair, of a reference, the two
    captions, and 1 where the first was found closer to the reference. The majority of the 48 is
    the choice; an even vote is a tie (the public code draws lots).

    The item is the image, the systems are the pair's number with ``a`` and ``b``, the references
    the 48 (papers use 5 of them, drawn by lot).
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    files = [folder / name for name in ("pair_pascal.mat", "consensus_pascal.mat")]
    try:
        pair, consensus = (loadmat(file) for file in files)
        pairs, triplets = pair["new_input"][0], consensus["triplets"][0]
        categories = pair["category"].ravel()
    except (OSError, ValueError, KeyError, TypeError, MatReadError) as error:
        raise UsageError(f"{folder}: not Pascal-50S's .mat files ({error})") from None
    votes = len(triplets) // max(len(pairs), 1)
    if not votes or len(triplets) != votes * len(pairs) or len(categories) != len(pairs):
        raise UsageError(f"{folder}: {len(pairs)} pairs, but {len(triplets)} triplets")
    rows, samples = [], []
    for n, record in enumerate(pairs):
        image, *captions = (_text(cell) for cell in record)
        won = Counter[str]()
        references = []
        for reference, first, second, winner in triplets[n * votes : (n + 1) * votes]:
            references.append(_text(reference))
            won[_text(first) if _scalar(winner) == 1 else _text(second)] += 1
        if set(won) - set(captions):
            raise UsageError(f"{files[1]}: the votes of pair {n} are for other captions")
        a, b = (won[caption] for caption in captions)
        names = [f"{n:04d}{side}" for side in "ab"]
        choice = "tie" if a == b else "a" if a > b else "b"
        pair_of = {"system_a": names[0], "system_b": names[1]}
        rows.append({"item": image, **pair_of, "rater": "majority", "choice": choice})
        for name, caption in zip(names, captions, strict=True):
            tags = {"category": PASCAL_CATEGORIES[int(categories[n])], "references": references}
            key = {"system": name, "item": image}
            samples.append({**key, "text": caption, "image": image, **tags})
    return rating_set(rows, samples, kind="preferences")


def _scalar(cell: Any) -> Any:
    """What is inside MATLAB's cells of cells."""
    while isinstance(cell, np.ndarray):
        cell = cell.flat[0]
    return cell


def _text(cell: Any) -> str:
    return str(_scalar(cell)).strip()


def read_finecapeval(folder: Path) -> RatingSet:
    """FineCapEval (Cho et al., Findings of NAACL 2022): ``FineCapEval.csv``.

    Ten captions an image with their phrases: ``image``, ``caption``, ``background``, ``object``,
    ``relation``. There are references, not ratings: the set is for retrieval and for metrics
    that need references. Rows with an empty cell are left out, as in the authors' evaluation.
    """
    references: dict[str, list[str]] = {}
    wanted = ("image", "caption", "background", "object", "relation")
    skipped = 0
    for _, record in table_of(folder / "FineCapEval.csv", *wanted):
        if not all(record[name].strip() for name in wanted):
            skipped += 1
        else:
            references.setdefault(record["image"], []).append(record["caption"].strip())
    samples = [{"item": i, "image": i, "references": refs} for i, refs in references.items()]
    notes = (f"{skipped} rows with an empty cell were left out",) if skipped else ()
    return rating_set([], samples, notes=notes)


def _of(dimension: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "dimension": dimension} for row in rows]
