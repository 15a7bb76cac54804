"""What a report's page knows of each row, as JSON values small enough for 10,000 of them."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scorekit.reporting.heat import Mapped, fitting, map_of
from scorekit.reporting.page import rounded
from scorekit.reporting.runs import Rows
from scorekit.reporting.thumbnails import Thumbnail
from scorekit.table import COLUMNS, EVIDENCE, SOURCE

if TYPE_CHECKING:
    import pandas as pd

TEXT_BYTES = 4_000_000
"""In the page, for each kind of text: prompts, items, paths, tags, notes, evidence."""
LONGEST, SHORTEST = 20_000, 40
"""Letters of a text; it is not cut below the second."""
MOST_TAGS = 30
FEW_VALUES = 60
"""A column of more values is shown, but not offered as a filter."""
_SHARES = 1000
_Key = tuple[int, int]


def row_data(rows: Rows, metrics: Sequence[str]) -> dict[str, Any]:
    """All but the pictures: dictionaries, and for each row its places in them.

    Parameters
    ----------
    rows : Rows
    metrics : sequence of str
        In the order of the page.

    Returns
    -------
    dict
        ``systems``, ``items``, ``texts``, ``tags``, ``rows``, and by row, for those that have
        them, ``notes``, ``words`` and ``evidence``; the words' ``maps``, and how many are left
        out (``mapsLeftOut``).
    """
    frame = rows.frame
    columns: dict[str, Any] = {"run": frame["run"].tolist(), "index": frame["index"].tolist()}
    names: dict[str, list[str]] = {}
    columns["system"], names["systems"] = _coded(frame["system"])
    columns["item"], names["items"] = _coded(frame["item"])
    texts = frame["text"]
    if has_sources(rows):
        import pandas as pd

        both, names["texts"] = _coded(pd.concat([texts, frame[SOURCE[1]]]))
        columns["text"], columns["sourceText"] = both[: len(rows)], both[len(rows) :]
    else:
        columns["text"], names["texts"] = _coded(texts)
    names = {kind: _fairly_cut(texts) for kind, texts in names.items()}
    paths = [as_text(path) for path in frame["image"]]
    # Where the whole folder lies is left out.
    shared = _shared_folder(paths)
    columns["path"] = _fairly_cut([path[shared:] for path in paths])
    columns["values"] = [[rounded(v) for v in rows.values[name].tolist()] for name in metrics]
    return {**names, "tags": _tags(frame), "rows": columns, **_told(rows, metrics)}


def has_sources(rows: Rows) -> bool:
    """Whether rows are edits of source images."""
    return any(as_text(image) for image in rows.frame[SOURCE[0]])


def picture_data(
    rows: Rows, pictures: Mapping[str, Thumbnail]
) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """The distinct pictures, and each row's numbers of its image and its source."""
    places: dict[int, int] = {}
    out: list[dict[str, Any]] = []

    def place(path: str) -> int:
        picture = pictures[path]
        if id(picture) not in places:
            places[id(picture)] = len(out)
            out.append(_picture(picture))
        return places[id(picture)]

    columns = {"picture": [place(as_text(path)) for path in rows.frame["image"]]}
    if has_sources(rows):
        columns["source"] = [place(as_text(path)) for path in rows.frame[SOURCE[0]]]
    return out, columns


def _picture(picture: Thumbnail) -> dict[str, Any]:
    if not picture.data:
        return {"why": as_text(picture.why)}
    assert picture.size is not None
    width, height = picture.size
    return {"w": width, "h": height, "src": base64.b64encode(picture.data).decode()}


def as_text(value: Any) -> str:
    """A cell as a text that can be written: lone surrogates replaced, nothing for no value.

    Examples
    --------
    >>> as_text(None), as_text(float("nan")), as_text(["a"]), as_text("x\\ud800")
    ('', '', '["a"]', 'x?')
    """
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if hasattr(value, "tolist"):
        value = value.tolist()
    return as_text(json.dumps(value, ensure_ascii=False, default=str))


def _coded(column: pd.Series[Any]) -> tuple[list[int], list[str]]:
    names: dict[str, int] = {}
    codes = [names.setdefault(as_text(value), len(names)) for value in column]
    return codes, list(names)


def _shared_folder(paths: Sequence[str]) -> int:
    """Letters of the folder that all paths lie in."""
    folders = {path.rpartition("/")[0] for path in paths if path}
    try:
        shared = os.path.commonpath(folders)
    except ValueError:  # none, or relative and absolute ones
        return 0
    if any("://" in folder for folder in folders):
        shared = shared.replace(":/", "://", 1)  # of which commonpath makes one slash
    return len(shared.rstrip("/")) + 1 if shared else 0


def page_bytes(text: str) -> int:
    """Bytes of a text in the page, where <, >, & and ' are written in six."""
    return len(text.encode()) + 5 * sum(map(text.count, "<>&'"))


def _fairly_cut(texts: Sequence[str], budget: int = TEXT_BYTES) -> list[str]:
    """Texts cut at `LONGEST`, and at an equal share where all of them would be too much."""
    texts = [_cut(text, LONGEST) for text in texts]
    costs = [page_bytes(text) for text in texts]
    if sum(costs) <= budget:
        return texts
    share = budget // len(texts)
    return [
        _cut(text, max(SHORTEST, len(text) * share // cost)) if cost > share else text
        for text, cost in zip(texts, costs, strict=True)
    ]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… [cut here]"


def _tags(frame: pd.DataFrame) -> list[dict[str, Any]]:
    known = (*COLUMNS, *SOURCE, EVIDENCE, "run")
    names = [c for c in frame.columns if c not in known][:MOST_TAGS]
    tags = []
    for name in names:
        codes, values = _coded(frame[name])
        tags.append(
            {
                "name": _cut(as_text(str(name)), SHORTEST),
                "values": _fairly_cut(values, TEXT_BYTES // len(names)),
                "codes": codes,
                "filter": 1 < len(values) <= FEW_VALUES,
            }
        )
    return tags


def _told(rows: Rows, metrics: Sequence[str]) -> dict[str, Any]:
    """Notes, words and evidence of rows; a component says only what its metric does not."""
    texts = [as_text(text) for text in rows.frame["text"]]
    place = {name: i for i, name in enumerate(metrics)}
    notes: dict[tuple[int, int], str] = {}
    statuses: dict[tuple[int, int], str] = {}
    words: dict[int, dict[int, Any]] = {}
    evidence: dict[tuple[int, int], str] = {}
    said: dict[tuple[int, str], tuple[str, str]] = {}
    mapped: list[Mapped] = []
    columns = ("row", "metric", "status", "note", EVIDENCE)
    for row, metric, status, note, proof in rows.cells[list(columns)].itertuples(index=False):
        if metric not in place:
            continue
        key = (status, note)
        said[row, metric] = key
        parent = metric.rpartition(".")[0]
        if (status != "ok" or note) and said.get((row, parent)) != key:
            notes[row, place[metric]] = as_text(note)
            statuses[row, place[metric]] = status
        if proof:
            found = _parsed(proof)
            if (spans := words_of(found, texts[row])) is not None:
                words.setdefault(row, {})[place[metric]] = spans
                mapped += _mapped(row, spans, found)
            else:
                evidence[row, place[metric]] = plain(found)
    told: dict[int, list[Any]] = {}
    for (row, at), text in _cut_by_key(notes):
        told.setdefault(row, []).append([at, statuses[row, at], text])
    proofs: dict[int, dict[int, str]] = {}
    for (row, at), text in _cut_by_key(evidence):
        proofs.setdefault(row, {})[at] = text
    maps, left_out = fitting(mapped)
    return {
        "notes": told,
        "words": words,
        "evidence": proofs,
        "maps": maps,
        "mapsLeftOut": left_out,
    }


def _mapped(row: int, spans: Sequence[list[Any]], found: Sequence[Any]) -> Iterator[Mapped]:
    """A row's words that have heat maps, the lowest first."""
    maps = [(span, heat) for span, word in zip(spans, found, strict=True) if (heat := map_of(word))]
    maps.sort(key=lambda each: each[0][2])
    for nth, (span, heat) in enumerate(maps):
        yield Mapped(span, row, nth, heat)


def _cut_by_key(texts: Mapping[_Key, str]) -> Iterator[tuple[_Key, str]]:
    return zip(texts, _fairly_cut(list(texts.values())), strict=True)


def _parsed(proof: Any) -> Any:
    try:
        found = json.loads(proof)
        plain(found)
    except (TypeError, ValueError, RecursionError):  # no JSON, or nested too deeply to be shown
        return as_text(proof)
    return found


def words_of(found: Any, text: str) -> list[list[Any]] | None:
    """Evidence of misaligned words as [start, end, share of the largest in 1/1000, flag].

    Start and end count UTF-16 units, as the page's script does; None for other evidence. A word
    with a heat map gets its number as a fifth entry later.

    Examples
    --------
    >>> words_of([{"start": 2, "end": 5, "attribution": -1e-4, "misaligned": True}], "😀 cat")
    [[3, 6, -1000, 1]]
    >>> words_of([{"question": "Is there a cat?"}], "a cat") is None
    True
    """
    try:
        entries = [
            (int(w["start"]), int(w["end"]), float(w["attribution"]), bool(w["misaligned"]))
            for w in found
        ]
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    if not entries or not all(math.isfinite(entry[2]) for entry in entries):
        return None
    largest = max(abs(entry[2]) for entry in entries) or 1.0
    return [
        [_units(text, a), _units(text, b), round(_SHARES * share / largest), int(flag)]
        for a, b, share, flag in entries
    ]


def _units(text: str, place: int) -> int:
    return len(text[:place].encode("utf-16-le")) // 2


def plain(value: Any, indent: str = "") -> str:
    """JSON as lines that a person reads.

    Examples
    --------
    >>> print(plain({"reason": "no cat", "answers": [{"q": "a cat?", "a": "no"}]}))
    reason: no cat
    answers:
      - q: a cat?; a: no
    """
    if isinstance(value, Mapping):
        return "\n".join(_line(key, entry, indent) for key, entry in value.items())
    if isinstance(value, list):
        return "\n".join(
            f"{indent}- {_inline(entry)}" if _flat(entry) else plain(entry, indent + "  ")
            for entry in value
        )
    return indent + _inline(value)


def _line(key: Any, entry: Any, indent: str) -> str:
    if isinstance(entry, Mapping | list) and entry:
        return f"{indent}{as_text(str(key))}:\n{plain(entry, indent + '  ')}"
    return f"{indent}{as_text(str(key))}: {_inline(entry)}"


def _flat(entry: Any) -> bool:
    values = entry.values() if isinstance(entry, Mapping) else [entry]
    return not any(isinstance(value, Mapping | list) and value for value in values)


def _inline(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return "; ".join(f"{as_text(str(k))}: {_inline(v)}" for k, v in entry.items())
    if isinstance(entry, bool):
        return "yes" if entry else "no"
    return as_text(entry) if entry is not None else "none"
