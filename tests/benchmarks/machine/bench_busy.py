"""Training steps on a busy machine: OpenMP's defaults, ldm-run's choice, and others, beside programs that only compute.

    python tests/benchmarks/machine/bench_busy.py [--seconds 4] [--rounds 5] [--json FILE]

The step is that of eight 64-channel convolutions at 8 x 8, batch 32, in bf16: forward, backward, AdamW. A row is a
choice, a column the number of programs beside it; each cell is the median of `rounds` processes that alternate with the
other rows', as a ratio to the first row's on the idle machine, and below 1 in the first column means faster than it.
ldm-run's own choice is made anew in each process. It counts what has lasted for a minute, so each column begins with a
pause (--pause) with its programs at work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHOICES: dict[str, dict[str, str]] = {
    "all cores, default": {},
    "chosen by ldm-run": {"CHOSEN": "1"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "all cores, GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "all cores, GOMP_SPINCOUNT=5000": {"GOMP_SPINCOUNT": "5000"},
    "all cores, GOMP_SPINCOUNT=2000": {"GOMP_SPINCOUNT": "2000"},
    "all cores, passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BESIDE = (0, 1, 4)
_SPIN = "while True: pass"


def step_milliseconds(seconds: float) -> tuple[float, str]:
    """The mean time of a step in this process over `seconds`, and its threads in words."""
    said = ""
    if os.environ.pop("CHOSEN", ""):
        from ldm_core.launch import threads

        threads.begin()
        time.sleep(0.2)  # what ldm-run takes to read its command line
        threads.settle()
        said = threads.remark(always=True)
    import torch

    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.SiLU())]
    net = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
    x = torch.randn(32, 64, 8, 8)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(x).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    count, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds or count < 3:
        step()
        count += 1
    return 1000 * passed / count, said or f"threads: {torch.get_num_threads()}"


def measured(choice: str, seconds: float) -> tuple[float, str]:
    """A process of its own with the variables of `choice` and no other of their kind."""
    own = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {**{k: v for k, v in os.environ.items() if k not in own}, **CHOICES[choice]}
    line = [sys.executable, __file__, "--step", "--seconds", str(seconds)]
    done = subprocess.run(line, env=environment, check=True, capture_output=True, text=True)
    milliseconds, said = json.loads(done.stdout.splitlines()[-1])
    return float(milliseconds), str(said)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Programs of one thread each that compute without end."""
    programs = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def table(seconds: float, rounds: int, pause: float) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each process by choice and number of programs beside it."""
    found: dict[str, dict[str, list[float]]] = {choice: {} for choice in CHOICES}
    for count in BESIDE:
        with busy(count):
            time.sleep(pause if count else 0)
            for number in range(rounds):
                for choice in CHOICES:
                    milliseconds, said = measured(choice, seconds)
                    found[choice].setdefault(str(count), []).append(milliseconds)
                    load = os.getloadavg()[0]
                    print(
                        f"beside {count}, round {number + 1}: {choice}: {milliseconds:.1f} ms ({said}; load {load:.1f})"
                    )
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Training steps on a busy machine.")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each process")
    parser.add_argument("--rounds", type=int, default=5, help="of processes in each cell")
    parser.add_argument("--pause", type=float, default=60.0, help="seconds that a column's programs run before it")
    parser.add_argument("--json", help="a file for all times")
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(step_milliseconds(given.seconds)))
        return
    found = table(given.seconds, given.rounds, given.pause)
    base = statistics.median(found["all cores, default"]["0"])
    print(f"\nratios to {base:.1f} ms a step, that of the default on the machine without programs beside; medians of "
          f"{given.rounds}\n")  # fmt: skip
    print("| | " + " | ".join(f"{count} beside" if count else "idle" for count in BESIDE) + " |")
    print("|---" * (1 + len(BESIDE)) + "|")
    for choice, columns in found.items():
        cells = [f"{statistics.median(columns[str(count)]) / base:.2f}" for count in BESIDE]
        print(f"| {choice} | " + " | ".join(cells) + " |")
    if given.json:
        Path(given.json).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
