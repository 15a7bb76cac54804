"""A meta-evaluation for people and papers: rich tables, Markdown, LaTeX, JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from scorekit.meta import MetaResult
from scorekit.meta_report import DimensionReport, MetaReport
from scorekit.significance import Ranked

if TYPE_CHECKING:
    from rich.console import Console

NAMES: Mapping[str, str] = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "kendall_tau_b": "tau-b",
    "kendall_tau_c": "tau-c",
    "pairwise_accuracy": "pairwise acc.",
    "auroc": "AUROC",
    "average_precision": "AP",
    "two_afc": "2AFC",
    "two_afc_ties_split": "2AFC, ties 1/2",
    "text_score": "text",
    "image_score": "image",
    "group_score": "group",
}
SHOWN_PAIRS = 5
SHOWN_ITEMS = 5
RANDOM = "(random)"


@dataclass(frozen=True)
class Grid:
    """One table of results: a row a metric, a column a statistic.

    Attributes
    ----------
    title : str
    statistics : tuple of str
    rows : tuple of (str, mapping of str to MetaResult)
        Metrics, the best first.
    ranks : mapping of str to int
        Significance clusters; empty where none were made.
    """

    title: str
    statistics: tuple[str, ...]
    rows: tuple[tuple[str, Mapping[str, MetaResult]], ...]
    ranks: Mapping[str, int]

    @property
    def random(self) -> dict[str, float | None]:
        """What a metric that knows nothing reaches: the mean over the metrics."""
        out: dict[str, float | None] = {}
        for name in self.statistics:
            known = [r.random for _, row in self.rows if (r := row[name]).random is not None]
            out[name] = sum(known) / len(known) if known else None
        return out

    @property
    def scored(self) -> dict[str, str]:
        """Rows that went in and rated rows without a score, by metric."""
        first = {name: next(iter(row.values())) for name, row in self.rows}
        return {
            name: f"{r.n}" + (f" ({r.n_unscored} unscored)" if r.n_unscored else "")
            for name, r in first.items()
        }


def grids(report: MetaReport) -> Iterator[Grid]:
    """The tables of a report: each dimension, whole and by tag."""
    keys = dict.fromkeys((r.dimension, r.tag, r.skill) for r in report.results)
    for dimension, tag, skill in keys:
        results = [
            r for r in report.results if (r.dimension, r.tag, r.skill) == (dimension, tag, skill)
        ]
        statistics = tuple(dict.fromkeys(r.statistic for r in results))
        rows: dict[str, dict[str, MetaResult]] = {}
        for r in results:
            rows.setdefault(r.metric, {})[r.statistic] = r
        by, ranked = report.ranked(dimension) or (statistics[0], None)
        by = by if by in statistics else statistics[0]
        ordered = sorted(rows.items(), key=lambda row: -_number(row[1][by].value))
        ranks = dict(zip(ranked.names, ranked.ranks, strict=True)) if ranked and not tag else {}
        first = results[0]
        how = first.level if first.grouping == "global" else f"{first.level}, {first.grouping}"
        if first.grouping != "global":
            how += f", {first.average} of {first.n_groups} groups"
        title = f"{report.name}: {dimension}" + (f", {tag} = {skill}" if tag else "")
        yield Grid(f"{title} ({how})", statistics, tuple(ordered), ranks)


def print_report(report: MetaReport, console: Console) -> None:
    """Print a report."""
    for grid in grids(report):
        console.print(f"[bold]{escape(grid.title)}[/bold]")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("metric")
        if grid.ranks:
            table.add_column("rank", justify="right")
        for name in grid.statistics:
            table.add_column(NAMES[name], justify="right")
        table.add_column("rows", justify="right")
        for metric, row in grid.rows:
            rank = [str(grid.ranks.get(metric, "-"))] if grid.ranks else []
            cells = [_cell(row[name]) for name in grid.statistics]
            table.add_row(escape(metric), *rank, *cells, grid.scored[metric])
        random = [_short(v) for v in grid.random.values()]
        table.add_row(RANDOM, *([""] if grid.ranks else []), *random, "", style="dim")
        console.print(table)
        for line in _reasons(grid):
            console.print(escape(line), style="dim")
    for name, about in report.dimensions.items():
        if about.selection:
            console.print(_selection(name, about))
        for line in _about(about):
            console.print(escape(f"{name}: {line}"), soft_wrap=True)
    for name, chosen in report.choices.items():
        how = _how_ranked(chosen.statistic, chosen.ranked)
        console.print(escape(f"{name}: {how}"), soft_wrap=True)
    for note in report.notes:
        console.print(escape(f"note: {note}"), soft_wrap=True)
    for signature in report.signatures.values():
        console.print(escape(signature), soft_wrap=True)


def _selection(name: str, about: DimensionReport) -> Table:
    """What picking each item's best image by a metric gains."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    first = next(iter(about.selection.values()))
    table.title = f"best image of each of {first.metric.n} items, {escape(name)}"
    for heading in ("chosen by", "mean rating", "gain over a random image", "of what is possible"):
        table.add_column(heading, justify="left" if heading == "chosen by" else "right")
    ranked = sorted(about.selection.items(), key=lambda pair: -_number(pair[1].gain.value))
    for metric, best in ranked:
        share = "-" if best.share is None else f"{best.share:.0%}"
        table.add_row(escape(metric), _short(best.metric.value), _estimate(best.gain), share)
    table.add_row(RANDOM, _short(first.random.value), "", "0%", style="dim")
    table.add_row("(people)", _short(first.oracle.value), "", "100%", style="dim")
    return table


def _reasons(grid: Grid) -> Iterator[str]:
    for metric, row in grid.rows:
        told = dict.fromkeys(r.reason for r in row.values() if r.reason)
        for reason in told:
            yield f"  {metric}: {reason}"


def _how_ranked(statistic: str, ranked: Ranked) -> str:
    return (
        f"ranks by {NAMES[statistic]}, on the {ranked.n} rows that all metrics scored: a new rank "
        "begins where a paired permutation test finds a difference (p < .05)"
    )


def _about(about: DimensionReport) -> Iterator[str]:
    """What a dimension's report says beside its table, in lines."""
    name = NAMES[about.statistic]
    if about.ranked is not None:
        yield _how_ranked(about.statistic, about.ranked)
    if about.raters is not None:
        r = about.raters
        yield (
            f"{r.n_raters} raters, {r.n_ratings} ratings of {r.n_cells} images; Krippendorff's "
            f"alpha {_estimate(r.alpha)}; one rater against the mean of the others, "
            f"{NAMES[r.ceiling.mean.statistic]} {_estimate(r.ceiling.mean)}"
        )
    if about.combined is not None:
        pairs = sorted(about.combined.pairs, key=lambda p: -p.over_best)[:SHOWN_PAIRS]
        for p in pairs:
            bounds = "" if p.low is None else f" [{p.low:+.3f}, {p.high:+.3f}]"
            yield (
                f"{p.a} with {p.b}: {name} {p.combined:.3f}, {p.gain:+.3f}{bounds} over the "
                f"better of the two, {p.over_best:+.3f} over the best metric (cross-validated)"
            )
    for metric, found in about.influence.items():
        for item, change in found.strongest(SHOWN_ITEMS):
            yield f"without item {item}: {name} of {metric} {change:+.4f}"


def as_markdown(report: MetaReport) -> str:
    """The tables in Markdown."""
    lines: list[str] = []
    for grid in grids(report):
        heads = [
            "metric",
            *(["rank"] if grid.ranks else []),
            *map(NAMES.__getitem__, grid.statistics),
        ]
        lines += [f"**{_plain(grid.title)}**", ""]
        lines.append("| " + " | ".join([*heads, "rows"]) + " |")
        lines.append("|" + "---|" * (len(heads) + 1))
        lines += [f"| {' | '.join(map(_plain, cells))} |" for cells in _cells(grid, _cell)]
        lines.append("")
    lines += [
        f"- {_plain(name)}: {_plain(t)}" for name, a in report.dimensions.items() for t in _about(a)
    ]
    lines += [f"- {_plain(note)}" for note in report.notes]
    return "\n".join(lines).rstrip() + "\n"


def as_latex(report: MetaReport) -> str:
    """The tables in LaTeX (booktabs)."""
    out: list[str] = []
    for grid in grids(report):
        ranked = bool(grid.ranks)
        heads = ["metric", *(["rank"] if ranked else []), *map(NAMES.__getitem__, grid.statistics)]
        out += [
            "% " + " ".join(grid.title.split()),
            r"\begin{tabular}{l" + "r" * (len(heads)) + "}",
            r"\toprule",
            " & ".join(map(_tex, [*heads, "rows"])) + r" \\",
            r"\midrule",
        ]
        rows = list(_cells(grid, _tex_cell))
        for place, cells in enumerate(rows):
            if place == len(rows) - 1:
                out.append(r"\midrule")
            out.append(" & ".join([_tex(cells[0]), *cells[1:]]) + r" \\")
        out += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(out)


def as_json(report: MetaReport) -> dict[str, Any]:
    """Everything of a report as a JSON value."""
    dimensions: dict[str, Any] = {}
    for name, about in report.dimensions.items():
        dimensions[name] = {
            "statistic": about.statistic,
            "n": len(about.joined),
            "significance": None
            if about.ranked is None
            else {
                **_ranked(about.ranked),
                "williams": [
                    {"a": a, "b": b, "p_value": p} for (a, b), p in about.williams.items()
                ],
            },
            "raters": None if about.raters is None else asdict(about.raters),
            "best_of_n": {metric: asdict(b) for metric, b in about.selection.items()},
            "correlations_by": about.between,
            "correlations": [
                {"a": a, "b": b, "value": v} for (a, b), v in about.correlations.items()
            ],
            "combined": None if about.combined is None else asdict(about.combined),
            "influence": {
                metric: [{"item": i, "change": c} for i, c in found.strongest(len(found.items))]
                for metric, found in about.influence.items()
            },
        }
    for name, chosen in report.choices.items():
        dimensions[name] = {
            "statistic": chosen.statistic,
            "n": chosen.ranked.n,
            "significance": _ranked(chosen.ranked),
        }
    out: dict[str, Any] = _jsonable(
        {
            "ratings": {
                k: getattr(report, k) for k in ("name", "kind", "source", "licence", "citation")
            },
            "results": [asdict(r) for r in report.results],
            "dimensions": dimensions,
            "notes": report.notes,
            "signatures": report.signatures,
        }
    )
    return out


def _ranked(ranked: Ranked) -> dict[str, Any]:
    return {
        "names": ranked.names,
        "values": ranked.values,
        "ranks": ranked.ranks,
        "p_values": ranked.p_values.tolist(),
        "undefined": ranked.undefined,
    }


def _jsonable(value: Any) -> Any:
    """Numbers of numpy as Python's, and null for what is no number."""
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(grid: Grid, cell: Callable[[MetaResult], str]) -> Iterator[list[str]]:
    for metric, row in grid.rows:
        rank = [str(grid.ranks.get(metric, "-"))] if grid.ranks else []
        yield [metric, *rank, *(cell(row[n]) for n in grid.statistics), grid.scored[metric]]
    random = [_short(v) for v in grid.random.values()]
    yield [RANDOM, *([""] if grid.ranks else []), *random, ""]


def _cell(result: MetaResult) -> str:
    if result.value is None:
        return "-"
    bounds = "" if result.low is None else f" [{result.low:.3f}, {result.high:.3f}]"
    return f"{result.value:.3f}{bounds}"


def _tex_cell(result: MetaResult) -> str:
    if result.value is None:
        return "--"
    bounds = (
        "" if result.low is None else rf" {{\scriptsize $[{result.low:.3f}, {result.high:.3f}]$}}"
    )
    return f"${result.value:.3f}${bounds}"


def _estimate(estimate: Any) -> str:
    if estimate.value is None:
        return "-"
    bounds = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{bounds}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: float | None) -> float:
    return -math.inf if value is None else value


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    shown = re.sub(r"([\\|*`]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
    return shown.replace("&", "&amp;").replace("<", "&lt;")


_TEX = {
    ord(c): shown
    for c, shown in {
        "\\": r"\textbackslash{}",
        **{c: "\\" + c for c in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after the end of a row it would begin an argument
    }.items()
}


def _tex(text: str) -> str:
    """A text that LaTeX sets as it is, in one line."""
    return " ".join(text.split()).translate(_TEX)
