"""Ratings of images and videos made from prompts."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scorekit.rating_sets._files import get, json_of, table_of
from scorekit.ratings import RatingSet, number, rating_set
from scorekit.types import UsageError

TIFA_METRICS = (
    "meteor", "bleu", "rouge", "spice", "clipscore_vitb32", "tifa_vilt", "tifa_git-large",
    "tifa_ofa-large", "tifa_blip2-flant5xl", "tifa_mplug-large",
)  # fmt: skip


def read_tifa(folder: Path) -> RatingSet:
    """TIFA v1.0 (Hu et al., ICCV 2023): ``human_annotations_with_scores.json``.

    An object by image: ``text_id``, ``image_path`` (``<text_id>_<system>.jpg``), ``text``,
    ``human_scores`` (a rating a rater, 1 to 5), and the scores of ten metrics, which become
    `RatingSet.scores`. A rater is known by the place in the list alone.
    """
    path = folder / "human_annotations_with_scores.json"
    rows, samples, scores = [], [], []
    for name, record in json_of(path, dict).items():
        where = f"{path}, {name}"
        item = get(record, "text_id", where)
        if not name.startswith(f"{item}_"):
            raise UsageError(f"{where}: the name does not begin with the text_id {item!r}")
        key = {"system": name[len(item) + 1 :], "item": item}
        for rater, value in enumerate(get(record, "human_scores", where, list), 1):
            rows.append({**key, "rater": f"rater{rater}", "value": number(value, where)})
        for metric in TIFA_METRICS:
            scores.append({**key, "metric": metric, "value": number(record.get(metric), where)})
        image, text = get(record, "image_path", where), get(record, "text", where)
        samples.append({**key, "text": text, "image": image, "source": item.rpartition("_")[0]})
    return rating_set(_of("alignment", rows), samples, scores=scores)


DSG_SYSTEMS: Mapping[str, str] = {
    "mini-dalle": "mini_dalle",
    "vq-diffusion": "vq_diffusion",
    "sd1dot1": "stable_diffusion_v1_1",
    "sd1dot5": "stable_diffusion_v1_5",
    "sd2dot1": "stable_diffusion_v2_1",
}
"""The systems' names in TIFA's own files, by DSG's."""


def read_dsg(folder: Path) -> RatingSet:
    """DSG's Likert ratings of TIFA160 (Cho et al., ICLR 2024): ``tifa160-likert-anns.csv``.

    Columns ``t2i_model``, ``item_id``, ``source_id`` (TIFA's text_id), ``worker_id``, ``answer``
    (1 to 5). Where ``<vqa>_dsg.csv`` and ``<vqa>_vq2a.csv`` lie beside it, the share of
    questions answered with yes becomes a score: ``mplug_dsg`` (a question counts 0 where a parent
    was not answered with yes), ``mplug_dsg:no_dependency``, ``mplug_vq2a``. An image about which
    nothing was asked, or one question has no answer, is unscored; the published numbers count both
    as 0, which the scores ``mplug_dsg:as_published`` do too. The prompts are in
    ``dsg-1k-anns.csv``, where it lies beside.

    The items are TIFA's text_ids and the systems TIFA's names, so that scores of either set can
    be joined with both.
    """
    rows: list[dict[str, Any]] = []
    samples: dict[tuple[str, str], dict[str, Any]] = {}
    items: dict[str, str] = {}
    beside = folder / "dsg-1k-anns.csv"
    questions = table_of(beside, "item_id", "text") if beside.is_file() else ()
    texts = {record["item_id"]: record["text"] for _, record in questions}
    path = folder / "tifa160-likert-anns.csv"
    wanted = ("t2i_model", "item_id", "source_id", "worker_id", "answer")
    for where, record in table_of(path, *wanted):
        system, item = DSG_SYSTEMS.get(record["t2i_model"]), record["source_id"]
        if system is None:
            raise UsageError(f"{where}: no system {record['t2i_model']!r} in TIFA160")
        if items.setdefault(record["item_id"], item) != item:
            raise UsageError(f"{where}: {record['item_id']} has two source_ids")
        key = {"system": system, "item": item}
        value = number(record["answer"], where)
        rows.append({**key, "rater": record["worker_id"], "value": value})
        about = {"image": f"{item}_{system}.jpg", "text": texts.get(record["item_id"])}
        samples[system, item] = {**key, **about, "source": item.rpartition("_")[0]}
    scores = [row for file in sorted(folder.glob("*_*.csv")) for row in _dsg_scores(file, items)]
    return rating_set(_of("alignment", rows), samples.values(), scores=scores or None)


def _dsg_scores(path: Path, items: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    from scorekit.metrics._dependencies import counted

    name = path.stem
    if not name.endswith(("_dsg", "_vq2a")):
        return
    asked: dict[tuple[str, str], dict[str, str]] = {}
    parents: dict[tuple[str, str], dict[str, list[str]]] = {}
    ident = "question_id" if name.endswith("_dsg") else "question"
    for where, record in table_of(path, "t2i_model", "item_id", ident, "answer"):
        key = record["t2i_model"], record["item_id"]
        if record["item_id"] in items and record["t2i_model"] in DSG_SYSTEMS:
            answers = asked.setdefault(key, {})
            if record[ident] in answers:
                raise UsageError(f"{where}: the question {record[ident]!r} is there twice")
            answers[record[ident]] = record["answer"].strip().lower()
            above = record.get("dependency_id", "").split(",")
            parents.setdefault(key, {})[record[ident]] = [p.strip() for p in above]
    for system in DSG_SYSTEMS:
        for item, source in items.items():
            row = {"system": DSG_SYSTEMS[system], "item": source}
            answers = asked.get((system, item), {})
            right = {question: answer == "yes" for question, answer in answers.items()}
            counts = counted(right, parents.get((system, item), {}))
            known = bool(answers) and all(answers.values())
            deep = sum(right[q] and counts[q] for q in right) / max(len(right), 1)
            plain = sum(right.values()) / max(len(right), 1)
            yield {**row, "metric": name, "value": deep if known else None}
            yield {**row, "metric": f"{name}:as_published", "value": deep}
            if ident == "question_id":
                found = plain if known else None
                yield {**row, "metric": f"{name}:no_dependency", "value": found}


def read_by_model(
    folder: Path, *, file: str, dimension: str = "alignment", image: str = "{system}/{item}.jpeg"
) -> RatingSet:
    """Sets in the layout of t2v_metrics: GenAI-Bench (image, video), TVGE, StanfordT23D.

    An object by prompt: ``prompt``, and ``models``, an object of lists, a rating a rater. An
    empty list is no rating. GenAI-Bench has ``genai_skills.json`` beside it, an object of skills,
    each a list of the prompts' numbers: it becomes the tag ``skills`` (names joined by ``|``).

    Parameters
    ----------
    folder : Path
    file : str
        Name of the JSON file; several, each with a dimension, joined by ``|``.
    dimension : str
        Name of what was rated; as many as files, joined by ``|``.
    image : str
        Where the source keeps an image, with {system} and {item}.
    """
    rows: list[dict[str, Any]] = []
    samples: dict[tuple[str, str], dict[str, Any]] = {}
    skills = _skills(folder)
    for name, rated in zip(file.split("|"), dimension.split("|"), strict=True):
        path = folder / name
        for item, record in json_of(path, dict).items():
            where = f"{path}, prompt {item}"
            text = get(record, "prompt", where)
            for system, values in get(record, "models", where, dict).items():
                key = {"system": system, "item": item}
                sample = {**key, "text": text, "image": image.format(**key)}
                samples[system, item] = sample | skills.get(_number(item), {})
                for rater, value in enumerate(values, 1):
                    found = number(value, where)
                    more = {"rater": f"rater{rater}", "dimension": rated, "value": found}
                    rows.append({**key, **more})
    return rating_set(rows, samples.values())


def read_genai_ranking(folder: Path) -> RatingSet:
    """GenAI-Bench ranking (Li et al., CVPR workshop 2024): ``human_rating.json``.

    As GenAI-Bench, but each model has an object of nine images by number (``"1"`` to ``"9"``),
    each a list of ratings. The number, less one, is the row's index.
    """
    path, rows, samples = folder / "human_rating.json", [], []
    skills = _skills(folder)
    for item, record in json_of(path, dict).items():
        where = f"{path}, prompt {item}"
        text = get(record, "prompt", where)
        for system, images in get(record, "models", where, dict).items():
            for which, values in images.items():
                at = _number(which)
                key = {"system": system, "item": item, "index": at - 1}
                image = f"{system}/{_number(item):05d}_{at:02d}.jpeg"
                more = skills.get(_number(item), {})
                samples.append({**key, "text": text, "image": image, **more})
                for rater, value in enumerate(values, 1):
                    found = number(value, where)
                    rows.append({**key, "rater": f"rater{rater}", "value": found})
    return rating_set(_of("alignment", rows), samples)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"prompts and images are numbered, but there is one {text!r}")
    return int(text)


def _skills(folder: Path) -> dict[int, dict[str, str]]:
    path = folder / "genai_skills.json"
    if not path.is_file():
        return {}
    found: dict[int, list[str]] = {}
    for skill, items in json_of(path, dict).items():
        for item in items:
            found.setdefault(int(item), []).append(skill)
    return {item: {"skills": "|".join(names)} for item, names in found.items()}


def read_agiqa3k(folder: Path) -> RatingSet:
    """AGIQA-3K (Li et al., TCSVT 2023): ``data.csv``.

    ``name`` (``<system>_<setting>_<number>.jpg``), ``prompt``, ``adj1``, ``adj2``, ``style``,
    mean opinion scores ``mos_quality`` and ``mos_align``, and their standard deviations, which are
    not read. The ratings of single raters are not published. The item is the prompt; the system
    is with its setting (``sd1.5_lowstep``), as each made an image of each prompt.
    """
    rows, samples = [], []
    wanted = ("name", "prompt", "adj1", "adj2", "style", "mos_quality", "mos_align")
    for where, record in table_of(folder / "data.csv", *wanted):
        key = {"system": record["name"].rpartition("_")[0], "item": record["prompt"]}
        for dimension in ("quality", "align"):
            value = number(record[f"mos_{dimension}"], where)
            rows.append({**key, "rater": "mos", "dimension": dimension, "value": value})
        tags = {"style": record["style"], "setting": key["system"].rpartition("_")[2]}
        samples.append({**key, "text": record["prompt"], "image": record["name"], **tags})
    return rating_set(rows, samples)


def read_geneval(folder: Path) -> RatingSet:
    """GenEval's human study (Ghosh et al., NeurIPS 2023): ``annotations_<system>.csv``.

    Mechanical Turk's export, a row a rater: ``Input.prompt_id``, ``Input.image_id``,
    ``Input.caption``, ``Input.image_url``, and the answers. ``Answer.task-quality`` (1 to 4) is
    how well the image fits its caption; the raters' names are not published, so they are known
    by their order. The other answers (counts, colours, places) are not ratings of the image and
    are not read.
    """
    files = sorted(folder.glob("annotations_*.csv"))
    if not files:
        raise UsageError(f"{folder} holds no annotations_*.csv")
    rows: list[dict[str, Any]] = []
    samples: dict[tuple[str, str, int], dict[str, Any]] = {}
    raters: dict[tuple[str, str, int], int] = {}
    wanted = ("Input.prompt_id", "Input.image_id", "Input.caption", "Answer.task-quality")
    for path in files:
        system = path.stem.partition("_")[2]
        for where, record in table_of(path, *wanted, "Input.image_url", "Input.object_1_name"):
            item, index = record["Input.prompt_id"], _number(record["Input.image_id"])
            key = {"system": system, "item": item, "index": index}
            rater = raters[system, item, index] = raters.get((system, item, index), 0) + 1
            value = number(record["Answer.task-quality"], where)
            rows.append({**key, "rater": f"rater{rater}", "value": value})
            image, text = record["Input.image_url"], record["Input.caption"]
            samples[system, item, index] = {**key, "text": text, "image": image}
    return rating_set(_of("quality", rows), samples.values())


def read_evalmuse(folder: Path) -> RatingSet:
    """EvalMuse-40K (Han et al., 2024): ``train_list.json``.

    A list of ``prompt_id``, ``prompt``, ``type`` (real or synthetic prompt), ``img_path``
    (``<system>/...``), ``total_score`` (a list, 1 to 5) and ``element_score``: an object, or its
    text as Python writes it, of lists of 0 and 1 by element. Two dimensions: ``overall``, and
    ``elements``, a rater's share of elements that are right. The test part's ratings were not
    published with it.
    """
    path, rows, samples = folder / "train_list.json", [], []
    seen: dict[tuple[str, str], int] = {}
    for number_, record in enumerate(json_of(path, list)):
        where = f"{path}, entry {number_}"
        image = get(record, "img_path", where)
        system, item = Path(image).parts[0], str(record.get("prompt_id"))
        index = seen[system, item] = seen.get((system, item), -1) + 1
        key = {"system": system, "item": item, "index": index}
        text = get(record, "prompt", where)
        samples.append({**key, "text": text, "image": image, "type": record.get("type")})
        by_rater: dict[int, list[float]] = {}
        for values in _elements(record.get("element_score"), where).values():
            for rater, value in enumerate(values):
                by_rater.setdefault(rater, []).append(number(value, where))
        rated = {
            "overall": [number(v, where) for v in get(record, "total_score", where, list)],
            "elements": [sum(v) / len(v) for _, v in sorted(by_rater.items())],
        }
        for dimension, values in rated.items():
            for rater, value in enumerate(values, 1):
                more = {"rater": f"rater{rater}", "dimension": dimension, "value": value}
                rows.append({**key, **more})
    return rating_set(rows, samples)


def _elements(given: Any, where: str) -> dict[str, list[Any]]:
    try:
        found = literal_eval(given) if isinstance(given, str) else given
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, list) for v in found.values()):
        raise UsageError(f"{where}: element_score must be lists of ratings by element")
    return found


RICHHF_SCORES: Mapping[str, str] = {
    "artifact_score": "plausibility",
    "misalignment_score": "alignment",
    "aesthetics_score": "aesthetics",
    "overall_score": "overall",
}


def read_richhf(folder: Path) -> RatingSet:
    """RichHF-18K (Liang et al., CVPR 2024): ``richhf_18k.parquet`` (or .csv, .jsonl).

    An export of the TFRecord files with ``filename`` and the four scores (0 to 1, higher is
    better): ``artifact_score`` becomes the dimension plausibility, ``misalignment_score``
    alignment. The prompt is under ``prompt``, ``caption`` or ``text``, where the export has it.
    `scorekit.misalignment_sets.read_richhf` reads the wrong words of the same file.
    """
    from scorekit.prompts import read_table

    found = [
        p for s in (".parquet", ".csv", ".jsonl") if (p := folder / f"richhf_18k{s}").is_file()
    ]
    if not found:
        raise UsageError(f"{folder} holds no richhf_18k.parquet, .csv or .jsonl")
    table, rows, samples = read_table(found[0]), [], []
    missing = [name for name in ("filename", *RICHHF_SCORES) if name not in table]
    if missing:
        raise UsageError(f"{found[0]}: no column {missing[0]}")
    names, texts = table.strings("filename"), table.strings("text")
    for at, name in enumerate(names):
        if name is None:
            raise table.error(at, "filename is empty")
        samples.append({"item": name, "text": texts[at], "image": name})
        for column, dimension in RICHHF_SCORES.items():
            value = number(table.columns[column][at], f"{found[0]}, {table.places[at]}")
            rows.append({"item": name, "rater": "mean", "dimension": dimension, "value": value})
    return rating_set(rows, samples)


def read_own_table(folder: Path) -> RatingSet:
    """A set whose ratings have no public file: ``ratings.csv`` (or .tsv, .jsonl, .parquet).

    In the form that `scorekit.ratings.RatingSet.load` takes: system, item, rater, dimension,
    value. For those who have the ratings from the authors.
    """
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        if (path := folder / f"ratings{suffix}").is_file():
            return RatingSet.load(path)
    raise UsageError(f"{folder} holds no ratings.csv, .tsv, .jsonl or .parquet")


def _of(dimension: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "dimension": dimension} for row in rows]
