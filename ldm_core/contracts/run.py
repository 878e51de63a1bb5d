"""One run of a sampler: the place in it, and what parts keep for it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class SamplingRun:
    """One run of a sampler over a batch: its times, the place in them, and what parts keep for it. Provisional.

    `times` (steps + 1,) float64 are the run's levels; step i goes from ``times[i]`` to ``times[i + 1]``. `step` is the
    index of the step that is computed, from 0: it grows by one after each ``on_step``, so the evaluations of a
    second-order sampler share it. `evaluation` is the number of calls of ``denoise`` in the run before this one. Both
    are the core's to set.

    A guidance finds its run as ``conditions.run``, a hook in the network as ``evaluation().run``; a second model shares
    the run of the first. Several runs may be under way at once, in one thread or in many, with the same parts: what a
    part keeps from call to call it keeps here, by :meth:`state`, and never on itself or on a module.

    As a context it ends at the end of the block, of whatever cause: :meth:`at_end`'s functions are called, the last one
    first, and the state is dropped.
    """

    def __init__(self, times: Tensor) -> None:
        self.times = times
        self.step = 0
        self.evaluation = 0
        self._state: dict[int, tuple[object, Any]] = {}
        self._ends = ExitStack()

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.times) - 1

    def state(self, owner: object, make: Callable[[], T]) -> T:
        """The value that `owner` (a guidance, an adapter) keeps for this run: one an object, ``make()`` at the first
        call and the same one from then on, until the run ends."""
        kept = self._state.get(id(owner))
        if kept is None:
            kept = self._state[id(owner)] = owner, make()  # the owner is held, so that its id stays its own
        value: T = kept[1]
        return value

    def at_end(self, call: Callable[[SamplingRun], object]) -> None:
        """Call ``call(run)`` when the run ends, by an error or a cancellation too."""
        self._ends.callback(call, self)

    def __enter__(self) -> SamplingRun:
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._ends.__exit__(*error)
        finally:
            self._state.clear()


_RUN: ContextVar[SamplingRun | None] = ContextVar("ldm_core_run", default=None)


def current_run() -> SamplingRun | None:
    """The run whose estimate is computed here; None outside of one."""
    return _RUN.get()


class in_run:
    """A context in which every model that is evaluated belongs to `run`."""

    __slots__ = ("_before", "_run")

    def __init__(self, run: SamplingRun) -> None:
        self._run = run

    def __enter__(self) -> None:
        self._before = _RUN.get()
        _RUN.set(self._run)

    def __exit__(self, *error: object) -> None:
        _RUN.set(self._before)
