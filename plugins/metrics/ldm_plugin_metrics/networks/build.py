"""The network of a metric's config."""

from __future__ import annotations

from ldm_core.errors import ConfigError
from ldm_plugin_metrics.networks.config import CLIP, INCEPTION, NetworkConfig
from ldm_plugin_metrics.networks.network import Network


def build(config: NetworkConfig) -> Network:
    """Build it, with its weights. Raises as :class:`~ldm_plugin_metrics.networks.timm_network.TimmNetwork`."""
    from ldm_plugin_metrics.networks.timm_network import TimmNetwork

    if config.network in (INCEPTION, CLIP):
        raise ConfigError(f"network: {config.network} is not there yet; name one of timm's")
    return TimmNetwork(config)
