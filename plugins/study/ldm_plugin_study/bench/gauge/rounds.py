"""Calls timed in alternating rounds, so a busy moment falls on all and not on one."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch

from ldm_plugin_study.bench.gauge.cases import Case
from ldm_plugin_study.bench.result.choice import Choice

_WARM = 2  # calls that do not count: caches fill, kernels are made and chosen
_MOST = 10_000  # calls of a component in a round


@attrs.frozen(eq=False)
class Clock:
    """Seconds of a case's calls on `device`; ``processor`` time leaves out other programs, and waiting."""

    device: torch.device
    kind: str = "wall"

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.kind == "processor" else time.perf_counter()

    def seconds(self, case: Case, calls: int) -> float:
        """Time `calls` calls, without the preparation of each."""
        if case.before is None:
            begun = self._now()
            for _ in range(calls):
                case.call()
            return self._now() - begun
        taken = 0.0
        for _ in range(calls):
            case.before()
            begun = self._now()
            case.call()
            taken += self._now() - begun
        return taken


def alternate(
    cases: Sequence[Case], choice: Choice, device: torch.device, on_round: Callable[[int], None] = lambda number: None
) -> Mapping[Case, tuple[float, ...]]:
    """Time every case in each round of `choice`: seconds of one part, a number a round.

    Rounds go forwards and backwards in turn. The collector of garbage is off meanwhile.
    """
    clock = Clock(device, choice.clock)
    calls = {case: _calls(case, choice.least, clock) for case in cases}
    taken: dict[Case, list[float]] = {case: [] for case in cases}
    gc.collect()
    gc.disable()
    try:
        for number in range(choice.rounds):
            on_round(number)
            for case in cases if number % 2 == 0 else reversed(cases):
                taken[case].append(max(clock.seconds(case, calls[case]), 1e-9) / (calls[case] * case.parts))
    finally:
        gc.enable()
    return {case: tuple(values) for case, values in taken.items()}


def _calls(case: Case, least: float, clock: Clock) -> int:
    """Warm a case up, and say how many of its calls take `least` seconds."""
    clock.seconds(case, _WARM - 1)
    return min(_MOST, max(1, math.ceil(least / max(clock.seconds(case, 1), 1e-9))))
