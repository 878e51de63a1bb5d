"""The tests' way to the core's door, until the last of them goes through it itself."""

from __future__ import annotations

from ldm_core.nn.torchvision_operators import importable


def declare_torchvision_operators() -> None:
    """Import torchvision by the core's door; ImportError where there is none."""
    with importable():
        import torchvision  # noqa: F401
