"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component


def of_models() -> list[Component]:
    """Metrics that call or know the model."""
    return []
