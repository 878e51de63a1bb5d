"""The conformance kit on the parts that use the doors of training."""

from __future__ import annotations

from ldm_core.testing import ScheduleSuite


class TestResolutionFlow(ScheduleSuite):
    component = "resolution_flow"
