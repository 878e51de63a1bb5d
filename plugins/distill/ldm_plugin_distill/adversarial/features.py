"""The features of a frozen model's network, and the choice of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ldm_core.contracts import Cond, CondSpec, Site
from ldm_core.contracts.conditioning import Tokens
from ldm_core.errors import ConfigError
from ldm_core.model.diffusion import Model

MOST = 4
"""Layers to look at if none is named."""


class Features:
    """The features of some layers of a model's network, by hooks on it; gradients pass to the latents.

    `widths` are their channels, known by one call on zeros. ConfigError for a layer unknown or without
    features.
    """

    def __init__(self, model: Model, site: Site, names: Sequence[str] = ()) -> None:
        self._model = model
        self._found: dict[str, Tensor] | None = None
        network = cast(nn.Module, model.denoiser)
        known = dict(network.named_modules())
        if missing := [name for name in names if name not in known]:
            raise ConfigError(
                f"objective.layers: the teacher's network has no layer '{missing[0]}'; its blocks are "
                f"{', '.join(_blocks(network))}"
            )
        tried = list(names) or _blocks(network)
        for name in tried:
            known[name].register_forward_hook(self._keeping(name))
        self.names = tried
        widths = self._widths(site)
        if lost := [name for name in names if name not in widths]:
            raise ConfigError(f"objective.layers: '{lost[0]}' gives no features of places, (B, C, *s) or (B, N, C)")
        self.names = list(names) or _evenly(list(widths), MOST)
        self.widths = [widths[name] for name in self.names]

    def __call__(self, x: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        """x (B, C, *s), t (B,), a bundle -> (B, N, width) of each layer, float32."""
        found = self._asked(x, t, cond)
        return [_rows(found[name]) for name in self.names]

    def _asked(self, x: Tensor, t: Tensor, cond: Cond) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        self._found = found
        try:
            self._model(x, t, cond)
        finally:
            self._found = None
        return found

    def _keeping(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def keep(module: nn.Module, given: object, out: object) -> None:
            if self._found is not None and name in self.names and isinstance(out, Tensor) and out.dim() > 2:
                self._found[name] = out.clone()  # the next layer may work in place

        return keep

    @torch.no_grad()
    def _widths(self, site: Site) -> dict[str, int]:
        assert site.latent is not None, "an objective has the latents' site"
        device = self._model.device
        x = torch.zeros(1, *site.latent.shape(site.size), device=device)
        t = torch.full((1,), float(self._model.schedule.t_max), dtype=torch.float64, device=device)
        return {name: _rows(out).shape[2] for name, out in self._asked(x, t, _zeros(site.cond, x)).items()}


def _rows(out: Tensor) -> Tensor:
    """Maps (B, C, *s), or tokens (B, N, C) as they are -> (B, N, C), float32."""
    return (out if out.dim() == 3 else out.flatten(2).transpose(1, 2)).float()


def _blocks(network: nn.Module) -> list[str]:
    """The names of a network's blocks: the members of its lists, or else its children."""
    lists = [name for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    members = [f"{name}.{child}" for name in outer for child, _ in network.get_submodule(name).named_children()]
    return members or [name for name, _ in network.named_children()]


def _evenly(names: Sequence[str], most: int) -> list[str]:
    """At most `most` of `names`, evenly, the last one among them."""
    if not names:
        raise ConfigError("objective.layers: no block of the teacher's network gives features; name other layers")
    count = min(most, len(names))
    return [names[(i + 1) * len(names) // count - 1] for i in range(count)]


def _zeros(spec: CondSpec, x: Tensor) -> Cond:
    """A bundle of zeros of one example, for latents `x`."""
    return Cond(
        crossattn=x.new_zeros(1, 1, spec.crossattn) if spec.crossattn else None,
        vector=x.new_zeros(1, spec.vector) if spec.vector else None,
        concat=x.new_zeros(1, spec.concat, *x.shape[2:]) if spec.concat else None,
        extras={name: x.new_zeros(1, *(n or 1 for n in shape)) for name, shape in spec.extras.items()},
        tokens={name: Tokens(x.new_zeros(1, 1, width)) for name, width in spec.tokens.items()},
    )
