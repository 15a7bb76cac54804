"""Fetching rating sets from a server on the loopback interface, archives, and verification."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scorekit import cli, fetch, manifests
from scorekit.fetch import verify
from scorekit.manifests import DataFile, Manifest, manifest_of, parse
from scorekit.types import UsageError

CONTENT = b"system,item,rater,value\nsd,1,ann,4\n"
SHA = hashlib.sha256(CONTENT).hexdigest()


def manifest(*files: DataFile, **more: Any) -> Manifest:
    own = {"name": "try", "title": "t", "kind": "ratings", "reader": "x:y", "licence": "MIT"}
    own |= {"citation": "", "homepage": "http://home", "layout": "", "folder": "try", **more}
    return Manifest(files=files, **own)


class Files:
    """Serves `answers` by path: bytes, or (status, bytes, claimed length)."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = outer.answers.get(self.path, (404, b"", None))
                status, body, length = found if isinstance(found, tuple) else (200, found, None)
                self.send_response(status)
                self.send_header("content-length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Files]:
    files = Files()
    yield files
    files.close()


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# Files --------------------------------------------------------------------------------------


def test_a_file_is_fetched_checked_and_renamed(server, tmp_path) -> None:
    server.answers["/r.csv"] = CONTENT
    sets = manifest(DataFile("sub/r.csv", server.url + "/r.csv", SHA))
    checks = fetch.fetch(sets, tmp_path)
    assert [(c.name, c.state, c.sha256) for c in checks] == [("sub/r.csv", "ok", SHA)]
    assert left(tmp_path) == ["sub/r.csv"]
    assert (tmp_path / "sub/r.csv").read_bytes() == CONTENT
    assert [c.state for c in verify(sets, tmp_path)] == ["ok"]


def test_another_file_than_the_manifest_knows_is_not_kept(server, tmp_path) -> None:
    server.answers["/r.csv"] = CONTENT + b"x"
    (tmp_path / "r.csv").write_bytes(b"what was there")
    with pytest.raises(UsageError, match=f"expected {SHA}; nothing was kept"):
        fetch.fetch(manifest(DataFile("r.csv", server.url + "/r.csv", SHA)), tmp_path)
    assert left(tmp_path) == ["r.csv"] and (tmp_path / "r.csv").read_bytes() == b"what was there"


def test_a_hash_that_nobody_knew_is_remembered(server, tmp_path) -> None:
    server.answers["/r.csv"] = CONTENT
    sets = manifest(DataFile("r.csv", server.url + "/r.csv"))
    assert [c.state for c in fetch.fetch(sets, tmp_path)] == ["unverified"]
    assert json.loads((tmp_path / fetch.RECORD).read_text()) == {"r.csv": SHA}
    assert [c.state for c in verify(sets, tmp_path)] == ["unverified"]
    (tmp_path / "r.csv").write_bytes(b"changed")
    (check,) = verify(sets, tmp_path)
    assert check.state == "differs" and check.note == f"was {SHA} when it was fetched"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, b"", None), "404 Not Found"),
        ((500, b"", None), "500 Internal"),
        ((200, CONTENT, len(CONTENT) + 5), "cut short at 35 of 40 bytes"),
    ],
)
def test_a_failed_download_leaves_nothing(answer, message, server, tmp_path) -> None:
    server.answers["/r.csv"] = answer
    with pytest.raises(UsageError, match=message):
        fetch.fetch(manifest(DataFile("r.csv", server.url + "/r.csv")), tmp_path)
    assert left(tmp_path) == []


def test_a_file_that_is_too_large_leaves_nothing(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 10)
    server.answers["/r.csv"] = CONTENT
    with pytest.raises(UsageError, match="is larger than"):
        fetch.fetch(manifest(DataFile("r.csv", server.url + "/r.csv")), tmp_path)
    assert left(tmp_path) == []


def test_offline_is_one_clear_line(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"can't reach http://127\.0\.0\.1:9/.*--from PATH"):
        fetch.fetch(manifest(DataFile("r.csv", "http://127.0.0.1:9/r.csv")), tmp_path)
    assert left(tmp_path) == []


def test_what_has_no_url_is_said_with_the_way_to_it(tmp_path) -> None:
    sets = manifest(DataFile("r.csv"), by_hand="ask nicely")
    with pytest.raises(UsageError, match="ask nicely, then `scorekit data fetch try --from PATH`"):
        fetch.fetch(sets, tmp_path)


def test_an_optional_file_may_be_missing(tmp_path) -> None:
    sets = manifest(DataFile("r.csv", optional=True))
    assert [c.state for c in fetch.fetch(sets, tmp_path)] == ["absent"]
    assert [c.state for c in verify(sets, tmp_path)] == ["absent"]


def test_a_pickle_is_refused(server, tmp_path) -> None:
    server.answers["/r.pkl"] = b"x"
    with pytest.raises(UsageError, match="a pickle, which can run code"):
        fetch.fetch(manifest(DataFile("r.pkl", server.url + "/r.pkl")), tmp_path)


# --from -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["sub/r.csv", "r.csv"])
def test_a_folder_of_ones_own(place, tmp_path) -> None:
    source = tmp_path / "source"
    (source / place).parent.mkdir(parents=True)
    (source / place).write_bytes(CONTENT)
    sets = manifest(DataFile("sub/r.csv", sha256=SHA))
    assert [c.state for c in fetch.fetch(sets, tmp_path / "to", source)] == ["ok"]
    assert (source / place).read_bytes() == CONTENT  # a copy, not moved
    assert left(tmp_path / "to") == ["sub/r.csv"]


def test_a_file_of_ones_own_under_another_name(tmp_path) -> None:
    own = tmp_path / "test_unique-0000-of-0001.csv"
    own.write_bytes(CONTENT)
    fetch.fetch(manifest(DataFile("r.csv")), tmp_path / "to", own)
    assert left(tmp_path / "to") == [fetch.RECORD, "r.csv"] and own.exists()


@pytest.mark.parametrize(("there", "message"), [(True, r"no r\.csv in"), (False, "no .*source")])
def test_a_source_without_the_file_is_an_error(there, message, tmp_path) -> None:
    if there:
        (tmp_path / "source").mkdir()
    with pytest.raises(UsageError, match=message):
        fetch.fetch(manifest(DataFile("r.csv")), tmp_path / "to", tmp_path / "source")


# Archives -----------------------------------------------------------------------------------


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, name: str, link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(name)
        if link is not None:
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
        else:
            info.size = len(CONTENT)
            archive.addfile(info, io.BytesIO(CONTENT))
    return path


def archive(name: str) -> Manifest:
    return manifest(DataFile(name, members=("r.csv",)))


def test_the_wanted_members_are_unpacked_and_no_others(server, tmp_path) -> None:
    path = zipped(tmp_path / "a.zip", **{"in/r.csv": CONTENT, "in/other.txt": b"x"})
    server.answers["/a.zip"] = path.read_bytes()
    sets = manifest(DataFile("a.zip", server.url + "/a.zip", members=("r.csv",)))
    fetch.fetch(sets, tmp_path / "to")
    assert left(tmp_path / "to") == [fetch.RECORD, "r.csv"]
    assert (tmp_path / "to/r.csv").read_bytes() == CONTENT
    assert not sets.missing(tmp_path / "to")
    assert [(c.name, c.state) for c in verify(sets, tmp_path / "to")] == [("r.csv", "unverified")]


def test_a_tar_is_unpacked_as_well(tmp_path) -> None:
    tarred(tmp_path / "a.tar.gz", "in/r.csv")
    fetch.fetch(archive("a.tar.gz"), tmp_path / "to", tmp_path / "a.tar.gz")
    assert (tmp_path / "to/r.csv").read_bytes() == CONTENT


def test_what_is_unpacked_already_is_taken(tmp_path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/r.csv").write_bytes(CONTENT)
    fetch.fetch(archive("a.zip"), tmp_path / "to", tmp_path / "source")
    assert left(tmp_path / "to") == [fetch.RECORD, "r.csv"]


@pytest.mark.parametrize(
    "name", ["../r.csv", "/tmp/r.csv", "in/../../r.csv", "..\\r.csv", "C:/r.csv"]
)
@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_a_member_that_would_leave_the_folder_is_refused(form, name, tmp_path) -> None:
    path = tmp_path / f"a.{form}"
    zipped(path, **{name: CONTENT}) if form == "zip" else tarred(path, name)
    with pytest.raises(UsageError, match="would leave its folder"):
        fetch.fetch(archive(path.name), tmp_path / "to", path)
    assert left(tmp_path) == [path.name]


def test_links_are_refused(tmp_path) -> None:
    tarred(tmp_path / "a.tar.gz", "r.csv", link="/etc/passwd")
    with pytest.raises(UsageError, match=r"r\.csv is a link"):
        fetch.fetch(archive("a.tar.gz"), tmp_path / "to", tmp_path / "a.tar.gz")
    info = zipfile.ZipInfo("r.csv")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(info, "/etc/passwd")
    with pytest.raises(UsageError, match=r"r\.csv is a link"):
        fetch.fetch(archive("a.zip"), tmp_path / "to", tmp_path / "a.zip")
    assert left(tmp_path / "to") == []


def test_a_member_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("r.csv", b"0" * 5000)
    monkeypatch.setattr(fetch, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match=r"r\.csv is larger than"):
        fetch.fetch(archive("a.zip"), tmp_path / "to", path)
    assert left(tmp_path / "to") == []


@pytest.mark.parametrize(
    ("members", "message"),
    [({"x.csv": b""}, "0 members r"), ({"a/r.csv": b"", "b/r.csv": b""}, "2 members r")],
)
def test_a_member_is_found_once(members, message, tmp_path) -> None:
    zipped(tmp_path / "a.zip", **members)
    with pytest.raises(UsageError, match=message):
        fetch.fetch(archive("a.zip"), tmp_path / "to", tmp_path / "a.zip")


def test_what_is_no_archive_is_said(tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>please sign in</html>")
    with pytest.raises(UsageError, match="is no zip or tar archive"):
        fetch.fetch(archive("a.zip"), tmp_path / "to", tmp_path / "a.zip")


# Manifests ----------------------------------------------------------------------------------


def test_all_sets_are_there_and_name_readers_that_exist() -> None:
    from importlib import import_module

    found = manifests.manifests()
    families = "tifa dsg genai viescore agiqa seetrue flickr8k composite pascal foil winoground"
    families += (
        " eqben sugar aro valse editval tedbench thumb imagereward pickapic hpdv2 richhf tvge"
    )
    families += " stanfordt23d geneval t2i finecapeval evalmuse"
    for family in families.split():
        assert any(name.startswith(family) for name in found), family
    for each in found.values():
        module, _, function = each.reader.partition(":")
        assert callable(getattr(import_module(module), function))
        assert each.citation.strip().startswith("@") and each.layout and each.licence
        assert each.kind in ("ratings", "labels", "groups", "preferences")
        assert all(f.sha256 == "unverified" or len(f.sha256) == 64 for f in each.files)
        assert all(f.url or f.optional for f in each.files) or each.by_hand or "/hub" in each.layout


def test_an_unknown_set_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="no rating set 'tifa'; did you mean tifa160"):
        manifest_of("tifa")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "Invalid value"),
        ("name = 'x'", "'files'"),
        ("name = 'x'\nodd = 1\n[[files]]\nname = 'a'", "odd"),
        ("name = 'x'\n[[files]]\nnome = 'a'", "nome"),
    ],
)
def test_a_manifest_that_is_wrong_is_an_error(text, message) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text, "x.toml")


def test_a_manifest_s_file_stays_in_its_folder() -> None:
    names = ("title", "kind", "reader", "licence", "citation", "homepage", "layout")
    head = "name = 'x'\n" + "".join(f"{name} = ''\n" for name in names)
    with pytest.raises(UsageError, match="leaves the folder"):
        parse(head + "[[files]]\nname = '../a'", "x.toml")


def test_a_file_or_a_name_opens_ratings(tmp_path) -> None:
    (tmp_path / "mine.csv").write_bytes(CONTENT)
    assert len(manifests.open_ratings(tmp_path / "mine.csv")) == 1
    with pytest.raises(UsageError, match="no rating set 'tiffa'"):
        manifests.open_ratings("tiffa")


# The command line ---------------------------------------------------------------------------


def run(*args: str) -> tuple[int, str]:
    found = CliRunner().invoke(cli.app, ["data", *args])
    if isinstance(found.exception, UsageError):
        return 2, str(found.exception)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.output


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SCOREKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def own_set(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    path.write_bytes(CONTENT)
    return path


def test_sets_are_listed(data) -> None:
    code, text = run("list", "--json")
    rows = {row["name"]: row for row in json.loads(text)}
    assert code == 0 and len(rows) == len(manifests.manifests())
    assert rows["tifa160"]["verified"] and rows["tifa160"]["present"] == "no"
    assert not rows["winoground"]["verified"] and rows["winoground"]["where"] == "by hand"
    assert "flickr8k-expert" in run("list")[1]


def test_a_set_is_shown_in_full(data) -> None:
    code, text = run("list", "tifa160")
    assert code == 0 and "@inproceedings{hu2023tifa" in text
    assert "clipscore_vitb32 / alignment: pearson 0.332" in text
    assert json.loads(run("list", "tifa160", "--json")[1])["scales"] == {
        "alignment": {"low": 1, "high": 5, "kind": "ordinal"}
    }


def test_fetch_verify_and_export(data, tmp_path) -> None:
    own = own_set(tmp_path)
    code, text = run("fetch", "t2i-compbench", "--from", str(own))
    assert code == 0 and "unverified ratings.csv" in text
    assert run("verify")[0] == 0
    out = tmp_path / "out.csv"
    assert run("export", "t2i-compbench", "-o", str(out), "--what", "ratings")[0] == 0
    assert "sd,1,0,ann,rating,4.0" in out.read_text()
    assert run("export", "t2i-compbench", "-o", str(out))[0] == 0
    assert out.read_text().splitlines() == ["system,item,index", "sd,1,0"]
    (data / "t2i-compbench/ratings.csv").write_text("x")
    assert run("verify")[0] == 1 and "differs" in run("verify", "t2i-compbench")[1]
    (data / "t2i-compbench/ratings.csv").unlink()
    code, text = run("verify", "t2i-compbench", "--json")
    assert code == 1 and json.loads(text)["t2i-compbench"][0]["state"] == "missing"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("fetch", "nothing"), "no rating set 'nothing'"),
        (("fetch", "winoground"), "accept its terms"),
        (("verify",), "no rating set in"),
        (("export", "tifa160", "-o", "x.txt"), "x.txt must end in"),
        (("export", "tifa160", "-o", "x.csv", "--what", "all"), "samples, ratings or scores"),
        (("export", "tifa160", "-o", "x.csv"), "scorekit data fetch tifa160` gets it"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(args, message, data) -> None:
    code, text = run(*args)
    assert code == 2 and message in text and "\n" not in text


def test_the_command_line_loads_no_pandas_for_the_list() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from scorekit import data_cli; from scorekit.manifests import manifests;"
        "manifests(); print([m for m in ('pandas', 'torch', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
