"""Threads of a process that computes on cores which other programs may use too: their number, and how they wait.

OpenMP's threads wait for each other at the end of every operation. By default a waiting thread spins for milliseconds
in case the next operation comes soon. Beside other work that takes the time of the very thread that is waited for, and
an operation takes as long as the scheduler's turns. Figures: docs/running.md. Torch-free, as OpenMP reads its
variables when torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping

import attrs

from ldm_core.launch.cores import Others, cores, physical_cores, quota

NUMBER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which somebody chooses the number of threads."""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which somebody chooses how threads wait."""
SHORT = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""Short waiting: 0.1 to 0.5 ms of GNU's OpenMP, longer than 98 of 100 pauses between two operations of one step, and a
thirtieth of the default; 1 ms, the least but none, of Intel's and LLVM's."""
_SHARED_OUT = "LDM_THREADS"  # marks a number of threads as chosen by the process that started this one
_SHARED = 0.5  # speed of threads on cores that others use too, beside that of their share of the time


@attrs.frozen
class Threads:
    """A number of threads and its reason. `number` is None where OpenMP's own choice stands; `given`: somebody has
    chosen it by a variable of the environment."""

    number: int | None
    open: int
    used: float = 0.0
    quota: float | None = None
    given: str = ""

    def __str__(self) -> str:
        if self.given:
            return f"as {self.given} says"
        said = f"{self.number or self.open} of {self.open} core{'s' if self.open > 1 else ''}"
        if self.number is not None and self.number < self.open:
            said += f", as other programs use {self.used:.1f}"
        return said + (f" (of a quota of {self.quota:g})" if self.quota is not None else "")


def fitting(open_: int, used: float) -> int:
    """The number of threads that is fastest on `open_` cores of which others keep `used` busy.

    On free cores n threads do the work of n. On all cores, each has its share of the time beside the others, and half
    of it is lost in waits: the slowest thread ends an operation.
    """
    others = min(round(used), open_)

    def speed(number: int) -> float:
        if number + others <= open_:
            return float(number)
        alone = 1.0 if number == 1 else _SHARED
        return alone * number * open_ / (number + others)

    return max((max(1, open_ - others), open_), key=speed)


class Command:
    """The threads of a process that runs one command, its own; no other process is touched.

    Made at the begin of the process, it watches the machine until :meth:`settle`.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._environ, self._others, self._threads = environ, Others(), Threads(None, physical_cores())
        self._started = environ.pop(_SHARED_OUT, "") != ""

    def settle(self) -> Threads:
        """Choose, and set the variables for torch's import, unless somebody has set them or torch is imported."""
        environ, most, share = self._environ, physical_cores(), quota()
        said = next((f"{name}={environ[name]}" for name in NUMBER if environ.get(name)), "")
        used = 0.0 if said else self._others.lasting() or 0.0
        number = fitting(most, used)
        self._threads = Threads(None if said or (number == most and share is None) else number, most, used, share, said)
        if "torch" not in sys.modules:
            if self._threads.number is not None:
                environ[NUMBER[0]] = str(number)
            if not any(environ.get(name) for name in WAITING):
                environ.update(SHORT)
        return self._threads

    @property
    def threads(self) -> Threads:
        """The choice."""
        return self._threads

    @property
    def free(self) -> bool:
        """True if nobody but the command has chosen the number: a run that goes on may take that of its begin."""
        return self._started or not self._threads.given

    def environment(self) -> dict[str, str]:
        """The environment without the number chosen for this process alone."""
        own = NUMBER[0] if self._threads.number is not None else ""
        return {name: value for name, value in self._environ.items() if name != own}


_command: Command | None = None


def begin(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let this process choose its threads: it runs one command and ends."""
    global _command
    _command = Command(environ)


def settle() -> None:
    """Choose them now, before torch is imported; nothing happens in a process that did not :func:`begin`."""
    if _command is not None:
        _command.settle()


def current() -> Command | None:
    """The choice of this process for itself; None in a process of somebody else's."""
    return _command


def remark(*, always: bool = False) -> str:
    """A line on the threads of this process's command; empty if it left none of its cores out, unless `always`."""
    if _command is None:
        return ""
    made = _command.threads
    fewer = made.number is not None and made.number < made.open
    if not (fewer or always):
        return ""
    return f"threads: {made}" + (f"; {NUMBER[0]}={made.open} takes all" if fewer else "")


def environment() -> dict[str, str]:
    """The environment for processes started by this one, without the number of threads chosen for itself alone."""
    return dict(os.environ) if _command is None else _command.environment()


def shared(count: int, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of `count` processes that share this machine: a number of threads each, unless it is given."""
    environ = environment() if environ is None else environ
    if any(environ.get(name) for name in NUMBER):
        return {name: environ[name] for name in NUMBER if environ.get(name)}
    return {NUMBER[0]: str(max(1, cores() // count)), _SHARED_OUT: str(count)}
