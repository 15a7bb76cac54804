"""Only files below one folder: for tables and folders that strangers made.

A table may name any file of this machine, by an absolute path, by ``..`` or through a link. What is
read of it ends up in scores, notes and thumbnails, and these are shared.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scorekit import remote
from scorekit.types import InputError, PathLike, Sample, UsageError

_ONE = ("image", "source_image", "mask")


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands for an image that must not be read.

    It is no path, so that whatever does not know of it can't read it either.
    """

    path: str

    def __str__(self) -> str:
        return self.path

    def error(self) -> InputError:
        """What its row says."""
        return InputError("missing_image", refusal(self.path))


def refusal(path: str) -> str:
    """Why a file was not read."""
    return f"{path} lies outside the folder of --images-within"


@dataclass
class Fence:
    """A folder, and which files lie below it once all links are followed.

    Parameters
    ----------
    folder : path or URL

    Raises
    ------
    UsageError
        If there is no such folder.
    """

    folder: PathLike
    _root: str = ""
    _folders: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = remote.located(self.folder)
        if remote.is_url(place):
            self._root = place.rstrip("/") + "/"
            return
        if not os.path.isdir(place):
            raise UsageError(f"no folder {place} for --images-within")
        self._root = os.path.join(os.path.realpath(place), "")

    def holds(self, path: str) -> bool:
        """Whether a file lies below the folder.

        Of URLs, those that begin with the folder's own: a store has no links.
        """
        try:
            place = remote.located(path)
            if remote.is_url(place) or remote.is_url(self._root):
                return place.startswith(self._root) and ".." not in place.split("/")
            return self._real(place).startswith(self._root)
        except ValueError:  # a NUL in the path, or a URL that is not used
            return False

    def _real(self, path: str) -> str:
        # A folder is asked for once: tables name many files of each.
        # Not by abspath, which takes `link/..` for nothing: the system goes where the link leads.
        folder, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir):
            return os.path.realpath(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder or os.curdir)
        found = os.path.join(self._folders[folder], name)
        return os.path.realpath(found) if os.path.islink(found) else found

    def samples(self, samples: Iterable[Sample]) -> tuple[list[Sample], list[str]]:
        """Samples with `Refused` for each image outside, and the paths of those images."""
        refused: dict[str, None] = {}

        def kept(image: Any) -> Any:
            if not isinstance(image, str) or self.holds(image):
                return image
            refused[image] = None
            return Refused(image)

        out = []
        for sample in samples:
            changed: dict[str, Any] = {name: kept(getattr(sample, name)) for name in _ONE}
            changed["reference_images"] = tuple(map(kept, sample.reference_images))
            if isinstance(sample.entities, list):
                changed["entities"] = [_with_mask(each, kept) for each in sample.entities]
            out.append(replace(sample, **changed))
        return out, list(refused)


def _with_mask(entity: Any, kept: Any) -> Any:
    if not (isinstance(entity, dict) and isinstance(entity.get("mask"), str)):
        return entity
    return {**entity, "mask": kept(entity["mask"])}


def outside(samples: Sequence[Sample], folder: str) -> list[str]:
    """Paths of the samples' images that, as they are written, do not lie below a folder."""
    if remote.is_url(folder):
        top = folder.rstrip("/") + "/"
    else:
        top = os.path.join(os.path.abspath(folder or "."), "")

    def leaves(path: Any) -> bool:
        if not isinstance(path, str):
            return False
        place = path if remote.is_url(path) else os.path.abspath(path)
        return not place.startswith(top)

    return [
        next(filter(leaves, images))
        for images in ((s.image, s.source_image, s.mask, *s.reference_images) for s in samples)
        if any(map(leaves, images))
    ]
