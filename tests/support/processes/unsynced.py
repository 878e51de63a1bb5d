"""Files without a wait for the disk: 4 ms each time, thirty times in a tiny run, for a power cut that no test makes."""

from __future__ import annotations

import os
from typing import Any


def begin() -> None:
    """From here on this process, and those forked off it, ask whether a file is open in place of syncing it."""
    os.fsync = _looked_at


def _looked_at(fd: Any) -> None:
    os.fstat(fd if isinstance(fd, int) else fd.fileno())
