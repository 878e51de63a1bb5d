"""The distribution in the conformance kit."""

from __future__ import annotations

import numpy as np

from ldm_core.testing import MetricSuite, PluginSuite
from ldm_core.testing.metrics.suite import Known


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-metrics"


class TestPSNR(MetricSuite):
    component = "psnr"

    def known(self) -> Known:
        """The mean of two dB."""
        return Known({"psnr": np.array([20.0, 30.0])}, None, {"psnr": 25.0})
