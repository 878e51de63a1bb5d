"""The TensorBoard observer in the conformance kit."""

from __future__ import annotations

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install ldm-plugin-tensorboard)")

from ldm_core.testing import ObserverSuite, PluginSuite


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-tensorboard"


class TestTensorBoard(ObserverSuite):
    component = "tensorboard"
