"""The conformance kit on this distribution."""

from ldm_core.testing import ConditionerSuite, PluginSuite


class TestPlugin(PluginSuite):
    module = "ldm_plugin_bbox.plugin"


SMALL = {"objects": 4, "vocab_size": 101, "width": 16, "layers": 2, "heads": 2, "head_width": 8, "logits": False}


class TestLayout(ConditionerSuite):
    component = "bbox_layout"
    settings = SMALL


class TestLayoutWithoutCrop(ConditionerSuite):
    component = "bbox_layout"
    settings = SMALL | {"encode_crop": False}


class TestLayoutDrawn(ConditionerSuite):
    component = "bbox_layout"
    settings = SMALL | {"map_channels": 3, "classes": 5}
