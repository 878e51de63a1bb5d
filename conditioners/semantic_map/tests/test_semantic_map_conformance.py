"""The conformance kit on this distribution."""

from types import MappingProxyType

from ldm_core.testing import ConditionerSuite, PluginSuite


class TestPlugin(PluginSuite):
    module = "ldm_plugin_semantic_map.plugin"


class TestSemanticMap(ConditionerSuite):
    component = "semantic_map"


class TestSemanticMapKept(ConditionerSuite):
    component = "semantic_map"
    settings = MappingProxyType({"channels": 5, "droppable": False})
