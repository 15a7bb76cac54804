"""Folders of images: what lies in them, and what their names say about item and system."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field

from scorekit import remote
from scorekit.prompts import TABLE_SUFFIXES
from scorekit.types import UsageError

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
)

UNSUPPORTED_SUFFIXES = (
    ".avif",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".svg",
    ".psd",
    ".eps",
    ".exr",
    ".hdr",
)
"""Images too, but not read: worth a finding, where other files are only counted."""


@dataclass
class Folder:
    """What a folder and its sub-folders hold: names relative to it, with ``/``, sorted."""

    root: str
    images: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    unsupported: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    ignored: int = 0

    def path(self, name: str) -> str:
        """The path of a file by its relative name."""
        return remote.join(self.root, name)

    def sidecars(self) -> dict[str, str]:
        """Image name -> name of the text file beside it."""
        if not self.texts:
            return {}
        pairs = ((name, os.path.splitext(name)[0] + ".txt") for name in self.images)
        return {name: text for name, text in pairs if text in self.texts}


def scan(root: str) -> Folder:
    """List a folder recursively, without asking about any single file.

    Hidden files and folders are left out. A folder is read once, however many links lead to
    it, so that loops end; where a real folder and a link compete, the real one is kept.

    Raises
    ------
    UsageError
        If the folder itself can't be read.
    """
    found = Folder(root)
    if remote.is_url(root):
        _list_objects(found)
    else:
        _walk(found)
    for names in (found.images, found.metadata, found.unsupported, found.linked):
        names.sort()
    # The order of preference, where a folder holds several.
    found.prompts.sort(key=lambda name: TABLE_SUFFIXES.index(os.path.splitext(name)[1]))
    return found


def _list_objects(found: Folder) -> None:
    try:
        names = remote.find(found.root)
    except OSError as error:
        raise UsageError(f"can't read the folder {found.root}: {error.strerror}") from None
    if not names:
        raise UsageError(f"there is nothing below {found.root}")
    for name in names:
        below, slash, base = name.rpartition("/")
        if not any(part.startswith(".") for part in name.split("/")):
            _sort_in(found, below + slash, name, base)


def _walk(found: Folder) -> None:
    root = found.root
    seen: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        is_link = not folders
        below = links.pop(0) if is_link else folders.pop()
        path = os.path.join(root, below)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                found.linked.append(below.rstrip("/"))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if not below:
                raise UsageError(f"can't read the folder {root}: {error.strerror}") from None
            found.unreadable.append(below.rstrip("/"))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = below + entry.name
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link that leads to itself, say: whoever opens it says so
                is_folder = False
            if is_folder:
                (links if entry.is_symlink() else folders).append(name + "/")
            else:
                _sort_in(found, below, name, entry.name)


def _sort_in(found: Folder, below: str, name: str, base: str) -> None:
    stem, suffix = os.path.splitext(base)
    lower = suffix.lower()
    if lower in IMAGE_SUFFIXES:
        found.images.append(name)
    elif lower in UNSUPPORTED_SUFFIXES:
        found.unsupported.append(name)
    elif suffix == ".txt":
        found.texts.add(name)
    elif stem == "prompts" and not below and suffix in TABLE_SUFFIXES:
        found.prompts.append(name)
    elif stem == "metadata" and suffix in TABLE_SUFFIXES and suffix != ".tsv":
        found.metadata.append(name)
    else:
        found.ignored += 1


@dataclass(frozen=True)
class Layout:
    """How an image's relative name tells its system and its item.

    Attributes
    ----------
    own : str
        The system of images that lie in no sub-folder.
    flat : bool
        Sub-folders are part of the item, all images are of the system `own`.
    """

    own: str
    flat: bool = False

    @classmethod
    def of(cls, root: str, system: str | None) -> Layout:
        """The layout below a folder; a system given by the user makes it flat."""
        if system is not None:
            return cls(system, flat=True)
        return cls(clean(os.path.basename(os.path.abspath(root))))

    def place(self, name: str) -> tuple[str, str]:
        """System and item of an image.

        Examples
        --------
        >>> layout = Layout("run")
        >>> layout.place("sdxl/animals/0.png"), layout.place("0.png")
        (('sdxl', 'animals/0'), ('run', '0'))
        >>> Layout("run", flat=True).place("cat/0.png")
        ('run', 'cat/0')
        """
        stem = clean(without_suffix(name))
        if self.flat:
            return self.own, stem
        if os.path.isabs(name) or remote.is_url(name) or stem.startswith("../"):
            parent = stem.split("/")[-2:-1]
            return (parent[0] if parent and parent[0] not in ("", "..") else self.own), stem
        first, slash, rest = stem.partition("/")
        return (first, rest) if slash else (self.own, stem)

    def item(self, name: str, system: str) -> str:
        """Item of an image whose system is known from elsewhere."""
        first, item = self.place(name)
        return item if first == system else clean(without_suffix(name))


def without_suffix(name: str) -> str:
    """A name without the suffix of an image format."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in (*IMAGE_SUFFIXES, *UNSUPPORTED_SUFFIXES) else name


def clean(name: str) -> str:
    """A file name as text that can be printed and stored, whatever its bytes are."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "replace")


def same_name(name: str) -> str:
    """A key that is equal for names that differ only in how accents are encoded."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def relative_name(path: str, root: str) -> str:
    """A path's name below a folder, with ``/``; the path itself where it is not below."""
    if remote.is_url(path):
        return path.removeprefix(root.rstrip("/") + "/")
    path, root = os.path.normpath(path), os.path.normpath(root or ".")
    if root != "." and path.startswith(root.rstrip(os.sep) + os.sep):
        path = path[len(root.rstrip(os.sep)) + 1 :]
    return path.replace(os.sep, "/")
