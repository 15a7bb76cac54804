"""What the benchmarks share: processes with their peak memory, medians, tables, versions.

Nothing heavy is imported here: a child process begins with its parent's peak memory, so that
the program that starts the measured ones has to stay small.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}


class Failed(RuntimeError):
    """A measured process that ended with an error; its text is the last line it wrote."""


@dataclass(frozen=True)
class Process:
    """A finished process.

    Attributes
    ----------
    seconds : float
        From start to end.
    peak_mb : float
        Largest resident memory, of the process itself; of its children it has none.
    output : str
        What it wrote to standard output.
    """

    seconds: float
    peak_mb: float
    output: str

    def json(self) -> Any:
        """The last line of the output, as JSON."""
        return json.loads(self.output.strip().splitlines()[-1])


def run(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, ok: Iterable[int] = (0,)
) -> Process:
    """Run a command to its end and measure it.

    Raises
    ------
    Failed
        If its exit code is not one of `ok`.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **QUIET, **(env or {})},
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        output, errors = out.read(), err.read()
    if process.returncode not in tuple(ok):
        lines = [line for line in errors.strip().splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit code {process.returncode}"
        raise Failed(f"{last} (exit code {process.returncode})")
    unit = 1 if sys.platform == "darwin" else 1024
    return Process(seconds, usage.ru_maxrss * unit / 1e6, output)


def scorekit_command() -> list[str]:
    """The ``scorekit`` command of this interpreter's environment."""
    return [str(Path(sys.executable).parent / "scorekit")]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median with the smallest and the largest, as text."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table, columns aligned."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in table
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    print("\n".join(lines), flush=True)


def machine() -> str:
    """Cores, architecture and the versions that the numbers hang on."""
    names = ("scorekit", "torch", "transformers", "open_clip_torch", "numpy", "pillow")
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, " + ", ".join(
        found
    )


def load() -> str:
    """How busy the machine is otherwise, to be printed beside every result."""
    if not hasattr(os, "getloadavg"):
        return "load unknown"
    one, five, _ = os.getloadavg()
    return f"load {one:.2f} (1 min), {five:.2f} (5 min)"
