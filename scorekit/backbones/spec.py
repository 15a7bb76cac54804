"""What names a backbone, and the options that it is loaded with. No torch here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self

from scorekit.registry import ALIASES, all_backbones, load_backbone_family
from scorekit.types import UsageError

DataType = Literal["fp32", "fp16", "bf16", "int8"]
Quantize = Literal["none", "int8"]
Resize = Literal["exact", "fast"]
_NOT_PATHS = ("openai",)
_WORDS = (("questions", "meta"), ("entities", "column"), ("attributes", "columns"))
"""Names that are no file even where a file of that name lies in the working folder."""
_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:\d+)?")
_NESTED = ("ask", "describe")
"""Families whose name is another backbone."""
_WITH_FILE = ("open_clip", "pixels")
"""Families of ``NAME/FILE``, a model and its weights."""
LongText = Literal["truncate", "error", "window"]


class _Floats(dict[str, str]):
    """torch's names of the dtypes that any model can have."""

    def __missing__(self, dtype: str) -> str:
        raise UsageError(
            f"--dtype {dtype} is for dual encoders (CLIP, SigLIP and the like) on a CPU; a "
            "vision-language model takes --quantize int8 instead"
        )


DTYPES = _Floats(fp32="float32", fp16="float16", bf16="bfloat16")


@dataclass(frozen=True)
class BackboneOptions:
    """How a backbone is loaded and run.

    Attributes
    ----------
    device : str
        ``auto`` (CUDA, else MPS, else CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``. A run takes
        several with commas between them, each in a process of its own.
    dtype : {"fp32", "fp16", "bf16", "int8"}
        Of weights and activations; features are float32 in any case. ``int8`` is of the matrix
        products in the towers of dual encoders, on a CPU (`scorekit.backbones.int8`).
    quantize : {"none", "int8"}
        Whether the weights of a vision-language model's linear layers are kept in 8 bits.
    resize : {"exact", "fast"}
        PIL's resize, or torch's on uint8 tensors (at most 1 level off in 0.4% of values).
    long_text : {"truncate", "error", "window"}
        What becomes of a text longer than the model reads.
    batch_size : int or None
        None chooses by device.
    allow_pickle : bool
        Load weights that only exist as a pickle, which can run code when loaded.
    trust_remote_code : bool
        Run the model code that a checkpoint brings along.
    """

    device: str = "auto"
    dtype: DataType = "fp32"
    quantize: Quantize = "none"
    resize: Resize = "exact"
    long_text: LongText = "truncate"
    batch_size: int | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("dtype", (*DTYPES, "int8")),
            ("quantize", ("none", "int8")),
            ("resize", ("exact", "fast")),
            ("long_text", ("truncate", "error", "window")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise UsageError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
        for name in self.devices:
            if not _DEVICE.fullmatch(name):
                raise UsageError(f"device is auto, cpu, cuda, cuda:N or mps, not {name!r}")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}")

    @property
    def devices(self) -> tuple[str, ...]:
        """The names in `device`."""
        return tuple(name.strip() for name in self.device.split(","))

    def on_one_device(self) -> Self:
        """The same on the first of several devices."""
        return replace(self, device=self.devices[0])

    def for_loading(self) -> BackboneOptions:
        """What of these a loaded model depends on; the rest is said at each call."""
        names = BackboneOptions.__dataclass_fields__
        plain = BackboneOptions(**{name: getattr(self, name) for name in names})
        return replace(plain, batch_size=None, long_text="truncate")


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone's name, taken apart.

    Attributes
    ----------
    given : str
        As the user wrote it, an alias perhaps.
    family : str
        ``open_clip``, ``hf`` or one from an entry point.
    name : str
        What the family's loader is to load: ``ViT-B-32/openai``, a hub name or a path.
    """

    given: str = field(compare=False)
    family: str
    name: str

    @classmethod
    def parse(cls, text: str) -> BackboneSpec:
        """Read ``FAMILY:NAME`` or an alias.

        Raises
        ------
        UsageError
            If the family is unknown, or the name is empty.

        Examples
        --------
        >>> BackboneSpec.parse("open_clip:ViT-B-32/openai").label
        'open_clip/ViT-B-32/openai'
        >>> BackboneSpec.parse("scenes-clip").label
        'scenes-clip'
        """
        full = ALIASES.get(text, text)
        family, colon, name = full.partition(":")
        if not colon or family not in all_backbones():
            if Path(text).is_dir() and (Path(text) / "config.json").exists():
                raise UsageError(f"to load the folder {text}, write hf:{text}")
            load_backbone_family(family)  # raises, and names the nearest
        if not name:
            raise UsageError(f"backbone {text!r} lacks a name after the colon")
        if name.startswith("scorekit.data/"):
            name = str(files("scorekit.data").joinpath(name.removeprefix("scorekit.data/")))
        return cls(text, family, _absolute(family, name))

    @property
    def label(self) -> str:
        """The name for signatures: no path of this machine, so that it travels.

        A local checkpoint goes by its last component; the hash of the weights beside it
        tells two of one name apart.
        """
        if self.given in ALIASES:
            return self.given
        if self.family in _NESTED:
            return f"{self.family}/{BackboneSpec.parse(self.name).label}"
        head, sep, tail = self.name.partition("/")
        if self.family in _WITH_FILE and sep and _is_local(tail):
            return f"{self.family}/{head}/{Path(tail).name}"
        if _is_local(self.name):
            return f"{self.family}/{Path(self.name).name}"
        return f"{self.family}/{self.name}"


def _absolute(family: str, name: str) -> str:
    """Make a path absolute, so that a name means one file from wherever it is used."""
    if family in _NOT_PATHS or (family, name) in _WORDS:
        return name
    if family in _NESTED:
        inner, _, rest = name.partition(":")
        return f"{inner}:{_absolute(inner, rest)}"
    head, sep, tail = name.partition("/")
    if family in _WITH_FILE and sep and _is_local(tail):
        return f"{head}/{_expand(tail)}"
    return str(_expand(name)) if _is_local(name) else name


def _expand(path: str) -> Path:
    """An absolute path; links are kept, so that one that is turned elsewhere is noticed."""
    try:
        return Path(os.path.abspath(Path(path).expanduser()))
    except RuntimeError as error:  # ~nobody
        raise UsageError(f"no such path: {path} ({error})") from None


def _is_local(name: str) -> bool:
    if name.startswith((".", "/", "~")):
        return True
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long, or a letter that no path can have
        return False
