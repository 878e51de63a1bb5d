"""Torch's own calls as a runtime."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ldm_core.builtin.runtimes.config import TorchConfig
from ldm_core.contracts import Network, Runtime, Site


class TorchRuntime(Runtime):
    """Every network by torch itself."""

    def __init__(self, config: TorchConfig, site: Site) -> None:
        self.words = "torch"

    def function(self, network: Network) -> Callable[..., Tensor]:
        """The network's own call."""
        return network.call
