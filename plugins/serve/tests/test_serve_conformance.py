"""The conformance kit on this distribution."""

from __future__ import annotations

from ldm_core.testing import PluginSuite


class TestServePlugin(PluginSuite):
    distribution = "ldm-plugin-serve"
