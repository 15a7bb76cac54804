"""How edit metrics rank sentinels on scenes: ``python -m scorekit.scenes.balance``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from scorekit.choose import parse_metric
from scorekit.metric import BaseMetric
from scorekit.run import RunOptions
from scorekit.scenes.edits import LOSSES
from scorekit.scenes.evaluate import write_between
from scorekit.scenes.make_edits import make_edits
from scorekit.sentinels import LEANING, PAIRS, Ranked, SentinelReport, read_set, sentinels
from scorekit.stats import Estimate, summarize

BACKBONE = "scenes-clip"
METRICS = (
    *("clipscore", "clip_i", "clip_out", "clip_im", "clip_dir", "directional_clip"),
    *("edit_baseline", "lambda_harmonic:against=source"),
    *("augclip", "augclip:margin=1", "augclip:margin=1,C=100"),
    *("psnr", "ssim", "mse", "l1", "l1:region=outside"),
)
"""Edit metrics that need no download, and CLIPScore and CLIP-I, which are used as such."""
LEFT_OUT = {
    "lpips": "its weights need a download",
    "dino_i": "it needs a DINO checkpoint, and random weights mean nothing",
    "structure_distance": "it needs a DINO checkpoint, and random weights mean nothing",
}
BEGIN = "<!-- edits, begin -->"
END = "<!-- edits, end -->"
# Scenes have no given edits beside the ideal ones.
SHOWN = (*(pair for pair in PAIRS if "edit" not in pair), LEANING)


def measure(
    n: int = 600,
    metrics: Sequence[str | BaseMetric] = METRICS,
    *,
    seed: int = 0,
    size: int = 224,
    device: str = "cpu",
) -> SentinelReport:
    """Rank the sentinels of `n` edits."""
    chosen = [parse_metric(each) if isinstance(each, str) else each for each in metrics]
    with TemporaryDirectory() as folder:
        made = make_edits(Path(folder) / "edits", n, seed=seed, size=size)
        return sentinels(
            read_set(made.table).samples,
            [_on_scenes(metric) for metric in chosen],
            options=RunOptions(device=device, cache=False),
        )


def _on_scenes(metric: BaseMetric) -> BaseMetric:
    """The metric on scenes-clip, if a CLIP is what it needs."""
    pretrained = getattr(metric, "backbone", "").startswith("open_clip:")
    return metric.with_backbone(BACKBONE) if pretrained else metric


def table(report: SentinelReport) -> str:
    """The report as markdown: a line a metric, a column a pair."""
    heads = [f"{better} > {worse}" for better, worse in SHOWN]
    names = list(dict.fromkeys(row.metric for row in report.rows))
    lines = [
        f"{report.edits} edits, {BACKBONE} for what needs a CLIP; each cell says how often the "
        "first image is better than the second, a tie half, with its 95% interval:",
        "",
        f"| metric | {' | '.join(heads)} | leans to |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for name in names:
        cells = [_said(report[name, *pair].accuracy) for pair in SHOWN]
        lines.append(f"| {name} | {' | '.join(cells)} | {leaning(report[name, *LEANING])} |")
    missing = [f"{name} ({why})" for name, why in LEFT_OUT.items()]
    lines += [
        "",
        f"Left out: {'; '.join(missing)}.",
        "",
        "Ideal > over, by what the over-edit lost:",
        "",
        f"| metric | {' | '.join(LOSSES)} |",
        "|---" * (len(LOSSES) + 1) + "|",
    ]
    for name in names:
        found = by_loss(report, name)
        lines.append(f"| {name} | {' | '.join(_said(found[loss]) for loss in LOSSES)} |")
    return "\n".join(lines)


def by_loss(report: SentinelReport, metric: str) -> dict[str, Estimate]:
    """How often the ideal edit is ranked above the over-edit, by what that one lost."""
    frame = report.table.frame
    rows = frame[frame["metric"] == metric]
    wide = rows.pivot(index="item", columns="system", values="value")
    better = wide["ideal"] - wide["over"]
    if not report.table.metrics[metric].higher_is_better:
        better = -better
    lost = rows.groupby("item")["lost"].first()
    scored = better.notna()
    hits = (better > 0) + 0.5 * (better == 0)
    return {
        loss: summarize(hits[scored & (lost == loss)], n_total=int((lost == loss).sum()))
        for loss in LOSSES
    }


def leaning(row: Ranked) -> str:
    """What a metric favours, by its interval for `LEANING`."""
    found = row.accuracy
    if found.low is None or found.high is None:
        return "-"
    if found.low > 0.5:
        return "modification"
    return "preservation" if found.high < 0.5 else "neither"


def _said(found: Estimate) -> str:
    if found.value is None or found.low is None:
        return f"no value ({found.n_total - found.n})"
    note = f", n = {found.n}" if found.n < found.n_total else ""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}{note})"


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m scorekit.scenes.balance", description=__doc__)
    parser.add_argument("--n", type=int, default=600, help="edits")
    parser.add_argument("--size", type=int, default=224, help="pixels at which scenes are drawn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "-m", "--metric", action="append", help="repeatable (default: all that need no download)"
    )
    parser.add_argument(
        "--write", type=Path, action="append", default=[], help="a page with markers; repeatable"
    )
    given = parser.parse_args(arguments)
    try:
        metrics = given.metric or METRICS
        text = table(measure(given.n, metrics, size=given.size, device=given.device))
        print(text)
        for page in given.write:
            write_between(page, text, BEGIN, END)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
