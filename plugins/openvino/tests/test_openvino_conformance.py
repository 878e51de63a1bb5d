"""The conformance kit on this distribution."""

from __future__ import annotations

from ldm_core.testing import PluginSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-openvino"
