"""Where a checkpoint's files are: this disk first, the hub only for what is not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scorekit.types import UsageError

WEIGHTS = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
)
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "open_clip_pytorch_model.bin", "pytorch_model.bin.index.json")
SIGN_OF_LIFE_SECONDS = 8.0
SECOND_TOKENIZER = "qformer_tokenizer/"  # InstructBLIP reads the question twice
NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
SMALL_FILES = (".json", ".txt", ".model", ".jinja", ".tiktoken")


def hub_folder(repo: str, *, allow_pickle: bool) -> Path:
    """The folder of a hub repository's files, downloaded only if they are not on disk.

    Raises
    ------
    UsageError
        If they are neither on disk nor to be had, or only exist as a pickle.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, local_files_only=True))
        if weight_files(folder, allow_pickle=allow_pickle):
            return folder
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:  # not of the form owner/name
        raise UsageError(_not_there(f"hf:{repo}", str(error).split("\n")[0])) from None
    _reach_hub(f"hf:{repo}", repo)
    try:
        with _no_endless_wait():
            return Path(_download(repo, allow_pickle))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(_unreachable(f"hf:{repo}", repo, error)) from None


def checkpoint_folder(name: str, *, allow_pickle: bool) -> Path:
    """The folder of a transformers checkpoint: on this disk, or from the hub.

    Parameters
    ----------
    name : str
        A folder, or ``OWNER/NAME`` on the hub.
    allow_pickle : bool
        Whether weights may be a pickle.

    Raises
    ------
    UsageError
        If it is a path that is not there, or can't be had from the hub.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute():
        raise UsageError(f"no folder {name} to load hf: from")
    return hub_folder(name, allow_pickle=allow_pickle)


def small_files_folder(repo: str) -> Path:
    """The folder of a repository's tokenizer and configuration, without its weights.

    Raises
    ------
    UsageError
        If they are neither on disk nor to be had.
    """
    from huggingface_hub import snapshot_download

    patterns = ["*" + suffix for suffix in SMALL_FILES]
    try:
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=patterns))
        if (folder / "preprocessor_config.json").is_file():
            return folder
    except FileNotFoundError:
        pass
    _reach_hub(f"hf:{repo}", repo)
    try:
        with _no_endless_wait():
            return Path(snapshot_download(repo, allow_patterns=patterns))
    except Exception as error:
        raise UsageError(_unreachable(f"hf:{repo}", repo, error)) from None


def hub_file(name: str, repo: str, files: Sequence[str]) -> Path:
    """The first of some files that a hub repository has, downloaded only if none is on disk.

    Parameters
    ----------
    name : str
        What the user asked for, for the message.
    repo : str
        ``OWNER/NAME``.
    files : sequence of str
        In the order of preference.

    Raises
    ------
    FileNotFoundError
        If the repository is reached and has none of them.
    UsageError
        If it can't be reached and none is on disk.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        cached = try_to_load_from_cache(repo, file)
        if isinstance(cached, str):
            return Path(cached)
    _reach_hub(name, repo)
    for file in files:
        try:
            with _no_endless_wait():
                return Path(hf_hub_download(repo, file))
        except LocalEntryNotFoundError as error:
            raise UsageError(_unreachable(name, repo, error)) from None
        except EntryNotFoundError:
            continue
        except Exception as error:
            raise UsageError(_unreachable(name, repo, error)) from None
    raise FileNotFoundError(f"{repo} has none of {', '.join(files)}")


def on_disk(repo: str, names: Iterable[str]) -> bool:
    """Whether one of a hub repository's files is in the local hub cache."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(repo, name), str) for name in names)


def weight_files(folder: Path, *, allow_pickle: bool) -> list[Path]:
    """The weight files in a folder, complete or none; safetensors before pickles.

    Raises
    ------
    UsageError
        If there are only pickles and they are not allowed.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
    index = folder / INDEX
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if odd := [shard for shard in shards if not str(shard).endswith(".safetensors")]:
            raise UsageError(f"{folder.name}: {INDEX} names {odd[0]!r}, no safetensors file")
        paths = [folder / shard for shard in shards]
        return paths if all(path.is_file() for path in paths) else []
    pickles = sorted(
        p
        for p in folder.iterdir()
        if p.suffix in (".bin", ".pt", ".pth") and p.name not in NO_WEIGHTS
    )
    if pickles and not allow_pickle:
        raise UsageError(
            f"{folder.name} holds only pickled weights ({pickles[0].name}), which can run code "
            "when loaded; pass --allow-pickle if you trust their source"
        )
    return pickles


def sha256_of(paths: Iterable[Path]) -> str:
    """One hash over the content of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def short_hash(parts: Any) -> str:
    """Twelve hex digits over a JSON value: long enough never to meet by chance."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """What goes wrong in loading concerns the whole run: say it in one line."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = " ".join(lines[:2])[:240]
        raise UsageError(f"can't load {name}: {type(error).__name__}: {detail}") from error


def _download(repo: str, allow_pickle: bool) -> str:
    from huggingface_hub import HfApi, snapshot_download

    names = HfApi().list_repo_files(repo)
    wanted = [
        n
        for n in names
        if n.endswith(SMALL_FILES) and ("/" not in n or n.startswith(SECOND_TOKENIZER))
    ]
    safe = [n for n in names if n in WEIGHTS]
    if not safe and INDEX in names:
        safe = [n for n in names if n.endswith(".safetensors") and "/" not in n]
    if not safe:
        pickles = [n for n in names if n in PICKLES or n.endswith((".bin", ".pt", ".pth"))]
        if not allow_pickle:
            raise UsageError(
                f"{repo} has no safetensors"
                + (
                    f", only {pickles[0]}, which can run code when loaded; pass --allow-pickle "
                    "if you trust its source"
                    if pickles
                    else " and no other weights"
                )
            )
        safe = [n for n in pickles if "/" not in n]
    return str(snapshot_download(repo, allow_patterns=[*wanted, *safe]))


def _reach_hub(name: str, repo: str) -> None:
    """Ask the hub for one sign of life, so that no network is told in seconds.

    The hub's client retries for half a minute, with a line each time.
    """
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
    from huggingface_hub.utils import get_session

    if HF_HUB_OFFLINE:
        raise UsageError(_not_there(name, "HF_HUB_OFFLINE forbids asking the hub", repo))
    try:
        get_session().head(ENDPOINT, timeout=SIGN_OF_LIFE_SECONDS)
    except Exception as error:
        raise UsageError(_unreachable(name, repo, error)) from None


@contextlib.contextmanager
def _no_endless_wait() -> Iterator[None]:
    """Meanwhile every request has a timeout: the hub's client lists files without any."""
    from huggingface_hub.utils import get_session

    hooks = get_session().event_hooks["request"]  # of the whole process: left as it was found
    hooks.append(_limit_wait)
    try:
        yield
    finally:
        hooks.remove(_limit_wait)


def _limit_wait(request: Any) -> None:
    """Wait no longer for an answer than for a piece of a file, which the user can set."""
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT as LIMIT

    given = request.extensions.get("timeout", {})
    waits = {kind: given.get(kind) for kind in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = {k: min(w or LIMIT, LIMIT) for k, w in waits.items()}


def _unreachable(name: str, repo: str, error: Exception) -> str:
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return f"{name} is gated: accept its terms on the hub and log in (hf auth login)"
    if kind in ("RepositoryNotFoundError", "HFValidationError"):
        return _not_there(name, "the hub has no such repository, or it is private")
    return _not_there(name, f"the hub can't be reached ({_first_line(error)})", repo)


def _not_there(name: str, why: str, repo: str | None = None) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE)
    if repo is not None:
        place = place / ("models--" + repo.replace("/", "--"))
    return (
        f"no checkpoint {name}: it is not in {place} and {why}; offline: give a folder written "
        "by save_pretrained (hf:FOLDER) or a weights file (open_clip:ARCH/FILE.safetensors), "
        "set HF_HOME to a filled hub cache, or use scenes-clip"
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__
