"""Small pictures of a report's images: WebP, within a budget of bytes, each content once."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from scorekit import remote
from scorekit.images import decode, read_bytes
from scorekit.types import InputError, PathLike
from scorekit.within import Fence, refusal

# Longest side in pixels and WebP quality; even black and white noise fits the last one into 1.3 kB.
LADDER = (
    *((512, 80), (384, 78), (320, 75), (256, 70), (192, 65)),
    *((160, 58), (128, 50), (96, 40), (64, 20), (48, 20)),
)
FEWEST_BYTES = 1_500
_PROBED = 16
_FAR_WORKERS = 8  # threads where images come from a store, and are waited for


@dataclass(frozen=True)
class Thumbnail:
    """A picture, or why there is none.

    Attributes
    ----------
    data : bytes
        A WebP file; empty where there is none.
    size : (int, int) or None
        Width and height of the image itself.
    why : str
        What is wrong with the image.
    """

    data: bytes
    size: tuple[int, int] | None = None
    why: str = ""


def thumbnails(
    images: Sequence[str],
    budget: int,
    *,
    roots: Sequence[PathLike] = (),
    fence: Fence | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Thumbnail]:
    """Thumbnails of image files, in order.

    Parameters
    ----------
    images : sequence of str
        Paths or URLs as a table has them.
    budget : int
        Bytes for all of them; pictures get smaller until they fit, though `FEWEST_BYTES` each
        are always theirs.
    roots : sequence of Path or URL
        Where a relative path is looked for besides the current folder.
    fence : Fence, optional
        Which files may be shown; None for all.
    progress : callable, optional
        Called with (done, in all).

    Returns
    -------
    list of Thumbnail
        Of images with the same content, one object.
    """
    if not images:
        return []
    share = max(FEWEST_BYTES, budget // len(images))
    step = _first_step([_load(images[i], roots, fence) for i in _spread(len(images))], share)
    known: dict[str, Thumbnail] = {}
    spent = 0

    def small(image: str) -> tuple[str, Thumbnail]:
        loaded = _load(image, roots, fence)
        if isinstance(loaded, str):
            return loaded, Thumbnail(b"", None, loaded)
        digest, data = loaded
        return digest, known.get(digest) or _shrunk(data, step, cap)

    out: list[Thumbnail] = []
    workers = os.cpu_count() or 1
    if any(map(remote.is_url, (*images, *roots))):
        workers = max(workers, _FAR_WORKERS)
    with ThreadPoolExecutor(workers) as pool:
        # In short rounds: an image may have twice its share of what the rounds before it left, but
        # nothing of the fewest bytes of those that come after.
        for start in range(0, len(images), size := 16 * workers):
            left = len(images) - start
            now = min(size, left)
            shares = (2 if left > 4 * size else 1) * (budget - spent) // left
            free = (budget - spent - FEWEST_BYTES * (left - now)) // now
            cap = max(FEWEST_BYTES, min(shares, free))
            for digest, made in pool.map(small, images[start : start + size]):
                if digest not in known:
                    known[digest] = made
                    spent += len(made.data)
                out.append(known[digest])
            if progress is not None:
                progress(len(out), len(images))
    return out


def places_of(image: str, roots: Sequence[PathLike]) -> list[str]:
    """Where an image of a table may lie: as it says, else below the roots, those near first."""
    if remote.is_url(image) or os.path.lexists(image):
        return [image]
    places = [remote.join(os.fspath(root), image) for root in roots]
    near = [place for place in places if os.path.lexists(place)]
    # A store is not asked for "<PngImageFile 8x8>".
    far = [place for place in places if remote.is_url(place) and not image.startswith("<")]
    return near[:1] or far or [image]


def _load(image: str, roots: Sequence[PathLike], fence: Fence | None) -> tuple[str, bytes] | str:
    """Digest and bytes of a file, or why there are none."""
    if not image:
        return "the row has no image"
    why = ""
    for place in places_of(image, roots):
        if fence is not None and not fence.holds(place):
            why = why or refusal(place)
            continue
        try:
            data = read_bytes(place)
        except InputError as error:
            why = why or error.note
        else:
            return hashlib.sha256(data).hexdigest(), data
    if image.startswith("<"):
        return "the image was in memory when it was scored, not in a file"
    return why


def _spread(n: int) -> list[int]:
    return sorted({i * n // _PROBED for i in range(_PROBED)})


def _first_step(probes: Sequence[tuple[str, bytes] | str], share: int) -> int:
    """The largest size at which the probed images have no more than their share on average."""
    files = [probe[1] for probe in probes if not isinstance(probe, str)]
    decoded = [image for data in files if isinstance(image := _decoded(data), Image.Image)]
    if not decoded:
        return 0
    for step in range(len(LADDER)):
        if sum(len(_encoded(image, step)) for image in decoded) <= 0.9 * share * len(decoded):
            return step
    return len(LADDER) - 1


def _shrunk(data: bytes, step: int, cap: int) -> Thumbnail:
    image = _decoded(data)
    if isinstance(image, str):
        return Thumbnail(b"", None, image)
    for lower in range(step, len(LADDER)):
        made = _encoded(image, lower)
        if len(made) <= cap:
            break
    return Thumbnail(made, image.size)


def _decoded(data: bytes) -> Image.Image | str:
    try:
        return decode(data)
    except InputError as error:
        return error.note


def _encoded(image: Image.Image, step: int) -> bytes:
    side, quality = LADDER[step]
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()
