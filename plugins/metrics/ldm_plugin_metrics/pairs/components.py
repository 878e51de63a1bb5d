"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component
from ldm_plugin_metrics.pairs.config import PSNRConfig


def pairs() -> list[Component]:
    """Metrics of pairs."""
    return [
        Component(
            kind="metric",
            name="psnr",
            config=PSNRConfig,
            factory="ldm_plugin_metrics.pairs.psnr:PSNR",
            summary="peak signal-to-noise ratio of reconstructions, in dB",
        ),
    ]
