"""Backbones by name, loaded when first needed and kept for the process. No torch here."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scorekit.backbones.files import one_line_errors
from scorekit.backbones.spec import BackboneOptions, BackboneSpec
from scorekit.cache import Cache
from scorekit.registry import load_backbone_family
from scorekit.types import UsageError

FileState = tuple[str, str, int, int]
"""Path, where its links lead, size, and time in ns."""


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
    resize : str
        What resizes its images, for signatures: ``pil-bicubic``, ``torch-uint8-bicubic``, or
        ``processor`` where the checkpoint's own image processor does.
    files : tuple of FileState
        What it was loaded from, folders included (their time tells of files that came or
        went); a change makes this record stale.
    facts : mapping of str to str
        What the model decided for itself where a parameter said "auto": the signature shows it.
    remote : bool
        No model runs here (an endpoint, a file of answers): no dtype, no resize.
    """

    fingerprint: str
    identity: str
    text_limit: int
    constants: Mapping[str, float]
    domain: str
    resize: str
    files: tuple[FileState, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    remote: bool = False


class BackboneHandle:
    """A backbone that is loaded only when a feature is not in the cache.

    What a signature and a cache key need (`info`) is remembered in the cache beside the
    state of the files that it was read from; while those are unchanged, a run whose features
    are all cached loads no model and no torch.
    """

    def __init__(self, spec: BackboneSpec, options: BackboneOptions) -> None:
        self.spec = spec
        self.options = options
        self._model: Any = None
        self._recalled: BackboneInfo | None = None
        self._forget: Callable[[], None] = lambda: None
        self._error: UsageError | None = None
        self._lock = threading.Lock()

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    def model(self) -> Any:
        """The loaded model; the first call loads it.

        Raises
        ------
        UsageError
            If it can't be loaded, or is not the one that `info` last told of.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._model is None:
                try:
                    self._model = self._load()
                except UsageError as error:
                    # Every thread that waits for the model would try again.
                    self._error = error
                    _handles.pop((self.spec, self.options), None)
                    raise
            return self._model

    def info(self, cache: Cache) -> BackboneInfo:
        """Fingerprint, limits and constants, from the cache's record where it still holds."""
        self._forget = lambda: cache.put_note(self._record_key(), None)
        if self._model is None:
            recalled = _read_record(cache.get_note(self._record_key()))
            if recalled is not None and all(state_of(f[0]) == f for f in recalled.files):
                self._recalled = recalled
                return recalled
            self._recalled = None
        info: BackboneInfo = self.model().info
        record = json.loads(json.dumps(asdict(info)))
        if cache.get_note(self._record_key()) != record:
            cache.put_note(self._record_key(), record)
        return info

    def _load(self) -> Any:
        with one_line_errors(self.spec.given):
            model = load_backbone_family(self.spec.family)(self.spec, self.options)
        told = self._recalled
        if told is not None and told.fingerprint != model.info.fingerprint:
            self._forget()  # or the next run would believe the record again
            raise UsageError(
                f"the checkpoint {self.spec.given} changed while it was in use; run again"
            )
        return model

    def _record_key(self) -> str:
        """All that the record depends on besides the files themselves."""
        libraries = [_version(p) for p in ("scorekit", "open_clip_torch", "transformers")]
        options = {**asdict(self.options), "device": ""}
        parts = json.dumps([self.spec.family, self.spec.name, options, libraries])
        return "backbone:" + hashlib.sha256(parts.encode()).hexdigest()


_handles: dict[tuple[BackboneSpec, BackboneOptions], BackboneHandle] = {}


def get_handle(name: str, options: BackboneOptions | None = None) -> BackboneHandle:
    """The handle of a backbone: one for all names and options that mean the same model.

    Raises
    ------
    UsageError
        If there is no such family.
    """
    key = (BackboneSpec.parse(name), (options or BackboneOptions()).for_loading())
    return _handles.setdefault(key, BackboneHandle(*key))


def unload_backbones() -> None:
    """Forget every loaded backbone, to free its memory."""
    _handles.clear()


def state_of(path: str | Path) -> FileState | None:
    """The state of a file or folder, as `BackboneInfo.files` keeps it; None if it is gone."""
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return str(path), os.path.realpath(path), stat.st_size, stat.st_mtime_ns


def states_of(paths: Iterable[Path]) -> tuple[FileState, ...]:
    """The states of what a checkpoint was read from, and of the hub's reference to it."""
    given = list(paths)
    # In a hub cache, snapshots/COMMIT/file: the reference says which commit is meant by name.
    references = dict.fromkeys(
        folder.parent / "refs" / "main"
        for path in given
        for folder in path.parents[:3]
        if folder.name == "snapshots"
    )
    states = (state_of(path) for path in [*given, *references])
    return tuple(state for state in states if state is not None)


def _read_record(note: Any) -> BackboneInfo | None:
    if note is None:
        return None
    try:
        files = tuple((str(p), str(r), int(s), int(t)) for p, r, s, t in note["files"])
        info = BackboneInfo(**{**note, "files": files})
    except (KeyError, TypeError, ValueError):
        return None  # written by another release
    return info if files else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
