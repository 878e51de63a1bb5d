"""The cores open to this process, and those of them that other programs use. Imports next to nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection

_GROUPS = "/sys/fs/cgroup"
_OWN_GROUPS = "/proc/self/cgroup"
_TIMES = "/proc/stat"
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def cores() -> int:
    """The logical cores open to this process: those of its affinity, and no more than its groups' quota gives time of;
    at least 1."""
    return max(1, min(len(open_cores()), used_up(quota())))


def physical_cores() -> int:
    """As :func:`cores`, two hyperthreads counted as one."""
    return max(1, min(len({_siblings(core) for core in open_cores()}), used_up(quota())))


def open_cores() -> Collection[int]:
    """The numbers of the logical cores in the affinity of this process; of all where the system keeps none."""
    affinity = os.sched_getaffinity(0) if sys.platform == "linux" else ()
    return affinity or range(os.cpu_count() or 1)


def used_up(quota: float | None) -> int:
    """The threads that use up a quota of cores: 1.5 are used up by two, 1.1 by one with little left over."""
    return sys.maxsize if quota is None else max(1, int(quota + 0.75))


def quota(groups: str | os.PathLike[str] = _GROUPS, own: str | os.PathLike[str] = _OWN_GROUPS) -> float | None:
    """The smallest quota of processor time of this process's control groups and those around them, in cores; None
    without one. Both versions of Linux' groups are read."""
    found: list[float] = []
    root = os.fspath(groups)
    for line in _lines(own):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found += _quotas(root, path, _second)
        elif "cpu" in controllers.split(","):
            found += _quotas(f"{root}/{controllers}", path, _first) or _quotas(f"{root}/cpu", path, _first)
    return min(found, default=None)


def _quotas(root: str, path: str, read: Callable[[str], float | None]) -> list[float]:
    """The quotas from the group `path` up to `root`; in a container the path may be the host's, and root's counts."""
    names = path.strip("/").split("/")
    folders = ["/".join([root, *names[:count]]) for count in range(len(names), -1, -1)]
    return [found for folder in folders if (found := read(folder)) is not None]


def _second(folder: str) -> float | None:
    quota, _, period = next(iter(_lines(f"{folder}/cpu.max")), "").partition(" ")
    return _share(quota, period)


def _first(folder: str) -> float | None:
    quota, period = (next(iter(_lines(f"{folder}/cpu.cfs_{name}_us")), "") for name in ("quota", "period"))
    return _share(quota, period)


def _share(quota: str, period: str) -> float | None:
    """Cores from microseconds of each period; ``max`` and -1 are no quota."""
    with contextlib.suppress(ValueError):
        if int(quota) > 0 and int(period) > 0:
            return int(quota) / int(period)
    return None


def _lines(path: str | os.PathLike[str]) -> list[str]:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return file.read().split("\n")[:-1]
    return []


def _siblings(core: int) -> str:
    return (_lines(_SIBLINGS.format(core)) or [str(core)])[0]


class Others:
    """The use of the cores open to this process by other programs, from the making of this object on.

    Programs of low priority (a positive ``nice``) do not count: they give way. Linux alone keeps such figures.
    """

    def __init__(self, *, low: bool = False) -> None:
        self._low = low
        self._begun = self._now()

    def cores(self) -> float | None:
        """The cores in use on average until now; None on other systems."""
        (then, busy, own), (now, still, ours) = self._begun, self._now()
        if busy is None or still is None:
            return None
        return max(0.0, (still - busy - (ours - own)) / max(now - then, 1e-9))

    def lasting(self) -> float | None:
        """As :meth:`cores`, but no more than the load of the last minute: programs that began just now or are about to
        end count little."""
        used = self.cores()
        if used is None:
            return None
        with contextlib.suppress(OSError):
            used = min(used, os.getloadavg()[0])
        return used

    def _now(self) -> tuple[float, float | None, float]:
        spent = os.times()
        return time.monotonic(), self._busy(), spent.user + spent.system + spent.children_user + spent.children_system

    def _busy(self) -> float | None:
        """Seconds of work of the open cores since the machine's start."""
        names = {f"cpu{core}" for core in open_cores()}
        rows = [row.split() for row in _lines(_TIMES)]
        with contextlib.suppress(OSError, ValueError, AttributeError):
            spent = [
                int(user) + int(nice) * self._low + int(system) + int(irq) + int(soft)
                for name, user, nice, system, _, _, irq, soft, *_ in (row for row in rows if row and row[0] in names)
            ]
            return sum(spent) / os.sysconf("SC_CLK_TCK") if spent else None
        return None
