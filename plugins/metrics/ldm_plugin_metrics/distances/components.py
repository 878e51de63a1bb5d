"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component


def distances() -> list[Component]:
    """Metrics of sets."""
    return []
