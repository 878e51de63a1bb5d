"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component


def conditional() -> list[Component]:
    """Metrics of samples and their inputs."""
    return []
