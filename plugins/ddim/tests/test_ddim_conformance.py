"""The DDIM sampler in the conformance kit: deterministic, and with fresh noise."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import PluginSuite, SamplerSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-ddim"


class TestDDIM(SamplerSuite):
    component = "ddim"


class TestDDIMWithNoise(SamplerSuite):
    component = "ddim"
    settings = MappingProxyType({"eta": 1.0})
