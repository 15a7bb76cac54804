"""`scorekit rank`: the best image of each item."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scorekit.cli_options import Json, SpreadsheetSafe
from scorekit.types import UsageError

if TYPE_CHECKING:
    from scorekit.ranking import Ranking

SHOWN = 20


def rank(
    table: Annotated[str, typer.Argument(help="A table that `scorekit score --out` wrote.")],
    metric: Annotated[
        str | None, typer.Option("-m", "--metric", help="What to rank by, if there are several.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="Images an item; 0 for all of them.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write .csv, .tsv, .jsonl or .parquet."),
    ] = None,
    spreadsheet_safe: SpreadsheetSafe = False,
    json_: Json = False,
) -> None:
    """Choose the best of n images of each item, with the margin to the next and with ties.

    Equal scores share a rank; of a tie for the first place the first image of the table is
    taken, and said to be tied. Exit code: 1 where an item has no scored image.
    """
    from scorekit import console
    from scorekit.frames import check_frame_path, save_frame
    from scorekit.ranking import rank as rank_table
    from scorekit.table import ScoreTable, check_delimited

    if top < 0:
        raise UsageError(f"--top must be 0 or more, not {top}")
    if out is not None:
        check_frame_path(out)
    if spreadsheet_safe:
        check_delimited(out or "")
    ranking = rank_table(ScoreTable.load(table), metric)
    rows = ranking.best() if top == 1 else ranking.top(top) if top else ranking.frame
    if out is not None:
        save_frame(rows, out, spreadsheet_safe=spreadsheet_safe)
    if json_:
        about = {
            "metric": ranking.metric,
            "signature": str(ranking.signature),
            "higher_is_better": ranking.higher_is_better,
            "tied": ranking.n_tied,
            "unscored": ranking.n_unscored,
        }
        records = rows.astype(object).where(rows.notna(), None).to_dict("records")
        console.print_json({**about, "rows": records})
    else:
        _print(ranking, rows, out)
    if ranking.n_unscored:
        raise typer.Exit(1)


def _print(ranking: Ranking, rows: Any, out: Path | None) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from scorekit.console import stdout

    console = stdout()
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("item", "rank", "image", ranking.metric, "margin", ""):
        numeric = heading in ("rank", ranking.metric, "margin")
        grid.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric)
    for row in rows.head(SHOWN).to_dict("records"):
        scored = row["status"] == "ok"
        where = row["image"] or f"{row['system']}/{row['item']}"
        remark = f"{row['tied']} images share this score" if row["tied"] > 1 else ""
        grid.add_row(
            escape(str(row["item"])),
            str(row["rank"]) if scored else "-",
            escape(str(where)),
            f"{row['value']:.4f}" if scored else "-",
            f"{row['margin']:.4f}" if row["margin"] == row["margin"] else "-",
            remark if scored else escape(f"{row['status']}: {row['note']}"),
        )
    console.print(grid)
    if len(rows) > SHOWN:
        console.print(f"... and {len(rows) - SHOWN} more rows; --out or --json has them all")
    direction = "" if ranking.higher_is_better else " (lower is better)"
    console.print(escape(str(ranking.signature)) + direction, soft_wrap=True)
    items = rows["item"].nunique()
    console.print(f"{items} items, {ranking.n_tied} with a tie for the first place")
    if out is not None:
        console.print(f"{len(rows)} rows in {escape(str(out))}")
