"""Backbones by name, loaded when first needed and kept for the process. No torch here."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.cache import Cache
from scorekit.registry import load_backbone_family


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone once it has been loaded; fits in JSON.

    Attributes
    ----------
    fingerprint : str
        Hash of architecture, weights, preprocessing, resize and dtype: the cache key's half.
    identity : str
        Hash of architecture, weights and preprocessing: the signature's ``w``.
    text_limit : int
        Longest text in tokens, special tokens counted.
    constants : mapping of str to float
        ``logit_scale`` (exponentiated) and ``logit_bias``, where the model has them.
    domain : str
        What images it knows: ``any``, or ``scenes``.
    files : tuple of (path, bytes, mtime_ns)
        What it was loaded from; a change makes this record stale.
    """

    fingerprint: str
    identity: str
    text_limit: int
    constants: Mapping[str, float]
    domain: str
    files: tuple[tuple[str, int, int], ...]


class BackboneHandle:
    """A backbone that is loaded only when a feature is not in the cache.

    What a signature and a cache key need (`info`) is remembered in the cache beside the
    size and time of the files that it was read from; while those are unchanged, a run whose
    features are all cached loads no model and no torch.
    """

    def __init__(self, spec: BackboneSpec, options: BackboneOptions) -> None:
        self.spec = spec
        self.options = options
        self._model: Any = None
        self._info: BackboneInfo | None = None
        self._lock = threading.Lock()

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    def model(self) -> Any:
        """The loaded model; the first call loads it."""
        with self._lock:
            if self._model is None:
                self._model = load_backbone_family(self.spec.family)(self.spec, self.options)
                self._info = self._model.info
            return self._model

    def info(self, cache: Cache) -> BackboneInfo:
        """Fingerprint, limits and constants, from the cache's record where it still holds."""
        if self._info is None:
            self._info = self._recall(cache)
        if self._info is None:
            info: BackboneInfo = self.model().info
            cache.put_note(self._note_key(), asdict(info))
            return info
        return self._info

    def _recall(self, cache: Cache) -> BackboneInfo | None:
        note = cache.get_note(self._note_key())
        if note is None:
            return None
        try:
            files = tuple((str(p), int(s), int(t)) for p, s, t in note.pop("files"))
            info = BackboneInfo(**note, files=files)
        except (KeyError, TypeError, ValueError):
            return None  # written by another release
        return info if files and all(_unchanged(*file) for file in files) else None

    def _note_key(self) -> str:
        """All that the record depends on besides the files themselves."""
        options = replace(self.options, device="auto", batch_size=None, long_text="truncate")
        libraries = [_version(p) for p in ("scorekit", "open_clip_torch", "transformers")]
        parts = json.dumps([self.spec.family, self.spec.name, asdict(options), libraries])
        return "backbone:" + hashlib.sha256(parts.encode()).hexdigest()


_handles: dict[tuple[BackboneSpec, BackboneOptions], BackboneHandle] = {}


def get_handle(name: str, options: BackboneOptions | None = None) -> BackboneHandle:
    """The handle of a backbone, the same one for the same name and options.

    Raises
    ------
    UsageError
        If there is no such family.
    """
    key = (BackboneSpec.parse(name), options or BackboneOptions())
    return _handles.setdefault(key, BackboneHandle(*key))


def unload_backbones() -> None:
    """Forget every loaded backbone, to free its memory."""
    _handles.clear()


def stat_of(path: str | Path) -> tuple[str, int, int]:
    """Path, size and time of a file, as `BackboneInfo.files` keeps them."""
    stat = Path(path).stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _unchanged(path: str, size: int, mtime_ns: int) -> bool:
    try:
        return stat_of(path) == (path, size, mtime_ns)
    except OSError:
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
