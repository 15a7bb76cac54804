"""What MkDocs makes the site of besides docs/: README and the like, the cards, and their table.

The Markdown files stay where a code host shows them, and link to each other as they lie there;
the site has them in other places, and the links are turned with them.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from scorekit.registry import METRICS

ROOT = Path(__file__).resolve().parents[1]
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "tests/fuzz/README.md": "fuzzing.md",
}
GALLERY_PAGE = "metrics/index.md"
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")
GALLERY = """\
---
hide:
  - toc
---

# Metrics

Each metric has a card, which a name leads to: its formula and source, its parameters, what differs
from other implementations, and what it does not see. `scorekit metrics NAME` shows the same card.

| metric | what it asks | needs | range | default backbone | family |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Card:
    """What the table says of a metric, read off its card."""

    name: str
    question: str
    rows: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Card:
        """Read the question that a card begins with, and the first of its tables."""
        _, asks, table, *_ = path.read_text("utf-8").split("\n\n")
        cells = (re.split(r"(?<!\\)\|", line)[1:3] for line in table.splitlines())
        question = re.match(r".*?\?|.*?\.(?=\s|$)", asks.replace("\n", " "))
        assert question, f"{path.name} does not begin with what it asks"
        return cls(path.stem, question[0], {key.strip(): value.strip() for key, value in cells})

    def line(self) -> str:
        """The metric's line of the table."""
        backbone = re.match(r"`[^`]+`", self.rows.get("default backbone", ""))
        cells = [
            f"[`{self.name}`]({self.name}.md)",
            self.question,
            self.rows["needs"],
            re.sub(r" \([^)]*\)", "", self.rows["range"]),
            backbone[0] if backbone else "none",
            self.rows["family"],
        ]
        return f"| {' | '.join(cells)} |\n"


def families() -> dict[str, list[Card]]:
    """The cards by family, in the order of the registry."""
    found: dict[str, list[Card]] = defaultdict(list)
    for name in METRICS:
        card = Card.read(ROOT / "metrics" / f"{name}.md")
        found[card.rows["family"]].append(card)
    return found


def on_config(config: MkDocsConfig) -> None:
    """Put the cards below the table of the metrics."""
    cards: list[Any] = [
        {family.capitalize(): [{card.name: f"metrics/{card.name}.md"} for card in members]}
        for family, members in families().items()
    ]
    config.nav = [
        {"Metrics": [entry["Metrics"], *cards]} if "Metrics" in entry else entry
        for entry in config.nav or []
    ]


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Add the pages whose Markdown lies outside docs/."""
    outside = [*TOP, *(f"metrics/{name}.md" for name in METRICS)]
    for path in outside:
        files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
    table = GALLERY + "".join(card.line() for cards in families().values() for card in cards)
    files.append(File.generated(config, GALLERY_PAGE, content=table))


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn the links, and show `a\\|b` in a table as a code host does."""
    uri = page.file.src_uri
    if uri == GALLERY_PAGE:
        return markdown
    in_repository = {site: path for path, site in TOP.items()}
    source = uri if uri.startswith("metrics/") else in_repository.get(uri, f"docs/{uri}")
    lines = relink(markdown, source).split("\n")
    return "\n".join(
        re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), line)
        if line.startswith("|")
        else line
        for line in lines
    )


def relink(markdown: str, source: str) -> str:
    """Links between files of the repository as links between pages of the site.

    Parameters
    ----------
    markdown : str
    source : str
        Where the file lies in the repository.
    """
    folder, page_folder = posixpath.dirname(source), posixpath.dirname(in_site(source))

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        return "](" + posixpath.relpath(in_site(target), page_folder or ".")

    return LINK.sub(turned, markdown)


def in_site(path: str) -> str:
    """Where a file of the repository lies in the site's sources."""
    places = {**TOP, "metrics": GALLERY_PAGE}
    return places.get(path, path.removeprefix("docs/"))
