"""The conformance kit on this distribution."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from ldm_core.testing import ConditionerSuite, PluginSuite, batches


class TestPlugin(PluginSuite):
    module = "ldm_plugin_masked_image.plugin"


class _WithMasks:
    def batch(self, rows: Sequence[int], size: Sequence[int]) -> dict[str, Any]:
        """The standard batch, and a mask for each example."""
        masks = batches.uniform(rows, (size[-2], size[-1]), "mask") > 0.5
        return {**batches.standard_batch(rows, size), "mask": masks}


class TestMaskedImage(_WithMasks, ConditionerSuite):
    component = "masked_image"


class TestMaskedImageDropped(_WithMasks, ConditionerSuite):
    component = "masked_image"
    settings = MappingProxyType({"scale": 2.5, "droppable": True})
