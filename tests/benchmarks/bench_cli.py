"""How long ``ldm-run --help`` and ``ldm-run plugins`` take: medians of five warm starts. Run: python THIS_FILE.

Wanted on two idle cores: at most 0.15 s and 0.35 s. It prints and asserts nothing: a loaded machine is no bug.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LINES = {"--help": 0.15, "plugins": 0.35, "show unet": None, "check": None}
"""Arguments -> the seconds wanted."""


def seconds(line: str, runs: int = 5) -> float:
    """The median of `runs` starts after one that warms the file cache."""
    command = [sys.executable, "-c", "from ldm_core.cli import main; main()", *line.split()]
    taken = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def main() -> None:
    """Print a line for each command."""
    for line, wanted in LINES.items():
        limit = f" (wanted: {wanted} s)" if wanted else ""
        print(f"ldm-run {line}: {seconds(line):.3f} s{limit}")


if __name__ == "__main__":
    main()
