"""Several cells at once, each in a process of its own on its device."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import attrs

from ldm_core.errors import ConfigError, Interrupted
from ldm_core.launch import threads
from ldm_plugin_study.tradeoff import work

_LEFT = 60.0  # seconds for a process that was asked to leave


def environment(device: str, jobs: int) -> dict[str, str]:
    """The environment of a process with `device` alone (``cpu``, ``cuda:1``), one of `jobs` at once."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise ConfigError(f"devices: '{device}': expected cpu, cuda, or one such as cuda:1")
    own = threads.environment()
    if kind == "cpu":
        own["CUDA_VISIBLE_DEVICES"] = ""
        own |= threads.shared(jobs)
    elif number:
        seen = [each for each in own.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        if seen and int(number) >= len(seen):
            raise ConfigError(f"devices: '{device}': {len(seen)} are visible here (CUDA_VISIBLE_DEVICES)")
        own["CUDA_VISIBLE_DEVICES"] = seen[int(number)] if seen else number
    return own


def environments(devices: Sequence[str]) -> dict[str, dict[str, str]]:
    """The environments of processes on all of `devices` at once; :class:`ConfigError` for what is no device."""
    return {device: environment(device, len(devices)) for device in devices}


def run(jobs: Sequence[work.Job], devices: Sequence[str], say: work.Tell) -> None:
    """Do all jobs, one at a time on each of `devices`. After a mistake no further one begins; ConfigError with all of
    them at the end. Interrupted when asked to stop: the processes are asked to leave, after their checkpoints."""
    waiting, free = deque(jobs), deque(devices)
    own = environments(devices)
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ldm-study-") as folder, _stopping() as running:
        while running or (waiting and not problems):
            while waiting and free and not problems:
                job, device = waiting.popleft(), free.popleft()
                place = str(Path(folder, f"{job.cell}.json"))
                say(f"{job.cell}: begins on {device}")
                running[_start(attrs.evolve(job, problems=place), own[device])] = (job.cell, device, place)
            time.sleep(0.1)
            for process in [each for each in running if each.poll() is not None]:
                cell, device, place = running.pop(process)
                free.append(device)
                problems += _problems(process.returncode, cell, place)
    if problems:
        raise ConfigError(problems)


def _start(job: work.Job, own: Mapping[str, str]) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", work.__name__]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, text=True, env=dict(own))
    assert process.stdin is not None
    process.stdin.write(work.as_text(job))
    process.stdin.close()
    return process


def _problems(code: int, cell: str, place: str) -> list[str]:
    if code == 0:
        return []
    if Path(place).exists():
        return [f"{cell}: {line}" for line in json.loads(Path(place).read_text())]
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return [f"{cell}: its process {how}; what it had done is kept, and the same command goes on"]


@contextmanager
def _stopping() -> Iterator[dict[subprocess.Popen[str], tuple[str, str, str]]]:
    """Running processes by their cells; all are asked to leave when this one is, and waited for."""
    running: dict[subprocess.Popen[str], tuple[str, str, str]] = {}

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    own = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if own else None
    try:
        yield running
    except KeyboardInterrupt:
        raise Interrupted("the cells that are done are kept; the same command goes on with the rest") from None
    finally:
        if own:
            signal.signal(signal.SIGTERM, before)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_LEFT)
            except subprocess.TimeoutExpired:
                process.kill()
