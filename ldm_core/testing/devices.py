"""A component on a pretended accelerator: tensors on a device of its own choice show.

A tensor is marked when code makes it without a device, or for a device by name. Moving it to the device of another
tensor (``.to(x.device)``) takes the mark away. A marked tensor beside a plain one is an error here, because on an
accelerator the two would lie on different devices and torch would raise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

_FREE = frozenset(
    {
        "__getitem__",
        "__setitem__",
        "copy_",
        "expand_as",
        "view_as",
        "reshape_as",
        "__get__",
        "__set__",
        "type_as",
        "set_",
    }
)
"""Calls with tensors of two devices: by an index, a copy, another's shape."""
_MAKERS = frozenset({*_device_constructors(), torch.as_tensor, torch.tensor})


class PickedDevice(AssertionError):
    """A component chose the device of a tensor itself."""


class Unplaced(Tensor):
    """A tensor on a device of nobody's choice."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Keep it apart from plain tensors until ``.to`` places it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        plain = [t for t in _tensors((args, kwargs)) if not isinstance(t, Unplaced) and t.dim()]
        marked = [t for t in _tensors((args, kwargs)) if isinstance(t, Unplaced)]
        if plain and name not in _FREE and name != "to" and any(t.dim() for t in marked):
            raise PickedDevice(f"torch's {name} got a tensor of the default device beside one of the inputs'")
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **kwargs)
        if name in ("to", "type_as") and _places(args[1:], kwargs):
            return _map(found, lambda t: t.as_subclass(Tensor))
        if name in ("__setitem__", "copy_", "expand_as") or (plain and name == "__getitem__"):
            first = args[0]
            return found if isinstance(first, Unplaced) else _map(found, lambda t: t.as_subclass(Tensor))
        if plain:  # with a number by itself, which may lie anywhere
            return _map(found, lambda t: t.as_subclass(Tensor))
        return _map(found, lambda t: t.as_subclass(Unplaced))


class _Elsewhere(TorchFunctionMode):
    """Marks tensors made without a device, or for a device by name."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        device = kwargs.get("device")
        if name in ("to", "cuda") and (named := _named(args[1:], kwargs)) is not None and named != "cpu":
            raise PickedDevice(f"the component moves a tensor to '{named}' by itself")
        if name == "cuda":
            raise PickedDevice("the component moves a tensor to a GPU by itself")
        if isinstance(device, str | int) or (isinstance(device, torch.device) and device.type != "cpu"):
            if torch.device(device).type not in ("cpu", "meta"):
                raise PickedDevice(f"the component makes a tensor on '{device}' by itself")
            device = None
        found = func(*args, **kwargs)
        if func in _MAKERS and device is None and isinstance(found, Tensor) and not _tensors((args, kwargs)):
            return found.as_subclass(Unplaced)
        return found


@contextmanager
def accelerated() -> Iterator[None]:
    """Pretend to have a GPU; code with a use for it gets :class:`PickedDevice`."""
    true = torch.cuda.is_available
    torch.cuda.is_available = lambda: True
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if isinstance(error, PickedDevice) or "cuda" not in str(error).lower():
            raise
        raise PickedDevice(f"the component uses a GPU by itself ({error})") from error
    finally:
        torch.cuda.is_available = true


@contextmanager
def elsewhere() -> Iterator[None]:
    """Pretend to have an accelerator, with a component's inputs on it."""
    true = torch.from_numpy

    def from_numpy(ndarray: Any) -> Tensor:
        return true(ndarray).as_subclass(Unplaced)

    torch.from_numpy = from_numpy  # no mode is told of it
    try:
        with accelerated(), _Elsewhere():
            yield
    finally:
        torch.from_numpy = true


def _named(args: Any, kwargs: Any) -> str | None:
    """The kind of device in the arguments of ``to``, or None."""
    for value in (*args, kwargs.get("device")):
        if isinstance(value, torch.device) or (isinstance(value, str) and value):
            return torch.device(value).type
    return None


def _places(args: Any, kwargs: Any) -> bool:
    """True of a call of ``to`` with another tensor, or with a device not named in words."""
    values = (*args, kwargs.get("device"), kwargs.get("other"))
    return any(isinstance(v, torch.device) or (isinstance(v, Tensor) and not isinstance(v, Unplaced)) for v in values)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [t for v in tree.values() for t in _tensors(v)]
    if isinstance(tree, list | tuple):
        return [t for v in tree for t in _tensors(v)]
    return []


def _map(found: Any, f: Any) -> Any:
    if isinstance(found, Tensor):
        return f(found)
    if isinstance(found, tuple) and hasattr(found, "_fields"):
        return type(found)(*(_map(v, f) for v in found))
    if isinstance(found, list | tuple):
        return type(found)(_map(v, f) for v in found)
    return found


def require_placed(outputs: dict[str, Tensor]) -> None:
    """:class:`PickedDevice` if an output would lie on the default device instead of the inputs'."""
    wrong = [name for name, value in outputs.items() if isinstance(value, Unplaced)]
    if wrong:
        raise PickedDevice(f"{', '.join(wrong)} would come back on the default device, not on the inputs'")
