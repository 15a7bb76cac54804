"""Labels of captions that are right or wrong, and groups of captions and pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scorekit import misalignment_sets as foils
from scorekit.rating_sets._files import get, json_lines, json_of
from scorekit.ratings import RatingSet, rating_set
from scorekit.types import UsageError

Rows = list[dict[str, Any]]


def group(
    item: str,
    captions: Sequence[str],
    pictures: Sequence[str],
    right: Collection[tuple[int, int]],
    tags: Mapping[str, Any] | None = None,
) -> tuple[Rows, Rows]:
    """Rows and samples of one group: every caption with every picture.

    The system of a cell is ``c<caption>_i<picture>``.

    Parameters
    ----------
    item : str
    captions, pictures : sequence of str
    right : collection of (caption, picture)
        The cells that belong together.
    tags : mapping, optional
    """
    rows, samples = [], []
    for c, text in enumerate(captions):
        for i, image in enumerate(pictures):
            key = {"system": f"c{c}_i{i}", "item": item}
            cell = {"caption": c, "picture": i, "value": float((c, i) in right)}
            rows.append({**key, "dimension": "match", **cell})
            samples.append({**key, "text": text, "image": image, **(tags or {})})
    return rows, samples


def _grouped(groups: Iterable[tuple[Rows, Rows]], notes: tuple[str, ...] = ()) -> RatingSet:
    rows, samples = [], []
    for some_rows, some_samples in groups:
        rows += some_rows
        samples += some_samples
    return rating_set(rows, samples, kind="groups", notes=notes)


_BOTH = ((0, 0), (1, 1))


def read_winoground(folder: Path) -> RatingSet:
    """Winoground (Thrush et al., CVPR 2022): ``examples.jsonl``.

    ``id``, ``caption_0``, ``caption_1``, ``image_0``, ``image_1``, ``collapsed_tag``,
    ``num_main_preds``: caption 0 belongs to image 0, and 1 to 1.
    """
    return _grouped(
        group(
            str(record.get("id")),
            [get(record, f"caption_{n}", where) for n in (0, 1)],
            [get(record, f"image_{n}", where) for n in (0, 1)],
            _BOTH,
            {"tag": record.get("collapsed_tag"), "predicates": record.get("num_main_preds")},
        )
        for where, record in json_lines(folder / "examples.jsonl")
    )


def read_eqben(folder: Path) -> RatingSet:
    """EqBen's subset for language models (Wang et al., ICCV 2023): ``all_select.json``.

    A list of ``image0``, ``image1``, ``caption0``, ``caption1``; the image's first folder
    (``eqbensd``, ``eqbenag``, ...) becomes the tag ``subset``. The item is the entry's number.
    """
    path = folder / "all_select.json"

    def one(n: int, record: Mapping[str, Any]) -> tuple[Rows, Rows]:
        where = f"{path}, entry {n}"
        captions, pictures = (
            [get(record, f"{what}{i}", where) for i in (0, 1)] for what in ("caption", "image")
        )
        return group(f"{n:05d}", captions, pictures, _BOTH, {"subset": Path(pictures[0]).parts[0]})

    return _grouped(one(n, record) for n, record in enumerate(json_of(path, list)))


def read_aro(folder: Path) -> RatingSet:
    """ARO's Visual Genome parts (Yuksekgonul et al., ICLR 2023).

    ``visual_genome_relation.json`` and ``visual_genome_attribution.json``, lists of
    ``image_path``, ``true_caption``, ``false_caption``, the box of the image that is meant
    (``bbox_x``, ``bbox_y``, ``bbox_w``, ``bbox_h``, kept as ``box``) and ``relation_name`` or
    ``attributes``. Caption 0 is the true one. The order parts (COCO, Flickr30k) are made by code
    from captions and not read. The papers average over relations, then over attribute pairs: the
    tag ``kind`` is for that.
    """
    groups = []
    for part in ("relation", "attribution"):
        path = folder / f"visual_genome_{part}.json"
        for n, record in enumerate(json_of(path, list) if path.is_file() else ()):
            where = f"{path}, entry {n}"
            captions = [get(record, f"{which}_caption", where) for which in ("true", "false")]
            image = get(record, "image_path", where)
            kind = record.get("relation_name") or "_".join(record.get("attributes") or ())
            box = [record[f"bbox_{side}"] for side in "xywh"] if "bbox_x" in record else None
            tags = {"part": part, "kind": kind, "box": box}
            groups.append(group(f"{part}/{n}", captions, [image], {(0, 0)}, tags))
    if not groups:
        raise UsageError(f"{folder} holds no visual_genome_relation.json or ..._attribution.json")
    return _grouped(groups)


def read_valse(folder: Path) -> RatingSet:
    """VALSE (Parcalabescu et al., ACL 2022): the JSON files of its ``data`` folder.

    Objects by id of ``image_file``, ``caption``, ``foil`` (or ``foils``), ``dataset``,
    ``linguistic_phenomena`` and ``mturk``, how many of three annotators chose the caption. Only
    pairs of which at least two did are kept, as the authors say. Caption 0 is the right one.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UsageError(f"{folder} holds no JSON files")
    groups, invalid = [], 0
    for path in files:
        for ident, record in json_of(path, dict).items():
            where = f"{path}, {ident}"
            votes = get(record, "mturk", where, dict).get("caption", 0)
            if votes < 2:
                invalid += 1
                continue
            wrong = record.get("foils") or [get(record, "foil", where)]
            captions = [get(record, "caption", where), *wrong]
            image = get(record, "image_file", where)
            tags = {"piece": path.stem, "dataset": record.get("dataset")}
            groups.append(group(f"{path.stem}/{ident}", captions, [image], {(0, 0)}, tags))
    return _grouped(groups, (f"{invalid} pairs that fewer than two annotators bore out",))


def _foil_groups(cases: list[foils.FoilCase]) -> RatingSet:
    pairs = foils.pairs_of(cases)
    alone = sum(case.misaligned for case in cases) - len(pairs)
    return _grouped(
        (
            group(foil.item, [right.text, foil.text], [foil.image], {(0, 0)}, {"part": foil.kind})
            for right, foil in pairs
        ),
        (f"{alone} foils without an original were left out",) if alone else (),
    )


def read_foil(folder: Path) -> RatingSet:
    """FOIL (Shekhar et al., ACL 2017): ``foilv1.0_test_2017.json``; a group a foil.

    Caption 0 is the original. See `scorekit.misalignment_sets.read_foil` for the format.
    """
    cases = foils.read_foil(folder / "foilv1.0_test_2017.json")
    seen: dict[str, int] = {}
    groups = []
    for right, foil in foils.pairs_of(cases):
        n = seen[foil.item] = seen.get(foil.item, -1) + 1
        item = f"{foil.item}/{n}"
        groups.append(group(item, [right.text, foil.text], [foil.image], {(0, 0)}))
    alone = sum(case.misaligned for case in cases) - len(groups)
    note = f"{alone} foils without an original were left out"
    return _grouped(groups, (note,) if alone else ())


def read_sugar_crepe(folder: Path) -> RatingSet:
    """SugarCrepe (Hsieh et al., NeurIPS 2023): ``add_att.json`` and six more; a group a foil.

    Caption 0 is the original; the tag ``part`` is the file's name.
    """
    return _foil_groups(foils.read_sugar_crepe(folder))


def read_seetrue(folder: Path) -> RatingSet:
    """SeeTRUE (Yarom et al., NeurIPS 2023): ``SeeTRUE.csv``, an image and a text a row.

    Label 1 where they agree. The item is the text, the system the image's name; the tag ``part``
    is the source set.
    """
    rows, samples = [], []
    for case in foils.read_seetrue(folder / "SeeTRUE.csv"):
        key = {"system": case.image, "item": case.text}
        rows.append({**key, "dimension": "aligned", "value": float(not case.misaligned)})
        samples.append({**key, "text": case.text, "image": case.image, "part": case.kind})
    return rating_set(rows, samples, kind="labels")
