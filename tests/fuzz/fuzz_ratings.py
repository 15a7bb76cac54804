"""Files of ratings: `RatingSet.load` of any table, with the JSON file that may lie beside it."""

from __future__ import annotations

import io
import json

from harness import fuzz, instrumented, scratch

with instrumented():
    from scorekit.ratings import RatingSet
    from scorekit.types import UsageError

FOLDER = scratch()
BETWEEN = b"\n--between--\n"


def check(data: bytes) -> None:
    """The first byte chooses the format; the JSON file, if any, and the table follow."""
    suffix = (".csv", ".tsv", ".jsonl", ".parquet")[data[0] % 4 if data else 0]
    header, _, table = data[1:].partition(BETWEEN)
    path = FOLDER / f"ratings{suffix}"
    path.write_bytes(table)
    beside = FOLDER / f"ratings{suffix}.json"
    beside.write_bytes(header) if header else beside.unlink(missing_ok=True)
    try:
        found = RatingSet.load(path)
        for dimension in found.dimensions:
            if found.kind != "preferences":
                found.mean(dimension)
                found.matrix(dimension)
        found.save(FOLDER / "again.csv")
        found.save(FOLDER / "again.parquet")
    except UsageError:
        pass


HEADER = json.dumps(
    {
        "format": 1, "name": "try", "kind": "ratings", "pooling": "mean", "source": "", "notes": [],
        "licence": "MIT", "citation": "",
        "scales": {"rating": {"low": 1, "high": 5, "kind": "ordinal"}},
    }
).encode()  # fmt: skip
ROWS = b"system,item,index,rater,dimension,value\nsd,1,0,ann,rating,4\nsd,2,0,bob,rating,nan\n"
PAIRS = b"item,system_a,index_a,system_b,index_b,choice\n1,x,0,y,0,a\n2,x,0,y,1,tie\n"
GROUPS = b'item,caption,picture,value,references\n1,0,0,1,"[""a""]"\n1,1,0,0,\n'


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    table = pa.table({"item": ["1", "2"], "rater": ["a", "b"], "value": [1.0, None]})
    pq.write_table(table.replace_schema_metadata({b"scorekit-ratings": HEADER}), out)
    return out.getvalue()


SEEDS = [
    b"\3" + BETWEEN + _parquet(),
    b"\0" + HEADER + BETWEEN + ROWS,
    b"\0" + BETWEEN + ROWS,
    b"\1" + BETWEEN + ROWS.replace(b",", b"\t"),
    b"\0" + BETWEEN + PAIRS,
    b"\0" + HEADER.replace(b"ratings", b"groups") + BETWEEN + GROUPS,
    b"\2" + BETWEEN + b'{"item": 1, "value": 4.5, "rater": null}\n{"item": "2", "value": "3"}\n',
]

if __name__ == "__main__":
    fuzz(check, SEEDS)
