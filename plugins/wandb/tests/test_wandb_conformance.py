"""The Weights & Biases observer in the conformance kit, offline."""

from __future__ import annotations

from types import MappingProxyType

import pytest

pytest.importorskip("wandb", reason="wandb is not installed (pip install ldm-plugin-wandb)")

from ldm_core.testing import ObserverSuite, PluginSuite


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")


class TestPlugin(PluginSuite):
    distribution = "ldm-plugin-wandb"


class TestWandb(ObserverSuite):
    component = "wandb"
    settings = MappingProxyType({"mode": "offline"})
