"""The main job from Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scorekit.io import read_samples, samples_from
from scorekit.metric import BaseMetric
from scorekit.run import RunOptions, score_samples
from scorekit.table import ScoreTable
from scorekit.types import UsageError


def score(
    images: Any,
    texts: str | Sequence[str] | None = None,
    *,
    metrics: Sequence[str | BaseMetric] | str | BaseMetric = ("clipscore",),
    backbone: str | None = None,
    prompts: str | Path | None = None,
    items: Sequence[str] | None = None,
    systems: Sequence[str] | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    options: RunOptions | None = None,
    columns: dict[str, Sequence[Any]] | None = None,
    images_within: str | Path | None = None,
    **more_options: Any,
) -> ScoreTable:
    """Score images against texts.

    Parameters
    ----------
    images : path, or sequence of images, or array or tensor (n, c, h, w)
        One path is a folder or table, as on the command line. A sequence holds paths, PIL
        images, numpy arrays or torch tensors on any device, mixed as you like.
    texts : str or sequence of str, optional
        One an image, or one for all.
    metrics : str, metric, or sequence of them
        As after ``-m``: ``"clipscore"``, ``"clip_i@scenes-clip"``, or metric objects.
    backbone : str, optional
        For the metrics that name none.
    prompts : path, optional
        With a folder: where its prompts are.
    items, systems : sequence of str, optional
        Identity of each image's prompt, and the model that made it.
    progress : callable, optional
        Called with (done, total).
    options : RunOptions, optional
        Or give its fields by name: ``device="cuda"``, ``cache=False``.
    columns : mapping of str to sequence
        Further fields of `Sample`, or columns to keep: ``{"source_image": [...]}``.
    images_within : path, optional
        With a folder or table: read no image outside of this folder.

    Returns
    -------
    ScoreTable

    Raises
    ------
    UsageError
        If the run can't be done at all. One bad image is a row with a status.

    Examples
    --------
    >>> import scorekit
    >>> from importlib.resources import files
    >>> demo = files("scorekit.data") / "demo"
    >>> table = scorekit.score(str(demo), backbone="scenes-clip", cache=False)
    >>> len(table), table.mean("clipscore").n
    (60, 60)
    """
    record: dict[str, Any] = {}
    if isinstance(images, str | Path):
        if not (texts is None or isinstance(texts, str)) or items or systems or columns:
            raise UsageError(
                "a folder or table brings its own texts, items, systems and columns; "
                "give a list of images to say them here"
            )
        listing = read_samples(
            images,
            prompts=prompts,
            text=texts if isinstance(texts, str) else None,
            images_within=images_within,
        )
        for finding in listing.findings:
            warnings.warn(str(finding), stacklevel=2)
        samples = listing.samples
        record = {
            "input": str(images),
            "prompts": listing.source,
            "findings": [str(finding) for finding in listing.findings],
        }
    else:
        if prompts is not None:
            raise UsageError("prompts go with a folder; give the texts of a list of images")
        if images_within is not None:
            raise UsageError("images_within goes with a folder or table")
        samples = samples_from(images, texts, items=items, systems=systems, **(columns or {}))
    if more_options:
        options = RunOptions(**{**vars(options or RunOptions()), **more_options})
    return score_samples(
        samples,
        metrics,
        backbone=backbone,
        options=options,
        progress=progress,
        record=record,
    )
