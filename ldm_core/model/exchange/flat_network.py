"""A network whose arguments and result are tensors by name alone, as tracing compilers and exchange formats take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.contracts import Cond, Network


class FlatNetwork(nn.Module):
    """One function of a trained model on tensors: of a denoiser ``x``, ``noise_level`` and the parts of its bundle by
    their names in :meth:`Cond.flat`, else ``x`` alone.

    It holds a float32 copy of the network's module. `parts` and `options`: those of its bundles.
    """

    def __init__(self, network: Network, parts: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        module = deepcopy(network.module).float().eval().requires_grad_(False)
        self.function = _Function(network.name, module)
        self.names = ("x", "noise_level", *parts) if network.name == "denoiser" else ("x",)
        self._bundle = Cond(options=dict(options or {})) if network.name == "denoiser" else None

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """The function's result, float32, of tensors in the order of `names`."""
        with torch.autocast(x.device.type, enabled=False):
            if self._bundle is None:
                return self.function(x).float()
            parts = dict(zip(self.names[2:], more[1:], strict=True))
            return self.function(x, more[0], self._bundle.unflat(parts)).float()


class _Function(nn.Module):
    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.module, self._name = module, name

    def forward(self, *arguments: Any) -> Tensor:
        return Network(self._name, self.module).call(*arguments)


def flat_arguments(arguments: Sequence[Any]) -> dict[str, Tensor]:
    """The arguments of a :class:`Network`'s call by name, in the order of :class:`FlatNetwork`, floating ones float32,
    contiguous."""
    x, *more = arguments
    found: dict[str, Tensor] = {"x": x}
    if more:
        level, cond = more
        found |= {"noise_level": level, **cond.flat()}
    return {name: (v.float() if v.is_floating_point() else v).detach().contiguous() for name, v in found.items()}


def options_of(arguments: Sequence[Any]) -> dict[str, Any]:
    """The static options of a call's bundle."""
    return dict(arguments[2].options) if len(arguments) > 1 else {}
