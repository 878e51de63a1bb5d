"""LoRA: low-rank updates of linear layers by forward hooks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_contract_plugin.config import LoRAConfig
from ldm_core.contracts import Adapter, DiffusionModel, Site


class LoRA(Adapter, nn.Module):
    """y = W x + scale B A x on every linear layer of the denoiser whose name ends in one of `targets`.

    A (rank, in) and B (out, rank) are made at the first `attach`, when the layers are known; B starts at 0, so that a
    fresh one changes nothing.
    """

    def __init__(self, config: LoRAConfig, site: Site) -> None:
        super().__init__()
        self.config, self.scale = config, config.scale
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        self._handles: list[Any] = []
        self._kept: dict[str, Any] = {}

    def attach(self, model: DiffusionModel) -> None:
        """Hook every target; ValueError where there is none, or where the weights are another model's."""
        self.detach()
        found = dict(self._layers(model))
        if not found:
            raise ValueError(f"lora: no linear layer's name ends in one of {', '.join(self.config.targets)}")
        for name, layer in found.items():
            if name not in self.down:
                down = torch.empty(self.config.rank, layer.in_features, device=layer.weight.device)
                nn.init.kaiming_uniform_(down, a=math.sqrt(5))
                self.down[name] = nn.Parameter(down)
                self.up[name] = nn.Parameter(torch.zeros(layer.out_features, self.config.rank).to(down))
            shapes = tuple(self.down[name].shape), tuple(self.up[name].shape)
            if shapes != ((self.config.rank, layer.in_features), (layer.out_features, self.config.rank)):
                raise ValueError(f"lora: '{name}' is {tuple(layer.weight.shape)}, and its update was made for {shapes}")
            self._handles.append(layer.register_forward_hook(self._hook(name)))

    def detach(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def fuse(self, model: DiffusionModel) -> None:
        """Give every target a weight with the update in it."""
        merged = self.merged(model)
        self.detach()
        for name, layer in self._layers(model):
            self._kept[name] = layer.weight
            weight = merged[f"denoiser.{name.replace('/', '.')}.weight"]
            layer.weight = nn.Parameter(weight.detach(), requires_grad=layer.weight.requires_grad)

    def unfuse(self, model: DiffusionModel) -> None:
        """Give every target its weight of before."""
        for name, layer in self._layers(model):
            layer.weight = self._kept.pop(name)
        self.attach(model)

    def merged(self, model: DiffusionModel) -> Mapping[str, Tensor]:
        """W + scale B A of every target, by the weight's name in the model."""
        return {
            f"denoiser.{name.replace('/', '.')}.weight": layer.weight + self.scale * self.up[name] @ self.down[name]
            for name, layer in self._layers(model)
        }

    def _layers(self, model: DiffusionModel) -> Iterator[tuple[str, nn.Linear]]:
        for name, module in model.denoiser.named_modules():  # type: ignore[attr-defined]
            if isinstance(module, nn.Linear) and name.endswith(tuple(f".{t}" for t in self.config.targets)):
                yield name.replace(".", "/"), module  # a dot cannot stand in a parameter's name

    def _hook(self, name: str) -> Any:
        def add(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return out + self.scale * F.linear(F.linear(given[0], self.down[name]), self.up[name])

        return add
