"""The adversarial loss in the conformance kit."""

from __future__ import annotations

from types import MappingProxyType

from ldm_core.testing import PluginSuite, StageObjectiveSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-adversarial"


TINY = MappingProxyType({"discriminator_width": 4, "discriminator_layers": 1})


class TestAdversarial(StageObjectiveSuite):
    component = "adversarial"
    settings = MappingProxyType({**TINY, "adversarial_start": 2, "r1_weight": 1.0, "r1_every": 2, "log_variance": True})


class TestByTheStagesNumbers(StageObjectiveSuite):
    component = "adversarial"
    settings = MappingProxyType({**TINY, "pixel_loss": "l2", "discriminator_norm": "batch"})


class TestHalved(StageObjectiveSuite):
    component = "adversarial"
    settings = MappingProxyType({"adversarial": False, "equivariance_weight": 0.25})
