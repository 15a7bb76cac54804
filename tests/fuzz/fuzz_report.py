"""What a table says, in a report's page: it stays data, whatever it is."""

from __future__ import annotations

import html
import json
import re
from functools import cache
from unittest import mock

from harness import fuzz, instrumented

with instrumented():
    from scorekit.reporting import page
    from scorekit.reporting.cells import _parsed, as_text, plain, words_of


TAGS = re.compile(r"<[!/a-z]", re.IGNORECASE)


def check(data: bytes) -> None:
    """One text, in the title, in the data, and as evidence."""
    text = as_text(data.decode("utf-8", "surrogateescape"))
    made = _rendered(text, {"text": text, text: [text]})
    assert len(TAGS.findall(made)) == _clean_tags(), "a tag more"
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', made, re.DOTALL)
    assert found is not None
    assert json.loads(found[1]) == {"text": text, text: [text]}
    title = re.search(r"<title>(.*?)</title>", made, re.DOTALL)
    assert title is not None
    assert html.unescape(title[1]) == text or "\0" in text or "\r" in text
    value = _parsed(text)
    assert isinstance(plain(value), str)
    json.dumps(words_of(value, text), allow_nan=False)


def _rendered(title: str, data: object) -> str:
    # Without plotly: four megabytes that are the same each time.
    with mock.patch.object(page, "_plotly", return_value="/* plotly */"):
        return page.render("base.html", title=title, data=data)


@cache
def _clean_tags() -> int:
    return len(TAGS.findall(_rendered("x", "x")))


SEEDS = [
    b"a dog",
    b"</script><script>alert(1)</script>",
    b"<!--<script>",
    b"]]>&quot;&#x27;'\" onload=alert(1) \xe2\x80\xa8",
    b'[{"start": 2, "end": 5, "attribution": -1e-4, "misaligned": true}]',
    b'[{"start": 0, "end": 1, "attribution": NaN, "misaligned": 0}]',
    b"[" * 500 + b"]" * 500,
    b'{"reason": "no cat", "answers": [{"q": "a cat?", "a": null}, [[1]]]}',
    b"caf\xe9 \xed\xa0\x80",
]

if __name__ == "__main__":
    fuzz(check, SEEDS)
