"""The conformance kit on the test plugin: every part of it meets the contracts, none of which were made for it."""

from collections.abc import Sequence
from types import MappingProxyType

from ldm_contract_plugin.runs.config import QUERY_BLUR

from ldm_core.contracts import Cond, CondSpec
from ldm_core.testing import (
    AdapterSuite,
    AuxiliaryLossSuite,
    ConditionerSuite,
    DenoiserSuite,
    FirstStageSuite,
    GuidanceSuite,
    ParameterizationSuite,
    PluginSuite,
    ScheduleSuite,
)

SMALL = MappingProxyType({"width": 16, "depth": 2, "heads": 2})


class TestPlugin(PluginSuite):
    module = "ldm_contract_plugin.plugin"


class TestTinyDiT(DenoiserSuite):
    component = "tiny_dit"
    settings = SMALL
    cond_spec = CondSpec(crossattn=8, vector=6, extras={"second_tokens": (None, 12)})


class TestTinyDiTWithoutConditions(DenoiserSuite):
    component = "tiny_dit"
    settings = MappingProxyType({**SMALL, "learned_sigma": False, "patch": 1})
    cond_spec = CondSpec()


class TestRectifiedFlow(ScheduleSuite):
    component = "rectified_flow"


class TestFlow(ParameterizationSuite):
    component = "flow"


class TestTwoSet(ConditionerSuite):
    component = "two_set"
    settings = MappingProxyType({"width": 8, "length": 12})


class TestLoRA(AdapterSuite):
    component = "lora"
    settings = MappingProxyType({"rank": 2, "scale": 0.5})


class TestOFT(AdapterSuite):
    component = "oft"


class TestOFTOnFusedWeights(AdapterSuite):
    component = "oft"
    cond_spec = CondSpec()


class TestLoRAOnTheTransformer(AdapterSuite):
    component = "lora"
    settings = MappingProxyType({"rank": 2})
    denoiser = "tiny_dit"
    denoiser_settings = SMALL


class TestMomentum(GuidanceSuite):
    component = "momentum"


class TestBlur(GuidanceSuite):
    component = "blur"


class TestFeatureCache(AdapterSuite):
    component = "feature_cache"


class TestQueryBlur(AdapterSuite):
    component = "query_blur"

    def cond(self, rows: Sequence[int]) -> Cond:
        return super().cond(rows)._replace(options={QUERY_BLUR: 1.5})


class TestPatches(FirstStageSuite):
    component = "patches"


class TestAligned(AuxiliaryLossSuite):
    component = "aligned"
