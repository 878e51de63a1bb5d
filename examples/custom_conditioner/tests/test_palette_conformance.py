"""The conformance kit on this distribution."""

from types import MappingProxyType

import torch

from ldm_core.testing import ConditionerSuite, DatasetSuite, PluginSuite, batches


class TestPlugin(PluginSuite):
    module = "ldm_example_palette.plugin"


class TestPalette(ConditionerSuite):
    component = "palette"
    settings = MappingProxyType({"width": 8})

    def batch(self, rows, size):  # type: ignore[no-untyped-def]
        """The kit's batch with the key that we read: 2 to 4 colours an example."""
        palettes = [(255 * batches.uniform([i], (2 + i % 3, 3), "palette")[0]).to(torch.uint8) for i in rows]
        return {**super().batch(rows, size), "palette": palettes}


class TestShapesPalette(DatasetSuite):
    component = "shapes_palette"
    settings = MappingProxyType({"scenes": 12})
    other_settings = MappingProxyType({"scenes": 12, "seed": 1})
