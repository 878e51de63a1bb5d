"""The network of a metric's config."""

from __future__ import annotations

from ldm_core.errors import ConfigError
from ldm_plugin_metrics.networks.config import CLIP, INCEPTION, PIXELS, NetworkConfig, WeightsConfig
from ldm_plugin_metrics.networks.network import Network


def build(config: WeightsConfig) -> Network:
    """Build it, with its weights; FID's where the config names none. Raises as
    :class:`~ldm_plugin_metrics.networks.timm_network.TimmNetwork`."""
    if not isinstance(config, NetworkConfig) or config.network == INCEPTION:
        from ldm_plugin_metrics.networks.inception import Inception

        return Inception(config)
    if config.network == CLIP:
        raise ConfigError(f"network: {CLIP} is not there yet; name one of timm's")
    if config.network == PIXELS:
        from ldm_plugin_metrics.networks.pixels import Pixels

        return Pixels(config)
    from ldm_plugin_metrics.networks.timm_network import TimmNetwork

    return TimmNetwork(config)
