"""The conformance kit on this distribution."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import AdapterSuite, PluginSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-multidiffusion"


class TestMultiDiffusion(AdapterSuite):
    component = "multidiffusion"
    settings = MappingProxyType({"window": 2, "overlap": 1, "batch": 64})
