"""Answers of judges and of writers of questions, as a model at an endpoint may give them."""

from __future__ import annotations

from harness import fuzz, instrumented

with instrumented():
    from scorekit.replies import (
        ReplyError,
        excerpt,
        object_with,
        read_checklist,
        read_choice,
        read_scores,
    )  # fmt: skip


def check(data: bytes) -> None:
    """One reply, read as each kind."""
    reply = data.decode("utf-8", "replace")
    excerpt(reply)
    for read in (
        lambda: read_scores(reply, 1),
        lambda: read_scores(reply, 2, 1.0, 5.0),
        lambda: read_checklist(reply, 2),
        lambda: read_choice(reply),
        lambda: read_choice(reply, "baseline_first"),
        lambda: object_with("questions", reply),
    ):
        try:
            found = read()
        except ReplyError:
            continue
        for value in found.get("scores", ()):
            assert 0 <= value <= 10


SEEDS = [
    b"7",
    b'```json\n{"score": [7, 9.5], "reasoning": "good \\ud83d"}\n```',
    b'Sure {here}: {"answers": ["yes", "No"], "score": 6}',
    b'{"choice": "A++", "reasoning": ["a", {"b": null}]}',
    b'{"questions": [{"question": "a?", "answer": "yes"}]} {"score": 1e400}',
    b'{"a":' * 40 + b"1" + b"}" * 40,
]

if __name__ == "__main__":
    fuzz(check, SEEDS)
