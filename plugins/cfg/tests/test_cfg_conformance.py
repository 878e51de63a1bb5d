"""Classifier-free guidance in the conformance kit."""

from __future__ import annotations

from ldm_core.testing import GuidanceSuite, PluginSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-cfg"


class TestCFG(GuidanceSuite):
    component = "cfg"
