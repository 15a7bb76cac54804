"""How long until the command answers, and what is imported on the way.

Whole processes, median of seven: what a user waits for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import HERE, Process, load, machine, print_table, run, scorekit_command, spread

TOP = 8


def several(command: list[str], repeat: int) -> list[Process]:
    """Run a command several times, after once for the disk's sake."""
    run(command)
    return [run(command) for _ in range(repeat)]


def slowest_imports(code: str, top: int = TOP) -> list[tuple[str, float]]:
    """Modules with the largest own import time, in milliseconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    found = []
    for line in done.stderr.splitlines():
        if line.startswith("import time:") and "|" in line and "self [us]" not in line:
            own, _, name = line.removeprefix("import time:").split("|")
            found.append((name.strip(), int(own) / 1000))
    return sorted(found, key=lambda pair: -pair[1])[:top]


def main() -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scorekit-bench-") as temporary:
        work = Path(temporary)
        run(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
                f"from memory import *; prepare(Path({str(work)!r}), [256])",
            ]
        )
        scorekit = scorekit_command()
        score = [
            *scorekit,
            "score",
            str(work / "rows-256.csv"),
            "--quiet",
            "--device",
            "cpu",
            "--backbone",
            f"hf:{work / 'tiny-clip'}",
            "--cache",
            str(work / "cache"),
        ]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "scorekit --help": [*scorekit, "--help"],
            "import scorekit": [sys.executable, "-c", "import scorekit"],
            "import scorekit.metrics": [sys.executable, "-c", "import scorekit.metrics"],
            "scorekit metrics": [*scorekit, "metrics"],
            "scorekit score, 256 rows, all cached": score,
        }
        print(f"{machine()}; {load()}\n", flush=True)
        rows = []
        for name, command in commands.items():
            done = several(command, args.repeat)
            peak = max(process.peak_mb for process in done)
            rows.append([name, spread([process.seconds for process in done]), f"{peak:.0f}"])
        print_table(["", "s", "peak MB"], rows)
        for title, code in (
            (
                "scorekit --help",
                "import sys; sys.argv = ['scorekit', '--help']\n"
                "from scorekit.cli import main\ntry: main()\nexcept SystemExit: pass",
            ),
            (
                "scorekit score, all cached",
                f"import sys; sys.argv = {['scorekit', *score[1:]]!r}\n"
                "from scorekit.cli import main\ntry: main()\nexcept SystemExit: pass",
            ),
        ):
            print(f"\nslowest imports of `{title}`, own ms:")
            for name, milliseconds in slowest_imports(code):
                print(f"  {name}: {milliseconds:.1f}")


if __name__ == "__main__":
    main()
