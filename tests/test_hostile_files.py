"""Files that others made: paths that lead elsewhere, archives, images, pickles."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from scorekit import archives, cli, fetch
from scorekit.image_formats import webp_size
from scorekit.images import as_uint8, content_key, read_bytes
from scorekit.io import read_samples
from scorekit.manifests import DataFile, Manifest
from scorekit.reporting.thumbnails import thumbnails
from scorekit.run import score_samples
from scorekit.table import ScoreTable
from scorekit.types import InputError, UsageError
from scorekit.within import Fence, Refused

SECRET = "correct horse battery staple"

# Paths --------------------------------------------------------------------------------------


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder with one image; beside it, another image and a secret."""
    folder = tmp_path / "inside"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "private.png")
    (tmp_path / "secret.txt").write_text(SECRET)
    return folder


def table_of(folder: Path, *images: str) -> Path:
    path = folder / "t.jsonl"
    rows = [
        {"image": image, "source_image": "a.png", "item": number}
        for number, image in enumerate(images)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def statuses(table: ScoreTable) -> list[str]:
    return table.frame.loc[table.frame["metric"] == "l1", "status"].tolist()


def test_no_row_tells_what_a_file_holds(inside: Path) -> None:
    """Whatever a table names: a device, a pipe, a folder, a text, what is not there."""
    os.mkfifo(inside / "pipe")
    named = [
        "../secret.txt", str(inside.parent / "secret.txt"), "/dev/zero", "/dev/stdin", "pipe", ".",
        "/proc/self/environ", "/proc/self/mem", "~/.ssh/id_rsa", "\\\\server\\share\\a.png",
        "a.png/../../secret.txt", "a\0b.png", "x" * 5000,
    ]  # fmt: skip
    table = score_samples(read_samples(table_of(inside, *named)).samples, "l1")
    assert set(statuses(table)) == {"missing_image", "unreadable_image"}
    told = table.frame.to_json()
    assert not any(word in told for word in (*SECRET.split(), "PATH="))
    assert "not an image but a text" in table.frame["note"].tolist()


@pytest.mark.parametrize("url", ["http://localhost:1/a.png", "ftp://localhost/a.png"])
def test_no_row_sends_a_request_where_it_likes(url: str, inside: Path) -> None:
    table = score_samples(read_samples(table_of(inside, url, "a.png")).samples, "l1")
    assert statuses(table) == ["missing_image", "ok"]
    assert table.frame["note"][0].endswith("only s3, gs, az and abfs URLs are read")
    page = inside / "page.html"
    table.save(inside / "s.csv")
    assert run("report", str(inside / "s.csv"), "-o", str(page), "-q").exit_code == 0
    assert "only s3, gs, az and abfs URLs are read" in page.read_text()


def escapes(inside: Path) -> list[str]:
    (inside / "link.png").symlink_to(inside.parent / "private.png")
    (inside / "linked").symlink_to(inside.parent)
    return [
        "../private.png", str(inside.parent / "private.png"), "link.png", "linked/private.png",
        f"file://{inside.parent}/private.png", "a.png/../../private.png", "s3://bucket/a.png",
    ]  # fmt: skip


def test_rows_outside_are_counted_and_read_where_nothing_forbids_it(inside: Path) -> None:
    listing = read_samples(table_of(inside, *escapes(inside)[:4], "a.png"))
    found = [f for f in listing.findings if f.kind == "outside_folder"]
    # As they are written; links are followed where it is forbidden.
    assert [(f.count, str(f)) for f in found] == [
        (2, f"2 rows name images outside {inside}: {inside}/../private.png, {inside.parent}"
         "/private.png")
    ]  # fmt: skip
    assert statuses(score_samples(listing.samples, "l1")) == ["ok"] * 5


def test_images_within(inside: Path) -> None:
    named = escapes(inside)
    listing = read_samples(table_of(inside, *named, "a.png"), images_within=inside)
    (found,) = [f for f in listing.findings if f.kind == "refused_image"]
    assert found.count == len(named) - 1  # one of them is there by path and by URL
    table = score_samples(listing.samples, "l1")
    assert statuses(table) == ["missing_image"] * len(named) + ["ok"]
    rows = table.frame[table.frame["metric"] == "l1"]
    assert rows["note"].str.endswith("lies outside the folder of --images-within").sum() == 7
    assert rows["image"].tolist()[3] == f"{inside}/linked/private.png"
    # From where the table's folder is a link itself.
    (inside.parent / "way").symlink_to(inside)
    way = table_of(inside.parent / "way", "a.png")
    assert not read_samples(way, images_within=inside).findings


def test_images_within_is_for_every_column_of_images(inside: Path) -> None:
    out = "../private.png"
    row = {
        "image": "a.png", "text": "x", "source_image": out, "mask": out, "reference_images": [out],
        "entities": [{"text": "x", "mask": out}],
    }  # fmt: skip
    (inside / "t.jsonl").write_text(json.dumps(row))
    (sample,) = read_samples(inside / "t.jsonl", images_within=inside).samples
    refused = Refused(f"{inside}/{out}")
    assert (sample.source_image, sample.mask) == (refused, refused)
    assert sample.reference_images == (refused,)
    assert sample.entities == [{"text": "x", "mask": refused}]
    assert sample.image == f"{inside}/a.png"


@pytest.mark.parametrize("read", [as_uint8, content_key])
def test_what_is_refused_is_not_read(read: Callable[[Any], Any], inside: Path) -> None:
    with pytest.raises(InputError, match=r"missing_image: .* lies outside"):
        read(Refused(str(inside / "a.png")))
    with pytest.raises(TypeError):
        read_bytes(Refused(str(inside / "a.png")))  # type: ignore[arg-type]


def test_images_within_goes_where_the_system_goes(inside: Path) -> None:
    # The system follows the link before it takes `..`, and so must who forbids it.
    (inside.parent / "elsewhere" / "sub").mkdir(parents=True)
    Image.new("RGB", (8, 8), "green").save(inside.parent / "elsewhere" / "b.png")
    (inside / "way").symlink_to(inside.parent / "elsewhere" / "sub")
    table = table_of(inside, "way/../b.png", "a.png")
    assert read_bytes(inside / "way" / ".." / "b.png")
    listing = read_samples(table, images_within=inside)
    assert [f.kind for f in listing.findings] == ["refused_image"]
    assert statuses(score_samples(listing.samples, "l1")) == ["missing_image", "ok"]


def test_one_mask_that_is_not_read_does_not_let_the_others_out(inside: Path) -> None:
    masks = ["../private.png", "http://host/y.png"]
    row = {
        "image": "a.png", "text": "x",
        "entities": json.dumps([{"text": "x", "mask": mask} for mask in masks]),
    }  # fmt: skip
    (inside / "t.jsonl").write_text(json.dumps(row))
    (sample,) = read_samples(inside / "t.jsonl", images_within=inside).samples
    assert sample.entities[0]["mask"] == Refused(f"{inside}/../private.png")


def test_texts_and_tables_of_a_folder_stay_within_as_well(inside: Path) -> None:
    (inside / "a.txt").symlink_to(inside.parent / "secret.txt")
    assert read_samples(inside).samples[0].text == SECRET
    listing = read_samples(inside, images_within=inside)
    assert listing.samples[0].text is None
    assert [f.kind for f in listing.findings] == ["refused_file", "missing_text"]
    assert read_samples(inside / "a.png", images_within=inside).samples[0].text is None
    (inside.parent / "p.csv").write_text(f"image,text\na.png,{SECRET}\n")
    (inside / "prompts.csv").symlink_to(inside.parent / "p.csv")
    assert read_samples(inside, images_within=inside).samples[0].text is None


@pytest.mark.parametrize(
    ("folder", "path", "holds"),
    [
        ("s3://bucket/run", "s3://bucket/run/a.png", True),
        ("s3://bucket/run", "s3://bucket/running/a.png", False),
        ("s3://bucket/run", "s3://bucket/run/../a.png", False),
        ("s3://bucket/run", "/etc/a.png", False),
        ("s3://bucket/run", "http://bucket/run/a.png", False),
        ("/", "/etc/a.png", True),
        ("/dev", "/dev/../etc/a.png", False),
    ],
)
def test_fences(folder: str, path: str, holds: bool) -> None:
    assert Fence(folder).holds(path) is holds


def run(*args: str) -> Any:
    return CliRunner().invoke(cli.app, args)


def test_images_within_on_the_command_line(inside: Path) -> None:
    table = table_of(inside, "../private.png", "a.png")
    out, page = str(inside / "s.csv"), inside / "r.html"
    command = ["score", str(table), "-m", "l1", "-q", "-o", out, "--images-within", str(inside)]
    assert run(*command).exit_code == 1
    assert statuses(ScoreTable.load(out)) == ["missing_image", "ok"]
    # A row outside is no reason for --strict, one that is refused is.
    assert run("score", str(table), "-m", "l1", "-q", "-o", out, "--strict").exit_code == 0
    found = run(*command, "--strict")
    assert "1 findings above" in str(found.exception)
    assert run("report", out, "-o", str(page), "-q").exit_code == 0
    assert "outside the folder of" not in page.read_text()
    assert run("report", out, "-o", str(page), "-q", "--images-within", str(inside)).exit_code == 0
    assert page.read_text().count("outside the folder of") == 1
    found = run("report", out, "-o", str(page), "--images-within", str(inside / "no"))
    assert "no folder" in str(found.exception)


def test_thumbnails_within(inside: Path) -> None:
    made = thumbnails(["a.png", "../private.png"], 10_000, roots=[inside], fence=Fence(inside))
    assert bool(made[0].data) and not made[1].data and "lies outside" in made[1].why


# Archives -----------------------------------------------------------------------------------


def unpack(path: Path, folder: Path) -> None:
    about = dict.fromkeys(("title", "licence", "citation", "homepage", "layout"), "")
    files = (DataFile(path.name, members=("r.csv",)),)
    fetch.fetch(
        Manifest(name="t", kind="ratings", reader="x:y", folder="t", files=files, **about),
        folder,
        path,
    )


def tar_of(path: Path, *members: tarfile.TarInfo, mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_a_tar_of_anything_but_files_is_refused(kind: bytes, tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar.gz", member("r.csv", kind, link="../secret"))
    with pytest.raises(UsageError, match="is a link or a device"):
        unpack(path, tmp_path / "to")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz", "to"]


def test_archives_with_too_much_in_them(tmp_path: Path, monkeypatch: Any) -> None:
    path = tar_of(tmp_path / "a.tar", member("x", size=3 << 20), member("r.csv"), mode="w")
    monkeypatch.setattr(archives, "MAX_UNPACKED", 1 << 20)
    with pytest.raises(UsageError, match="unpacks to more than"):
        unpack(path, tmp_path / "to")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    with pytest.raises(UsageError, match="more than 1 members"):
        unpack(tar_of(tmp_path / "b.tar.xz", member("x"), member("r.csv"), mode="w:xz"), tmp_path)
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 100)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for number in range(9):
            made.writestr(f"{number}", b"")
    with pytest.raises(UsageError, match="has a directory of"):
        unpack(tmp_path / "a.zip", tmp_path / "to")


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    head = member("r.csv", tarfile.XHDTYPE, size=4 << 30).tobuf()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(head + bytes(1 << 20)))
    with pytest.raises(UsageError, match=r"has a header of [0-9,]+ bytes"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "to")


def test_a_zip_whose_sizes_are_not_true(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("r.csv", bytes(50_000))
    size = struct.pack("<I", 50_000)
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 10)))
    monkeypatch.setattr(fetch, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match=r"can't be unpacked|is larger than"):
        unpack(path, tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


# Images -------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, size: tuple[int, int] = (8, 8), data: bytes = bytes(200)) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body + chunk(b"IEND", b"")


def tiff(*entries: tuple[int, int, int], data: bytes = b"") -> bytes:
    rows = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + bytes(4) + data


def gif(width: int, height: int, frame: tuple[int, int], frames: int = 1) -> bytes:
    one = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02D\x01\0"
    head = struct.pack("<HHBBB", width, height, 0x80, 0, 0)
    return b"GIF89a" + head + bytes(6) + one * frames + b";"


def webp(kind: bytes, data: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(width: int, height: int, bits: int, packing: int) -> bytes:
    about = (40, width, height, 1, bits, packing, 0, 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", *about)


def bombs() -> dict[str, bytes]:
    zeros = zlib.compress(bytes(100 << 20))
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
    start, rest = jpeg.getvalue()[:2], jpeg.getvalue()[2:]
    segment = b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65527)
    tags = b"".join(struct.pack("<HHII", i, 2, 50 << 20, 8) for i in range(9999))
    size = [(256, 4, 64), (257, 4, 64), (258, 3, 8), (262, 3, 1), (277, 3, 1)]
    tiles = [(322, 4, 60_000), (323, 4, 60_000), (324, 4, 8), (325, 4, 99)]
    strips = [(273, 4, 1 << 31), (278, 4, 1 << 31), (279, 4, (1 << 32) - 1)]
    return {
        "png, large by its head": png(size=(60_000, 60_000)),
        "png, more rows than its head says": png(data=bytes(100 << 20)),
        "png, iccp": png(chunk(b"iCCP", b"x\0\0" + zeros)),
        "png, itxt": png(chunk(b"iTXt", b"k\0\1\0\0\0" + zeros)),
        "png, ztxt": png(*[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20)))] * 90),
        "png, texts": png(*[chunk(b"tEXt", b"k\0" + bytes(1000))] * 20_000),
        "png, exif": png(chunk(b"eXIf", b"II*\0\x08\0\0\0" + struct.pack("<H", 9999) + tags)),
        "png, frames": png(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        "jpeg, exif": start + segment * 100 + rest,
        "gif, large frame": gif(1, 1, (65_535, 65_535)),
        "gif, large": gif(65_535, 65_535, (8, 8)),
        "gif, frames": gif(64, 64, (64, 64), 200_000),
        "webp, canvas": webp(b"VP8X", b"\2\0\0\0" + b"\xff" * 6 + bytes(30)),
        "webp, lossless": webp(b"VP8L", b"\x2f" + b"\xff\xff\xff\x0f" + bytes(20)),
        "webp, lossy": webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(20)),
        "tiff, tiles": tiff(*size, (259, 3, 5), *tiles, data=bytes(200)),
        "tiff, raw tiles": tiff(*size, (259, 3, 1), *tiles, data=bytes(200)),
        "tiff, strips": tiff(*size, (259, 3, 1), *strips),
        "tiff, deflated": tiff(
            *size, (259, 3, 8), *strips[1:], (273, 4, 200), data=bytes(60) + zeros
        ),
        "bmp, large": bmp(2**31 - 1, -(2**31), 24, 0),
        "bmp, runs": bmp(80_000_000, 1, 8, 1) + bytes(1024) + b"\1\0\0\0\0\1",
    }  # fmt: skip


_ROOM = 600 << 20

DECODE_ALL = f"""
import pickle, resource, sys
from scorekit.entities import size_of
from scorekit.images import decode
from scorekit.types import InputError
files = pickle.load(sys.stdin.buffer)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + {_ROOM}, now + {_ROOM}))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for name, data in files.items():
    for read in (size_of, decode):
        try:
            told = str(getattr(read(data), "size", "read"))
        except InputError as error:
            told = str(error)
        assert "out of memory" not in told, (name, told)
        print(name, "->", told[:60], flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_image_bombs_of_every_format_take_bounded_memory_and_time() -> None:
    files = bombs()
    done = subprocess.run(
        [sys.executable, "-c", DECODE_ALL], input=pickle.dumps(files), capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    told = done.stdout.decode().splitlines()
    assert len(told) == 2 * len(files)
    sizes = ("png, large by its head", "gif, large", "webp, ", "bmp, large")
    large = [line for line in told if line.startswith(sizes)]
    assert all("oversized_image" in line for line in large) and len(large) == 14
    assert "bmp, runs -> unreadable_image: cut short: 1084 bytes of runs" in told


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [("RGB", b"VP8 ", {}), ("RGB", b"VP8L", {"lossless": True}), ("RGBA", b"VP8X", {})],
)
def test_a_webp_tells_its_size_before_it_is_opened(mode: str, kind: bytes, options: Any) -> None:
    out = io.BytesIO()
    Image.new(mode, (517, 16_383), 9).save(out, "WEBP", **options)
    assert out.getvalue()[12:16] == kind
    assert webp_size(out.getvalue()) == (517, 16_383)


def test_a_file_that_grows_or_has_no_end_is_not_read_on(tmp_path: Path) -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc")
    with pytest.raises(InputError, match="missing_image: /proc/self/environ grew"):
        read_bytes("/proc/self/environ")


def test_images_within_from_python(inside: Path) -> None:
    import scorekit

    table = table_of(inside, "a.png", "../private.png")
    options = {"metrics": "l1", "cache": False}
    with pytest.warns(UserWarning, match="outside"):
        assert statuses(scorekit.score(table, **options)) == ["ok", "ok"]
    with pytest.warns(UserWarning, match="outside"):
        scores = scorekit.score(table, images_within=inside, **options)
    assert statuses(scores) == ["ok", "missing_image"]
    with pytest.raises(UsageError, match="goes with a folder or table"):
        scorekit.score([inside / "a.png"], "a", images_within=inside)
