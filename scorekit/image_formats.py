"""Which format an image file has, and a canvas's size, from the first bytes alone."""

from __future__ import annotations

from functools import partial

from scorekit.types import InputError

FORMATS = ("PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF")

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    *((0, head, "TIFF") for head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)

_OTHER_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (4, b"ftypavi", "an AVIF file"),
    (4, b"ftyphei", "a HEIC file"),
    (4, b"ftypmif", "a HEIF file"),
    (4, b"ftyp", "a video (MP4 or MOV)"),
    (4, b"jP  ", "a JPEG 2000 file"),
    (4, b"JXL ", "a JPEG XL file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (0, b"8BPS", "a PSD file"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"<svg", "an SVG file"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"v/1\x01", "an OpenEXR file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
)


def format_of(data: bytes) -> str:
    """Name of the format, from the first bytes; InputError where it is none of `FORMATS`."""
    if not data:
        raise InputError("unreadable_image", "zero bytes")
    for start, magic, name in _MAGIC:
        if data.startswith(magic, start):
            return name
    for start, magic, what in _OTHER_FORMATS:
        if data.startswith(magic, start):
            raise InputError("unreadable_image", f"{what}; only {', '.join(FORMATS)} are read")
    # None of its bytes: a table that someone else wrote may name any file, and notes are shared.
    raise InputError("unreadable_image", f"not an image but {_kind_of(data[:512])}")


def _kind_of(head: bytes) -> str:
    if any(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in head):
        return "other binary data"
    word = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower()
    return "an HTML page" if word.startswith((b"<!doctype", b"<html")) else "a text"


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP of any of its three kinds; zeros where it is none of them."""
    kind = data[12:16]
    number = partial(int.from_bytes, byteorder="little")
    if kind == b"VP8X":
        return 1 + number(data[24:27]), 1 + number(data[27:30])
    if kind == b"VP8L":
        bits = number(data[21:25])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return number(data[26:28]) & 0x3FFF, number(data[28:30]) & 0x3FFF
    return 0, 0
