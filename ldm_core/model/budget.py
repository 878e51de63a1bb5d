"""A bound on a network during its making, so a few bytes of a config never take all memory or time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode

from ldm_core.errors import CheckpointError
from ldm_core.recipe.places import described_by

MOST_TENSORS = 20_000
"""Tensors allowed in a recipe's network; the largest published ones have some thousands."""
_SPARE_VALUES = 1 << 20
_SPARE_TENSORS = 2_000
_FILLED = frozenset({"empty", "zeros", "ones", "full", "rand", "randn", "randint", "randperm", "eye", "empty_strided"})
_RANGES = frozenset({"arange", "linspace", "logspace", "range"})
_NEW = frozenset({"new_empty", "new_zeros", "new_ones", "new_full"})
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)


class Exceeded(Exception):
    """A network beyond its budget; raised before the next tensor is made."""


class Budget(TorchFunctionMode):
    """A context, of this thread alone, that adds up the values of tensors made in it, before they are.

    Beyond `values` or `tensors` nothing more is made. `count` is the number of values requested so far.
    """

    def __init__(self, values: int, tensors: int) -> None:
        super().__init__()
        self.values, self.tensors = values, tensors
        self.count = self.made = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count calls making tensors by a size; all else as it is."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _FILLED or name in _RANGES or name in _NEW:
            self._spend(_values(name, args, kwargs))
        return func(*args, **kwargs)

    def _spend(self, values: int) -> None:
        self.count += values
        self.made += 1
        if self.count > self.values or self.made > self.tensors:
            raise Exceeded


def _values(name: str, args: Any, kwargs: Mapping[str, Any]) -> int:
    """The number of values a call is to make; 0 if its arguments are not understood."""
    try:
        if name == "arange" or name == "range":
            numbers = [*args, *(kwargs[key] for key in ("start", "end", "step") if key in kwargs)]
            start, end, step = (0, numbers[0], 1) if len(numbers) == 1 else (*numbers[:2], *(numbers[2:3] or [1]))
            return max(0, math.ceil((end - start) / step))
        if name in ("linspace", "logspace"):
            return int(kwargs["steps"] if "steps" in kwargs else args[2])
        if name == "randperm":
            return int(args[0])
        if name == "eye":
            return int(args[0]) * int(args[1] if len(args) > 1 and isinstance(args[1], int) else args[0])
        rest = args[1:] if name in _NEW else args
        size = kwargs.get("size", rest)
        if name == "randint" and "size" not in kwargs:
            size = next(each for each in reversed(rest) if isinstance(each, list | tuple))
        flat = [n for each in size for n in (each if isinstance(each, list | tuple) else (each,))]
        if name in ("full", "new_full"):
            flat = list(rest[0]) if "size" not in kwargs else flat
        return math.prod(n for n in flat if isinstance(n, int))
    except (TypeError, ValueError, LookupError, StopIteration, ArithmeticError):
        return 0


@contextmanager
def held_to(tensors: Mapping[str, tuple[int, ...]], where: str) -> Iterator[None]:
    """Make a network to be filled from `tensors`, names and shapes of the file at `where`, and no larger one.

    :class:`CheckpointError` if the recipe of the file describes a larger one, or nothing buildable.
    """
    values = sum(math.prod(shape) for shape in tensors.values())
    budget = Budget(2 * values + _SPARE_VALUES, 8 * len(tensors) + _SPARE_TENSORS)
    try:
        with described_by(where), budget:
            yield
    except Exceeded:
        raise CheckpointError(
            f"{where}: these weights are of another architecture: the recipe describes a larger network than they "
            f"hold ({len(tensors):,} tensors of {values:,} values); use the recipe that they were trained with"
        ) from None
