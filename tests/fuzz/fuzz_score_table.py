"""Tables of scores: `ScoreTable.load` of a CSV with its JSON file, and of Parquet's metadata."""

from __future__ import annotations

import io
import json

from harness import fuzz, instrumented, scratch

with instrumented():
    from scorekit.reporting.runs import metrics_of, rows_of, runs_of
    from scorekit.table import COLUMNS, ScoreTable
    from scorekit.types import UsageError

FOLDER = scratch()
BETWEEN = b"\n--between--\n"
"""Stands between the JSON file and the table."""


def check(data: bytes) -> None:
    """The first byte chooses the format; the JSON file and the table follow."""
    suffix = (".csv", ".tsv", ".parquet", ".metadata")[data[0] % 4 if data else 0]
    header, _, table = data[1:].partition(BETWEEN)
    path = FOLDER / f"scores{'.parquet' if suffix == '.metadata' else suffix}"
    if suffix == ".metadata":
        table = _parquet(header)
    path.write_bytes(table)
    (FOLDER / f"scores{suffix}.json").write_bytes(header)
    try:
        loaded = ScoreTable.load(path)
        for _ in loaded.summary():
            pass
        loaded.failures()
        loaded.partial_failures()
        for name in loaded.metrics:
            loaded.scores(name)
            loaded.compare(loaded, name)
        rows_of(runs := runs_of({"a": loaded}))
        metrics_of(runs)
        loaded.save(FOLDER / "again.csv")
        loaded.save(FOLDER / "again.parquet")
    except UsageError:
        pass


def _parquet(header: bytes, **changed: list[object]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells: dict[str, list[object]] = {name: ["x"] for name in COLUMNS}
    cells |= {"index": [0], "value": [0.5], "status": ["ok"], "metric": ["clipscore"]}
    table = pa.table({**cells, **changed}).replace_schema_metadata({b"scorekit": header})
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


HEADER = json.dumps(
    {
        "format": 1,
        "metrics": {
            "clipscore": {
                "signature": "clipscore|bb:x|scale:2.5|trunc:77(n=0)|v:1",
                "higher_is_better": True, "headline": True, "aggregate": "mean",
            }
        },
        "run": {"device": "cpu"},
    }
).encode()  # fmt: skip
ROWS = (
    b"system,item,index,image,text,metric,value,status,note,skill\n"
    b's,1,0,a.png,"a ""dog""",clipscore,0.5,ok,,x\n'
    b"s,2,0,b.png,two,clipscore,,missing_image,no file b.png,y\n"
)
SEEDS = [
    b"\0" + HEADER + BETWEEN + ROWS,
    b"\1" + HEADER + BETWEEN + ROWS.replace(b",", b"\t"),
    b"\2" + BETWEEN + _parquet(HEADER),
    b"\3" + HEADER,
]

if __name__ == "__main__":
    fuzz(check, SEEDS)
