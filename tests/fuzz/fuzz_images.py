"""Image files of every format: opening, decoding, their size, and their thumbnails."""

from __future__ import annotations

import io
import struct

from harness import fuzz, instrumented, scratch

with instrumented():
    import numpy as np
    from PIL import Image

    from scorekit.entities import size_of
    from scorekit.images import as_uint8, content_key, decode, silence_pil
    from scorekit.reporting.thumbnails import thumbnails
    from scorekit.types import InputError

silence_pil()
PATH = scratch() / "image"


def check(data: bytes) -> None:
    """One file."""
    note = ""
    try:
        image = decode(data)
    except InputError as error:
        image, note = None, error.note
    else:
        assert image.mode == "RGB"
    assert "\n" not in note, repr(note)
    try:
        size = size_of(data)
    except InputError:
        assert image is None
    else:
        assert image is None or size == image.size
    PATH.write_bytes(data)
    try:
        pixels = as_uint8(PATH)
    except InputError:
        assert image is None
    else:
        assert image is not None and np.array_equal(pixels, np.asarray(image))
    assert content_key(data) == content_key(PATH)
    (small,) = thumbnails([str(PATH)], 5_000)
    assert bool(small.data) == (image is not None)


def _saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    pixels = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def _seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (5, 6), colour) for colour in ("red", "blue")]
    several = {"save_all": True, "append_images": frames}
    modes = {
        "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        "JPEG": ("RGB", "L", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P", "L"),
        "BMP": ("RGB", "P", "1", "RGBA"),
        "TIFF": ("RGB", "L", "CMYK", "LAB", "F", "I", "P"),
    }
    seeds = [_saved(kind, mode) for kind, every in modes.items() for mode in every]
    seeds += [_saved(kind, **several) for kind in ("PNG", "WEBP", "GIF", "TIFF")]
    seeds += [_saved(kind, exif=exif) for kind in ("PNG", "JPEG", "WEBP", "TIFF")]
    seeds += [
        _saved("TIFF", compression=name)
        for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate")
    ]
    seeds += [_saved("TIFF", "1", compression=name) for name in ("group3", "group4")]
    seeds += [_saved("JPEG", progressive=True), _saved("PNG", "P", transparency=0)]
    seeds += [_saved("WEBP", lossless=True), _saved("GIF", "P", transparency=1)]
    seeds.append(_saved("TIFF", big_tiff=True))
    # A BMP of runs, which PIL reads and does not write.
    rle = b"\x05\x01\0\0" * 6 + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 5, 6, 1, 8, 1, len(rle), 0, 0, 2, 0)
    palette = b"\0\0\0\0\xff\0\0\0"
    start = 14 + len(head) + len(palette)
    seeds.append(
        struct.pack("<2sIHHI", b"BM", start + len(rle), 0, 0, start) + head + palette + rle
    )
    return seeds


SEEDS = _seeds()

if __name__ == "__main__":
    fuzz(check, SEEDS)
