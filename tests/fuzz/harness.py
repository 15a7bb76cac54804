"""What every harness of this folder does: seeds, a check, and atheris where it is installed.

    pip install -e ".[fuzz]"
    python tests/fuzz/fuzz_tables.py -runs=100000
    python tests/fuzz/fuzz_images.py -max_total_time=300

A harness names an entry that reads what others wrote. Its check calls that entry with bytes, and
only the errors that the entry documents (`UsageError`, `InputError`, `ReplyError`) may come out of
it. Options are libFuzzer's; unless they are given, an input may take 10 seconds and 2 GiB.
Without atheris a harness says so and exits with 77, which test runners read as skipped;
`python tests/fuzz/NAME.py -seeds` goes through its seeds without it. tests/test_hostile.py does the
same and adds damaged ones, so that no harness falls behind the code.

What a run finds is mended, and kept in tests/test_hostile.py as an ordinary test.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

Check = Callable[[bytes], object]
SKIPPED = 77


def scratch() -> Path:
    """A folder of this process, in memory where the system has such a place."""
    shm = Path("/dev/shm")
    parent = shm if os.access(shm, os.W_OK) else Path(tempfile.gettempdir())
    # libFuzzer ends a process without any last word: the next one clears up.
    for left in parent.glob("scorekit-fuzz-*-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"scorekit-fuzz-{os.getpid()}-", dir=parent))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def damaged(seed: bytes, count: int, source: random.Random) -> Iterator[bytes]:
    """A seed with bytes changed, taken out, or put in twice: what a plain test can do."""
    for _ in range(count):
        data = bytearray(seed)
        for _ in range(source.randint(1, 6)):
            at = source.randrange(len(data) + 1)
            length = source.choice((1, 1, 2, 4, 40))
            kind = source.randrange(4)
            if kind == 0:
                data[at : at + length] = source.randbytes(length)
            elif kind == 1:
                del data[at : at + length]
            elif kind == 2:
                data[at:at] = data[at : at + length] * source.choice((1, 3, 50))
            else:
                data[at : at + 1] = source.choice((b"\0", b"\xff", b"\x80", b"[", b'"', b"9" * 400))
        yield bytes(data)


def fuzz(check: Check, seeds: Sequence[bytes]) -> None:
    """Run a check under atheris, from seeds, with libFuzzer's options of the command line.

    Of a folder on the command line, libFuzzer takes what is in it besides the seeds, and leaves
    there what it finds.
    """
    if "-seeds" in sys.argv:
        for seed in seeds:
            check(seed)
        print(f"{len(seeds)} seeds, all well")
        return
    try:
        import atheris
    except ImportError:
        print('atheris is not installed: pip install -e ".[fuzz]"', file=sys.stderr)
        sys.exit(SKIPPED)
    corpus = scratch()
    for number, seed in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    given = [arg.split("=")[0] for arg in sys.argv[1:]]
    defaults = {"-timeout": "10", "-rss_limit_mb": "2048", "-max_len": "8192"}
    options = [f"{key}={value}" for key, value in defaults.items() if key not in given]
    atheris.Setup([*sys.argv, *options, str(corpus)], check)
    atheris.Fuzz()


def instrumented() -> contextlib.AbstractContextManager[object]:
    """A context in which imported modules of scorekit and PIL report their coverage to atheris."""
    program = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    if program.parent != Path(__file__).parent or "-seeds" in sys.argv:
        return contextlib.nullcontext()
    try:
        import atheris
    except ImportError:
        return contextlib.nullcontext()
    return atheris.instrument_imports(include=["scorekit", "PIL", "json", "csv"])
