"""Classifier-free guidance in the conformance kit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ldm_core.testing import GuidanceSuite, PluginSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-cfg"


class TestCFG(GuidanceSuite):
    component = "cfg"


class TestRescaledCFG(GuidanceSuite):
    component = "cfg"
    settings: ClassVar[Mapping[str, Any]] = {"scale": 6.0, "rescale": 0.7}


class TestCFGByConditioner(GuidanceSuite):
    component = "cfg"
    settings: ClassVar[Mapping[str, Any]] = {"scale": 4.0, "scales": {"vector": 1.5}}


class TestCFGInAnInterval(GuidanceSuite):
    component = "cfg"
    settings: ClassVar[Mapping[str, Any]] = {"interval": [0.0, 5.0]}
