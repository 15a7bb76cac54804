"""Readers of published sets of misaligned captions, into one record: `FoilCase`.

Each docstring says where the format was seen. Nothing is downloaded, and no image is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from scorekit.metrics._words import words_of
from scorekit.misalignment import Span, overlap
from scorekit.prompts import read_table
from scorekit.types import PathLike, UsageError


@dataclass(frozen=True, slots=True)
class FoilCase:
    """A caption of an image, right or wrong, and where it is wrong.

    Attributes
    ----------
    item : str
        What the texts made from one original share.
    image : str
        As the source names it: a file name, or a path within its folder.
    text : str
    misaligned : bool
        Whether the source says that the text is wrong of the image.
    spans : tuple of (start, end)
        The wrong words of `text`. Empty where it is right, and where the source says no more than
        that it is wrong, or names words that it does not have (see `named`).
    kind : str
        The source's own subdivision: ``replace_att``, ``near-domain``, ...
    source : str
        The set, as in `READERS`.
    original : str or None
        The right caption that a foil was made from.
    original_spans : tuple of (start, end)
        The words of `original` that the foil changed or left out.
    named : str
        The wrong words as the source names them.
    references : tuple of str
    rating : float or None
        People's rating of the alignment; higher is better.
    """

    item: str
    image: str
    text: str
    misaligned: bool
    spans: tuple[Span, ...]
    kind: str
    source: str
    original: str | None = None
    original_spans: tuple[Span, ...] = ()
    named: str = ""
    references: tuple[str, ...] = ()
    rating: float | None = None


def pairs_of(cases: Iterable[FoilCase]) -> list[tuple[FoilCase, FoilCase]]:
    """Each foil with the case of its original; foils without one are left out."""
    cases = list(cases)
    originals = {(c.item, c.text): c for c in cases if not c.misaligned}
    found = ((originals.get((c.item, c.original or "")), c) for c in cases if c.misaligned)
    return [(original, foil) for original, foil in found if original is not None]


# Words --------------------------------------------------------------------------------------


def changed_words(original: str, foil: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """The words that differ between two captions, in each of them.

    Changed words that follow each other are one span. Letter case and punctuation count only
    where nothing else differs.

    Examples
    --------
    >>> changed_words("A cat on a mat.", "A small dog on a mat.")
    (((2, 5),), ((2, 11),))
    >>> changed_words("A dog.", "A wet dog.")
    ((), ((2, 5),))
    """
    ours, theirs = words_of(original), words_of(foil)
    one, two = ([w.text.casefold() for w in words] for words in (ours, theirs))
    if one == two:
        one, two = ([w.text for w in words] for words in (ours, theirs))
    spans: tuple[list[Span], list[Span]] = ([], [])
    for tag, a, b, c, d in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if tag != "equal":
            for side, words in ((0, ours[a:b]), (1, theirs[c:d])):
                if words:
                    spans[side].append((words[0].start, words[-1].end))
    return tuple(spans[0]), tuple(spans[1])


def places_of(text: str, phrase: str) -> tuple[Span, ...]:
    """Where a phrase stands in a text, as whole words, whatever the letter case.

    Examples
    --------
    >>> places_of("A Hot dog, not a dog.", "dog")
    ((6, 9), (17, 20))
    """
    pattern = r"\s+".join(map(re.escape, phrase.split()))
    if not pattern:
        return ()
    # Letters that are words by themselves, as in Chinese, have no boundary that \b would find.
    words = words_of(text)
    edges = {w.start for w in words}, {w.end for w in words}
    found = (match.span() for match in re.finditer(pattern, text, re.IGNORECASE))
    return tuple(
        (a, b)
        for a, b in found
        if (a in edges[0] or not text[a - 1 : a].isalnum())
        and (b in edges[1] or not text[b : b + 1].isalnum())
    )


def _foil_spans(original: str | None, foil: str, phrase: str) -> tuple[Span, ...]:
    """Where a foil's phrase is, if it stands there more than once: where the text changed."""
    places = places_of(foil, phrase)
    if original is None:
        return places
    changed = changed_words(original, foil)[1]
    new = tuple(place for place in places if any(overlap(place, span) for span in changed))
    return new or changed


def _in_order(text: str, phrase: str) -> tuple[Span, ...]:
    """Where a phrase stands; else where its words do, in their order, with others between."""
    places = places_of(text, phrase)
    if places:
        return places
    wanted = [w.text.casefold() for w in words_of(phrase)]
    found: list[Span] = []
    for word in words_of(text):
        if wanted[len(found) :][:1] == [word.text.casefold()]:
            found.append((word.start, word.end))
    return _runs(text, found) if len(found) == len(wanted) else ()


def _runs(text: str, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans with only white space between them, joined."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and not text[joined[-1][1] : start].strip():
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


# Files --------------------------------------------------------------------------------------

_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class _Entry:
    """One record of a file."""

    path: Path
    place: str
    name: str
    value: Mapping[str, Any]

    def error(self, message: str) -> UsageError:
        return UsageError(f"{self.path}, {self.place}: {message}")

    def text(self, *names: str) -> str:
        """The first of these fields that is there, a text or a whole number."""
        for name in names:
            found = self.value.get(name)
            if isinstance(found, str):
                return found
            if isinstance(found, int) and not isinstance(found, bool):
                return str(found)
            if found is not None:
                raise self.error(f"{name} must be a text, not {str(found)[:60]!r}")
        raise self.error(f"no {' or '.join(names)}")

    def flag(self, name: str) -> bool:
        found = self.value.get(name)
        if not isinstance(found, bool):
            raise self.error(f"{name} must be true or false")
        return found

    def texts(self, name: str) -> tuple[str, ...]:
        found = self.value.get(name) or ()
        if not isinstance(found, list | tuple) or not all(isinstance(t, str) for t in found):
            raise self.error(f"{name} must be a list of texts")
        return tuple(found)


def _json_entries(path: Path, inside: str | None = None) -> Iterator[_Entry]:
    """Records of a JSON list or object, or of the one under a key of it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        json.loads(text)  # whose errors say where they are
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError):
        raise UsageError(f"{path} is not JSON in UTF-8, or nested too deeply") from None
    start = _after(text, 0)
    if inside is not None:
        start = next((at for name, at, _ in _walk(text, start) if name == inside), -1)
    if start < 0 or text[start] not in "[{":
        raise UsageError(f"{path} has no list of {inside or 'records'}")
    line, counted = 1, 0
    for name, at, value in _walk(text, start):
        line, counted = line + text.count("\n", counted, at), at
        entry = _Entry(path, f"line {line}", name, value)
        if not isinstance(value, dict):
            raise entry.error("not a JSON object")
        yield entry


def _walk(text: str, at: int) -> Iterator[tuple[str, int, Any]]:
    """Names, places and values of the valid JSON list or object at a place."""
    end = {"{": "}", "[": "]"}.get(text[at])
    at, count = _after(text, at + 1), 0
    while end and text[at] != end:
        name = str(count)
        if end == "}":
            name, at = _DECODER.raw_decode(text, at)
            at = _after(text, _after(text, at) + 1)
        value, after = _DECODER.raw_decode(text, at)
        yield name, at, value
        at = _after(text, after)
        at, count = _after(text, at + (text[at] == ",")), count + 1


def _after(text: str, at: int) -> int:
    """The first place from `at` on without white space."""
    while text[at : at + 1].isspace():
        at += 1
    return at


def _entries(path: Path) -> Iterator[_Entry]:
    """Records of a JSON list or of a table."""
    if path.suffix.lower() == ".json":
        yield from _json_entries(path)
        return
    table = read_table(path)
    for row, place in enumerate(table.places):
        value = {name: column[row] for name, column in table.columns.items()}
        yield _Entry(path, place, str(row), value)


# Sets ---------------------------------------------------------------------------------------


def read_foil(path: PathLike) -> list[FoilCase]:
    """FOIL (Shekhar et al., ACL 2017): ``foilv1.0_train_2017.json``, ``foilv1.0_test_2017.json``.

    An object with ``images`` (``id``, ``file_name``) and ``annotations`` (``id`` of the COCO
    caption, ``foil_id``, ``image_id``, ``caption``, ``foil``, ``target_word`` and ``foil_word``,
    "ORIG" in originals).

    The format was seen in code that reads it (naver-ai/clip4dm `src/dataset.py`, the reader of
    VALSE, and others), not in the file itself. Those differ in what joins a foil to its original;
    here the same ``foil_id``, else the same ``id``.
    """
    path = Path(path)
    images = {e.text("id"): e.text("file_name") for e in _json_entries(path, "images")}
    entries = list(_json_entries(path, "annotations"))
    wrong = [entry.flag("foil") for entry in entries]
    rights = {
        (name, str(entry.value.get(name))): entry.text("caption")
        for entry, foil in zip(entries, wrong, strict=True)
        for name in ("foil_id", "id")
        if not foil
    }
    cases = []
    for entry, foil in zip(entries, wrong, strict=True):
        text, image, item = entry.text("caption"), entry.text("image_id"), entry.text("id")
        if image not in images:
            raise entry.error(f"no image {image}")
        case = FoilCase(item, images[image], text, foil, (), "noun", "foil")
        if foil:
            keys = [("foil_id", str(entry.value.get("foil_id"))), ("id", item)]
            original = next((rights[key] for key in keys if key in rights), None)
            case = _made_from(case, original, entry.text("foil_word"), entry)
        cases.append(case)
    return cases


def _made_from(case: FoilCase, original: str | None, phrase: str, entry: _Entry) -> FoilCase:
    spans = _foil_spans(original, case.text, phrase)
    if not spans:
        raise entry.error(f"the foil {phrase!r} is not in the caption {case.text!r}")
    ours = () if original is None else changed_words(original, case.text)[0]
    return replace(
        case, misaligned=True, spans=spans, original=original, original_spans=ours, named=phrase
    )


def read_nocaps_foil(path: PathLike) -> list[FoilCase]:
    """nocaps-FOIL (Petryk et al., NAACL 2024): ``nocaps-val-foil.json`` of DavidMChan/aloha.

    A list of ``image_path``, ``references``, ``baseline`` (the right caption), ``foil``,
    ``replacement`` (the right and the wrong phrase) and ``domain``, which becomes the kind. Two
    cases an entry, the original first; one where foil and baseline are the same.

    The format was seen in excerpts of the file itself (aloha, e38d69e). Where a phrase was
    replaced twice ("a lynx ... another lynx"), both places are spans.
    """
    cases = []
    for entry in _json_entries(Path(path)):
        right, wrong = entry.text("baseline"), entry.text("foil")
        replaced = entry.texts("replacement")
        if len(replaced) != 2:
            raise entry.error("replacement must be [right, wrong]")
        image, kind = entry.text("image_path"), entry.text("domain")
        case = FoilCase(entry.name, image, right, False, (), kind, "nocaps-foil")
        case = replace(case, references=entry.texts("references"))
        cases.append(case)
        if " ".join(right.split()) != " ".join(wrong.split()):
            cases.append(_made_from(replace(case, text=wrong), right, replaced[1], entry))
    return cases


def read_hat(path: PathLike) -> list[FoilCase]:
    """HAT (Petryk et al., NAACL 2024): ``hat-trainval.json`` of DavidMChan/aloha.

    A list of ``caption``, ``grounding`` (pairs of a token, split at white space, and whether it
    is hallucinated), ``contains_hallucination``, ``image_path``, ``references``, and in the later
    of its two versions ``sample_id``. Hallucinated tokens that follow each other are one span,
    without the punctuation at its ends.

    Both versions were seen in excerpts of the file itself (aloha, 88c1bd8 and e38d69e). There
    are no originals.
    """
    cases = []
    for entry in _json_entries(Path(path)):
        text, spans, at = entry.text("caption"), [], 0
        for pair in entry.value.get("grounding") or ():
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
                raise entry.error("grounding must be pairs of a token and true or false")
            token, flag = pair
            start = text.find(token, at)
            if start >= 0:
                at = start + len(token)
            elif flag:
                raise entry.error(f"the token {token!r} is not in the caption, or not in order")
            inside = words_of(token)
            if flag and inside:
                spans.append((start + inside[0].start, start + inside[-1].end))
        found = entry.flag("contains_hallucination")
        item, image = str(entry.value.get("sample_id") or entry.name), entry.text("image_path")
        case = FoilCase(item, image, text, found, _runs(text, spans), "hallucination", "hat")
        cases.append(replace(case, references=entry.texts("references")))
    return cases


_RICHHF_TOKEN = re.compile(r'[^,.?!":; ]+')


def read_richhf(path: PathLike) -> list[FoilCase]:
    """RichHF-18K (Liang et al., CVPR 2024), as a table or a JSON list.

    It is published as TFRecord files (google-research-datasets/richhf-18k) without images and
    prompts, both of which are in Pick-a-Pic. So it takes an export, one record an image:
    ``filename``, the prompt under ``prompt``, ``caption`` or ``text``,
    ``prompt_misalignment_label`` ("1 0 1" or a list; 0 is misaligned), and if wanted
    ``misalignment_score``. A hub copy with prompts and images (Exploration/richhf_18k_with_images,
    Parquet) has these fields as well, by the word of code that reads it.

    The fields were seen in the set's README and in clip4dm's reader, the tokens that the labels
    count in google-research `richhf_18k/match_label_to_token.py`; no record was seen.
    """
    cases = []
    for entry in _entries(Path(path)):
        text = entry.text("prompt", "caption", "text")
        given = entry.value.get("prompt_misalignment_label")
        labels = given.split() if isinstance(given, str) else given
        if not isinstance(labels, list) or not {str(label) for label in labels} <= {"0", "1"}:
            raise entry.error("prompt_misalignment_label must be 0s and 1s, one a token")
        tokens = [match.span() for match in _RICHHF_TOKEN.finditer(text)]
        if len(tokens) != len(labels):
            raise entry.error(f"{len(labels)} labels for the {len(tokens)} tokens of {text!r}")
        wrong = [span for span, label in zip(tokens, labels, strict=True) if str(label) == "0"]
        try:
            score = entry.value.get("misalignment_score")
            rating = None if score is None else float(score)
        except (TypeError, ValueError):
            raise entry.error("misalignment_score must be a number") from None
        spans, image = _runs(text, wrong), entry.text("filename")
        case = FoilCase(text, image, text, bool(spans), spans, "human", "richhf")
        cases.append(replace(case, rating=rating))
    return cases


def read_seetrue(path: PathLike) -> list[FoilCase]:
    """SeeTRUE (Yarom et al., NeurIPS 2023): a CSV of ``image``, ``text``, ``label``.

    Label 1 is aligned; ``dataset_source`` becomes the kind. No words are marked, so there are no
    spans. The format is that of ``SeeTRUE.csv`` in linzhiqiu/t2v_metrics (6ecb74f), which was
    read whole.
    """
    cases = []
    for entry in _entries(Path(path)):
        label, text = entry.text("label"), entry.text("text")
        if label not in ("0", "1"):
            raise entry.error(f"label must be 0 or 1, not {label!r}")
        kind = entry.text("dataset_source")
        cases.append(FoilCase(text, entry.text("image"), text, label == "0", (), kind, "seetrue"))
    return cases


def read_seetrue_feedback(path: PathLike) -> list[FoilCase]:
    """SeeTRUE-Feedback (Gordon et al., ECCV 2024): ``SeeTRUE_Feedback.csv`` of MismatchQuest.

    Of its columns ``image_caption`` (a few with quotes around them, which are taken off),
    ``image_name``, ``dataset_source`` and ``caption_misalignment`` are read. All captions are
    misaligned. The last names the wrong words in the annotator's wording: it is looked for as it
    stands, then as words in that order with others between; else there are no spans.

    The format was seen in excerpts of the file itself (MismatchQuest/MismatchQuest, 8428535).
    """
    cases = []
    for entry in _entries(Path(path)):
        text, named = entry.text("image_caption"), entry.text("caption_misalignment")
        if len(text) > 2 and text[0] == text[-1] == '"':
            text = text[1:-1]
        image, kind = entry.text("image_name"), entry.text("dataset_source")
        case = FoilCase(text, image, text, True, _in_order(text, named), kind, "seetrue-feedback")
        cases.append(replace(case, named=named))
    return cases


def read_sugar_crepe(path: PathLike) -> list[FoilCase]:
    """SugarCrepe (Hsieh et al., NeurIPS 2023): a JSON file of one kind, or a folder of them.

    An object of ``filename``, ``caption`` and ``negative_caption`` by number; the file's name
    (``swap_obj``) is the kind. Two cases an entry, the original first. No words are marked: the
    spans are those that differ between the two captions.

    All seven files (RAIVNLab/sugar-crepe, by way of linzhiqiu/t2v_metrics 6ecb74f) were read
    whole.
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path} holds no JSON files")
    cases = []
    for file in files:
        for entry in _json_entries(file):
            right, wrong = entry.text("caption"), entry.text("negative_caption")
            item, image = f"{file.stem}/{entry.name}", entry.text("filename")
            ours, theirs = changed_words(right, wrong)
            case = FoilCase(item, image, right, False, (), file.stem, "sugar-crepe")
            foil = replace(case, text=wrong, misaligned=True, spans=theirs)
            cases += [case, replace(foil, original=right, original_spans=ours)]
    return cases


READERS: Mapping[str, Callable[[PathLike], list[FoilCase]]] = {
    "foil": read_foil,
    "nocaps-foil": read_nocaps_foil,
    "hat": read_hat,
    "richhf": read_richhf,
    "seetrue": read_seetrue,
    "seetrue-feedback": read_seetrue_feedback,
    "sugar-crepe": read_sugar_crepe,
}
"""Readers by the name of the set."""
