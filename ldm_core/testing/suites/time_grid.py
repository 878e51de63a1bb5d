"""The conformance suite of time grids."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, NamedTuple

import pytest
import torch

from ldm_core.contracts import (
    NoiseSchedule,
    PartAnswers,
    ScheduleAnswers,
    TimeGrid,
    TimeGridConfig,
    configs,
    grid_times,
)
from ldm_core.testing import toys
from ldm_core.testing.base import Suite, same
from ldm_core.testing.rules import Rule, must_raise


class TimeGridSuite(Suite):
    """Subclass it, set `component`. `steps` are the numbers tried; one that the rule cannot give must be refused.

    A grid that asks for the latents' size is tried with sizes from small to large, and without one.
    """

    kind = "time_grid"
    protocol: ClassVar[type] = TimeGrid
    steps: ClassVar[tuple[int, ...]] = (1, 2, 3, 7, 10, 20, 50, 100, 333)
    _made: ClassVar[_Made]

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    @Rule(
        TimeGrid.times,
        "Strictly decreasing float64 times",
        "give steps + 1 float64 times, from t_max or below down to 0: `steps` counts intervals",
    )
    def test_times(self, name: str) -> None:
        """Strictly decreasing float64 times in [0, t_max], one more than steps; or a ValueError that names numbers."""
        schedule = toys.schedules()[name]
        given = 0
        for steps, size in self._asked():
            times = self._known(name, steps, size)
            if times is None:
                continue
            given += 1
            assert times.dtype == torch.float64, f"times are {times.dtype}, not float64"
            assert times.shape == (steps + 1,), f"{steps} steps have {tuple(times.shape)} times, not {steps + 1}"
            assert bool((times.diff() < 0).all()), (
                f"the times of {steps} steps on {name}{_for(size)} do not strictly decrease"
            )
            assert 0 < float(times[0]) <= schedule.t_max, f"times begin at {float(times[0])}, t_max is {schedule.t_max}"
            last = (0.0, 1.0) if name == "table" else (0.0,)
            assert float(times[-1]) in last, f"times end at {float(times[-1])}, allowed: {last}"
        assert given or name != "table", "no number of steps works on a table of 1000"

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    @Rule(
        TimeGrid.times,
        "falls from each time to the next",
        "round so that no level comes twice; where that cannot be, raise ValueError",
    )
    def test_levels_are_apart(self, name: str) -> None:
        """No two times are one level: sigma / alpha falls from each to the next by more than rounding."""
        schedule = toys.schedules()[name]
        for steps, size in self._asked():
            times = self._known(name, steps, size)
            if times is not None:
                angle = torch.atan2(schedule.sigma(times), schedule.alpha(times))
                fall = float((-angle.diff()).min())
                assert fall > 1e-9, f"two of the {steps + 1} times on {name} are one level (they differ by {fall:.1g})"

    @pytest.mark.parametrize("name", ["table", "cosine", "ve", "flow"])
    @Rule(
        TimeGrid.times,
        "says the same without torch",
        "let problem(table_steps, steps) give a line for what times refuses, and None for the rest",
    )
    def test_config_answers_as_the_grid_does(self, name: str) -> None:
        """The config's `problem(table, steps)`, if it has one, refuses the step counts that the grid refuses."""
        problem = configs.of(TimeGridConfig, self.config()).problem
        if problem.__qualname__ == TimeGridConfig.problem.__qualname__:  # its config has none of its own
            pytest.skip("this config says nothing of step counts")
        table = configs.of(ScheduleAnswers, toys.schedules()[name]).table_steps
        for steps, size in [(0, None), *self._asked(), (5000, None)]:
            said, times = problem(table, steps), self._known(name, steps, size)
            told = f"{steps} steps on {name}{_for(size)}: the config says {said!r}"
            assert (said is None) == (times is not None), told

    @Rule(TimeGrid.times, "the longest interval shrinks", "spread the times over all of [0, t_max]")
    def test_more_steps_are_finer(self) -> None:
        """The longest interval shrinks as steps grow."""
        longest = [float(-t.diff().min()) for n in (10, 50, 200) if (t := self._known("table", n)) is not None]
        shrinks = all(more < fewer for fewer, more in pairwise(longest))
        assert shrinks, f"the longest intervals of 10, 50, 200 steps are {longest}"

    @Rule(TimeGrid.times, "raises ValueError naming the nearest", "raise ValueError for 0 steps, naming 1")
    def test_no_steps_are_refused(self) -> None:
        """0 steps is a ValueError."""
        grid = self.build()
        must_raise(ValueError, lambda: grid.times(toys.schedules()["table"], 0), "a grid of 0 steps")

    @Rule(
        TimeGrid.times,
        "Equal calls give equal times",
        "make a new tensor at each call, or hand out a clone of a kept one",
    )
    def test_repeats_itself(self) -> None:
        """Equal calls give equal times, and a caller who edits them changes no one else's."""
        for steps, size in self._asked():
            kept = self._known("table", steps, size)
            if kept is not None:
                again = self._times("table", steps, size)
                assert same(again, kept), f"the second call with {steps} steps{_for(size)} gives other times"

    @Rule(
        TimeGrid.times,
        "Where the config answers `by_size`",
        "keep the config as self.config, by which callers know that the grid takes `shape`",
    )
    def test_keeps_the_config_that_asks_for_the_size(self) -> None:
        """A grid whose config answers `by_size` keeps that config."""
        if not configs.of(TimeGridConfig, self.config()).by_size:
            pytest.skip("its config does not ask for the size")
        kept = configs.of(PartAnswers, self.build()).config
        assert configs.of(TimeGridConfig, kept).by_size, "the grid does not keep its config: callers cannot know"

    def _asked(self) -> list[tuple[int, tuple[int, ...] | None]]:
        """The numbers of steps, each with every size of the latents that is tried; None is no size."""
        by_size = configs.of(TimeGridConfig, self.config()).by_size
        return [(steps, size) for steps in self.steps for size in ((None, *toys.SIZES) if by_size else (None,))]

    def _known(self, name: str, steps: int, size: tuple[int, ...] | None = None) -> torch.Tensor | None:
        """The times on the schedule `name`, made once for all tests of the class; the grid's own tensor is zeroed."""
        key = (name, steps, size)
        if key not in self._own().made:
            times = self._times(name, steps, size)
            self._own().made[key] = None if times is None else times.clone()
            if times is not None:
                times.zero_()
        return self._own().made[key]

    def _times(self, name: str, steps: int, size: tuple[int, ...] | None = None) -> torch.Tensor | None:
        own = self._own()
        try:
            shape = None if size is None else (self.latent.channels, *size)
            return grid_times(own.grid, own.schedules[name], steps, shape)
        except ValueError as error:
            assert str(error), "the refusal has no message"
            return None

    def _own(self) -> _Made:
        found: _Made | None = vars(type(self)).get("_made")
        if found is None:
            found = type(self)._made = _Made(self.build(), toys.schedules(), {})
        return found


class _Made(NamedTuple):
    """The grid of a class of tests, the schedules, and the times made."""

    grid: TimeGrid
    schedules: Mapping[str, NoiseSchedule]
    made: dict[tuple[object, ...], torch.Tensor | None]


def _for(size: tuple[int, ...] | None) -> str:
    return "" if size is None else f" for latents {size}"
