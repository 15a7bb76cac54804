"""How an `Explanation` looks: in the terminal, as HTML, and as a heat map; and a calibration."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import asdict
from html import escape as html_escape
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scorekit.metrics.clip4dm import EPS
from scorekit.types import Array

if TYPE_CHECKING:
    from scorekit.calibrated import Fitted
    from scorekit.explain import Explanation, Word
    from scorekit.stats import Estimate

# From nought to the largest value, each arm darker step by step; red and teal are told apart by
# the colour-blind as well, and in grey by the marks.
DOWN = ((250, 250, 250), (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43))
UP = ((250, 250, 250), (199, 234, 229), (128, 205, 193), (53, 151, 143), (1, 102, 94))
BAR = 8
SMALLEST, LARGEST, EMBEDDED = 320, 1024, 320
_GAP, _LEGEND = 8, 62
_NOTE = 300
_COLUMNS = ("word", "attribution", "scaled", "z", "rank", "", "")


def rule_of(found: Explanation) -> str:
    """The line that says when a word counts as misaligned."""
    if found.mode == "most_negative":
        return "misaligned: the lowest word, whatever its value"
    if found.eps_from:
        return f"misaligned: {found.unit} attribution below eps; {found.eps_from}"
    line = f"misaligned: {found.unit} attribution below eps = {found.eps:g}"
    if found.eps == EPS:
        line += (
            ", which was published for ViT-B/32 in float16 and holds for no other model; "
            "`scorekit calibrate` fits one"
        )
    return line


def shares_of(found: Explanation) -> list[float]:
    """Each word's attribution as a share of the largest, with its sign."""
    largest = max(abs(word["attribution"]) for word in found.words) or 1.0
    return [word["attribution"] / largest for word in found.words]


def _pieces(found: Explanation) -> Iterator[tuple[str, Word | None, float]]:
    """The text in pieces: words with their share, and what stands between them."""
    done = 0
    for word, share in zip(found.words, shares_of(found), strict=True):
        yield found.text[done : word["start"]], None, 0.0
        yield found.text[word["start"] : word["end"]], word, share
        done = word["end"]
    yield found.text[done:], None, 0.0


def _notes(found: Explanation) -> list[str]:
    """The notes, a long one cut: it may name each word behind the model's limit."""
    return [shorten(note, _NOTE, placeholder=" …") for note in found.notes]


# Terminal -----------------------------------------------------------------------------------


def print_explanation(found: Explanation, console: Console) -> None:
    """Print a pair in full; readable without colours, which a pipe does not get."""
    console.print(f"CLIPScore    {found.clipscore:8.4f}   (cosine {found.cosine:.4f})")
    flagged = sum(word["misaligned"] for word in found.words)
    console.print(
        f"F-CLIPScore  {found.f_clipscore:8.4g}   "
        f"({flagged} of {len(found.words)} words misaligned)\n"
    )
    console.print(caption_of(found), soft_wrap=True)
    console.print(words_table(found, console))
    console.print(escape(rule_of(found)), soft_wrap=True)
    for note in _notes(found):
        console.print(f"note: {escape(note)}", soft_wrap=True)
    for signature in found.signatures.values():
        console.print(escape(signature), soft_wrap=True, style="dim")


def caption_of(found: Explanation) -> Text:
    """The text, its words coloured by attribution, misaligned ones in square brackets."""
    out = Text()
    for piece, word, share in _pieces(found):
        if word is None:
            out.append(piece)
        else:
            text = f"[{piece}]" if word["misaligned"] else piece
            out.append(text, style=_style(share, word["misaligned"]))
    return out


def words_table(found: Explanation, console: Console) -> Table:
    """A row for each word: attribution, scaled, z, rank, bar and flag."""
    solid = "█" if console.encoding.lower().startswith("utf") else "#"
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in _COLUMNS:
        number = name in ("attribution", "scaled", "z", "rank")
        grid.add_column(name, justify="right" if number else "left", no_wrap=name != "word")
    for word, share in zip(found.words, shares_of(found), strict=True):
        style = _style(share, word["misaligned"])
        length = round(BAR * abs(share))
        left, right = (solid * length, "") if share < 0 else ("", solid * length)
        grid.add_row(
            Text(word["word"], style=style),
            *_numbers(word),
            Text(f"{left:>{BAR}}|{right:<{BAR}}", style=style),
            _flag(found, word),
        )
    return grid


def _numbers(word: Word) -> tuple[str, ...]:
    return (
        f"{word['attribution']:+.2e}",
        f"{word['scaled']:+.2e}",
        f"{word['z']:+.2f}",
        str(word["rank"]),
    )


def _flag(found: Explanation, word: Word) -> str:
    flags = ["misaligned"] if word["misaligned"] else []
    if found.relevance is not None and word == found.chosen:
        flags.append("heat map")
    return ", ".join(flags)


def _style(share: float, flagged: bool) -> str:
    """Grey for nought, red down and green up: to be read on dark and light backgrounds."""
    end = (225, 60, 60) if share < 0 else (40, 165, 90)
    red, green, blue = (round(140 + (c - 140) * abs(share) ** 0.5) for c in end)
    return f"rgb({red},{green},{blue})" + (" bold underline" if flagged else "")


# HTML ---------------------------------------------------------------------------------------

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>scorekit explain</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }}
img {{ max-width: 100%; image-rendering: auto; display: block; margin: 1rem 0 }}
.caption {{ font-size: 1.4rem; line-height: 2 }}
.caption span {{ padding: .1em .2em; border-radius: .2em }}
.flagged {{ text-decoration: underline wavy #b2182b; text-underline-offset: .25em }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
.scores b, td, th {{ white-space: nowrap }}
td:first-child {{ white-space: normal }}
.wide {{ overflow-x: auto }}
td, th {{ padding: .15rem .8rem .15rem 0; text-align: right; border-bottom: 1px solid #ddd }}
td:first-child, th:first-child, td:last-child {{ text-align: left }}
.small {{ font-size: .8rem; color: #555; overflow-wrap: anywhere }}
</style></head><body>
<p class="scores"><b>CLIPScore</b> {clipscore:.4f} (cosine {cosine:.4f}) &nbsp; <b>F-CLIPScore</b>
{f_clipscore:.4g}</p>
<p class="caption">{caption}</p>
{pictures}
<div class="wide"><table><tr>{heads}</tr>
{rows}
</table></div>
<p>Red pulls the score down, teal up; <span class="flagged">underlined</span> words are
misaligned: {rule}.</p>
{notes}
<p class="small">{image}<br>{signatures}</p>
</body></html>
"""


def html_page(found: Explanation, picture: Image.Image) -> str:
    """A page of its own: no file beside it, the image embedded small."""
    caption = "".join(
        html_escape(piece) if word is None else _span(piece, word, share)
        for piece, word, share in _pieces(found)
    )
    small = picture.copy()
    small.thumbnail((EMBEDDED, EMBEDDED))
    pictures = [_embedded(small, "the image")]
    if found.relevance is not None and found.chosen is not None:
        pictures = [_embedded(heat_map(found, picture), f"heat map of {found.chosen['word']}")]
    rows = (
        "<tr>"
        + "".join(
            f"<td>{html_escape(cell)}</td>"
            for cell in (word["word"], *_numbers(word), _flag(found, word))
        )
        + "</tr>"
        for word in found.words
    )
    return _PAGE.format(
        clipscore=found.clipscore,
        cosine=found.cosine,
        f_clipscore=found.f_clipscore,
        caption=caption,
        pictures="\n".join(pictures),
        heads="".join(f"<th>{name}</th>" for name in _COLUMNS[:-1]),
        rows="\n".join(rows),
        rule=html_escape(rule_of(found).removeprefix("misaligned: ")),
        notes="".join(f"<p>{html_escape(note)}</p>" for note in _notes(found)),
        image=html_escape(found.image),
        signatures="<br>".join(map(html_escape, found.signatures.values())),
    )


def _span(piece: str, word: Word, share: float) -> str:
    red, green, blue = colours(np.array([share]))[0]
    ink = "#fff" if abs(share) > 0.6 else "#222"
    kind = ' class="flagged"' if word["misaligned"] else ""
    return (
        f'<span{kind} style="background:rgb({red},{green},{blue});color:{ink}" '
        f'title="{word["attribution"]:+.2e}, rank {word["rank"]}">{html_escape(piece)}</span>'
    )


def _embedded(image: Image.Image, what: str) -> str:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    data = base64.b64encode(out.getvalue()).decode()
    return f'<img alt="{html_escape(what)}" src="data:image/png;base64,{data}">'


# Heat map -----------------------------------------------------------------------------------


def colours(values: Array) -> Array:
    """Colours (..., 3) of values from -1 to 1: the further from nought, the darker.

    Examples
    --------
    >>> colours(np.array([-1.0, 0.0, 1.0])).tolist()
    [[178, 24, 43], [250, 250, 250], [1, 102, 94]]
    """
    at = np.linspace(0, 1, len(UP))
    down, up = (
        np.stack([np.interp(np.abs(values), at, channel) for channel in zip(*arm, strict=True)], -1)
        for arm in (DOWN, UP)
    )
    out: Array = np.where(np.asarray(values)[..., None] < 0, down, up).round().astype(np.uint8)
    return out


def heat_map(found: Explanation, picture: Image.Image) -> Image.Image:
    """The image, beside it in grey with the patches' relevance laid over it, and a legend.

    Parameters
    ----------
    found : Explanation
        With `relevance`.
    picture : PIL image in mode RGB
        The explained one.
    """
    assert found.relevance is not None and found.seen is not None and found.chosen is not None
    width, height = shown_size(picture.width, picture.height)
    plain = picture.resize((width, height), Image.Resampling.LANCZOS)
    patches = found.relevance.patches.astype(np.float64)
    largest = float(np.abs(patches).max()) or 1.0
    scale = (width / picture.width, height / picture.height) * 2
    left, top, right, bottom = (x * s for x, s in zip(found.seen, scale, strict=True))
    across = (np.arange(width) + 0.5 - left) / (right - left)
    down = (np.arange(height) + 0.5 - top) / (bottom - top)
    values = _upsampled(patches / largest, down, across)[..., None]
    # The image stays visible as a pale grey; the map covers it as far as it has something to say.
    levels = ImageOps.autocontrast(plain.convert("L"), cutoff=1)
    grey = 135 + np.asarray(levels, dtype=np.float64)[..., None] * (115 / 255)
    # A root, since a few patches have most of the relevance.
    strength = np.abs(values) ** 0.5
    cover = 0.9 * strength
    shade = colours((np.sign(values) * strength)[..., 0])
    mixed = grey * (1 - cover) + shade * cover
    inside = ((down >= 0) & (down < 1))[:, None] & ((across >= 0) & (across < 1))[None]
    mixed = np.where(inside[..., None], mixed, grey * 0.45)
    over = Image.fromarray(mixed.round().astype(np.uint8))
    _mark(over, patches / largest, (left, top, right, bottom))
    out = Image.new("RGB", (2 * width + _GAP, height + _LEGEND), "white")
    out.paste(plain, (0, 0))
    out.paste(over, (width + _GAP, 0))
    _legend(out, height, found.chosen["word"], largest, cropped=not inside.all())
    return out


def shown_size(width: int, height: int) -> tuple[int, int]:
    """The size at which an image is shown: small ones a whole number of times larger.

    Examples
    --------
    >>> shown_size(224, 100), shown_size(4000, 2000), shown_size(640, 480)
    ((448, 200), (1024, 512), (640, 480))
    """
    factor = max(1, -(-SMALLEST // max(width, height)))
    ratio = min(factor, LARGEST / max(width, height))
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _upsampled(grid: Array, down: Array, across: Array) -> Array:
    """A grid at places given as shares of its height and width: bilinear, flat at the edges."""
    rows, columns = grid.shape
    y = np.clip(down * rows - 0.5, 0, rows - 1)
    x = np.clip(across * columns - 0.5, 0, columns - 1)
    y0, x0 = y.astype(int), x.astype(int)
    y1, x1 = np.minimum(y0 + 1, rows - 1), np.minimum(x0 + 1, columns - 1)
    dy, dx = (y - y0)[:, None], (x - x0)[None]
    upper = grid[y0][:, x0] * (1 - dx) + grid[y0][:, x1] * dx
    lower = grid[y1][:, x0] * (1 - dx) + grid[y1][:, x1] * dx
    out: Array = upper * (1 - dy) + lower * dy
    return out


def _mark(over: Image.Image, patches: Array, seen: tuple[float, ...]) -> None:
    """A sign on the lowest and on the highest patch, to be read without colours."""
    left, top, right, bottom = seen
    rows, columns = patches.shape
    draw = ImageDraw.Draw(over)
    for at in (int(patches.argmin()), int(patches.argmax())):
        row, column = divmod(at, columns)
        value = patches[row, column]
        if abs(value) < 0.2:
            continue
        x = left + (right - left) * (column + 0.5) / columns
        y = top + (bottom - top) * (row + 0.5) / rows
        # Drawn, since the built-in font has no minus sign.
        strokes = [(7, 2)] if value < 0 else [(7, 2), (2, 7)]
        for rim, ink in ((2, "black"), (0, "white")):
            for across, down in strokes:
                half_width, half_height = across + rim, down + rim
                corners = (x - half_width, y - half_height, x + half_width, y + half_height)
                draw.rectangle(corners, fill=ink)


def _legend(out: Image.Image, top: int, word: str, largest: float, *, cropped: bool) -> None:
    draw, small = ImageDraw.Draw(out), _font(13)
    bar_top, middle = top + 26, out.width // 2
    margin = 10
    steps = np.linspace(-1, 1, max(2, out.width - 2 * margin))
    strip = np.repeat(colours(steps)[None], 10, axis=0)
    out.paste(Image.fromarray(strip), (margin, bar_top))
    # The built-in font has Western letters only.
    named = f"\u201c{word}\u201d" if word.isascii() else "the word"
    title = f"where the image speaks for or against {named}"
    if cropped:
        title += "; dark: not seen by the model"
    while draw.textlength(title, font=small) > out.width - 2 * margin and len(title) > 4:
        title = title.rstrip("…")[:-1] + "…"
    draw.text((margin, top + 6), title, fill="black", font=small)
    below = bar_top + 13
    draw.text((margin, below), f"against, -{largest:.1e}", fill=DOWN[-1], font=small)
    draw.text((middle, below), "0", fill="black", font=small, anchor="ma")
    right = (out.width - margin, below)
    draw.text(right, f"for, +{largest:.1e}", fill=UP[-1], font=small, anchor="ra")


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


# Calibration --------------------------------------------------------------------------------


def print_fit(fitted: Fitted, out: str, console: Console) -> None:
    """Print a fitted threshold with what it does, fitted and held out."""
    calibration, fit = fitted.calibration, fitted.calibration.fit
    console.print(
        f"eps = {float(fit.eps):.4g} ({calibration.unit}), 95% interval {_interval(fit.eps, '.4g')}"
    )
    console.print(
        f"for {escape(calibration.backbone)} ({calibration.fingerprint}), goal {fit.goal}; "
        f"{fit.n_misaligned:,} of {fit.n_words:,} words of {fit.n_items:,} items are misaligned"
    )
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    for heading in ("fitted", "95% interval", "held out", "95% interval"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, estimate in fit.fitted.items():
        held = None if fit.held_out is None else fit.held_out.get(name)
        cells = [cell for each in (estimate, held) for cell in (_value(each), _interval(each))]
        grid.add_row(name.replace("_", " ").replace("f1", "F1"), *cells)
    console.print(grid)
    if fit.held_out_eps is None:
        console.print("held out: none, since a half of the items has nothing to fit on")
    else:
        first, second = fit.held_out_eps
        console.print(
            "held out: each half of the items is judged by the eps of the other "
            f"({first:.4g}, {second:.4g})"
        )
    console.print(f"written to {escape(out)}; use it with --calibration {escape(out)}")


def fit_as_json(fitted: Fitted, out: str) -> dict[str, Any]:
    """A fitted threshold as JSON values, without its curve."""
    value = asdict(fitted.calibration)
    del value["fit"]["curve"]
    return {**value, "failed": len(unscored(fitted)), "out": out}


def unscored(fitted: Fitted) -> list[str]:
    """The rows that were left out, a line each."""
    failures = fitted.table.failures()
    failures = failures[failures["metric"] == "clip4dm"]
    return [f"{row['image']}: {row['note']}" for row in failures.to_dict("records")]


def _value(estimate: Estimate | None) -> str:
    return "-" if estimate is None or estimate.value is None else f"{estimate.value:.3f}"


def _interval(estimate: Estimate | None, form: str = ".3f") -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{estimate.low:{form}} to {estimate.high:{form}}"
