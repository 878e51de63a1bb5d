"""Requests to a run to checkpoint or to leave: signals, a time limit, the loss of its folder."""

from __future__ import annotations

import enum
import signal
import threading
import time
from types import FrameType
from typing import Any

import attrs

from ldm_core.contracts import EMPTY
from ldm_core.recipe.keys import Plain
from ldm_core.training.engine.world import World
from ldm_core.training.folder.lock import Lock


class Ask(enum.IntEnum):
    """The wish of a process at the end of a step; of several processes' wishes the largest counts."""

    NOTHING = 0
    SAVE = 1
    """Write a checkpoint and go on (SIGUSR1)."""
    LEAVE = 2
    """Write a checkpoint and leave (Ctrl-C, SIGTERM)."""
    LIMIT = 3
    """The same, because the time is over."""
    LOST = 4
    """Leave and write nothing: another run has taken the folder over."""


class Stop:
    """Turns Ctrl-C, SIGTERM and SIGUSR1 into flags while it is entered; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = ""
        """The signal for the run to leave."""
        self.save = False
        """True if a checkpoint was asked for."""
        self.begun = time.monotonic()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", None)):
                if number is not None:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGUSR1", None):
            self.save = True
            return
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name


@attrs.frozen
class Run:
    """The surroundings of a stage: its folder, this process, the observers' hooks, the stop flags, its metrics,
    and the folder's lock (the first process's; None if nothing is locked). `recipe`: the plain values that the run is
    known by, kept with its checkpoints."""

    out: str
    world: World
    hook: Any
    stop: Stop
    metrics: Any
    lock: Lock | None = None
    recipe: Plain = EMPTY

    def hurries(self, done: int, steps: int) -> bool:
        """True if the run was asked to leave and more than one of its `steps` is left after `done`: measurements are
        then cut off. With one left the training ends by itself."""
        return bool(self.stop.asked) and done + 1 < steps

    def say(self, text: str, level: str = "info") -> None:
        """A line for the user, from the main process."""
        if self.world.main:
            self.hook.ldm_message(text=text, level=level)

    def ask(self, time_limit: float) -> Ask:
        """Give the wish of this process now, `time_limit` minutes after the run's begin (0: no limit); a wish for a
        checkpoint is told once."""
        if self.lock is not None and self.lock.lost:
            return Ask.LOST
        if time_limit and time.monotonic() - self.stop.begun >= time_limit * 60:
            return Ask.LIMIT
        if self.stop.asked:
            return Ask.LEAVE
        if self.stop.save:
            self.stop.save = False
            return Ask.SAVE
        return Ask.NOTHING
