"""The descriptors of this folder."""

from __future__ import annotations

from ldm_core import Component
from ldm_plugin_metrics.distances.config import FDConfig, KIDConfig

HOME = "ldm_plugin_metrics.distances"


def distances() -> list[Component]:
    """Metrics of sets."""
    return [
        Component(
            kind="metric",
            name="fd",
            config=FDConfig,
            factory=f"{HOME}.frechet:FrechetDistance",
            summary="Fréchet distance of two sets by the features of any network",
            source="Heusel et al. 2017 (arXiv 1706.08500), equation 6, with another network",
            presets={
                "rfd": FDConfig(subject="reconstructions"),
                "fd_dinov2": FDConfig(network="vit_large_patch14_dinov2.lvd142m", size=224),
            },
        ),
        Component(
            kind="metric",
            name="kid",
            config=KIDConfig,
            factory=f"{HOME}.kernel:KernelDistance",
            summary="kernel distance of two sets by the features of a network, Inception's for KID",
            source="Bińkowski et al. 2018 (arXiv 1801.01401), section 4",
        ),
    ]
