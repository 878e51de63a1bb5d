"""The VQ first stage in the conformance kit."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import FirstStageSuite, PluginSuite

TINY = MappingProxyType(
    {"channels": 8, "norm_groups": 4, "res_blocks": 1, "attention": (2,), "mid_attention": False, "codebook_size": 32}
)


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-vq-ae"


class TestVQFirstStage(FirstStageSuite):
    component = "vq_ae"
    settings = TINY


class TestVQF8(FirstStageSuite):
    component = "vq_f8"
    settings = TINY
    image_channels = 1
