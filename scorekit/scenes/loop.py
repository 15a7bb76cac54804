"""The training loop of the small models: shards, schedule, saved states, resuming."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from torch import nn

from scorekit.scenes.examples import SHARD, Shard, load_shard, make_shard, save_shard

WARM_UP = 0.02

Losses = Callable[
    [Any, Shard, np.ndarray, np.random.Generator, torch.device, bool], dict[str, torch.Tensor]
]


@dataclass(frozen=True)
class Recipe:
    """What is particular to one of the small models.

    Attributes
    ----------
    name
        Of the checkpoint.
    build
        A fresh model with its training heads.
    core
        The part of it that is kept, from the whole.
    losses
        The parts of the loss of a shard's rows: (model, shard, rows, generator, device, whether
        the image tower learns alone).
    weights
        Of the parts of the loss.
    save
        Writes the core to a folder.
    batch, shards, easy
        Images a step; shards in all, and how many of them are of simple scenes.
    alone
        The share of the run in which the image tower learns alone.
    muon, adam
        Learning rates at their height.
    drawn
        How the shards are made, for `make_shard`.
    """

    name: str
    build: Callable[[], nn.Module]
    core: Callable[[Any], nn.Module]
    losses: Losses
    weights: Mapping[str, float]
    save: Callable[[Any, Path], None]
    batch: int
    shards: int
    easy: int
    alone: float
    muon: float
    adam: float
    drawn: Mapping[str, Any] = field(default_factory=dict)


def shard_path(work: Path, index: int) -> Path:
    """Where a shard lies in the work folder."""
    return work / f"shard-{index:03d}.npz"


def render_shard(work: Path, index: int, easy: int, options: dict[str, Any]) -> None:
    """Make a shard that is not there yet; the first `easy` are of simple scenes."""
    if not shard_path(work, index).exists():
        save_shard(make_shard(index, easy=index < easy, **options), shard_path(work, index))


def render_shards(work: Path, shards: int, easy: int, options: dict[str, Any]) -> None:
    """Make the first `shards` shards on all cores.

    Before training rather than beside it: a renderer on one of two cores more than halves the
    speed of training, whose threads wait for each other.
    """
    missing = [k for k in range(shards) if not shard_path(work, k).exists()]
    if missing:
        print(f"rendering {len(missing)} shards", flush=True)
        with mp.get_context("spawn").Pool(min(len(missing), os.cpu_count() or 1)) as pool:
            tasks = [(work, index, easy, options) for index in missing]
            pool.starmap(render_shard, tasks, chunksize=1)


def shard_of(turn: int, shards: int, easy: int) -> int:
    """The shard of each turn: all of them, then again and again without the easy ones."""
    if turn < shards:
        return turn
    return easy + (turn - shards) % (shards - easy)


def pace(progress: float) -> float:
    """The factor on the learning rates: warm-up, then a half cosine to near nothing."""
    if progress < WARM_UP:
        return progress / WARM_UP + 0.01
    rest = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * rest)) * 0.99 + 0.01


def optimisers_of(
    core: nn.Module, model: nn.Module, muon: float, adam: float
) -> list[torch.optim.Optimizer]:
    """Muon for the core's layers' matrices, which leaves plateaus sooner; AdamW for the rest."""
    layers = [p for name, p in core.named_parameters() if ".layers." in name and p.ndim == 2]
    known = {id(p) for p in layers}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(layers, lr=muon, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=adam, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01),
    ]


def train(
    recipe: Recipe,
    out: Path,
    minutes: float | None = None,
    samples: int | None = None,
    device: str = "auto",
    resume: bool = False,
    work: Path | None = None,
    save_every: float = 300.0,
) -> int:
    """Train a small model and write its checkpoint.

    The shards are rendered first, which takes a few minutes on top.

    Parameters
    ----------
    recipe
        Which model, and how.
    out
        Folder of the checkpoint; written every `save_every` seconds and at the end.
    minutes, samples
        How long: of the two, give one. A run of so many samples repeats exactly on the same
        machine; one of so many minutes has as many samples as the machine manages.
    device
        "auto" (a GPU where there is one), "cpu", "cuda", ...
    resume
        Go on from the state in `work`, where there is one.
    work
        Folder of the shards and the state; kept, so that a second run need not render again.
    save_every
        Seconds between two saved states.

    Returns
    -------
    int
        The number of samples (images) that were seen.
    """
    if (minutes is None) == (samples is None):
        raise ValueError("give either minutes or samples")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    work = work or Path(tempfile.gettempdir()) / f"scorekit-{recipe.name}"
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = recipe.build().to(where)
    core, size = recipe.core(model), recipe.batch
    rates = (recipe.muon, recipe.adam)
    optimisers = optimisers_of(core, model, *rates)
    step, spent, state = 0, 0.0, work / "state.pt"
    if resume and state.exists():
        saved = torch.load(state, map_location=where, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimiser, kept in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        step, spent = saved["step"], saved["spent"]
        print(f"resumed at step {step}", flush=True)
    needed = min(recipe.shards, math.ceil(samples / SHARD)) if samples else recipe.shards
    render_shards(work, needed, recipe.easy, dict(recipe.drawn))
    steps_a_shard = SHARD // size
    shard, held = None, -1
    means: dict[str, float] = {}
    began = last = time.monotonic()
    while True:
        now = time.monotonic()
        total = spent + now - began
        progress = step * size / samples if samples else total / 60 / (minutes or 1)
        done = progress >= 1
        if done or now - last > save_every:
            last = now
            states = [each.state_dict() for each in optimisers]
            now_so = {"model": model.state_dict(), "optimisers": states}
            torch.save({**now_so, "step": step, "spent": total}, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
            recipe.save(core, out)
        if done:
            break
        turn, place = divmod(step, steps_a_shard)
        if turn != held:
            path = shard_path(work, shard_of(turn, recipe.shards, recipe.easy))
            shard, held = load_shard(path), turn
        assert shard is not None
        order = np.random.default_rng([1, turn]).permutation(SHARD)
        rows = order[place * size : (place + 1) * size]
        rng = np.random.default_rng([2, step])
        for optimiser, rate in zip(optimisers, rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * pace(progress)
        parts = recipe.losses(model, shard, rows, rng, where, progress < recipe.alone)
        loss = torch.stack([recipe.weights[name] * part for name, part in parts.items()]).sum()
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        for name, part in parts.items():
            means[name] = 0.98 * means.get(name, part.item()) + 0.02 * part.item()
        step += 1
        if step % 50 == 0:
            shown = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            speed = step * size / (spent + time.monotonic() - began)
            print(f"{step} {progress:.3f} {speed:.0f}/s {shown}", flush=True)
    print(f"{step * size} samples in {total / 60:.1f} minutes", flush=True)
    return step * size
