"""The observer of curves in the conformance kit."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install ldm-plugin-curves)")

from ldm_core.testing import ObserverSuite, PluginSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-curves"


class TestCurves(ObserverSuite):
    component = "curves"
