"""The documentation holds: commands parse, code compiles, marked snippets run, the site builds.

A comment before a block says what becomes of it in `test_page_runs`: ``<!-- run -->`` runs it,
``<!-- file: PATH -->`` writes it (a diff is applied) in a copy of the checkout.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from scorekit.backbones.spec import BackboneSpec
from scorekit.choose import parse_metrics
from scorekit.cli import app

ROOT = Path(__file__).resolve().parents[1]
COMMAND: Any = typer.main.get_command(app)
CARDS = sorted((ROOT / "metrics").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>.+?) -->\n)?(?P<ticks>```+)(?P<language>\w*)\n(?P<text>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block, where it is, and what is to become of it."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text")) + 1
        yield Block(page, line, found["language"], found["mark"] or "", found["text"])


def commands(text: str) -> Iterator[list[str]]:
    """The scorekit commands of a shell text, as words."""
    text = re.sub(r"(^|\s)# .*", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(text.replace("\n", " ; "), posix=True, punctuation_chars="&|;<>()")
    lexer.commenters = ""
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;<>()"):
            if command[:1] == ["scorekit"]:
                yield command
            command = []
        else:
            command.append(word)


def check(words: list[str], mention: bool) -> None:
    """Parse a command as the command line would, and run nothing; what is wrong is raised.

    A mention may be a command's name without what it needs.
    """
    command = COMMAND
    name, *words = words
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    if mention and not words:
        return
    context = command.make_context(name, words)
    if name in ("score", "sentinels"):
        for metric in parse_metrics(context.params["metric"] or ["clipscore"]).values():
            if metric.has_backbone():
                BackboneSpec.parse(metric.backbone)


def wrong(where: str, words: list[str], mention: bool = False) -> str | None:
    try:
        check(words, mention)
    except Exception as error:
        return f"{where}: {shlex.join(words)}: {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pip install . && scorekit backbones", [["scorekit", "backbones"]]),
        ("scorekit meta \\\n  -o x.csv  # one's own\n", [["scorekit", "meta", "-o", "x.csv"]]),
        ("scorekit metrics | head\npytest", [["scorekit", "metrics"]]),
        (
            "scorekit score 'a b' -m x@openai:http://h/v1#m",
            [["scorekit", "score", "a b", "-m", "x@openai:http://h/v1#m"]],
        ),
        ("# scorekit nothing", []),
    ],
)
def test_commands_are_found_in_shell_text(text: str, found: list[list[str]]) -> None:
    assert list(commands(text)) == found


@pytest.mark.parametrize(
    "command",
    [
        "scorekit nothing",
        "scorekit score IMAGES --bogus 1",
        "scorekit score",
        "scorekit score IMAGES -m clipscore:bogus=1",
        "scorekit score IMAGES -m nothing",
        "scorekit score IMAGES -m clipscore@nothing:x",
        "scorekit scenes make DIR --n many",
    ],
)
def test_a_wrong_command_is_noticed(command: str) -> None:
    assert wrong("here", command.split()) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    found = [
        wrong(str(block), words)
        for block in blocks(page)
        if block.language == "bash" and block.mark != "run"
        for words in commands(block.text)
    ]
    for code in re.findall(r"(?<!`)`(scorekit [^`]+)`", page.read_text("utf-8")):
        found += [wrong(page.name, words, mention=True) for words in commands(code)]
    assert [line for line in found if line] == []


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    prose = FENCE.sub("", page.read_text("utf-8"))
    targets = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", prose)
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, str(block), "exec")


def write(block: Block, target: Path) -> None:
    """Write a block as a file, or apply it if it is a diff."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if block.language != "diff":
        target.write_text(block.text)
        return
    lines = block.text.splitlines()
    old, new = ("\n".join(x[1:] for x in lines if x[0] in signs) for signs in (" -", " +"))
    before = target.read_text("utf-8")
    assert before.count(old) == 1, f"{block} does not apply"
    target.write_text(before.replace(old, new))


def as_installed(project: Path) -> None:
    """What ``pip install -e`` would leave of a project's entry points, without a network."""
    about = tomllib.loads(project.read_text("utf-8"))["project"]
    info = project.parent / f"{about['name']}-{about['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {about['name']}\nVersion: {about['version']}\n")
    entries = [
        f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in points.items())
        for group, points in about["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(entries))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the snippets need of the repository."""
    copy = tmp_path / "checkout"
    leave = shutil.ignore_patterns("__pycache__")
    for folder in ("scorekit", "metrics", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=leave)
    (copy / "data").symlink_to(ROOT / "data")
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


MARKED = [page for page in PAGES if any(block.mark == "run" for block in blocks(page))]


@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.name)
def test_page_runs(page: Path, checkout: Path) -> None:
    path = [checkout, checkout / "palette"]
    programs = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
    }
    interpreters = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    for block in blocks(page):
        if block.mark.startswith("file: "):
            target = checkout / block.mark.removeprefix("file: ")
            write(block, target)
            if target.name == "pyproject.toml":
                as_installed(target)
        elif block.mark:
            assert block.mark == "run", f"{block}: {block.mark}?"
            done = subprocess.run(
                [*interpreters[block.language], block.text],
                cwd=checkout,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}"


def test_site_builds_strictly_and_asks_no_other_server(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the site needs the extra docs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    html = {
        p.relative_to(tmp_path).as_posix(): p.read_text("utf-8") for p in tmp_path.rglob("*.html")
    }
    assert {f"metrics/{card.stem}.html" for card in CARDS} <= set(html)
    for card in CARDS:
        assert (
            f'<td><a href="{card.stem}.html"><code>{card.stem}</code></a></td>'
            in (html["metrics/index.html"])
        )
    fetched = r'<(?:script|link|img|iframe|source|object)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*'
    assert [(page, found) for page in html for found in re.findall(fetched, html[page])] == []
    # Links as they lie in the repository lead on in the site.
    assert 'href="precision.html"' in html["index.html"]
    assert 'href="contributing.html"' in html["index.html"]
    assert 'href="adding-a-metric.html"' in html["contributing.html"]
    assert 'href="metrics/index.html"' in html["adding-a-metric.html"]
    assert 'href="blip2_itm.html"' in html["metrics/blip2_itc.html"]
    assert "<code>a|b|c</code>" in html["edits.html"]
