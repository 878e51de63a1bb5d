"""Modules to export, with tensors by name as arguments and results, and the names of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from ldm_core.contracts import Cond, FirstStage, Network
from ldm_core.model.diffusion import Model
from ldm_core.model.exchange.flat_network import FlatNetwork, flat_arguments, options_of

_ROWS = 2  # of an example: a batch of one could pass for a number


@attrs.frozen(eq=False)
class Exported:
    """A module to export, an example of its arguments by name, and the names of its results.

    `prefixes` of its parameters' names -> those of the same weights in the file. `open_axes`, by argument: the names of
    axes of any length.
    """

    module: nn.Module
    arguments: Mapping[str, Tensor]
    results: Sequence[str]
    prefixes: Mapping[str, str]
    open_axes: Mapping[str, Mapping[int, str]]

    def key(self, name: str) -> str:
        """The name in the file of weights of the parameter `name`; "" if the file has none."""
        for prefix, other in self.prefixes.items():
            if name.startswith(prefix):
                return other + name.removeprefix(prefix)
        return ""

    def at_another_size(self) -> dict[str, Tensor] | None:
        """Arguments of three rows, twice as wide and with one token more; None if the module takes no such size."""
        made = {}
        for name, value in self.arguments.items():
            grown = value
            for axis, word in self.open_axes[name].items():
                if word == "batch" or word == "tokens":
                    grown = torch.cat([grown, grown.narrow(axis, 0, 1)], axis)
                elif word.endswith(("width", "length")):
                    grown = torch.cat([grown, grown.flip(axis)], axis)
            if grown.is_floating_point():
                grown = grown * torch.linspace(0.5, 1.5, len(grown)).view(-1, *[1] * (grown.dim() - 1))
            made[name] = grown.contiguous()
        try:
            with torch.no_grad():
                self.module(*made.values())
        except Exception:  # whatever a module raises of a size that it does not take
            return None
        return made

    @staticmethod
    def first_row(arguments: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch of one."""
        return {name: value[:1].contiguous() for name, value in arguments.items()}


def denoiser(model: Model, cond: Cond, latent: Sequence[int]) -> Exported:
    """The network F: c_in x (B, C, *s), noise_level (B,) and the parts of a bundle like `cond`, of one row."""
    network = Network("denoiser", cast(nn.Module, model.denoiser))
    call = (_drawn(latent), torch.full((1,), 10.0), cond)
    found = flat_arguments(call)
    flat = FlatNetwork(network, [*found][2:], options_of(call))
    axes = {name: axes_of(name, value, len(latent) - 1) for name, value in found.items()}
    return Exported(flat, in_rows(found), ["f"], {"function.module.": "model.denoiser."}, axes)


def decoder(stage: FirstStage, latent: Sequence[int]) -> Exported:
    """Normalised latents -> pictures."""
    flat = FlatNetwork(Network("decode", stage))  # type: ignore[arg-type]
    found = {"x": _drawn(latent)}
    return _of_stage(flat, found, ["pictures"], "function.module.")


def encoder(stage: FirstStage, pictures: Sequence[int]) -> Exported:
    """Pictures -> the mode of their latents, normalised, and the raw moments."""
    found = {"x": _drawn(pictures).clamp(-1, 1)}
    return _of_stage(_Encoder(stage), found, ["latents", "moments"], "stage.")


def _drawn(shape: Sequence[int]) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def _of_stage(module: nn.Module, found: Mapping[str, Tensor], results: Sequence[str], prefix: str) -> Exported:
    axes = {name: axes_of(name, value, value.dim() - 2) for name, value in found.items()}
    return Exported(module, in_rows(found), results, {prefix: "first_stage."}, axes)


class _Encoder(nn.Module):
    def __init__(self, stage: FirstStage) -> None:
        super().__init__()
        self.stage: Any = deepcopy(stage).float().eval().requires_grad_(False)  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            moments = self.stage.encode_moments(x)
            return self.stage.latents(moments).float(), moments.float()


_AXES = {1: ("length",), 2: ("height", "width"), 3: ("frames", "height", "width")}
_SETS = ("crossattn", "crossattn_mask", "tokens", "tokens_mask")


def axes_of(name: str, value: Tensor, spatial: int) -> dict[int, str]:
    """The open axes of an argument beside latents with `spatial` axes of space."""
    found = {0: "batch"}
    if name.partition("/")[0] in _SETS:
        return found | {1: "tokens"}
    if value.dim() == spatial + 2:
        names = _AXES.get(spatial, tuple(f"side_{i}" for i in range(spatial)))
        if name.startswith("residuals/"):  # of a level of the network
            names = tuple(f"{name.partition('/')[2]}_{axis}" for axis in names)
        return found | dict(enumerate(names, 2))
    return found


def in_rows(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arguments of one row as a batch of equal ones."""
    return {name: value.expand(_ROWS, *value.shape[1:]).contiguous() for name, value in found.items()}
