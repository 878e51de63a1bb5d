"""The network inside a conditioner: the one module between its tensors and its part of a bundle."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ldm_core.contracts import Cond
from ldm_plugin_onnx.network import Exported, axes_of, in_rows


@attrs.frozen(eq=False)
class Inner:
    """A conditioner's network: the attribute `name` of the conditioner, its tensors by name for the example, and the
    `part` of the bundle in its result, of this `shape` but the batch."""

    name: str
    module: nn.Module
    arguments: Mapping[str, Tensor]
    names: tuple[str, ...]
    part: str
    shape: tuple[int, ...]

    def exported(self, conditioner: str) -> Exported:
        """The network to export, its result named as the part."""
        module = _Named(self.module, self.names, [*self.arguments])
        axes = {name: axes_of(name, value, 2 if value.dim() == 4 else 0) for name, value in self.arguments.items()}
        prefix = {"module.": f"model.conditioners.{conditioner}.{self.name}."}
        return Exported(module, in_rows(self.arguments), [self.part], prefix, axes)


class _Named(nn.Module):
    """A module with None for all arguments but the `given` ones."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], given: list[str]) -> None:
        super().__init__()
        self.module = deepcopy(module).float().eval().requires_grad_(False)
        self._names, self._given = names, given

    def forward(self, *tensors: Tensor) -> Tensor:
        known = dict(zip(self._given, tensors, strict=True))
        return self.module(*(known.get(name) for name in self._names)).float()


def inner_network(conditioner: nn.Module, encode: Callable[[], Cond]) -> tuple[Cond, Inner | None]:
    """The bundle of an example of one row, by `encode`, and the conditioner's network; None if no part of the
    bundle is the result of one call of one child module with tensors."""
    calls: list[tuple[str, nn.Module, dict[str, Any], tuple[str, ...], Any]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            signature = inspect.signature(module.forward)
            bound = signature.bind(*args, **kwargs)
            calls.append((name, module, dict(bound.arguments), tuple(signature.parameters), result))

        return hook

    hooks = [
        child.register_forward_hook(note(name), with_kwargs=True)
        for name, child in conditioner.named_children()
        if any(True for _ in child.parameters())
    ]
    try:
        with torch.no_grad():
            cond = encode()
    finally:
        for hook in hooks:
            hook.remove()
    return cond, _found(calls[0], cond) if len(calls) == 1 else None


def _found(call: tuple[str, nn.Module, dict[str, Any], tuple[str, ...], Any], cond: Cond) -> Inner | None:
    name, module, bound, names, result = call
    arguments = {key: value.detach() for key, value in bound.items() if isinstance(value, Tensor)}
    plain = all(value is None or key in arguments for key, value in bound.items())
    if not plain or not isinstance(result, Tensor) or any(len(value) != 1 for value in arguments.values()):
        return None
    for part, value in cond.flat().items():
        if value.is_floating_point() and value.numel() == result.numel() and torch.equal(_flat(value), _flat(result)):
            return Inner(name, module, arguments, names, part, tuple(value.shape[1:]))
    return None


def _flat(value: Tensor) -> Tensor:
    return value.detach().float().reshape(-1)
