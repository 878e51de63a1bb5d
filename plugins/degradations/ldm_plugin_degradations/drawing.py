"""Whole numbers drawn between two others."""

from __future__ import annotations

import numpy as np


def between(span: tuple[int, int], random: np.random.Generator) -> int:
    """A whole number from the first to the second, both included, each as likely."""
    return int(random.integers(span[0], span[1] + 1))
