"""What is written on a command line or in a table's head: metrics, and signatures."""

from __future__ import annotations

from harness import fuzz, instrumented

with instrumented():
    from scorekit.choose import parse_metrics
    from scorekit.types import Signature, UsageError


def check(data: bytes) -> None:
    """One text, read as a list of metrics and as a signature."""
    text = data.decode("utf-8", "replace")
    try:
        for label, metric in parse_metrics(text.split("\n"), "scenes-clip").items():
            assert isinstance(label, str)
            metric.params()
            repr(metric.needs)
    except UsageError:
        pass
    try:
        signature = Signature.parse(text)
    except UsageError:
        return
    assert Signature.parse(str(signature)) == signature
    assert signature.differences(signature) == []


SEEDS = [
    b"clipscore",
    b'clipscore:scale=1,prefix="a, b@c"@scenes-clip',
    b"clipscore:scale=100\nclipscore:scale=2.5\nretrieval",
    b'vqascore:question="Is {text}?",answer=yes@hf:x',
    b"clip_dir@scenes-clip\nlpips\nssim:window=7",
    b"clipscore|bb:open_clip/ViT-B-32|w:3e1f|scale:2.5|prefix:A photo %7C %25|trunc:77(n=0)|v:1",
]

if __name__ == "__main__":
    fuzz(check, SEEDS)
