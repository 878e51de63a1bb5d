"""Where samplers evaluate the schedule: the published spacings, every step count, and what legacy refuses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from ldm_core.builtin.diffusion.config import LeadingConfig, LegacyConfig, LinspaceConfig, TrailingConfig, VPConfig
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.builtin.diffusion.time_grids import EvenGrid, LegacyGrid
from ldm_core.contracts import TimeGrid
from ldm_core.testing.gaussian import FlowSchedule

VP = VPSchedule(VPConfig())
EXACT_LEGACY = [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500]
EVEN: list[Any] = [LeadingConfig(), LeadingConfig(offset=0), TrailingConfig(), LinspaceConfig()]
EVEN_IDS = ["leading", "leading0", "trailing", "linspace"]


@pytest.mark.parametrize("config", EVEN, ids=EVEN_IDS)
def test_every_step_count_is_valid(config: Any) -> None:
    grid = EvenGrid(config)
    assert isinstance(grid, TimeGrid)
    for steps in range(1, 1001):
        assert config.problem(1000, steps) is None
        times = grid.times(VP, steps)
        assert times.dtype == torch.float64
        assert len(times) == steps + 1
        assert bool((times.diff() < 0).all()), steps
        assert float(times[-1]) == 0.0
        assert float(times[0]) <= 1000


@pytest.mark.parametrize("config", EVEN, ids=EVEN_IDS)
@pytest.mark.parametrize(
    "counts",
    [{*range(1, 101), *range(101, 1001, 9), 999, 1000}, pytest.param(range(1, 1001), marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_the_spacings_are_those_of_diffusers(counts: Iterable[int], config: Any) -> None:
    diffusers = pytest.importorskip("diffusers")
    spacing = type(config).__name__.removesuffix("Config").lower()
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=getattr(config, "offset", 0))
    grid, extra = EvenGrid(config), 0
    for steps in sorted(counts):
        if spacing == "linspace" and steps == 1:
            continue  # theirs visits index 0 alone, which cannot make anything of pure noise; ours T - 1
        if getattr(config, "offset", 0) == 1 and steps == 1000:
            continue  # theirs runs past the table
        scheduler.set_timesteps(steps)
        theirs = scheduler.timesteps.tolist()
        if len(theirs) == steps + 1:  # a rounding of theirs: an index -1 at the end, which is no entry
            assert spacing == "trailing"
            assert theirs.pop() == -1
            extra += 1
        assert [int(t) - 1 for t in grid.times(VP, steps)[:-1]] == theirs, steps
    assert extra < 100


def test_a_single_linspace_step_begins_at_pure_noise() -> None:
    assert EvenGrid(LinspaceConfig()).times(VP, 1).tolist() == [1000, 0]


def test_the_full_table_with_an_offset_stays_inside() -> None:
    assert EvenGrid(LeadingConfig(offset=1)).times(VP, 1000).tolist() == list(range(1000, -1, -1))


def test_leading_can_end_at_the_first_entry() -> None:
    config = LeadingConfig(final="first")
    assert EvenGrid(config).times(VP, 50)[-2:].tolist() == [2, 1]
    assert "offset=1" in str(config.problem(1000, 1000))
    with pytest.raises(ValueError, match="final=data"):
        EvenGrid(LeadingConfig(offset=0, final="first")).times(VP, 50)
    with pytest.raises(ValueError, match="final=data"):
        EvenGrid(config).times(FlowSchedule(), 50)


def test_legacy_is_the_published_rule() -> None:
    grid = LegacyGrid(LegacyConfig())
    # table indices 1, 21, ..., 981, and index 0 for the output; level = index + 1
    assert grid.times(VP, 50).tolist() == [*(i + 1 for i in range(981, 0, -20)), 1]
    assert grid.times(VP, 200)[:2].tolist() == [997, 992]


def test_legacy_gives_the_exact_counts_only() -> None:
    config, grid = LegacyConfig(), LegacyGrid(LegacyConfig())
    assert config.possible(1000) == EXACT_LEGACY
    for steps in range(1, 1001):
        if steps in EXACT_LEGACY:
            assert config.problem(1000, steps) is None
            times = grid.times(VP, steps)
            assert len(times) == steps + 1
            assert bool((times.diff() < 0).all())
            assert float(times[-1]) == 1.0
        else:
            near = min(EXACT_LEGACY, key=lambda n: (abs(n - steps), -n))
            with pytest.raises(ValueError, match=rf"nearest it can is {near},"):
                grid.times(VP, steps)


@pytest.mark.parametrize("config", EVEN, ids=EVEN_IDS)
def test_step_counts_out_of_range_are_refused(config: Any) -> None:
    for steps, word in ((0, "at least 1"), (-3, "at least 1"), (1001, "1000 or fewer")):
        assert word in str(config.problem(1000, steps))
        with pytest.raises(ValueError, match=word):
            EvenGrid(config).times(VP, steps)


@pytest.mark.parametrize("config", EVEN, ids=EVEN_IDS)
def test_a_continuous_schedule_is_cut_evenly(config: Any) -> None:
    assert config.problem(None, 5000) is None
    times = EvenGrid(config).times(FlowSchedule(), 4)
    assert times.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert config.needs_table is False


def test_legacy_needs_a_table() -> None:
    assert LegacyConfig().needs_table
    assert "needs a table" in str(LegacyConfig().problem(None, 50))
    with pytest.raises(ValueError, match="needs a table"):
        LegacyGrid(LegacyConfig()).times(FlowSchedule(), 50)


def test_short_tables() -> None:
    for length in (1, 2, 7, 64):
        schedule = VPSchedule(VPConfig(steps=length, beta_end=0.5))
        for config in EVEN:
            for steps in range(1, length + 1):
                times = EvenGrid(config).times(schedule, steps)
                assert bool((times.diff() < 0).all())
                assert float(times[0]) <= length
