"""Ratings of edited images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from scorekit.rating_sets._files import get, json_of, table_of
from scorekit.ratings import RatingSet, number, rating_set
from scorekit.types import UsageError

LOWER_IS_BETTER = ("LPIPS",)


def read_viescore(folder: Path, *, task: str) -> RatingSet:
    """ImagenHub's raters and VIEScore's metrics (Ku et al., ACL 2024).

    ``ImagenHub_<task>/<task>_rater1.tsv`` to 3: a row an image (``uid``), a column a system, cells
    ``[sc, pq]`` (semantic consistency, perceptual quality) in {0, 0.5, 1}. The dimensions are
    ``sc``, ``pq`` and ``overall``, which is sqrt(sc * pq) of each rater.

    ``metric_scores.csv`` (``task``, ``system``, ``uid``, ``metric``, ``s1``, ``s2``) becomes
    `RatingSet.scores`. A metric with two sub-scores gives four: ``<metric>:s1``, ``:s2``, their
    minimum under the metric's own name, and ``:geometric``. For an editing judge's ``:SC``, s1 is
    edit success and s2 preservation. Of each judge there is ``<judge>:O`` as well, the geometric
    mean of its SC and PQ. A rated image that a metric did not score is not among its rows.

    Parameters
    ----------
    folder : Path
    task : {"Text-Guided_IE", "Subject-Driven_IG"}
    """
    rows, samples = [], {}
    files = sorted((folder / f"ImagenHub_{task}").glob(f"{task}_rater*.tsv"))
    if not files:
        raise UsageError(f"{folder} holds no ImagenHub_{task}/{task}_rater1.tsv")
    for path in files:
        rater = path.stem.rpartition("_")[2]
        for where, record in table_of(path, "uid", sep="\t"):
            item = record.pop("uid")
            for system, cell in record.items():
                key = {"system": system, "item": item}
                sc, pq = _sub_scores(cell, where)
                rated = {"sc": sc, "pq": pq, "overall": math.sqrt(sc * pq)}
                for dimension, value in rated.items():
                    more = {"rater": rater, "dimension": dimension, "value": value}
                    rows.append({**key, **more})
                samples[system, item] = {**key, "image": f"{system}/{item}"}
    scores = _viescore_metrics(folder / "metric_scores.csv", task)
    return rating_set(rows, samples.values(), scores=scores, lower_is_better=LOWER_IS_BETTER)


def _sub_scores(cell: str, where: str) -> tuple[float, float]:
    try:
        found = json.loads(cell) if cell.strip() else [None, None]
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, list) or len(found) != 2:
        raise UsageError(f"{where}: {cell!r} is not [sc, pq]")
    return number(found[0], where), number(found[1], where)


def _viescore_metrics(path: Path, task: str) -> list[dict[str, Any]] | None:
    if not path.is_file():
        return None
    rows: list[dict[str, Any]] = []
    halves: dict[tuple[str, str, str], dict[str, float]] = {}
    for where, record in table_of(path, "task", "system", "uid", "metric", "s1", "s2"):
        if record["task"] != task:
            continue
        key = {"system": record["system"], "item": record["uid"]}
        metric, s1, s2 = record["metric"], number(record["s1"], where), number(record["s2"], where)
        # A judge that gave one sub-score of a rubric of two, on a few rows: the one counts.
        found = {metric: s1 if math.isnan(s2) else min(s1, s2)}
        if ":" in metric:
            geometric = s1 if math.isnan(s2) else math.sqrt(max(s1, 0) * max(s2, 0))
            found |= {f"{metric}:s1": s1, f"{metric}:s2": s2, f"{metric}:geometric": geometric}
            judge, _, half = metric.rpartition(":")
            other = halves.setdefault((key["system"], key["item"], judge), {})
            other[half] = found[metric]
            if len(other) == 2:
                found[f"{judge}:O"] = math.sqrt(max(other["SC"], 0) * max(other["PQ"], 0))
        rows += [{**key, "metric": name, "value": value} for name, value in found.items()]
    return rows


def read_editval(folder: Path) -> RatingSet:
    """EditVal (Basu et al., 2023): ``object.json``, the edits to be made of COCO images.

    By class, image id and kind of edit: the targets, as a list or an object with ``to``. Of the
    human study, the questions are public (``Human Evaluation/`` of its repository), the answers
    are not: add them as ``ratings.csv`` in scorekit's own form (item = ``<image>/<kind>/<target>``)
    to read them.
    """
    path, samples = folder / "object.json", []
    for name, images in json_of(path, dict).items():
        for image in images:
            for kind, given in get(images, image, f"{path}, {name}", dict).items():
                targets = given.get("to") if isinstance(given, dict) else given
                if isinstance(targets, str):
                    targets = [targets]
                if not isinstance(targets, list):
                    raise UsageError(f"{path}, {name}, {image}: {kind} has no list of targets")
                for target in targets:
                    item, text = f"{image}/{kind}/{target}", f"{kind} of {name}: {target}"
                    tags = {"kind": kind, "class": name, "source_image": image}
                    samples.append({"item": item, "text": text.replace("_", " "), **tags})
    return _with_own_ratings(folder, samples)


def read_tedbench(folder: Path) -> RatingSet:
    """TEdBench (Kawar et al., CVPR 2023): ``tedbench.parquet`` (the hub's ``data/val-*``).

    ``original_image``, ``caption`` and ``edited_image`` (Imagic's result) of 100 edits. The
    images stay in the file. People's preferences are not published with it: add them as
    ``ratings.csv`` in scorekit's own form to read them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "tedbench.parquet"
    try:
        captions = pq.read_table(path, columns=["caption"])["caption"].to_pylist()
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise UsageError(f"{path} can't be read ({error})") from None
    samples = [
        {"system": "imagic", "item": f"{n:03d}", "text": text} for n, text in enumerate(captions)
    ]
    return _with_own_ratings(folder, samples)


def _with_own_ratings(folder: Path, samples: list[dict[str, Any]]) -> RatingSet:
    own = folder / "ratings.csv"
    if not own.is_file():
        return rating_set([], samples, notes=("no ratings are published",))
    rated = RatingSet.load(own)
    texts = {sample["item"]: sample for sample in samples}
    if unknown := set(rated.frame["item"]) - set(texts):
        raise UsageError(f"{own}: no item {min(unknown)!r} in the set")
    keys = rated.samples[["system", "item", "index"]].to_dict("records")
    merged = [{**texts[str(key["item"])], **key} for key in keys]
    return rating_set(rated.frame, merged, kind=rated.kind, scales=rated.scales)
