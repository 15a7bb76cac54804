"""What there is: metrics with their cards, backbones with licence, size and text limit."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from scorekit.backbones.files import on_disk
from scorekit.inputs import RECORD
from scorekit.registry import ALIASES, METRICS, all_metrics, load_metric
from scorekit.types import UsageError

_WEIGHTS = (
    "HPS_v2.1_compressed.pt",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
)


@dataclass(frozen=True)
class MetricRow:
    """A line of `scorekit metrics`."""

    name: str
    question: str
    needs: str
    range: str
    higher_is_better: bool
    backbone: str | None


@dataclass(frozen=True)
class BackboneRow:
    """A line of `scorekit backbones`.

    Attributes
    ----------
    megabytes : int or None
        Of the weights in float32.
    text_limit : int or None
        Tokens, special ones included.
    """

    name: str
    licence: str
    megabytes: int | None
    text_limit: int | None
    on_disk: bool
    remarks: str = ""


def metric_rows() -> list[MetricRow]:
    """The metrics, in the order of the registry; those of third parties last."""
    rows = []
    for name in [*METRICS, *(n for n in all_metrics() if n not in METRICS)]:
        cls = load_metric(name)
        metric = cls()
        needs = dict.fromkeys(
            "the whole row" if field == RECORD else field.replace("_", " ")
            for need in metric.needs.values()
            if need.kind not in ("constant", "value")
            for field in (need.field, need.second)
            if isinstance(field, str)
        )
        rows.append(
            MetricRow(
                name=name,
                question=(cls.__doc__ or "").strip().split("\n")[0],
                needs=", ".join(needs),
                range=_range(cls.range),
                higher_is_better=cls.higher_is_better,
                backbone=getattr(metric, "backbone", None),
            )
        )
    return rows


def metric_card(name: str) -> str:
    """A metric's card, as Markdown.

    Raises
    ------
    UsageError
        If there is no such metric, or it brings no card.
    """
    cls = load_metric(name)
    module, _, _ = str(cls.__module__).rpartition(".")
    card = files(module).joinpath(f"{name}.md")
    if not card.is_file():
        raise UsageError(f"{name} brings no card")
    return card.read_text("utf-8")


def backbone_rows(*, everything: bool = False) -> list[BackboneRow]:
    """The backbones that are known by name; any other of their families works as well.

    Parameters
    ----------
    everything : bool
        Every architecture and tag of OpenCLIP as well, which takes loading it.
    """
    rows = [_alias_row(name) for name in ALIASES]
    known = files("scorekit.data").joinpath("backbones.csv").read_text("utf-8")
    for entry in csv.DictReader(known.splitlines()):
        rows.append(
            BackboneRow(
                name=entry["name"],
                licence=entry["licence"],
                megabytes=int(entry["megabytes"]) if entry["megabytes"] else None,
                text_limit=int(entry["text_limit"]),
                on_disk=on_disk(entry["repository"], _WEIGHTS),
                remarks=entry["remarks"],
            )
        )
    if everything:
        listed = {row.name for row in rows}
        rows += [row for row in _open_clip_rows() if row.name not in listed]
    return rows


def _alias_row(name: str) -> BackboneRow:
    place = ALIASES[name].partition("scorekit.data/")[2]
    folder = Path(str(files("scorekit.data").joinpath(place)))
    weights = folder / "model.safetensors"
    size = math.ceil(weights.stat().st_size / 1e6) if weights.is_file() else None
    config = folder / "config.json"
    record = json.loads(config.read_text("utf-8")) if config.is_file() else {"text_config": {}}
    limit = record["text_config"].get("max_position_embeddings")
    remark = "knows drawn scenes and nothing else"
    return BackboneRow(name, "Apache-2.0", size, limit, size is not None, remark)


def _open_clip_rows() -> Iterator[BackboneRow]:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    for arch, tag in open_clip.list_pretrained():
        place = get_pretrained_cfg(arch, tag).get("hf_hub", "")
        repo = place.rpartition("/")[0]
        config = open_clip.get_model_config(arch) or {}
        limit = config.get("text_cfg", {}).get("context_length", 77)
        there = bool(repo) and on_disk(repo, _WEIGHTS)
        yield BackboneRow(f"open_clip:{arch}/{tag}", "see its page", None, limit, there, repo)


def _range(bounds: tuple[float, float]) -> str:
    low, high = ("-inf" if b == -math.inf else "inf" if b == math.inf else f"{b:g}" for b in bounds)
    return f"{low} to {high}"
