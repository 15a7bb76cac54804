"""Loading a large model: whether it fits, and in which precision."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scorekit.backbones.files import one_line_errors
from scorekit.backbones.spec import DTYPES, BackboneOptions
from scorekit.types import UsageError

BITS = {"fp32": 32, "fp16": 16, "bf16": 16}


def load_model(
    cls: Any,
    folder: Path,
    weights: Sequence[Path],
    options: BackboneOptions,
    device: torch.device,
) -> Any:
    """Load a transformers model onto a device, in eval mode and without gradients.

    Parameters
    ----------
    cls
        An auto class, or a model's.
    folder, weights
        The checkpoint.
    options
        Precision, and whether its own code may run.
    device
        Where to.

    Raises
    ------
    UsageError
        If it can't be loaded, or does not fit in memory.
    """
    from transformers.utils import logging as hf_logging

    check_fits(weights, options, device)
    hf_logging.disable_progress_bar()
    with one_line_errors(folder.name):
        try:
            model = cls.from_pretrained(
                folder,
                dtype=getattr(torch, DTYPES[options.dtype]),
                local_files_only=True,
                use_safetensors=weights[0].suffix == ".safetensors",
                trust_remote_code=options.trust_remote_code,
            ).to(device)
        except (torch.OutOfMemoryError, MemoryError):
            raise UsageError(
                f"{folder.name} does not fit into the memory of {device}; try --dtype bf16 "
                "or a smaller checkpoint"
            ) from None
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


class Int8Linear(torch.nn.Module):
    """A linear layer whose weights are kept as 8-bit integers with one scale an output.

    Computed in the activations' own precision: what is lost is the rounding of the weights.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Like `torch.nn.Linear`."""
        weight, scale = self.get_buffer("weight"), self.get_buffer("scale")
        out = torch.nn.functional.linear(x, weight.to(x.dtype)) * scale
        return out if self.bias is None else out + self.bias


def quantize(model: Any, options: BackboneOptions) -> Any:
    """The model with its linear layers' weights in 8 bits, where that is asked for.

    The head reads a few positions only, and rounding it would shift every probability: it
    stays as it is.
    """
    if options.quantize == "none":
        return model
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and child is not head:
                setattr(module, name, Int8Linear(child))
    return model


def check_fits(weights: Sequence[Path], options: BackboneOptions, device: torch.device) -> None:
    """Refuse a model that is larger than the memory there is, before hours of swapping.

    Raises
    ------
    UsageError
        If the weights alone need more than is free.
    """
    needed = sum(map(count_parameters, weights)) * BITS[options.dtype] / 8
    free = free_memory(device)
    if needed and free is not None and needed > free:
        raise UsageError(
            f"the weights need about {needed / 1e9:.1f} GB in {options.dtype} and {device} has "
            f"{free / 1e9:.1f} GB free; try --dtype bf16 or a smaller checkpoint"
        )


def count_parameters(path: Path) -> int:
    """Numbers in a safetensors file, read off its header; 0 for any other file."""
    if path.suffix != ".safetensors":
        return 0
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = 1
            for axis in entry["shape"]:
                size *= int(axis)
            total += size
    return total


def free_memory(device: torch.device) -> float | None:
    """Bytes that a new model can have; None where that can't be told."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, AttributeError):
        return None
