"""A layer that computes with a function of its weight: for adapters that are no sum (DoRA, OFT, LoHa, norms).

A forward hook sees what a layer made, and would have to compute it again. Here the layer is of a class derived from its
own in which the weight's name is a property. The parameter stays where it is, so state keys, loading, moving and
optimizers are as before, and nothing is set during a forward pass: threads do not meet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Change = Callable[[Tensor], Tensor]
"""A weight -> the weight to compute with, of its shape; gradients pass."""
CHANGES = "_changed_weight_hooks"
"""The attribute of a changed layer: by the number of each change, the parameter's name and the function."""


class WeightHandle:
    """Takes a change away again; the layer without any is of its own class."""

    def __init__(self, layer: nn.Module, number: int) -> None:
        self._layer, self._number = layer, number

    def remove(self) -> None:
        """Take it away; nothing happens the second time."""
        self._layer.__dict__.get(CHANGES, {}).pop(self._number, None)
        settle_class(self._layer)


def change_weight(layer: nn.Module, change: Change, name: str = "weight") -> WeightHandle:
    """Let `layer` compute with ``change(weight)``; several changes apply in the order in which they came.

    `name` is that of a parameter of the layer itself, which its forward reads as an attribute; ValueError without it.
    """
    if name not in layer._parameters:
        raise ValueError(f"{type(layer).__name__} has no parameter '{name}'")
    number = RemovableHandle.next_id
    RemovableHandle.next_id += 1
    layer.__dict__.setdefault(CHANGES, {})[number] = (name, change)
    settle_class(layer)
    return WeightHandle(layer, number)


def settle_class(layer: nn.Module) -> None:
    """Give `layer` the class for its changes: its own one without any."""
    own = type(layer).__mro__[1] if CHANGES in vars(type(layer)) else type(layer)
    changes = layer.__dict__.get(CHANGES)
    if changes is None:
        return
    if not changes:
        del layer.__dict__[CHANGES]
    names = tuple(sorted({name for name, _ in changes.values()}))
    layer.__class__ = _changing(own, names) if names else own


@cache
def _changing(own: type, names: tuple[str, ...]) -> Any:
    properties = {name: property(partial(_changed, name)) for name in names}
    return type(own.__name__, (own,), {**properties, CHANGES: None, "__module__": own.__module__})


def _changed(name: str, layer: nn.Module) -> Tensor:
    weight: Any = layer._parameters[name]
    try:
        for where, change in list(layer.__dict__[CHANGES].values()):
            if where == name:
                weight = change(weight)
    except AttributeError as error:  # nn.Module would take it for a missing attribute, and hand out the weight itself
        raise RuntimeError(f"the change of '{name}' failed: {error}") from error
    return weight  # type: ignore[no-any-return]
