"""Preferences of two images, and rankings of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scorekit.rating_sets._files import get, json_of
from scorekit.ratings import RatingSet, pairs_of_ranks, rating_set
from scorekit.types import UsageError


def read_imagereward(folder: Path) -> RatingSet:
    """ImageReward's test set (Xu et al., NeurIPS 2023): ``test.json``.

    A list of ``id``, ``prompt``, ``generations`` (paths) and ``ranking`` (1 the best, equal places
    are ties). The system is the image's path: all are of DiffusionDB, by one unnamed model.
    """
    return _ranked(folder / "test.json", image="generations", rank="ranking", ident="id")


def read_hpdv2(folder: Path) -> RatingSet:
    """HPD v2's test set (Wu et al., 2023): ``test.json``.

    A list of ``prompt``, ``image_path`` and ``rank``, the places that the ten annotators gave on
    the whole, the lowest the best. ``raw_annotations`` is not read. The item is the entry's number.
    """
    return _ranked(folder / "test.json", image="image_path", rank="rank", ident=None)


def _ranked(path: Path, *, image: str, rank: str, ident: str | None) -> RatingSet:
    rows, samples = [], []
    for n, record in enumerate(json_of(path, list)):
        where = f"{path}, entry {n}"
        item = f"{n:04d}" if ident is None else get(record, ident, where)
        images, ranks = get(record, image, where, list), get(record, rank, where, list)
        if len(images) != len(ranks) or len(set(images)) < len(images):
            raise UsageError(f"{where}: {len(images)} images ({len(set(images))} different) and "
                             f"{len(ranks)} places")  # fmt: skip
        places = dict(zip(images, ranks, strict=True))
        rows += pairs_of_ranks(item, places, rater="consensus")
        text = get(record, "prompt", where)
        samples += [{"system": i, "item": item, "text": text, "image": i} for i in images]
    return rating_set(rows, samples, kind="preferences")


def read_pickapic(folder: Path) -> RatingSet:
    """Pick-a-Pic v1 (Kirstain et al., NeurIPS 2023): ``test_unique.parquet``.

    ``caption``, ``image_0_uid``, ``image_1_uid``, ``model_0``, ``model_1``, ``label_0`` (1, 0, or
    0.5 for a tie), ``has_label``, ``user_id``, ``ranking_id``: the 500 pairs of different prompts.
    Rows without a label are left out. The item is the ranking's id, the system the image's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "test_unique.parquet"
    columns = ["ranking_id", "caption", "user_id", "has_label", "label_0"]
    columns += [
        f"{what}_{n}{uid}" for what, uid in (("image", "_uid"), ("model", "")) for n in "01"
    ]
    try:
        records: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise UsageError(f"{path} can't be read ({error})") from None
    rows, samples, skipped = [], [], 0
    choices = {1.0: "a", 0.0: "b", 0.5: "tie"}
    for record in records:
        if not record["has_label"]:
            skipped += 1
            continue
        if record["label_0"] not in choices:
            raise UsageError(f"{path}: label_0 is 0, 0.5 or 1, not {record['label_0']!r}")
        item, pair = str(record["ranking_id"]), [record[f"image_{n}_uid"] for n in (0, 1)]
        who, choice = str(record["user_id"]), choices[record["label_0"]]
        row = {"item": item, "system_a": pair[0], "system_b": pair[1], "rater": who}
        rows.append({**row, "choice": choice})
        for n, uid in enumerate(pair):
            more = {"text": record["caption"], "image": uid, "model": record[f"model_{n}"]}
            samples.append({"system": uid, "item": item, **more})
    notes = (f"{skipped} pairs without a label were left out",) if skipped else ()
    return rating_set(rows, samples, kind="preferences", notes=notes)
