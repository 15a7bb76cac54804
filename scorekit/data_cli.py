"""`scorekit data`: the rating sets, what they are, where they lie, whether they are sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorekit.cli_options import Json, SpreadsheetSafe
from scorekit.types import UsageError

if TYPE_CHECKING:
    from scorekit.fetch import Check
    from scorekit.manifests import Manifest

app = typer.Typer(help="Sets of human ratings: list, fetch, verify.", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Option("--to", metavar="DIR", help="Data folder (default: $SCOREKIT_DATA)."),
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Rating sets.")]

_COLOURS = {"ok": "green", "unverified": "yellow", "absent": "dim"}


@app.command("list")
def list_sets(
    name: Annotated[str | None, typer.Argument(help="Show one set in full.")] = None,
    folder: Folder = None,
    json_: Json = False,
) -> None:
    """List the rating sets, or show one: files, scales, licence, citation, published numbers."""
    from scorekit import console
    from scorekit.manifests import data_dir, manifest_of, manifests

    root = folder or data_dir()
    if name is not None:
        manifest = manifest_of(name)
        if json_:
            console.print_json(_full(manifest, root))
        else:
            _print_set(manifest, root)
        return
    rows = [_row(manifest, root) for manifest in manifests().values()]
    if json_:
        console.print_json(rows)
    else:
        _print_sets(rows, root)


@app.command("fetch")
def fetch_sets(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Rating sets.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="A local copy: folder, archive or file."),
    ] = None,
    folder: Folder = None,
    json_: Json = False,
) -> None:
    """Fetch rating sets: each file to a temporary file, checked, then renamed.

    Licences are the sets' own: `scorekit data list NAME` shows them.
    """
    from scorekit import console
    from scorekit.fetch import fetch
    from scorekit.manifests import data_dir, manifest_of

    root, done = folder or data_dir(), {}
    for manifest in [manifest_of(name) for name in names]:
        done[manifest.name] = fetch(manifest, root / manifest.folder, source)
        if not json_:
            print(f"{manifest.name}: {root / manifest.folder} (licence: {manifest.licence})")
            _print_checks(done[manifest.name])
    if json_:
        console.print_json({name: [vars(c) for c in checks] for name, checks in done.items()})


@app.command("verify")
def verify_sets(names: Names = None, folder: Folder = None, json_: Json = False) -> None:
    """Hash the files again and compare. Exit code 1 where a file differs or is missing.

    Without names, all sets that are there.
    """
    from scorekit import console
    from scorekit.fetch import verify
    from scorekit.manifests import data_dir, manifest_of, manifests

    root = folder or data_dir()
    asked = [manifest_of(name) for name in names or ()] or [
        m for m in manifests().values() if _is_present(m, root) != "no"
    ]
    if not asked:
        raise UsageError(f"no rating set in {root}; `scorekit data fetch NAME` gets one")
    done = {manifest.name: verify(manifest, root / manifest.folder) for manifest in asked}
    if json_:
        console.print_json({name: [vars(c) for c in checks] for name, checks in done.items()})
    else:
        for name, checks in done.items():
            print(name)
            _print_checks(checks)
    if any(check.state in ("differs", "missing") for checks in done.values() for check in checks):
        raise typer.Exit(1)


@app.command("export")
def export_set(
    name: Annotated[str, typer.Argument(help="Rating set.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help=".csv, .tsv, .jsonl or .parquet.")
    ],
    what: Annotated[
        str,
        typer.Option(
            help="samples (a prompts table for `scorekit score`), ratings, or the metric scores "
            "that the files carry."
        ),
    ] = "samples",
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Where its files are, if not fetched."),
    ] = None,
    spreadsheet_safe: SpreadsheetSafe = False,
) -> None:
    """Write what a set holds as a table."""
    from scorekit.frames import check_frame_path, save_frame
    from scorekit.manifests import load_set
    from scorekit.rating_files import lists_as_json
    from scorekit.table import check_delimited

    if what not in ("samples", "ratings", "scores"):
        raise UsageError(f"--what is samples, ratings or scores, not {what!r}")
    check_frame_path(out)
    if spreadsheet_safe:
        check_delimited(out)
    found = load_set(name, source)
    if what == "ratings":
        found.save(out, spreadsheet_safe=spreadsheet_safe)
        rows = len(found)
    else:
        frame = found.samples if what == "samples" else found.scores
        if frame is None:
            raise UsageError(f"the files of {name} carry no scores of metrics")
        flat = lists_as_json(frame) if out.suffix in (".csv", ".tsv") else frame
        save_frame(flat, out, spreadsheet_safe=spreadsheet_safe)
        rows = len(frame)
    print(f"{rows} rows written to {out}")


def _is_present(manifest: Manifest, root: Path) -> str:
    needed = [n for file in manifest.files if not file.optional for n in file.needed]
    missing = manifest.missing(root / manifest.folder)
    return "yes" if not missing else "no" if len(missing) == len(needed) else "partly"


def _where(manifest: Manifest) -> str:
    urls = [bool(file.url) for file in manifest.files if not file.optional]
    return "download" if all(urls) else "by hand"


def _row(manifest: Manifest, root: Path) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "title": manifest.title,
        "kind": manifest.kind,
        "dimensions": list(manifest.dimensions),
        "licence": manifest.licence,
        "where": _where(manifest),
        "verified": manifest.is_verified,
        "present": _is_present(manifest, root),
    }


def _full(manifest: Manifest, root: Path) -> dict[str, Any]:
    more = {
        "homepage": manifest.homepage,
        "layout": manifest.layout,
        "by_hand": manifest.by_hand,
        "folder": str(root / manifest.folder),
        "scales": dict(manifest.dimensions),
        "files": [vars(file) for file in manifest.files],
        "published": [vars(number) for number in manifest.published],
        "citation": manifest.citation,
    }
    return {**_row(manifest, root), **more}


def _print_sets(rows: Sequence[dict[str, Any]], root: Path) -> None:
    from rich.table import Table

    from scorekit import console

    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "dimensions", "licence", "where", "verified", "present"):
        table.add_column(column, overflow="fold")
    for row in rows:
        verified = "[green]yes[/]" if row["verified"] else "[yellow]no[/]"
        cells = [row["name"], row["kind"], ", ".join(row["dimensions"]), row["licence"]]
        table.add_row(*cells, row["where"], verified, row["present"])
    out = console.stdout()
    out.print(table)
    out.print(f"verified: every file's sha256 is known. Data folder: {root}", soft_wrap=True)


def _print_set(manifest: Manifest, root: Path) -> None:
    lines = {
        "title": manifest.title,
        "kind": manifest.kind,
        "licence": manifest.licence,
        "homepage": manifest.homepage,
        "layout": manifest.layout,
        "by hand": manifest.by_hand,
        "folder": f"{root / manifest.folder} (present: {_is_present(manifest, root)})",
    }
    for label, value in lines.items():
        if value:
            print(f"{label:<10}{value}")
    for dimension, scale in manifest.dimensions.items():
        print(f"{'scale':<10}{dimension}: {scale['low']} to {scale['high']}, {scale['kind']}")
    for file in manifest.files:
        optional = ", optional" if file.optional else ""
        print(f"{'file':<10}{file.name} (sha256 {file.sha256}{optional})")
    for number in manifest.published:
        what = f"{number.metric} / {number.dimension}: {number.statistic} {number.value:g}"
        print(f"{'published':<10}{what}, {number.grouping} ({number.source})")
    print(f"\n{manifest.citation.strip()}")


def _print_checks(checks: Sequence[Check]) -> None:
    from rich.text import Text

    from scorekit import console

    out = console.stdout()
    for check in checks:
        line = Text("  ")
        line.append(f"{check.state:<11}", _COLOURS.get(check.state, "red"))
        line.append(check.name + (f" ({check.note})" if _tells(check) else ""))
        out.print(line, soft_wrap=True)


def _tells(check: Check) -> bool:
    return bool(check.note) and check.state != "ok"
