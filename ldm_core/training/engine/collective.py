"""Agreement between the processes of a run: the first one's findings and failures, and flags between steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ldm_core.errors import Interrupted, LDMError
from ldm_core.training.engine.world import World

T = TypeVar("T")

_LAG = 2
"""Delay of an accelerator's answer in steps: by then it has done the step, and nobody waits for it."""


def from_main(world: World, make: Callable[[], T]) -> T:
    """Give the first process's result of `make` in all; an :class:`LDMError` or a lack of memory is raised in all of
    them."""
    value, error = _tried(make) if world.main else (None, None)
    if world.size > 1:
        box: list[Any] = [value, error]
        torch.distributed.broadcast_object_list(box, src=0)
        value, error = box
    if error is not None:
        raise error
    result: Any = value
    return result  # type: ignore[no-any-return]


def in_all(world: World, make: Callable[[], T]) -> list[T]:
    """Give every process's result of `make`, by rank, in all; if it is an :class:`LDMError` or a lack of memory on one,
    all of them raise that, :class:`Interrupted` before any other."""
    value, error = _tried(make)
    found: Any = world.gather((error, value))
    if errors := [each for each, _ in found if each is not None]:
        raise next((each for each in errors if isinstance(each, Interrupted)), errors[0])
    return [each for _, each in found]


def _tried(make: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """The result of `make`, or the error by which all processes are to fail."""
    try:
        return make(), None
    except LDMError as error:
        return None, error
    except torch.OutOfMemoryError as error:
        return None, torch.OutOfMemoryError(str(error))  # without what does not travel


class Flags:
    """The largest of all processes' flags, once a step; the same answer on each.

    On a CPU the answer is of this step. On accelerators it is of two steps before, so no process waits for its
    device; the flags of the last steps of a run are then never answered.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: deque[tuple[torch.Tensor, Any]] = deque()

    def largest(self, flag: int) -> int:
        """Hand in this process's flag, 0 or more; every process must call it at every step."""
        if self._world.size == 1:
            return flag
        value = torch.full((1,), flag, dtype=torch.int32, device=self._world.device)
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        if not value.is_cuda:
            return int(value)
        host = torch.empty(1, dtype=torch.int32, pin_memory=True)
        host.copy_(value, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self._pending.append((host, done))
        if len(self._pending) <= _LAG:
            return 0
        host, done = self._pending.popleft()
        done.synchronize()
        return int(host)
