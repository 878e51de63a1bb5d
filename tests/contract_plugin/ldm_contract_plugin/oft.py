"""OFT: rotated rows of attention weights, fused ones too; no sum beside the layer, so the layer gets another weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ldm_contract_plugin.config import OFTConfig
from ldm_core.contracts import Adapter, DenoiserAnswers, DiffusionModel, Site, WeightSlice, configs
from ldm_core.nn.changed_weight import change_weight


class OFT(Adapter, nn.Module):
    """W' = R W on the rows of every address that ends in one of `targets`, R = (I + Q) (I - Q)^-1 in blocks of rows.

    Q = scale (B - B^T) is skew, so R rotates: rows keep their lengths and angles. B starts at 0, R at the identity.
    """

    def __init__(self, config: OFTConfig, site: Site) -> None:
        super().__init__()
        self.config, self.scale = config, config.scale
        self.blocks = nn.ParameterDict()
        self._handles: list[Any] = []
        self._kept: dict[str, nn.Parameter] = {}

    def attach(self, model: DiffusionModel) -> None:
        """Change every target's weight; ValueError where the denoiser has none, or rows that make no whole blocks."""
        self.detach()
        for address, place in self._places(model).items():
            layer, weight = _layer(model, place)
            rows = len(place.index) or weight.shape[0]
            key, size = address.replace(".", "/"), self.config.block
            if rows % size:
                raise ValueError(f"oft: '{address}' has {rows} rows, which block {size} does not divide")
            if key not in self.blocks:
                self.blocks[key] = nn.Parameter(torch.zeros(rows // size, size, size, device=weight.device))
            self._handles.append(change_weight(layer, self._change(key, place)))

    def detach(self) -> None:
        """Take the changes away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def fuse(self, model: DiffusionModel) -> None:
        """Give every target the rotated weight."""
        made = {place.parameter: _layer(model, place) for place in self._places(model).values()}
        rotated = {name: layer.weight.detach() for name, (layer, _) in made.items()}
        self.detach()
        for name, (layer, before) in made.items():
            self._kept[name] = before
            layer.weight = nn.Parameter(rotated[name], requires_grad=before.requires_grad)

    def unfuse(self, model: DiffusionModel) -> None:
        """Give every target its weight of before."""
        for place in self._places(model).values():
            if place.parameter in self._kept:
                _layer(model, place)[0].weight = self._kept.pop(place.parameter)
        self.attach(model)

    def _places(self, model: DiffusionModel) -> dict[str, WeightSlice]:
        known = configs.of(DenoiserAnswers, model.denoiser).addresses
        ends = tuple(f".{target}" for target in self.config.targets)
        found = {} if known is None else {name: place for name, place in known().items() if name.endswith(ends)}
        if not found:
            raise ValueError(f"oft: no address of the denoiser's weights ends in {', '.join(self.config.targets)}")
        return found

    def _change(self, key: str, place: WeightSlice) -> Any:
        index = place.index

        def rotate(weight: Tensor) -> Tensor:
            if not self.scale:
                return weight
            blocks = self.blocks[key].float()
            skew = self.scale * (blocks - blocks.transpose(1, 2))
            eye = torch.eye(skew.shape[1], device=skew.device)
            rotation = torch.linalg.solve(eye - skew, eye + skew)  # the two factors commute
            rows = weight[index] if index else weight
            turned = (rotation @ rows.float().reshape(len(skew), skew.shape[1], -1)).reshape(rows.shape).to(weight)
            return weight.index_copy(0, torch.tensor(index, device=weight.device), turned) if index else turned

        return rotate


def _layer(model: DiffusionModel, place: WeightSlice) -> tuple[Any, nn.Parameter]:
    """The layer at a place, and the parameter itself, whatever it computes with."""
    layer = model.denoiser.get_submodule(place.parameter.removesuffix(".weight"))
    return layer, dict(layer.named_parameters(recurse=False))["weight"]
