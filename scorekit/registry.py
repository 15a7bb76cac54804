"""Explicit tables of metrics and backbone families, imported on first use.

A third party adds its own through the entry-point groups ``scorekit.metrics`` and
``scorekit.backbones``; a name that scorekit itself has can't be taken over.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from scorekit.types import UsageError

METRICS: dict[str, str] = {
    "clipscore": "scorekit.metrics.clipscore:CLIPScore",
    "ref_clipscore": "scorekit.metrics.ref_clipscore:RefCLIPScore",
    "clip_t": "scorekit.metrics.clip_t:CLIPT",
    "clip_i": "scorekit.metrics.clip_i:CLIPI",
    "clip_image_score": "scorekit.metrics.clip_image_score:CLIPImageScore",
    "siglip_score": "scorekit.metrics.siglip_score:SigLIPScore",
    "pickscore": "scorekit.metrics.pickscore:PickScore",
    "hpsv2": "scorekit.metrics.hpsv2:HPSv2",
    "retrieval": "scorekit.metrics.retrieval:Retrieval",
    "clip_r_precision": "scorekit.metrics.clip_r_precision:CLIPRPrecision",
    "clip_agg": "scorekit.metrics.clip_agg:CLIPAgg",
    "vqascore": "scorekit.metrics.vqascore:VQAScore",
    "tifa": "scorekit.metrics.tifa:TIFA",
    "dsg": "scorekit.metrics.dsg:DSG",
    "caption_likelihood": "scorekit.metrics.caption_likelihood:CaptionLikelihood",
    "bartscore": "scorekit.metrics.bartscore:BARTScore",
    "blip2_itc": "scorekit.metrics.blip2_itc:BLIP2ITC",
    "blip2_itm": "scorekit.metrics.blip2_itm:BLIP2ITM",
    "clip4dm": "scorekit.metrics.clip4dm:CLIP4DM",
    "f_clipscore": "scorekit.metrics.f_clipscore:FCLIPScore",
    "noun_clipscore": "scorekit.metrics.noun_clipscore:NounCLIPScore",
    "comclip": "scorekit.metrics.comclip:ComCLIP",
    "augclip": "scorekit.metrics.augclip:AugCLIP",
    "directional_clip": "scorekit.metrics.directional_clip:DirectionalCLIP",
    "clip_dir": "scorekit.metrics.clip_dir:CLIPDir",
    "clip_out": "scorekit.metrics.clip_out:CLIPOut",
    "clip_im": "scorekit.metrics.clip_im:CLIPIm",
    "edit_baseline": "scorekit.metrics.edit_baseline:EditBaseline",
    "lambda_harmonic": "scorekit.metrics.lambda_harmonic:LambdaHarmonic",
    "dino_i": "scorekit.metrics.dino_i:DINOI",
    "lpips": "scorekit.metrics.lpips:LPIPS",
    "psnr": "scorekit.metrics.psnr:PSNR",
    "ssim": "scorekit.metrics.ssim:SSIM",
    "mse": "scorekit.metrics.mse:MSE",
    "l1": "scorekit.metrics.l1:L1",
    "structure_distance": "scorekit.metrics.structure_distance:StructureDistance",
    "judge": "scorekit.metrics.judge:Judge",
    "viescore": "scorekit.metrics.viescore:VIEScore",
    "checklist": "scorekit.metrics.checklist:Checklist",
    "checklist_pair": "scorekit.metrics.checklist_pair:ChecklistPair",
}

BACKBONES: dict[str, str] = {
    "open_clip": "scorekit.backbones.open_clip_dual:load",
    "hf": "scorekit.backbones.hf:load",
    "openai": "scorekit.backbones.endpoint:load",
    "questions": "scorekit.backbones.questions_file:load",
    "entities": "scorekit.backbones.entities_column:load",
    "answers": "scorekit.backbones.answers_file:load",
    "ask": "scorekit.backbones.question_writer:load",
    "attributes": "scorekit.backbones.attributes_file:load",
    "describe": "scorekit.backbones.attributes_writer:load",
    "pixels": "scorekit.backbones.pixels:load",
}

ALIASES: dict[str, str] = {
    "scenes-clip": "hf:scorekit.data/checkpoints/scenes-clip",
    "scenes-vqa": "hf:scorekit.data/checkpoints/scenes-vqa",
}
"""Backbones with a name of their own; ``scorekit.data/`` means a file in the wheel."""


def all_metrics() -> dict[str, str]:
    """Names of the metrics and where their classes are, those of entry points included."""
    return {**_external("scorekit.metrics"), **METRICS}


def all_backbones() -> dict[str, str]:
    """Families of backbones and where their loaders are, those of entry points included."""
    return {**_external("scorekit.backbones"), **BACKBONES}


def load_metric(name: str) -> Any:
    """Import a metric's class.

    Raises
    ------
    UsageError
        If there is no metric of that name; the message names the nearest.
    """
    return _load(name, all_metrics(), "metric")


def load_backbone_family(name: str) -> Any:
    """Import the loader of a family of backbones.

    Raises
    ------
    UsageError
        If there is no family of that name; the message names the nearest.
    """
    return _load(name, all_backbones(), "backbone")


def _load(name: str, table: Mapping[str, str], kind: str) -> Any:
    if name not in table:
        near = difflib.get_close_matches(name, [*table, *ALIASES], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"unknown {kind} {name!r}{hint} (`scorekit {kind}s` lists what there is)")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def _external(group: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=group)}
