"""The preference of one of two: its share among decided votes, with Wilson's interval."""

from __future__ import annotations

import math

_Z = 1.959963984540054  # of 95 %, two-sided


def wilson(wins: int, count: int) -> tuple[float, float]:
    """The interval of 95 % of a share, `wins` of `count` (E. B. Wilson, 1927); (0, 1) of none."""
    if not count:
        return 0.0, 1.0
    share, square = wins / count, _Z**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)
