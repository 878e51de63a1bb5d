"""The time grids against golden numbers and closed forms, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ldm_plugin_samplers.config import KarrasConfig, LogSNRConfig, QuadConfig, ShiftedConfig
from ldm_plugin_samplers.time_grids import QuadGrid, RatioGrid, ShiftedGrid
from torch import Tensor

from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.config.structure import structure
from ldm_core.contracts import grid_times
from ldm_core.errors import ConfigError
from ldm_core.model.steps import log_ratio, time_at
from ldm_core.testing.gaussian import FlowSchedule, VESchedule

SD = VPSchedule(VPConfig(beta_start=0.00085, beta_end=0.012))
ZERO = VPSchedule(VPConfig(zero_terminal=True))
QUAD_10 = [1, 10, 40, 89, 159, 247, 356, 484, 633, 801]


def ratio(schedule: Any, t: Tensor) -> Tensor:
    return schedule.sigma(t) / schedule.alpha(t)


def test_quad_is_the_published_rule() -> None:
    """Golden table indices of ten steps, index 0 for the output; a level is its index + 1."""
    times = QuadGrid(QuadConfig()).times(SD, 10)
    assert times.tolist() == [*(i + 1 for i in reversed(QUAD_10)), 1]


def test_quad_by_numpy() -> None:
    import numpy as np

    for steps in range(2, 30):
        rule = (np.linspace(0, np.sqrt(800), steps) ** 2).astype(int) + 1
        if len(set(rule)) == steps:
            assert QuadConfig().indices(1000, steps)[::-1] == rule.tolist(), steps


def test_quad_takes_the_next_free_entry_where_its_rule_stands_still() -> None:
    for steps in (1, 30, 50, 100, 333, 800):
        indices = QuadConfig().indices(1000, steps)[::-1]
        assert len(indices) == steps and indices == sorted(set(indices))
        assert indices[-1] == 801
        assert indices[0] == (1 if steps > 1 else 801)
    assert QuadConfig().indices(1000, 50)[::-1][:6] == [1, 2, 3, 4, 6, 9]


def test_quad_refuses_what_it_cannot() -> None:
    assert "at least 1" in str(QuadConfig().problem(1000, 0))
    assert "the most it can is 999" in str(QuadConfig().problem(1000, 1000))
    assert QuadConfig().problem(1000, 999) is None
    assert "needs a table" in str(QuadConfig().problem(None, 10))
    assert "no step count" in str(QuadConfig().problem(1, 3))
    for table in (7, 10, 50, 127):
        fits = [n for n in range(1, table + 1) if QuadConfig().indices(table, n)[0] < table]
        assert fits == [n for n in range(1, table + 1) if QuadConfig().problem(table, n) is None]
    with pytest.raises(ValueError, match="karras or log_snr"):
        QuadGrid(QuadConfig()).times(FlowSchedule(), 10)


def test_karras_by_its_formula() -> None:
    """Equation 5 of the paper with its own numbers, on sigma itself: on a variance-exploding schedule t is sigma."""
    times = RatioGrid(KarrasConfig(sigma_min=0.002, sigma_max=20.0)).times(VESchedule(), 18)
    a, b = 20.0 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(a + i / 17 * (b - a)) ** 7 for i in range(18)]
    torch.testing.assert_close(times, torch.tensor([*expected, 0.0], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_on_a_table_goes_from_end_to_end(rho: float) -> None:
    times = RatioGrid(KarrasConfig(rho=rho)).times(SD, 20)
    assert float(times[0]) == 1000 and float(times[-1]) == 0
    assert float(times[-2]) == pytest.approx(1, abs=1e-9), "the table's first entry, above data"
    roots = ratio(SD, times[:-1]) ** (1 / rho)
    torch.testing.assert_close(roots.diff(), (roots[-1] - roots[0]).expand(19) / 19, rtol=1e-9, atol=0)


def test_log_snr_is_even() -> None:
    times = RatioGrid(LogSNRConfig()).times(SD, 25)
    logs = ratio(SD, times[:-1]).log()
    torch.testing.assert_close(logs.diff(), (logs[-1] - logs[0]).expand(24) / 24, rtol=1e-9, atol=0)
    assert float(logs[0]) == pytest.approx(math.log(14.6146), abs=1e-4), "sigma at the end of Stable Diffusion's table"


@pytest.mark.parametrize("config", [KarrasConfig(), LogSNRConfig()])
@pytest.mark.parametrize("schedule", [FlowSchedule(), ZERO])
def test_without_signal_they_begin_at_the_end_and_go_on_from_80(config: Any, schedule: Any) -> None:
    times = RatioGrid(config).times(schedule, 12)
    assert float(times[0]) == schedule.t_max
    given = RatioGrid(type(config)(sigma_max=80.0)).times(schedule, 12)
    assert float(ratio(schedule, given[:1])) == pytest.approx(80, rel=1e-9)
    torch.testing.assert_close(times[1:], given[1:], rtol=0, atol=1e-12)


def test_ends_that_the_schedule_does_not_reach_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ends at 14\.6"):
        RatioGrid(KarrasConfig(sigma_max=80.0)).times(SD, 10)
    with pytest.raises(ValueError, match="sigma_min 90 "):
        RatioGrid(KarrasConfig(sigma_min=90.0)).times(SD, 10)
    with pytest.raises(ConfigError, match="is not below"):
        structure({"sigma_min": 3.0, "sigma_max": 2.0}, KarrasConfig, "time_grid")
    with pytest.raises(ConfigError, match="rho"):
        structure({"rho": 0.0}, KarrasConfig, "time_grid")
    with pytest.raises(ConfigError, match="shift"):
        structure({"shift": -1.0}, ShiftedConfig, "time_grid")


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 6.5])
def test_shifted_on_rectified_flow(shift: float) -> None:
    """Equation 23 of the paper: shift t / (1 + (shift - 1) t) of even t."""
    times = ShiftedGrid(ShiftedConfig(shift=shift)).times(FlowSchedule(), 10)
    expected = [shift * t / (1 + (shift - 1) * t) for t in (1 - i / 10 for i in range(11))]
    torch.testing.assert_close(times, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 5.0])
def test_shifted_on_a_table(shift: float) -> None:
    """sigma / alpha is `shift` times that of even times."""
    times = ShiftedGrid(ShiftedConfig(shift=shift)).times(SD, 8)
    assert float(times[0]) == 1000 and float(times[-1]) == 0
    even = time_at(SD, log_ratio(SD, times[1:-1]) - math.log(shift))
    steps = even.diff()
    torch.testing.assert_close(steps, steps[:1].expand(6), rtol=1e-9, atol=1e-9)
    if shift == 1.0:
        assert times.tolist() == pytest.approx([1000 * (1 - i / 8) for i in range(9)])
    longest = [float(-t.diff()[-1]) for t in (times, ShiftedGrid(ShiftedConfig(shift=1.0)).times(SD, 8))]
    assert (longest[0] > longest[1]) == (shift > 1)


def test_the_shift_of_a_size() -> None:
    """Equation 23's root of the cells; FLUX's line, here through its own numbers in cells of 2 x 2 a token."""
    root = ShiftedConfig(shift=1.0, base_cells=1024)
    assert [root.shift_at((4, n, n)) for n in (32, 64, 128)] == pytest.approx([1.0, 2.0, 4.0])
    line = ShiftedConfig(shift=math.exp(0.5), base_cells=1024, top_cells=16384, top_shift=math.exp(1.15))
    for tokens in (256, 1024, 4096):
        mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
        assert line.shift_at((16, 2 * tokens // 16, 32)) == pytest.approx(math.exp(mu))
    times = grid_times(ShiftedGrid(root), FlowSchedule(), 4, (4, 64, 64))
    assert times.tolist() == pytest.approx([2 * t / (1 + t) for t in (1.0, 0.75, 0.5, 0.25, 0.0)])
    plain = ShiftedGrid(ShiftedConfig(shift=3.0))
    assert torch.equal(grid_times(plain, SD, 8, (4, 64, 64)), plain.times(SD, 8)), "off, no size matters"
    for wrong in ({"top_cells": 4096}, {"base_cells": 64, "top_cells": 32, "top_shift": 2.0}):
        with pytest.raises(ConfigError, match="a second point needs all three"):
            structure(wrong, ShiftedConfig, "time_grid")


@pytest.mark.parametrize("schedule", [SD, ZERO, FlowSchedule(), VESchedule()])
def test_times_are_found_by_their_noise(schedule: Any) -> None:
    t = schedule.t_max * torch.tensor([1e-6, 0.001, 0.0123, 0.3, 0.77, 0.9999], dtype=torch.float64)
    torch.testing.assert_close(time_at(schedule, log_ratio(schedule, t)), t, rtol=1e-10, atol=0)
    beyond = time_at(schedule, torch.tensor([-math.inf, math.inf], dtype=torch.float64))
    assert float(beyond[0]) < 1e-100 and float(beyond[1]) == schedule.t_max


@pytest.mark.parametrize("config", [KarrasConfig(), LogSNRConfig()])
def test_a_table_with_next_to_no_signal_at_its_end_counts_as_unbounded(config: Any) -> None:
    """The cosine table ends at sigma / alpha of 20,000: most of few levels would lie where there is nothing to see."""
    cosine = VPSchedule(VPConfig(kind="cosine"))
    times = RatioGrid(config).times(cosine, 10)
    same = RatioGrid(type(config)(sigma_max=80.0)).times(cosine, 10)
    assert float(ratio(cosine, times[:1])) > 1000 and float(times[0]) == cosine.t_max
    torch.testing.assert_close(times[1:], same[1:])
    assert float(ratio(cosine, same[:1])) == pytest.approx(80.0, rel=1e-6)
