"""The conformance kit on this distribution."""

from types import MappingProxyType

from ldm_core.testing import ConditionerSuite, PluginSuite


class TestPlugin(PluginSuite):
    module = "ldm_plugin_class_label.plugin"


class TestClassLabel(ConditionerSuite):
    component = "class_label"
    settings = MappingProxyType({"width": 8})


class TestClassLabelWithoutNull(ConditionerSuite):
    component = "class_label"
    settings = MappingProxyType({"width": 8, "null_class": False})
