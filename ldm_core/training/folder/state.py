"""The state of a run, told by its folder alone: does it train, is it finished, was it left. Imports no torch."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from ldm_core import storage
from ldm_core.config.documents import parse_json
from ldm_core.errors import LDMError
from ldm_core.recipe import artifacts
from ldm_core.recipe.continuation import RECIPE_FILE
from ldm_core.training.folder.own_files import METRICS

LOCK = "lock"
RUNS, FINISHED, STOPPED, KILLED, NOTHING = "training", "finished", "stopped", "killed", "nothing"
"""A run's states: a process holds its lock; all its stages are done; it left, with a checkpoint or before its end; its
lock was left behind; there is no run."""
PATIENCE = 75.0
"""Seconds without a beat of the lock after which its process counts as gone."""
_OLD = 900.0
"""The same for a beat read once; the clocks of two machines differ by less."""
_MOST = 1 << 16


@attrs.frozen
class Seen:
    """The answer of a look at a folder: the state, and the begin of the process at work (seconds since 1970, or 0)."""

    state: str
    since: float = 0.0


class Watch:
    """Looks at the folder `url` again and again. A lock with the same beat for :data:`PATIENCE` seconds is taken
    for left behind. `clock` is for tests."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._clock = url, clock
        self._beat: object = None
        self._at = clock()

    def look(self) -> Seen:
        """Tell the state now. Raises StorageError if the storage does not answer."""
        lock = storage.join(self._url, LOCK)
        if not storage.exists(lock):
            return Seen(_without_lock(self._url))
        try:
            held = parse_json(storage.read_bytes(lock, most=_MOST), LOCK)
        except LDMError:  # half-written, or released in between
            held = {}
        held = held if isinstance(held, Mapping) else {}
        beat, since = _number(held.get("beat")), _number(held.get("since"))
        if beat != self._beat:
            self._beat, self._at = beat, self._clock()
        gone = _gone(held) or (beat and time.time() - beat > _OLD) or self._clock() - self._at > PATIENCE
        return Seen(KILLED if gone else RUNS, since)


def state_of(url: str) -> str:
    """The state of the run at `url`, by one look."""
    return Watch(url).look().state


def _without_lock(url: str) -> str:
    if storage.exists(storage.join(url, artifacts.MODEL_FILE)):
        return FINISHED
    begun = any(storage.exists(storage.join(url, name)) for name in (RECIPE_FILE, METRICS, artifacts.STAGE_FILE))
    return STOPPED if begun else NOTHING


def _gone(held: Mapping[str, object]) -> bool:
    """True if the process was one of this machine and there is none of its number."""
    number, proc = held.get("pid"), Path("/proc")
    if held.get("host") != socket.gethostname() or not isinstance(number, int) or not proc.joinpath("self").exists():
        return False
    machine = str(held.get("machine", ""))
    try:  # the numbers of another container of the same name mean nothing here
        same = machine.endswith(os.readlink("/proc/self/ns/pid"))
    except OSError:
        return False
    return same and not proc.joinpath(str(number)).exists()


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0.0
