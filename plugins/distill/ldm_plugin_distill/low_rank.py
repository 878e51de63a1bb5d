"""A low-rank change of every layer: the part that learns where a student is saved apart from its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.contracts import Adapter, DiffusionModel, Site
from ldm_core.nn.changed_weight import change_weight
from ldm_plugin_distill.config import LowRankConfig

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(Adapter, nn.Module):
    """W + scale B A on the denoiser's linear layers and convolutions (Hu et al. 2021, arXiv 2106.09685).

    A (r, i k k) and B (o, r), of a layer with o outputs and i k k numbers for each, are made when the layer is known; r
    is `rank`, or less where the layer has no more. B begins at 0, so a fresh adapter changes nothing.
    """

    def __init__(self, config: LowRankConfig, site: Site | None = None) -> None:
        super().__init__()
        self.config, self.scale = config, config.scale
        self.down = nn.ParameterDict()
        self.up = nn.ParameterDict()
        self._handles: list[Any] = []
        self._kept: dict[str, nn.Parameter] = {}

    def attach(self, model: DiffusionModel) -> None:
        """Change every layer; ValueError where there is none, or where the weights were made for other layers."""
        self.detach()
        for key, layer in self._layers(model):
            weight = layer._parameters["weight"]
            assert weight is not None
            outputs, inputs = weight.shape[0], math.prod(weight.shape[1:])
            rank = min(self.config.rank, outputs, inputs)
            if key not in self.down:
                down = torch.empty(rank, inputs, device=weight.device)
                nn.init.kaiming_uniform_(down, a=math.sqrt(5))
                self.down[key] = nn.Parameter(down)
                self.up[key] = nn.Parameter(torch.zeros(outputs, rank, device=weight.device))
            if (self.down[key].shape, self.up[key].shape) != ((rank, inputs), (outputs, rank)):
                raise ValueError(
                    f"low_rank: '{key}' is {tuple(weight.shape)}, and its change was made for another shape"
                )
            self._handles.append(change_weight(layer, self._change(key)))
        if not self._handles:
            ends = ", ".join(self.config.targets) or "anything"
            raise ValueError(f"low_rank: the denoiser has no linear layer or convolution whose name ends in {ends}")

    def detach(self) -> None:
        """Take the changes away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def fuse(self, model: DiffusionModel) -> None:
        """Give every layer a weight with the change in it."""
        for key, layer in self._layers(model):
            before = layer._parameters["weight"]
            assert before is not None
            changed = self._change(key)(before).detach()
            self._kept[key] = before
            layer.weight = nn.Parameter(changed, requires_grad=before.requires_grad)
        self.detach()

    def unfuse(self, model: DiffusionModel) -> None:
        """Give every layer its weight of before."""
        for key, layer in self._layers(model):
            layer.weight = self._kept.pop(key)
        self.attach(model)

    def _layers(self, model: DiffusionModel) -> Iterator[tuple[str, nn.Module]]:
        """The layers by name; "/" stands for the dots, which a parameter's name cannot have."""
        ends = tuple(f".{target}" for target in self.config.targets)
        for name, layer in model.denoiser.named_modules():  # type: ignore[attr-defined]
            if isinstance(layer, _LAYERS) and (not ends or f".{name}".endswith(ends)):
                yield name.replace(".", "/"), layer

    def _change(self, key: str) -> Callable[[Tensor], Tensor]:
        def changed(weight: Tensor) -> Tensor:
            if not self.scale:
                return weight
            update = (self.up[key].float() @ self.down[key].float()).view(weight.shape)
            return weight + (self.scale * update).to(weight)

        return changed
