"""The variance-preserving table: golden values, boundaries, interpolation, what the network is told."""

from __future__ import annotations

import attrs
import pytest
import torch

from ldm_core.builtin.diffusion.config import VP_PRESETS, VPConfig
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.config.structure import structure
from ldm_core.contracts import NoiseSchedule
from ldm_core.errors import ConfigError

# (beta_start, beta_end, table index, alpha²) of published models
GOLDEN = [
    (0.0015, 0.0195, 0, 0.9985, 1e-9),
    (0.0015, 0.0195, 500, 0.114922, 1e-6),
    (0.0015, 0.0195, 999, 1.42304e-4, 1e-9),
    (0.0015, 0.0155, 999, 6.6867e-4, 1e-8),
    (0.0015, 0.0205, 999, 9.6911e-5, 1e-9),
    (0.00085, 0.012, 0, 0.99915, 1e-9),
    (0.00085, 0.012, 500, 0.276333, 1e-6),
    (0.00085, 0.012, 999, 4.66010e-3, 1e-8),
    (0.0015, 0.015, 999, 8.1252e-4, 1e-8),
]
SIGMA_MAX = {"vp_ldm": 83.82, "vp_churches": 38.66, "vp_layout": 101.58, "vp_sd": 14.61, "vp_rdm": 35.07}


def levels(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("start", "end", "index", "expected", "tolerance"), GOLDEN)
def test_golden_alphas(start: float, end: float, index: int, expected: float, tolerance: float) -> None:
    schedule = VPSchedule(VPConfig(beta_start=start, beta_end=end))
    assert float(schedule.alpha(levels(index + 1)) ** 2) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("preset", SIGMA_MAX)
def test_golden_largest_noise_to_signal_ratio(preset: str) -> None:
    schedule = VPSchedule(VP_PRESETS[preset])
    t = levels(schedule.t_max)
    assert float(schedule.sigma(t) / schedule.alpha(t)) == pytest.approx(SIGMA_MAX[preset], abs=0.006)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (VPConfig(beta_start=0.00085, beta_end=0.012), "scaled_linear"),
        (VPConfig(kind="sqrt_linear", beta_start=0.0001, beta_end=0.02), "linear"),
        (VPConfig(kind="cosine"), "squaredcos_cap_v2"),
    ],
)
def test_tables_are_those_of_diffusers(config: VPConfig, name: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        beta_start=config.beta_start, beta_end=config.beta_end, beta_schedule=name
    ).alphas_cumprod
    ours = VPSchedule(config).alphas_cumprod
    # Theirs is a float32 running product; the cosine table's last entries come from differences near 1.
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-4, atol=1e-6)


def test_sqrt_betas_are_the_roots_of_the_linear_ones() -> None:
    linear = VPConfig(kind="sqrt_linear", steps=50).betas()
    assert [b * b for b in VPConfig(kind="sqrt", steps=50).betas()] == pytest.approx(linear)


@pytest.mark.parametrize("config", [*VP_PRESETS.values(), VPConfig(kind="sqrt"), VPConfig(steps=1)])
def test_boundaries_and_monotony(config: VPConfig) -> None:
    schedule = VPSchedule(config)
    assert isinstance(schedule, NoiseSchedule)
    ends = levels(0)
    assert float(schedule.alpha(ends)) == 1.0
    assert float(schedule.sigma(ends)) == 0.0
    assert config.table_steps == config.steps == schedule.table_steps
    assert config.zero_terminal_alpha is False
    t = torch.linspace(0, schedule.t_max, 4 * config.steps + 1, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert alpha.dtype == sigma.dtype == torch.float64
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-12)
    assert bool((sigma / alpha).diff().gt(0).all())
    assert bool(torch.isfinite(alpha / sigma)[1:].all())


def test_between_entries_the_log_ratio_is_linear() -> None:
    schedule = VPSchedule(VPConfig())

    def log_ratio(t: float) -> float:
        at = levels(t)
        return float((schedule.sigma(at) / schedule.alpha(at)).log())

    assert log_ratio(400.25) == pytest.approx(0.75 * log_ratio(400) + 0.25 * log_ratio(401), abs=1e-12)
    # Below the first entry the ratio itself is linear, from 0.
    first = levels(1.0)
    quarter = levels(0.25)
    ratio = schedule.sigma(first) / schedule.alpha(first)
    torch.testing.assert_close(schedule.sigma(quarter) / schedule.alpha(quarter), 0.25 * ratio)


def test_whole_levels_are_the_table_to_the_bit() -> None:
    schedule = VPSchedule(VPConfig())
    t = torch.arange(1, 1001)
    assert torch.equal(schedule.alpha(t), schedule.alphas_cumprod.sqrt())
    assert torch.equal(schedule.sigma(t.double()), (1 - schedule.alphas_cumprod).sqrt())
    assert torch.equal(schedule.alpha(t.float()), schedule.alphas_cumprod.sqrt())


def test_noise_level_is_the_exact_index() -> None:
    schedule = VPSchedule(VPConfig())
    assert torch.equal(schedule.noise_level(torch.arange(1, 1001).double()), torch.arange(1000).float())
    assert schedule.noise_level(levels(0.0, 0.5, 1.0, 1.5)).tolist() == [0.0, 0.0, 0.0, 0.5]


def test_draw_gives_every_level_alike() -> None:
    schedule = VPSchedule(VPConfig(steps=8))
    u = torch.arange(8000, dtype=torch.float64) / 8000
    t, counts = schedule.draw(u).unique(return_counts=True)
    assert t.tolist() == list(range(1, 9))
    assert counts.tolist() == [1000] * 8
    largest = torch.tensor([1 - 2**-24], dtype=torch.float32)
    assert schedule.draw(largest).item() == 8
    assert VPSchedule(VPConfig()).draw(largest).item() == 1000


@pytest.mark.parametrize("preset", ["vp_ldm", "vp_sd", "vp_cosine"])
def test_zero_terminal_is_the_closed_formula_and_diffusers(preset: str) -> None:
    plain, config = VP_PRESETS[preset], attrs.evolve(VP_PRESETS[preset], zero_terminal=True)
    roots = torch.tensor(plain.alphas_cumprod(), dtype=torch.float64).sqrt()
    stretched = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    schedule = VPSchedule(config)
    torch.testing.assert_close(schedule.alphas_cumprod.sqrt(), stretched, rtol=1e-13, atol=1e-15)
    assert config.zero_terminal_alpha and not plain.zero_terminal_alpha
    end = levels(1000)
    assert (float(schedule.alpha(end)), float(schedule.sigma(end))) == (0.0, 1.0)
    torch.testing.assert_close(schedule.alpha(levels(1)), VPSchedule(plain).alpha(levels(1)), rtol=1e-12, atol=0)
    betas = torch.tensor(config.betas(), dtype=torch.float64)
    torch.testing.assert_close((1 - betas).cumprod(0), schedule.alphas_cumprod, rtol=1e-9, atol=1e-15)
    ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    theirs = ddim.rescale_zero_terminal_snr(torch.tensor(plain.betas(), dtype=torch.float64))
    torch.testing.assert_close(betas, theirs, rtol=1e-9, atol=1e-12)


def test_above_the_last_signal_the_ratio_is_linear_to_nothing() -> None:
    schedule = VPSchedule(VPConfig(zero_terminal=True))
    last, between = levels(999), levels(999.75)
    ratio = schedule.alpha(last) / schedule.sigma(last)
    torch.testing.assert_close(schedule.alpha(between) / schedule.sigma(between), 0.25 * ratio)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"beta_start": 2.0}, "beta_start: expected a number between 0 and 1"),
        ({"beta_start": 0.02}, "exceeds beta_end"),
        ({"beta_end": 0.999}, "nothing of the signal"),
        ({"steps": 0}, "steps: expected 1 or more"),
        ({"kind": "lineal"}, "did you mean 'linear'"),
        ({"zero_terminal": True, "steps": 1}, "zero_terminal needs a table of 2"),
    ],
)
def test_impossible_tables_are_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        structure(settings, VPConfig, "schedule")
