"""The conformance kit on this distribution."""

from types import MappingProxyType

from ldm_core.testing import ConditionerSuite, PluginSuite


class TestPlugin(PluginSuite):
    module = "ldm_plugin_low_resolution.plugin"


class TestLowResolution(ConditionerSuite):
    component = "low_resolution"


class TestLowResolutionByArea(ConditionerSuite):
    component = "low_resolution"
    settings = MappingProxyType({"reduce": "area", "droppable": True})


class TestLowResolutionTwice(ConditionerSuite):
    component = "low_resolution"
    settings = MappingProxyType({"factor": 2})


class TestLowResolutionEncoded(ConditionerSuite):
    component = "low_resolution"
    settings = MappingProxyType({"encoded": True})
