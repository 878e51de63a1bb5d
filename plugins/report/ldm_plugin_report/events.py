"""The diary of a run, ``report.jsonl``: messages and warnings, begin and end of its stages, the machine. Imports no
torch.

The observer writes it; a run without the observer has none, and its report says so.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.errors import StorageError, clean

FILE = "report.jsonl"
_MOST_LINES = 4000
_MOST_BYTES = 1 << 24
_LONGEST = 2000  # characters of a message
_PAUSE = 10.0  # seconds between writes of an object that is written anew each time


class Diary:
    """Writes the diary of the run at `url`, after the present lines. A failed write waits for the next one."""

    def __init__(self, url: str) -> None:
        self._url = storage.join(url, FILE)
        self._appends = storage.local_path(self._url) is not None
        self._before: str | None = None
        self._waiting: list[str] = []
        self._lines = 0
        self._due = 0.0

    def write(self, kind: str, *, now: bool = False, **values: Any) -> None:
        """Add an entry; `now`: do not wait with it."""
        if self._lines >= _MOST_LINES and kind == "message":
            return
        self._lines += 1
        self._waiting.append(json.dumps({"kind": kind, **values, "time": round(time.time(), 3)}) + "\n")
        if now or self._appends or time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write the waiting entries."""
        text = "".join(self._waiting)
        if not text:
            return
        try:
            if self._appends:
                storage.append_text(self._url, text)
            else:
                if self._before is None:
                    there = storage.exists(self._url)
                    self._before = storage.read_text(self._url, most=_MOST_BYTES) if there else ""
                storage.atomic_write(self._url, self._before + text)
                self._before += text
        except StorageError:
            return
        finally:
            self._due = time.monotonic() + _PAUSE
        self._waiting = []


def machine() -> dict[str, Any]:
    """The machine without its name: processor, cores, accelerator, versions; torch is asked only if it is there."""
    found: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    found["system"] = platform.system()
    if (torch := sys.modules.get("torch")) is not None:
        found |= {"torch": str(torch.__version__), "threads": torch.get_num_threads()}
        if torch.cuda.is_available():
            found["device"] = torch.cuda.get_device_name(0)
            found["devices"] = torch.cuda.device_count()
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@attrs.frozen
class Message:
    """A line of a run to its user; `times`: how often it came."""

    text: str
    level: str
    time: float
    times: int = 1


@attrs.frozen
class Events:
    """The entries of a diary: messages by level, seconds of each stage over all starts, the last end, the machine."""

    there: bool = False
    messages: tuple[Message, ...] = ()
    seconds: Mapping[str, float] = attrs.field(factory=dict)
    starts: int = 0
    ended: str = ""
    machine: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def warnings(self) -> tuple[Message, ...]:
        """The warnings alone."""
        return tuple(each for each in self.messages if each.level == "warning")


def read(url: str) -> Events:
    """The diary of the run at `url`; :class:`Events` without entries if there is none."""
    place = storage.join(url, FILE)
    if not storage.exists(place):
        return Events()
    rows = []
    for line in storage.read_bytes(place, most=_MOST_BYTES).decode("utf-8", "replace").split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("time"), int | float):
            rows.append(row)
    ends = [str(row.get("status")) for row in rows if row.get("kind") in ("end", "start")]
    known = [row["machine"] for row in rows if row.get("kind") == "start" and isinstance(row.get("machine"), dict)]
    return Events(
        there=True,
        messages=_messages(rows),
        seconds=_seconds(rows),
        starts=sum(1 for row in rows if row.get("kind") == "start"),
        ended=ends[-1] if ends else "",
        machine=known[-1] if known else {},
    )


def _messages(rows: list[dict[str, Any]]) -> tuple[Message, ...]:
    found: dict[tuple[str, str], Message] = {}
    for row in rows:
        if row.get("kind") == "message":
            key = (clean(str(row.get("text", "")), _LONGEST), str(row.get("level", "info")))
            before = found.get(key)
            found[key] = Message(*key, time=float(row["time"]), times=before.times + 1 if before else 1)
    return tuple(found.values())


def _seconds(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds from each begin of a stage to its end, or to the last entry before the next start of a killed run."""
    found: dict[str, float] = {}
    running: tuple[str, float] | None = None
    last = 0.0
    for row in rows:
        kind, stage, now = row.get("kind"), str(row.get("stage", "")), float(row["time"])
        if running and kind in ("stage_end", "stage", "start", "end"):
            end = last if kind == "start" else now
            found[running[0]] = found.get(running[0], 0.0) + max(0.0, end - running[1])
            running = None
        if kind == "stage":
            running = (stage, now)
        last = now
    return found
