"""Memory of a training process: kept for the next step after a step has freed it. Imports next to nothing.

GNU's C library hands large blocks back to the system, and it clears each of their pages for the next step: in bfloat16
on a CPU up to a twelfth of a step's time. No number changes.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping

CHOSEN = ("GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables of a choice of somebody's own, beside all beginning with ``MALLOC_``."""
_TRIM, _MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_NEVER, _LARGE = -1, (1 << 30, 1 << 25)  # older versions of the library refuse more than the second


def keep_freed(environ: Mapping[str, str] = os.environ) -> bool:
    """Let this process keep the memory freed by it, but for blocks of a GiB or more (32 MiB in older libraries).

    False if nothing is set: another C library, or a choice by a variable of the environment.
    """
    if any(name in CHOSEN or name.startswith("MALLOC_") for name in environ) or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return any(mallopt(_MAP, least) for least in _LARGE) and bool(mallopt(_TRIM, _NEVER))
