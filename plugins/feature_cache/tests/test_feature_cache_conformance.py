"""The conformance kit on this distribution."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import AdapterSuite, PluginSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-feature-cache"


class TestDeepCache(AdapterSuite):
    component = "deep_cache"
    settings = MappingProxyType({"interval": 2})


class TestFirstBlockCache(AdapterSuite):
    component = "first_block_cache"
    settings = MappingProxyType({"threshold": 10.0})
