"""Whether a machine was idle while something was timed: what other processes used of its cores meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Others:
    """Starts to count when made; :meth:`cores` is what others have used since, on average (Linux; else nothing)."""

    def __init__(self) -> None:
        self._since, self._busy = time.monotonic(), self._now()

    def cores(self) -> float | None:
        """Cores that processes other than this one kept busy; None where the system does not tell."""
        busy = self._now()
        if busy is None or self._busy is None:
            return None
        return max(0.0, busy - self._busy) / max(1e-9, time.monotonic() - self._since)

    def line(self) -> str:
        """A sentence for a report; figures are worth little above a tenth of a core."""
        cores = self.cores()
        return "" if cores is None else f"other processes used {cores:.2f} cores meanwhile"

    @staticmethod
    def _now() -> float | None:
        """Seconds of processor time of all processes but this one and its finished children."""
        try:
            first = Path("/proc/stat").read_text().splitlines()[0].split()
        except OSError:
            return None
        user, nice, system = (int(x) for x in first[1:4])
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return (user + nice + system) / os.sysconf("SC_CLK_TCK") - own
