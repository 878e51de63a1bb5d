"""The averaged weights of a model, for sampling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.training.averages.posthoc import decay_of, exponent_of


class EMA:
    """Exponential moving averages of a module's trainable parameters, by name, in float32.

    Update n (from 1) of the first uses decay ``min(decay, (1 + n) / (10 + n))``, the published warm-up; `decay` 0
    keeps none of this kind. `widths` are the relative widths of power-function averages, kept beside it
    (:mod:`ldm_core.training.averages.posthoc`). A trainable conditioner is part of the module, so its weights are
    averaged too. Under ZeRO 3 each process averages its own share of every parameter, and shares come together on
    request.

    Make it after the module's engine, as the engine decides the places of parameters.
    """

    def __init__(self, module: nn.Module, decay: float, widths: Sequence[float] = ()) -> None:
        self.decay, self.updates, self.widths = decay, 0, tuple(widths)
        self._exponents = [exponent_of(w) for w in widths]
        self._sources = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.shadow: dict[str, Tensor] = self._copies() if decay else {}
        self._powers = [self._copies() for _ in widths]

    def _copies(self) -> dict[str, Tensor]:
        return {n: _own(p).float().clone() for n, p in self._sources.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of one more step in."""
        self.updates += 1
        current = [_own(p).float() for p in self._sources.values()]
        if self.shadow:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(list(self.shadow.values()), current, 1 - decay)
        for exponent, shadow in zip(self._exponents, self._powers, strict=True):
            torch._foreach_lerp_(list(shadow.values()), current, 1 - decay_of(exponent, self.updates))

    def tensors(self) -> dict[str, Tensor]:
        """Give the state for a checkpoint, with :attr:`updates`: whole tensors, on every process; all must call it.

        The first average has the parameters' names, power-function ones ``power/<width>/<name>``.
        """
        out = self._whole(self.shadow)
        for width, shadow in zip(self.widths, self._powers, strict=True):
            out.update({f"power/{width:g}/{n}": v for n, v in self._whole(shadow).items()})
        return out

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from the result of :meth:`tensors`, on any number of processes and under any ZeRO stage."""
        prefixes = [f"power/{width:g}/" for width in self.widths]
        for prefix, shadow in zip(["", *prefixes], [self.shadow, *self._powers], strict=True):
            for name, value in shadow.items():
                _take(self._sources[name], value, tensors[prefix + name])
        self.updates = updates

    def power_averages(self) -> dict[float, dict[str, Tensor]]:
        """The power-function averages by width, whole; all processes must call it."""
        return {w: self._whole(shadow) for w, shadow in zip(self.widths, self._powers, strict=True)}

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's state dict with averaged weights in place of its own, whole; all processes must call it."""
        averaged = self._whole(self.shadow)
        return {k: averaged.get(k, v) for k, v in whole_state(module).items()}

    def _whole(self, shadow: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # Gathered shares go to the CPU one by one: a process under ZeRO 3 has no room for the whole.
        each = ((n, self._sources[n], value) for n, value in shadow.items())
        return {n: _gathered(p, value).cpu() if _is_spread(p) else value for n, p, value in each}

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """A context with the averaged weights in the module; afterwards its own are back, bit for bit.

        All processes must enter it. Without an average of the first kind the weights stay as they are.
        """
        sources = [self._sources[n] for n in self.shadow]
        # ZeRO 3's shares come back from the optimizer's copy: the module's own is made from it.
        kept = [None if _is_spread(p) else p.detach().clone() for p in sources]
        try:
            for parameter, share in zip(sources, self.shadow.values(), strict=True):
                _put(parameter, _gathered(parameter, share))
            yield
        finally:
            for parameter, value in zip(sources, kept, strict=True):
                _put(parameter, _gathered(parameter, _own(parameter)) if value is None else value)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict, whole under ZeRO 3 too; all processes must call it."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    out = {}
    for name, value in module.state_dict().items():
        parameter = parameters.get(name)
        if parameter is not None and _is_spread(parameter):
            with _together(parameter):
                value = parameter.detach().to("cpu", copy=True)
        out[name] = value
    return out


def _is_spread(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id")


def _together(parameter: Any, writer: int | None = None) -> Any:
    """A context with a parameter spread by ZeRO 3 made whole; values put in by process `writer` stay."""
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=writer)


def _own(parameter: Any) -> Tensor:
    """The own share of a parameter: all of it, or ZeRO 3's flat fragment of the float32 one."""
    if not _is_spread(parameter):
        return parameter.detach()
    from deepspeed.utils import safe_get_local_fp32_param

    return safe_get_local_fp32_param(parameter).detach()


def _gathered(parameter: Any, share: Tensor) -> Tensor:
    """The whole from every process's share; shares are equally long, the last one padded."""
    if not _is_spread(parameter):
        return share
    shares = [torch.empty_like(share) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(shares, share.contiguous())
    return torch.cat(shares)[: parameter.ds_numel].view(parameter.ds_shape)


def _take(parameter: Any, share: Tensor, whole: Tensor) -> None:
    """Write this process's share of `whole` into `share`."""
    if not _is_spread(parameter):
        share.copy_(whole)
        return
    begin = torch.distributed.get_rank() * share.numel()
    mine = whole.flatten()[begin : begin + share.numel()]
    share[: mine.numel()].copy_(mine)


@torch.no_grad()
def _put(parameter: Any, value: Tensor) -> None:
    """Put `value` into the module's parameter, in place; the optimizer's copy stays."""
    if not _is_spread(parameter):
        parameter.copy_(value)
        return
    with _together(parameter, writer=0):
        parameter.copy_(value)
