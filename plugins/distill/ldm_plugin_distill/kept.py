"""Frozen copies of the student: of its network, or of all that trains in its network and adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

from torch import Tensor, nn
from torch.func import functional_call

from ldm_core.contracts import Cond, DiffusionModel, Estimate
from ldm_core.model.diffusion import Model

Estimator: TypeAlias = "Callable[[Tensor, Tensor, Cond], Estimate]"
"""x (B, C, *s), t (B,), a bundle -> the estimate of x0: a model, or what stands for one."""


class Trained(nn.Module):
    """The tensors of a model's network and adapters that train, by their names with "/" for each dot.

    A copy of the modules would not do: the hooks in it would be those of the adapters that go on learning.
    """

    def __init__(self, model: DiffusionModel) -> None:
        super().__init__()
        self.kept = nn.ParameterDict()
        for name, value in _trained(model):
            self.kept[_key(name)] = nn.Parameter(value.detach().clone(), requires_grad=False)

    def estimator(self, model: Model) -> Estimator:
        """The model with these tensors in the places of its own, its network in eval mode."""

        def estimate(x: Tensor, t: Tensor, cond: Cond) -> Estimate:
            network = cast(nn.Module, model.denoiser)
            mode, tensors = network.training, {name: self.kept[_key(name)] for name, _ in _trained(model)}
            network.eval()
            try:
                found: Estimate = functional_call(model, tensors, (x, t, cond))
            finally:
                network.train(mode)
            return found

        return estimate


def copied(model: Model) -> nn.Module:
    """A frozen copy of a model's network, in eval mode; of one with adapters, the tensors that train."""
    if model.attached:
        return Trained(model)
    made = cast(nn.Module, copy.deepcopy(model.denoiser))
    return made.requires_grad_(False).eval()


def estimator(model: Model, kept: nn.Module) -> Estimator:
    """The estimates of a copy, under the schedule, the parameterization and the arithmetic of `model`."""
    return kept.estimator(model) if isinstance(kept, Trained) else around(model, kept)


def around(model: Model, network: nn.Module) -> Model:
    """A model of `network` itself, under the schedule, the parameterization and the arithmetic of `model`."""
    made = Model(network, model.schedule, model.parameterization)  # type: ignore[arg-type]
    made.precision, made.precisions = model.precision, model.precisions
    return made


def pairs(kept: nn.Module, model: DiffusionModel) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensors of a copy, each with that of `model`."""
    if isinstance(kept, Trained):
        return ((kept.kept[_key(name)], value) for name, value in _trained(model))
    return zip(kept.parameters(), cast(nn.Module, model.denoiser).parameters(), strict=True)


def _trained(model: DiffusionModel) -> Iterator[tuple[str, Tensor]]:
    for name, value in cast(nn.Module, model).named_parameters():
        if value.requires_grad and not name.startswith("conditioners."):
            yield name, value


def _key(name: str) -> str:
    return name.replace(".", "/")
