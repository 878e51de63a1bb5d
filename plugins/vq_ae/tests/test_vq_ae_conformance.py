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


class TestVQF2(FirstStageSuite):
    component = "vq_f2"
    settings = MappingProxyType({k: v for k, v in TINY.items() if k != "attention"})


class TestVQF32(FirstStageSuite):
    component = "vq_f32"
    settings = MappingProxyType({**TINY, "attention": (32,)})
    sizes = ((32, 32), (32, 64))


class TestVQPatches(FirstStageSuite):
    component = "vq_ae"
    settings = MappingProxyType({**TINY, "patch": 2, "channel_mult": (1, 2)})
