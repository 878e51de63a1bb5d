"""The network of a metric's config."""

from __future__ import annotations

from ldm_plugin_metrics.networks.config import CLIP, INCEPTION, PIXELS, NetworkConfig, WeightsConfig
from ldm_plugin_metrics.networks.network import Network


def build(config: WeightsConfig, name: str = INCEPTION) -> Network:
    """Build the network that the config names, or else `name`, with its weights. Raises as
    :class:`~ldm_plugin_metrics.networks.timm_network.TimmNetwork`."""
    chosen = config.network if isinstance(config, NetworkConfig) else name
    if chosen == INCEPTION:
        from ldm_plugin_metrics.networks.inception import Inception

        return Inception(config)
    if chosen == CLIP:
        from ldm_plugin_metrics.networks.clip import ClipTower

        return ClipTower(config)
    assert isinstance(config, NetworkConfig)
    if chosen == PIXELS:
        from ldm_plugin_metrics.networks.pixels import Pixels

        return Pixels(config)
    from ldm_plugin_metrics.networks.timm_network import TimmNetwork

    return TimmNetwork(config)
