"""metrics.jsonl: the measurements of a run, a JSON object a line. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ldm_core import storage
from ldm_core.errors import StorageError

WRITE_EVERY_SECONDS = 10.0
_SHARE = 0.02  # of the wall time, for periodic writes
VALIDATION = "_validation"
"""Ending of a stage's name in the rows of its validation."""
EVALUATION = "_metrics"
"""The same for the recipe's metrics of its samples."""


class MetricsFile:
    """Lines of ``metrics.jsonl``; written every few seconds, with :meth:`flush`, and at the end with :meth:`close`.

    A failed write does not end a training: its lines wait for the next one, and :meth:`close` raises.

    Object storage cannot append, so the file is written anew from memory there. The time between two such writes
    grows with the time of one: they take 2 % of a run for any length of its file. `clock` is for tests.
    """

    def __init__(self, url: str, *, active: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._active, self._clock = url, active, clock
        self._appends = storage.local_path(url) is not None
        self._before: str | None = None  # the file's content, once read
        self._lines: list[str] = []
        self._due = clock() + WRITE_EVERY_SECONDS

    def write(self, **values: Any) -> None:
        """Add a line, with the time; a number that is not finite becomes null, as JSON has no other word."""
        if not self._active:
            return
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self._lines.append(json.dumps({**plain, "time": round(time.time(), 3)}) + "\n")
        if self._clock() >= self._due:
            begun = self._clock()
            self.flush()
            took = self._clock() - begun
            self._due = self._clock() + max(WRITE_EVERY_SECONDS, took / _SHARE)

    def flush(self) -> None:
        """Write the waiting lines, or leave them for later."""
        with contextlib.suppress(StorageError):
            self.close()

    def close(self) -> None:
        """Write the waiting lines; :class:`StorageError` if it fails."""
        if self._lines:
            self._put()

    def _put(self) -> None:
        if self._before is None:
            self._before = self._found()
        text = "".join(self._lines)
        if self._appends:
            storage.append_text(self._url, self._before + text)
            self._before = ""
        else:
            storage.atomic_write(self._url, (self._before + text).encode("utf-8", "surrogateescape"))
            self._before += text
        self._lines = []

    def _found(self) -> str:
        """Find the text before the first own line: locally the end of half a line, elsewhere the whole file."""
        if not storage.exists(self._url):
            return ""
        if self._appends:
            size = storage.info(self._url).size
            return "\n" if size and storage.read_bytes(self._url, size - 1, size) != b"\n" else ""
        text = storage.read_bytes(self._url).decode("utf-8", "surrogateescape")  # damaged lines stay as they are
        return text if not text or text.endswith("\n") else text + "\n"

    def read(self) -> list[dict[str, Any]]:
        """All valid rows, by stage and step; see :func:`rows_of`."""
        self.flush()
        return read_rows(self._url)


def read_rows(url: str) -> list[dict[str, Any]]:
    """The valid rows of a ``metrics.jsonl``; none without such a file."""
    if not storage.exists(url):
        return []
    return rows_of(line.decode("utf-8", "replace") for line in storage.read_bytes(url).split(b"\n"))


def heal(url: str) -> str:
    """Take half a line, of a killed process, off the end of a ``metrics.jsonl``.

    Returns a line for the user on it, and on unreadable lines; empty if all is well or there is no file.
    """
    if not storage.exists(url):
        return ""
    data = storage.read_bytes(url)
    *lines, tail = data.split(b"\n")
    told = []
    if tail:
        whole = _is_row(tail)
        storage.atomic_write(url, data + b"\n" if whole else data[: len(data) - len(tail)])
        told += [] if whole else ["half a line at its end was taken off (a process was killed as it wrote)"]
    bad = sum(1 for line in lines if line.strip() and not _is_row(line))
    if bad:
        told.append(f"{bad} of {len(lines)} lines are damaged and are passed over")
    return f"{storage.shown(url)}: {'; '.join(told)}" if told else ""


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def rows_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The valid rows, by stage and step.

    A resumed run repeats the steps after its checkpoint: each row of a stage replaces the earlier rows of the same
    or a later step. Half a line, of a killed process, is passed over.
    """
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            stage, step = row["stage"], row["step"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if not isinstance(stage, str) or not isinstance(step, int):
            continue
        kept = stages.setdefault(stage, [])
        while kept and kept[-1]["step"] >= step:
            kept.pop()
        kept.append(row)
    return [row for stage in sorted(stages) for row in stages[stage]]


def summarize(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Sum up a finished run's numbers for each stage with logged steps: the last ``step``, ``loss`` and ``psnr``, the
    median ``images_per_second`` and ``data_wait``, the largest ``peak_memory_mib``, and the last numbers of its
    validation as ``validation_NAME`` (without the bins of time) and of its metrics as ``metrics_NAME``."""
    found: dict[str, dict[str, float]] = {}
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        stages.setdefault(row["stage"], []).append(row)
    for stage, steps in stages.items():
        if stage.endswith(VALIDATION) or not any("images_per_second" in r for r in steps):
            continue
        numbers: dict[str, float] = {"step": float(steps[-1]["step"])}
        for name in ("loss", "psnr"):
            if values := _values(steps, name):
                numbers[name] = values[-1]
        for name in ("images_per_second", "data_wait"):
            if values := _values(steps, name):
                numbers[name] = statistics.median(values)
        if values := _values(steps, "peak_memory_mib"):
            numbers["peak_memory_mib"] = max(values)
        for ending in (VALIDATION, EVALUATION):
            for name, value in stages.get(stage + ending, [{}])[-1].items():
                short = f"{ending[1:]}_{name.removeprefix('val_')}"
                part = ending == VALIDATION and is_bin(name)  # of one bin of time
                if name not in ("stage", "step", "time") and isinstance(value, int | float) and not part:
                    numbers[short] = float(value)
        found[stage] = numbers
    return found


def is_bin(name: str) -> bool:
    """Say whether a number is of one bin of time or of one channel: ``val_loss_t3``, ``kl_12``."""
    return name.rpartition("_")[2].removeprefix("t").isdecimal()


def _values(rows: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    return [float(r[name]) for r in rows if isinstance(r.get(name), int | float)]
