"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component


def commands() -> list[Component]:
    """The commands."""
    return []
