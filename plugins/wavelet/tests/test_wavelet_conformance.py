"""The wavelet first stage in the conformance kit."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import FirstStageSuite, PluginSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-wavelet"


class TestHaar(FirstStageSuite):
    component = "haar"
    trainable = False


class TestHaarF4(FirstStageSuite):
    component = "haar_f4"
    trainable = False


class TestGreyHaar(FirstStageSuite):
    component = "haar"
    settings = MappingProxyType({"channels": 1, "levels": 3})
    image_channels = 1
    trainable = False
