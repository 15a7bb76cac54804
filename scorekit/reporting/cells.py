"""What a report's page knows of each row, as JSON values small enough for 10,000 of them."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scorekit.reporting.heat import MAP_BYTES, Map, fitting, map_of
from scorekit.reporting.isolation import isolated
from scorekit.reporting.page import rounded
from scorekit.reporting.runs import Rows
from scorekit.reporting.thumbnails import Thumbnail
from scorekit.reporting.words import WORD_BYTES, Lists
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
_WHY = 200  # letters of why a picture is missing
_Key = tuple[int, int]


@dataclass
class LeftOut:
    """What a page has no room for.

    Attributes
    ----------
    words, maps : int
        Words whose shares, and heat maps that are left out.
    texts : dict of str to int
        By kind, how many texts are cut.
    """

    words: int = 0
    maps: int = 0
    texts: dict[str, int] = field(default_factory=dict)

    def cut(self, kind: str, texts: Sequence[str], budget: int) -> list[str]:
        """Texts as `fairly_cut` cuts them, counted."""
        out = fairly_cut(texts, budget)
        if n := sum(a is not b for a, b in zip(texts, out, strict=True)):
            self.texts[kind] = self.texts.get(kind, 0) + n
        return out

    def sentences(self) -> list[str]:
        """What the page says of it."""
        small = "so that the page stays small"
        out = []
        if self.texts:
            kinds = ", ".join(f"{n:,} of the {kind}" for kind, n in self.texts.items())
            out.append(f"Long texts are cut, {small}: {kinds}. Where one is cut, it says so.")
        if self.words:
            out.append(
                f"The shares of {self.words:,} words are left out, {small}: those of the "
                "highest words of long texts."
            )
        if self.maps:
            out.append(
                f"{self.maps:,} heat maps of words are left out, {small}: those of the rows' "
                "second and third words first."
            )
        return out


def row_data(
    rows: Rows, metrics: Sequence[str], text_bytes: int = TEXT_BYTES
) -> tuple[dict[str, Any], LeftOut]:
    """All but the pictures: dictionaries, and for each row its places in them.

    Parameters
    ----------
    rows : Rows
    metrics : sequence of str
        In the order of the page.
    text_bytes : int
        Of each kind of text; words and heat maps have their own share of it.

    Returns
    -------
    dict
        ``systems``, ``items``, ``texts``, ``tags``, ``rows``, and by row, for those that have
        them, ``notes``, ``words`` and ``evidence``; the words' ``maps``.
    LeftOut
    """
    left_out = LeftOut()
    data = plain_data(rows, metrics, text_bytes, left_out)
    return {**data, **_told(rows, metrics, text_bytes, left_out)}, left_out


def plain_data(
    rows: Rows, metrics: Sequence[str], text_bytes: int, left_out: LeftOut
) -> dict[str, Any]:
    """What `row_data` has of the rows besides what metrics say of them."""
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
    kinds = {"texts": "prompts"}
    names = {
        kind: left_out.cut(kinds.get(kind, kind), texts, text_bytes)
        for kind, texts in names.items()
    }
    paths = [as_text(path) for path in frame["image"]]
    # Where the whole folder lies is left out.
    shared = _shared_folder(paths)
    columns["path"] = left_out.cut("paths", [path[shared:] for path in paths], text_bytes)
    columns["values"] = [[rounded(v) for v in rows.values[name].tolist()] for name in metrics]
    return {**names, "tags": _tags(frame, text_bytes, left_out), "rows": columns}


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
        return {"why": cut(as_text(picture.why), _WHY)}
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


def json_bytes(value: Any) -> int:
    """Bytes of a JSON value in the page.

    Examples
    --------
    >>> json_bytes(["a", 1]), json_bytes('<"')
    (7, 10)
    """
    return page_bytes(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def fairly_cut(texts: Sequence[str], budget: int) -> list[str]:
    """Texts cut at `LONGEST`, and at an equal share where all of them would be too much."""
    texts = [cut(text, LONGEST) for text in texts]
    costs = [json_bytes(text) for text in texts]
    if sum(costs) <= budget:
        return texts
    share = budget // len(texts)
    return [
        cut(text, max(SHORTEST, len(text) * share // cost)) if cost > share else text
        for text, cost in zip(texts, costs, strict=True)
    ]


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… [cut here]"


def _tags(frame: pd.DataFrame, text_bytes: int, left_out: LeftOut) -> list[dict[str, Any]]:
    known = (*COLUMNS, *SOURCE, EVIDENCE, "run")
    names = [c for c in frame.columns if c not in known][:MOST_TAGS]
    tags = []
    for name in names:
        codes, values = _coded(frame[name])
        tags.append(
            {
                "name": cut(as_text(str(name)), SHORTEST),
                "values": left_out.cut("tags", values, text_bytes // len(names)),
                "codes": codes,
                "filter": 1 < len(values) <= FEW_VALUES,
            }
        )
    return tags


def _told(rows: Rows, metrics: Sequence[str], text_bytes: int, left_out: LeftOut) -> dict[str, Any]:
    """Notes, words and evidence of rows; a component says only what its metric does not."""
    texts = [as_text(text) for text in rows.frame["text"]]
    place = {name: i for i, name in enumerate(metrics)}
    notes: dict[_Key, str] = {}
    statuses: dict[_Key, str] = {}
    evidence: dict[_Key, str] = {}
    said: dict[tuple[int, str], tuple[str, str]] = {}
    lists = Lists()
    judged: dict[tuple[int, str], tuple[list[Any], list[Map | None]]] = {}
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
        if proof and (row, proof) in judged:
            lists.add(row, place[metric], *judged[row, proof])
        elif proof:
            found = _loaded(proof)
            if (spans := words_of(found, texts[row])) is not None:
                judged[row, proof] = spans, [map_of(word) for word in found]
                lists.add(row, place[metric], *judged[row, proof])
            else:
                evidence[row, place[metric]] = plain(_parsed(proof))
    told: dict[int, list[Any]] = {}
    for (row, at), text in _cut_by_key("notes", notes, text_bytes, left_out):
        told.setdefault(row, []).append([at, statuses[row, at], text])
    proofs: dict[int, dict[int, str]] = {}
    for (row, at), text in _cut_by_key("texts of evidence", evidence, text_bytes, left_out):
        proofs.setdefault(row, {})[at] = text
    left_out.words = lists.cut(WORD_BYTES * text_bytes // TEXT_BYTES)
    maps, left_out.maps = fitting(list(lists.mapped()), MAP_BYTES * text_bytes // TEXT_BYTES)
    return {"notes": told, "words": lists.by_row(), "evidence": proofs, "maps": maps}


def _cut_by_key(
    kind: str, texts: Mapping[_Key, str], text_bytes: int, left_out: LeftOut
) -> Iterator[tuple[_Key, str]]:
    return zip(texts, left_out.cut(kind, list(texts.values()), text_bytes), strict=True)


def _loaded(proof: Any) -> Any:
    try:
        return json.loads(proof)
    except (TypeError, ValueError, RecursionError):
        return None


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
    wide = any(letter > "\uffff" for letter in text)

    def units(place: int) -> int:
        before = text[:place]
        return len(before.encode("utf-16-le")) // 2 if wide else len(before)

    return [
        [units(a), units(b), round(_SHARES * share / largest), int(flag)]
        for a, b, share, flag in entries
    ]


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
        return f"{indent}{_name(key)}:\n{plain(entry, indent + '  ')}"
    return f"{indent}{_name(key)}: {_inline(entry)}"


def _flat(entry: Any) -> bool:
    values = entry.values() if isinstance(entry, Mapping) else [entry]
    return not any(isinstance(value, Mapping | list) and value for value in values)


def _inline(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return "; ".join(f"{_name(k)}: {_inline(v)}" for k, v in entry.items())
    if isinstance(entry, bool):
        return "yes" if entry else "no"
    return isolated(as_text(entry)) if entry is not None else "none"


def _name(key: Any) -> str:
    return isolated(as_text(str(key)))
