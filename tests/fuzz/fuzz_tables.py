"""Prompt tables of every format: `read_table` and what `read_samples` makes of it."""

from __future__ import annotations

import contextlib
import io
import json

from harness import fuzz, instrumented, scratch

with instrumented():
    from scorekit.entities import entities_of
    from scorekit.io import Listing, read_samples
    from scorekit.types import InputError, UsageError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FOLDER = scratch()


def check(data: bytes) -> None:
    """The first byte chooses the format, the others are the file."""
    path = FOLDER / f"table{SUFFIXES[data[0] % len(SUFFIXES)] if data else '.csv'}"
    path.write_bytes(data[1:])
    try:
        listing = read_samples(path)
    except UsageError as error:
        refusal = str(error)
    else:
        _go_through(listing)
        return
    assert "\n" not in refusal, repr(refusal)


def _go_through(listing: Listing) -> None:
    assert listing.samples
    listing.lines()
    for sample in listing.samples:
        with contextlib.suppress(InputError):
            entities_of(sample.entities)


def _parquet(**columns: object) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


CSV = (
    "image,text,item,system,index,references,nouns,entities\n"
    'a/0.png,"a dog, ""big""",1,sd,0,"[""one"", ""two""]",dog|cat,'
    '"[{""text"": ""dog"", ""box"": [0, 0, 8, 8]}]"\n'
    '../b.png,"two\nlines",NA,,,[],,\n'
)
ROW = {
    "image": "a.png", "text": "a dog", "item": 1, "index": 2.0, "references": ["x", "y"],
    "source_image": {"path": "b.png", "bytes": None}, "mask": "m.png", "reference_images": ["c"],
    "source_attributes": "a | b", "entities": [{"text": "dog", "box_relative": [0, 0, 1, 1]}],
    "other": {"deep": [1, None, True]},
}  # fmt: skip
SEEDS = [
    b"\0" + CSV.encode(),
    b"\0" + b"\xef\xbb\xbf" + CSV.replace(",", ";").encode(),
    b"\1" + CSV.replace(",", "\t").encode(),
    b"\2" + (json.dumps(ROW) + "\n" + json.dumps({"image": "b.png", "text": None})).encode(),
    b"\2" + b'{"file_name": "a.png", "prompt": "\\ud83d\\ude00", "index": 1e400}\n',
    b"\3" + _parquet(image=["a.png", None], text=["a dog", "a cat"], index=[0, 1]),
    b"\3" + _parquet(image=[{"bytes": b"x", "path": "p"}], text=["a"], references=[["x"]]),
]

if __name__ == "__main__":
    fuzz(check, SEEDS)
