"""The KL first stage in the conformance kit."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import FirstStageSuite, PluginSuite

TINY = MappingProxyType({"channels": 8, "norm_groups": 4, "res_blocks": 1, "attention": (2,), "mid_attention": False})


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-kl-ae"


class TestKLFirstStage(FirstStageSuite):
    component = "kl_ae"
    settings = TINY


class TestKLF4(FirstStageSuite):
    component = "kl_f4"
    settings = TINY
    image_channels = 1


class TestKLF2(FirstStageSuite):
    component = "kl_f2"
    settings = MappingProxyType({k: v for k, v in TINY.items() if k != "attention"})


class TestKLPatches(FirstStageSuite):
    component = "kl_ae"
    settings = MappingProxyType({**TINY, "patch": 2, "channel_mult": (1, 2)})
