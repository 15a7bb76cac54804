"""Files behind URLs, on the store that fsspec keeps in memory; S3 is in test_remote_s3.py."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tiny import TEXTS, picture

from scorekit import images, prompts, remote
from scorekit.images import read_bytes
from scorekit.io import read_samples
from scorekit.joined import read_scores
from scorekit.reporting.thumbnails import places_of, thumbnails
from scorekit.table import MetricInfo, ScoreTable, check_folder, check_writable
from scorekit.types import InputError, Signature, UsageError

SECRETS = (
    "s3://AKIAKEY:hush@bucket/a.png",
    "s3://AKIAKEY:hu/sh+hush@bucket/a.png",
    "s3://hush@bucket/a.png",
    "gs://user:hush@bucket/a.png",
    "az://container:hush@account.blob.core.windows.net/a.png",
)


@pytest.fixture(autouse=True)
def store() -> Iterator[dict[str, Any]]:
    """An empty store in memory."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    remote._silent_since.clear()
    yield MemoryFileSystem.store
    MemoryFileSystem.store.clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that were made."""
    calls: list[str] = []
    ask = remote._ask

    def counted(url: str, call: str, *args: Any, **named: Any) -> Any:
        calls.append(call)
        return ask(url, call, *args, **named)

    monkeypatch.setattr(remote, "_ask", counted)
    return calls


def upload(folder: Path, url: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            remote.write(f"{url}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def put_picture(url: str, seed: int = 0) -> bytes:
    import io

    out = io.BytesIO()
    picture(seed).save(out, "PNG")
    remote.write(url, out.getvalue())
    return out.getvalue()


def scores() -> ScoreTable:
    frame = pd.DataFrame(
        {
            "system": ["s"] * 3,
            "item": ["1", "NA", "03"],
            "index": [0, 0, 0],
            "image": ["1.png", "memory://b/run/2.png", ""],
            "text": ["a dog", None, "two\nlines"],
            "metric": ["clipscore"] * 3,
            "value": [1 / 3, 0.5, np.nan],
            "status": ["ok", "ok", "missing_image"],
            "note": ["", "", "no file"],
        }
    )
    signature = Signature.parse("clipscore|bb:x|v:1")
    return ScoreTable(frame, {"clipscore": MetricInfo(signature, True)}, {"input": "x"})


def keys(listing: Any) -> list[tuple[Any, ...]]:
    return [(s.system, s.item, s.index, s.text, s.references) for s in listing.samples]


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://bucket/a b/ü#1?.png", "s3://bucket/a b/ü#1?.png"),
        ("S3://bucket/a.png", "s3://bucket/a.png"),
        (Path("s3://bucket/a.png"), "s3://bucket/a.png"),
        ("gs://my_bucket.x/a", "gs://my_bucket.x/a"),
        (
            "abfs://c@account.dfs.core.windows.net/a",
            "abfs://c@account.dfs.core.windows.net/a",
        ),
        ("s3://bucket/an@sign:and::colons.png", "s3://bucket/an@sign:and::colons.png"),
        ("file:///tmp/a%20b.png", "/tmp/a b.png"),
        ("file://localhost/tmp/a.png", "/tmp/a.png"),
        (Path("/tmp/a.png"), "/tmp/a.png"),
        ("a::b.png", "a::b.png"),
        ("C:\\a.png", "C:\\a.png"),
    ],
)
def test_located(path: Any, expected: str) -> None:
    assert remote.located(path) == expected
    assert remote.is_url(expected) == ("://" in expected)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://example.org/a.png",
        "ftp://host/a.png",
        "hf://datasets/a/b.png",
        "github://a:b@main/c.png",
        "file://host/a.png",
        "zip://a.png::s3://bucket/b.zip",
        "simplecache::s3://bucket/a.png",
        "filecache::https://host/a.png",
        "local::s3://bucket/a.png",
        "s3://bucket/a::https://host/a.png",
        "s3://bucket:9000/a.png",
        "s3://[::1]/a.png",
        "s3:///a.png",
        "s3://bucket\n/a.png",
        "s3://c@account.dfs.core.windows.net/a.png",
        "az://c@host.example.org/a.png",
    ],
)
def test_urls_that_are_refused_everywhere(url: str, tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(UsageError):
        remote.located(url)
    (tmp_path / "t.csv").write_text(f'image,text\n"{url}",t\n')
    if "@" in url:  # what may be a password gets into no table
        with pytest.raises(UsageError, match="line 2: image is a URL that is not used"):
            read_samples(tmp_path / "t.csv")
    else:  # one row among many
        (sample,) = read_samples(tmp_path / "t.csv").samples
        with pytest.raises(InputError, match="missing_image"):
            read_bytes(sample.image)
    for reader in (read_samples, prompts.read_table, ScoreTable.load, check_writable):
        with pytest.raises(UsageError):
            reader(url)
    with pytest.raises(UsageError):
        scores().save(url)
    if "@" not in url:
        with pytest.raises(InputError, match="missing_image"):
            read_bytes(url)
    assert not asked


@pytest.mark.parametrize("url", SECRETS)
def test_a_secret_in_a_url_is_never_shown(url: str, tmp_path: Path, run: Any) -> None:
    (tmp_path / "t.csv").write_text(f"image,text\n{url},t\n")
    for command in (
        ("score", url, "--text", "a cat"),
        ("score", tmp_path / "t.csv", "-o", tmp_path / "out.csv"),
        ("score", tmp_path, "--prompts", url.replace(".png", ".csv")),
        ("score", tmp_path, "--text", "a cat", "-o", url.replace(".png", ".parquet")),
        ("compare", url, url),
        ("report", url, "-o", tmp_path / "x.html"),
    ):
        code, shown, errors = run(*command)
        assert (code, shown, errors.count("\n")) == (2, "", 1)
        assert "hush" not in errors and "AKIAKEY" not in errors and "://***" in errors
    with pytest.raises(remote.CredentialsInURL) as caught:  # it ends the run: nothing is stored
        read_bytes(url)
    assert "hush" not in str(caught.value)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "url", ["https://me:hush@host/a.png", "zip://a::s3://me:hush@b/c", "https://host/a?sig=hush"]
)
def test_nor_is_that_of_a_url_that_is_refused_anyway(url: str) -> None:
    with pytest.raises(InputError) as caught:
        read_bytes(url)
    assert "hush" not in caught.value.note


@pytest.mark.parametrize(
    ("base", "name", "expected"),
    [
        ("s3://b/run", "x/1.png", "s3://b/run/x/1.png"),
        ("s3://b/run/", "./1.png", "s3://b/run/1.png"),
        ("s3://b", "../../1.png", "s3://b/1.png"),
        ("s3://b/run", "a//b.png", "s3://b/run/a//b.png"),
        ("s3://b/run", "/data/1.png", "/data/1.png"),
        ("s3://b/run", "file:///data/1.png", "/data/1.png"),
        ("s3://b/run", "gs://c/1.png", "gs://c/1.png"),
        ("run", "../1.png", "run/../1.png"),
    ],
)
def test_join(base: str, name: str, expected: str) -> None:
    assert remote.join(base, name) == expected


def test_nothing_is_imported_before_a_url_is_used(image_folder: Path) -> None:
    code = (
        "import sys, scorekit, scorekit.cli, scorekit.table\n"
        "from scorekit.io import read_samples\n"
        "assert len(read_samples(sys.argv[1]).samples) == 8\n"
        "assert not {'fsspec', 's3fs', 'aiohttp'} & set(sys.modules), 'imported'"
    )
    command = [sys.executable, "-c", code, str(image_folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Objects ----------------------------------------------------------------------------------------


def test_objects(asked: list[str]) -> None:
    for name in ("b.txt", "a/1.txt", "a/2.txt", "a2/3.txt"):
        remote.write(f"memory://top/{name}", name.encode())
    assert remote.find("memory://top") == ["a/1.txt", "a/2.txt", "a2/3.txt", "b.txt"]
    assert remote.find("memory://top/a/") == ["1.txt", "2.txt"]
    assert asked.count("find") == 2
    assert remote.read("memory://top/a/1.txt") == b"a/1.txt"
    size, stamp = remote.state("memory://top/b.txt")
    assert size == 5 and stamp
    assert remote.exists("memory://top/b.txt") and not remote.exists("memory://top/c.txt")
    assert not remote.exists("memory://top/a")
    remote.remove("memory://top/b.txt")
    assert not remote.exists("memory://top/b.txt")
    remote.write("memory://top/none", b"")
    assert remote.read("memory://top/none") == b""
    found = remote.read_many([f"memory://top/{n}" for n in ("a/2.txt", "gone", "a2/3.txt")])
    assert found[0::2] == [b"a/2.txt", b"a2/3.txt"]
    assert isinstance(found[1], FileNotFoundError)


@pytest.mark.parametrize("size", [9, 10, 11, 12, 40])
def test_a_limit(size: int, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.setattr(remote, "_FIRST", 10)
    data = bytes(range(size))
    remote.write("memory://b/x", data)
    asked.clear()
    assert remote.read("memory://b/x") == data
    assert remote.read("memory://b/x", size) == data
    # One request for most images; of a longer object, its size is asked before more is read.
    one = ["cat_file"] if size < 10 else ["cat_file", "info"]
    assert asked == (one + ["cat_file"] * (size > 10)) * 2
    asked.clear()
    with pytest.raises(OSError, match=f"{size} bytes") as caught:
        remote.read("memory://b/x", size - 1)
    assert caught.value.errno == errno.EFBIG
    assert asked == one


def test_statuses_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    remote.write("memory://b/long.png", bytes(101))
    remote.write("memory://b/sub/x.png", bytes(100))
    assert read_bytes("memory://b/sub/x.png") == bytes(100)
    assert read_bytes(Path("memory://b/sub/x.png")) == bytes(100)
    for url, status, note in (
        ("memory://b/long.png", "oversized_image", "memory://b/long.png has 101 bytes"),
        ("memory://b/none.png", "missing_image", "no file memory://b/none.png"),
        ("memory://b/sub", "missing_image", "no file memory://b/sub"),
    ):
        with pytest.raises(InputError) as caught:
            read_bytes(url)
        assert (caught.value.status, caught.value.note) == (status, note)


def test_a_file_url_is_a_path(image: Path) -> None:
    assert read_bytes(image.as_uri()) == image.read_bytes()
    assert keys(read_samples(image.as_uri(), text="t")) == keys(read_samples(image, text="t"))


# Folders and tables -----------------------------------------------------------------------------


def of_prompts_file(folder: Path) -> None:
    pass


def of_text_files(folder: Path) -> None:
    (folder / "prompts.csv").unlink()
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        file.with_suffix(".txt").write_bytes(f"\ufeffline {i}\r\nmore \n".encode())
    file.with_suffix(".txt").write_bytes(b"\xff")


def of_metadata(folder: Path) -> None:
    (folder / "prompts.csv").unlink()
    for system in ("good", "bad"):
        rows = [f"{i}.png,{text}" for i, text in enumerate(TEXTS)]
        (folder / system / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))


def of_items(folder: Path) -> None:
    rows = [f"{i},{text}" for i, text in enumerate(TEXTS)]
    (folder / "prompts.tsv").write_text("\n".join(["item,text", *rows]).replace(",", "\t"))
    (folder / "prompts.csv").unlink()
    (folder / "bad" / "3.png").unlink()


@pytest.mark.parametrize("layout", [of_prompts_file, of_text_files, of_metadata, of_items])
def test_a_folder_reads_as_it_does_on_disk(
    layout: Callable[[Path], None], image_folder: Path, asked: list[str]
) -> None:
    layout(image_folder)
    (image_folder / "notes.md").write_text("x")
    (image_folder / ".hidden").mkdir()
    picture(9).save(image_folder / ".hidden" / "0.png")
    upload(image_folder, "memory://b/images")
    asked.clear()
    far, near = read_samples("memory://b/images"), read_samples(image_folder)
    assert keys(far) == keys(near)
    assert [(f.kind, f.count, f.examples) for f in far.findings] == [
        (f.kind, f.count, f.examples) for f in near.findings
    ]
    assert far.ignored == near.ignored
    if layout is of_text_files:
        assert far.samples[0].text == "line 0\nmore"
    for there, here in zip(far.samples, near.samples, strict=True):
        assert there.image == here.image.replace(str(image_folder), "memory://b/images")
    # One listing, and whatever holds texts: no question about any image.
    texts = [n for n in remote.find("memory://b/images") if n.endswith((".txt", "csv", "tsv"))]
    assert sorted(asked[:-1]) == sorted(["find", *["cat_file"] * len(texts)])


def test_a_prompts_file_of_a_folder_elsewhere(image_folder: Path, tmp_path: Path) -> None:
    upload(image_folder, "memory://b/images")
    remote.write("memory://c/p.csv", b"image,text\ngood/0.png,a cat\nbad/9.png,a dog\n")
    listing = read_samples("memory://b/images", prompts="memory://c/p.csv")
    assert [(s.image, s.text) for s in listing.samples][:2] == [
        ("memory://b/images/good/0.png", "a cat"),
        ("memory://b/images/bad/9.png", "a dog"),
    ]
    missing = [f for f in listing.findings if f.kind == "missing_image"]
    assert [f.examples for f in missing] == [("bad/9.png",)]  # known from the listing
    local = read_samples(image_folder, prompts="memory://c/p.csv")
    assert local.samples[0].text == "a cat"
    with pytest.raises(UsageError, match=r"can't read memory://c/q.csv: no such object"):
        read_samples("memory://b/images", prompts="memory://c/q.csv")
    with pytest.raises(UsageError, match="nothing below memory://b/none"):
        read_samples("memory://b/none")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables(suffix: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "image": ["1.png", "../2.png", "memory://c/sys/3.png", str(tmp_path / "4.png")],
            "text": list("abcd"),
            "source_image": ["in/1.png"] * 4,
        }
    )
    file = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(file)
    elif suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_csv(file, index=False, sep="\t" if suffix == ".tsv" else ",")
    remote.write(f"memory://b/run/t{suffix}", file.read_bytes())
    samples = read_samples(f"memory://b/run/t{suffix}").samples
    assert [s.image for s in samples] == [
        "memory://b/run/1.png",
        "memory://b/2.png",
        "memory://c/sys/3.png",
        str(tmp_path / "4.png"),
    ]
    assert {s.source_image for s in samples} == {"memory://b/run/in/1.png"}
    assert [s.system for s in samples] == ["run", "b", "sys", tmp_path.name]
    local = read_samples(file).samples[2]
    assert (local.image, local.system) == ("memory://c/sys/3.png", "sys")


def test_a_broken_table_names_its_url() -> None:
    remote.write("memory://b/t.csv", b"image,text\na.png\n")
    with pytest.raises(UsageError, match=r"^memory://b/t.csv, line 2: 1 cells"):
        read_samples("memory://b/t.csv")
    remote.write("memory://b/t.parquet", b"PAR1 and rubbish")
    with pytest.raises(UsageError, match=r"memory://b/t\.parquet as Parquet") as caught:
        read_samples("memory://b/t.parquet")
    assert "/tmp" not in str(caught.value)
    with pytest.raises(UsageError, match=r"memory://b/t\.parquet is no score table") as caught:
        ScoreTable.load("memory://b/t.parquet")
    with pytest.raises(UsageError, match="no table memory://b/none"):
        ScoreTable.load("memory://b/none.parquet")


# Tables of scores -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv"])
def test_scores_there_and_back(suffix: str, store: dict[str, Any]) -> None:
    url = f"memory://b/out/scores{suffix}"
    table = scores()
    assert table.save(url) == url
    loaded = ScoreTable.load(url)
    assert loaded.signatures == table.signatures and loaded.run == table.run
    pd.testing.assert_frame_equal(
        loaded.frame[["item", "value", "image"]], table.frame[["item", "value", "image"]]
    )
    beside = [] if suffix == ".parquet" else [f"/b/out/scores{suffix}.json"]
    assert sorted(store) == sorted([f"/b/out/scores{suffix}", *beside])
    assert list(read_scores([url]).frame["value"][:2]) == [1 / 3, 0.5]
    if beside:
        del store[beside[0]]
        with pytest.raises(UsageError, match=f"scores{suffix}.json, which holds its signatures"):
            ScoreTable.load(url)


def test_an_upload_that_fails_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://b/scores.parquet"
    scores().save(url)
    before = remote.read(url)

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionResetError(104, "reset")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "pipe_file", fail)
        with pytest.raises(UsageError, match=r"can't write memory://b/scores\.parquet: no answer"):
            scores().save(url)
        with pytest.raises(UsageError, match="can't write"):
            check_writable(url)
    assert remote.read(url) == before
    check_writable(url)
    assert remote.find("memory://b") == ["scores.parquet"]  # nothing is left of the probe
    with pytest.raises(UsageError, match=r"not 'x.txt'"):
        check_writable("memory://b/x.txt")
    with pytest.raises(UsageError, match="only tables of scores are written to a store"):
        check_folder(Path("s3://b/x.html"))


def test_the_whole_way(run: Any, image_folder: Path, tiny_clip: str, tmp_path: Path) -> None:
    upload(image_folder, "memory://b/images")
    remote.remove("memory://b/images/bad/3.png")
    out = "memory://b/out/scores.parquet"
    there = ("score", "memory://b/images", "--backbone", tiny_clip, "-q")
    code, shown, errors = run(*there, "-o", out, "--report", tmp_path / "r.html")
    assert code == 1 and f"8 rows in {out}" in shown
    table = ScoreTable.load(out)
    assert dict(zip(table.frame["image"], table.frame["status"], strict=True)) == {
        f"memory://b/images/{s}/{i}.png": "missing_image" if (s, i) == ("bad", 3) else "ok"
        for s in ("good", "bad")
        for i in range(4)
    }
    assert table.frame["note"][7] == "no file memory://b/images/bad/3.png"
    # The cache knows contents, not places.
    code, _, _ = run("score", image_folder, "--backbone", tiny_clip, "-q", "-o", tmp_path / "n.csv")
    near = ScoreTable.load(tmp_path / "n.csv")
    assert near.run["counts"]["features_computed"] == 1  # of the image that was not there
    assert list(near.frame["value"][:7]) == list(table.frame["value"][:7])
    code, shown, _ = run("compare", tmp_path / "n.csv", out, "--json")
    assert code == 0 and '"n": 7' in shown
    code, _, errors = run("report", out, "-o", tmp_path / "again.html", "-q")
    assert code == 0 and "report written" in errors
    page = (tmp_path / "again.html").read_text("utf-8")
    assert page.count("memory://b/images/bad/3.png") and "UklGR" in page  # base64 of RIFF: a WebP
    code, shown, _ = run("rank", out, "--json")
    assert code == 0 and "memory://b/images/" in shown
    assert run("rank", out, "-o", "memory://b/rank.csv")[0] == 2


def test_thumbnails(tmp_path: Path) -> None:
    put_picture("memory://b/run/1.png", 1)
    put_picture("memory://c/2.png", 2)
    picture(3).save(tmp_path / "3.png")
    roots = ["memory://b/run", tmp_path, "memory://c"]
    names = ["1.png", "2.png", "3.png", "memory://c/2.png", "4.png", "<Image 8x8>", "", "http://x/"]
    made = thumbnails(names, 100_000, roots=roots)
    assert [bool(each.data) for each in made] == [True] * 4 + [False] * 4
    assert made[1] is made[3]
    assert places_of("<Image 8x8>", roots) == ["<Image 8x8>"]  # no request for that
    assert [each.why for each in made[4:]] == [
        "no file memory://b/run/4.png",
        "the image was in memory when it was scored, not in a file",
        "the row has no image",
        "http://x/: only s3, gs, az and abfs URLs are read",
    ]


# Stores that fail -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("s3://b/x", "s3fs", "s3"), ("gs://b/x", "gcsfs", "gcs"), ("abfss://b/x", "adlfs", "azure")],
)
def test_a_package_that_is_not_installed(
    url: str, package: str, extra: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(protocol: str) -> Any:
        raise ImportError(f"Install {package} to access {protocol}")

    remote._made.cache_clear()
    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    line = f'error: {extra} storage needs {package}: pip install "scorekit[{extra}]"\n'
    assert run("score", url, "--text", "a cat") == (2, "", line)
    (tmp_path / "t.csv").write_text(f"image,text\n{url}.png,a cat\n")
    code, shown, errors = run("score", tmp_path / "t.csv", "--backbone", "scenes-clip", "-q")
    assert (code, shown) == (2, "") and errors.endswith(line)
    assert run("score", tmp_path, "--text", "a", "-o", f"{url}.parquet") == (2, "", line)


def test_a_silent_store_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def silent(*_: Any, **__: Any) -> bytes:
        clock[0] += 50
        raise TimeoutError

    put_picture("memory://b/1.png")
    monkeypatch.setattr(remote.time, "monotonic", lambda: clock[0])
    real = MemoryFileSystem.cat_file
    monkeypatch.setattr(MemoryFileSystem, "cat_file", silent)
    for _ in range(2):
        with pytest.raises(InputError, match=r"can't read .*1.png: no answer from memory://b \(ti"):
            read_bytes("memory://b/1.png")
    with pytest.raises(UsageError, match="memory://b has given no good answer for 150 seconds"):
        read_bytes("memory://b/1.png")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", real)
    with pytest.raises(InputError, match="no file"):  # an answer too
        read_bytes("memory://b/2.png")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", silent)
    with pytest.raises(InputError, match="no answer"):
        read_bytes("memory://b/1.png")
