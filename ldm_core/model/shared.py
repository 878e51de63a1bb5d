"""Modules beside modules that share their tensors: what is hooked into the copy is not in the original.

Two runs with other adapters go on side by side only if hooks act in one and not in the other. Hooks that ask which run
is current would cost the runs without any, would be asked of every adapter, and could neither fuse a weight nor survive
a compiler. So each choice of adapters has modules of its own, a few kilobytes, around the very tensors of the base.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from ldm_core.nn.changed_weight import settle_class


def hooks_of(modules: Iterable[nn.Module]) -> frozenset[int]:
    """The numbers of all hooks and changes of weights in these modules and those inside them."""
    found = (hooks for root in modules for module in root.modules() for _, hooks in _hooks(module))
    return frozenset(number for hooks in found for number in hooks)


def _hooks(module: nn.Module) -> Iterator[tuple[str, dict[int, object]]]:
    for name, value in list(vars(module).items()):
        if "_hooks" in name and isinstance(value, dict):
            yield name, value


def shared_copy(modules: Iterable[nn.Module], hooks: frozenset[int]) -> dict[nn.Module, nn.Module]:
    """A copy of each of `modules` and of those inside, by the original: with its tensors, and of its hooks those of
    `hooks`. Lists and mappings of modules, and bound methods of them, are those of the copies."""
    return _Copies(modules, hooks).made


class _Copies:
    def __init__(self, modules: Iterable[nn.Module], hooks: frozenset[int]) -> None:
        self.made: dict[nn.Module, nn.Module] = {}
        for root in modules:
            for module in root.modules():
                if module not in self.made:
                    self.made[module] = object.__new__(type(module))
        for module, copy in self.made.items():
            copy.__dict__.update({name: self._value(value) for name, value in list(vars(module).items())})
            for _, own in list(_hooks(copy)):
                for number in own.keys() - hooks:
                    del own[number]
            settle_class(copy)

    def _value(self, value: Any) -> Any:
        """The stand-in for `value` in a copy: containers anew, modules and methods of the copies, the rest shared."""
        if isinstance(value, nn.Module):
            return self.made.get(value, value)
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self._value(value.__self__))
        if isinstance(value, partial):
            parts = [self._value(each) for each in (value.func, *value.args)]
            return partial(parts[0], *parts[1:], **self._value(value.keywords))
        kind = type(value)
        if kind in (list, tuple, set, frozenset):
            return kind(self._value(each) for each in value)
        if kind.__module__ in ("builtins", "collections") and isinstance(value, dict):
            copy = value.copy()
            copy.update((key, self._value(each)) for key, each in value.items())
            return copy
        return value
