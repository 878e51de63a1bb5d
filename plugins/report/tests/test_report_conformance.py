"""The distribution and its observer in the conformance kit."""

from __future__ import annotations

from ldm_core.testing import ObserverSuite, PluginSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-report"


class TestReport(ObserverSuite):
    component = "report"
