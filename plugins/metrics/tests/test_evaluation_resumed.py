"""Evaluations that are killed, on several processes, of many pictures: the same bits, in the same memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluation_runs import apart, files, pictures, trained
from forked import Process, forked
from ranks import ranked

from ldm_core.cli import main

PEAK = """
import resource, sys
from ldm_core.cli import main
for folder in sys.argv[1:3]:
    assert main(["evaluate", folder, *sys.argv[3:], "--quiet"]) == 0
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("resumed") / "run")


def _arguments(run: Path, out: Path) -> list[str]:
    more = ["--steps", "2", "--keep", "--bootstrap", "3", "--cache", str(out / "cache")]
    return [str(run), "--metrics", "brightness,psnr", "--images", "300", "--out", str(out), *more]


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["evaluate", *_arguments(run, out), "--quiet"]) == 0
    return out


def test_a_killed_evaluation_goes_on_to_the_same_bits(run: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = Process(apart(*_arguments(run, out), "--quiet"))
    deadline = time.monotonic() + 120
    while len(list((out / "rows").rglob("*.npy"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.end().code == -signal.SIGKILL, "it ended before it was killed"
    assert not (out / "evaluation.json").exists()
    half = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert 2 <= len(half) < len(list(whole.rglob("*.npy")))
    (again,) = forked([apart(*_arguments(run, out), "--quiet")])
    assert again.code == 0, again.err
    assert files(out) == files(whole)
    assert all(path.stat().st_mtime_ns == then for path, then in half.items())


def test_two_processes_make_the_bits_of_one(run: Path, whole: Path, tmp_path: Path) -> None:
    first, other = ranked(apart(*_arguments(run, tmp_path / "out"), "--json"), 2)
    assert first.out.lstrip().startswith("{") and '"status": "done"' in first.out and not other.out
    assert files(tmp_path / "out") == files(whole)


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    reference, few = pictures(tmp_path / "b", 40, size=64), pictures(tmp_path / "few", 200, size=64)
    many = tmp_path / "many"
    many.mkdir()
    for number in range(2000):  # each of the few under ten names: a picture takes longer to write than to measure
        os.link(few / f"{number % 200:05d}.png", many / f"{number:05d}.png")
    more = ("--against", reference, "--metrics", "brightness", "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    command = [sys.executable, "-c", PEAK, *map(str, (few, many, *more))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
    peaks = [int(line) / 1024 for line in done.stdout.splitlines() if line.isdigit()]
    print(f"peak memory of 200 and then 2000 pictures: {peaks[0]:.0f} and {peaks[1]:.0f} MiB")
    assert peaks[1] < peaks[0] + 10  # the pictures alone are 23 MiB more
