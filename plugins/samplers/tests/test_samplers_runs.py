"""What the samplers promise beyond the kit: orders on published paths, corrections, settings and noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ldm_plugin_samplers.config import DPMSolverPP2MSDEConfig, EulerAncestralConfig, UniPCConfig
from ldm_plugin_samplers.unipc import UniPCSampler, moments
from torch import Tensor

from ldm_core.builtin.diffusion.config import TrailingConfig, VPConfig
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.builtin.diffusion.time_grids import EvenGrid
from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts import Estimate, Sampler
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.testing import gaussian, toys

CATALOG = Catalog.discover()


def make(name: str, **settings: Any) -> Sampler:
    component = CATALOG.get("sampler", name)[0].component
    return component.load()(structure(settings, component.config), None)


def measured(sampler: Sampler, schedule: str, steps: int, *, even_in_t: bool) -> float:
    """log2 of the error's fall from `steps` to twice as many."""
    around, problem = toys.schedules()[schedule], gaussian.Gaussian()
    if even_in_t:
        return gaussian.order_of_convergence(sampler, around, problem, steps=steps)
    errors = [
        gaussian.flow_error(sampler, around, gaussian.log_snr_times(around, n), problem) for n in (steps, 2 * steps)
    ]
    return float(torch.tensor(errors[0] / errors[1]).log2())


ORDERS = [
    ("euler", {}, 1),
    ("heun", {}, 2),
    ("plms", {}, 2),
    ("dpm_solver_pp_2m", {}, 2),
    ("unipc", {"order": 1}, 2),
    ("unipc", {"order": 2}, 3),
    ("unipc", {"order": 2, "variant": "bh1"}, 3),
    ("unipc", {"order": 3, "lower_order_final": False}, 4),
    ("unipc", {"order": 3, "lower_order_final": False, "corrector": False}, 3),
    ("unipc", {"order": 2, "corrector": False}, 2),
]
"""With its corrector UniPC gains an order, as the paper's corollary 3.9 says."""


@pytest.mark.parametrize(("name", "settings", "order"), ORDERS)
@pytest.mark.parametrize("schedule", ["table", "flow"])
def test_orders_where_lambda_is_even(name: str, settings: dict[str, Any], order: int, schedule: str) -> None:
    assert measured(make(name, **settings), schedule, 96, even_in_t=False) >= order - 0.3


@pytest.mark.parametrize(
    ("name", "settings", "order"),
    [
        ("euler", {}, 1),
        ("heun", {}, 2),
        ("plms", {}, 2),
        ("dpm_solver_pp_2m", {}, 2),
        ("unipc", {"order": 2}, 2),
        ("unipc", {"order": 3}, 2),
    ],
)
def test_orders_on_flow_from_pure_noise(name: str, settings: dict[str, Any], order: int) -> None:
    """Times graded towards data from t = 1, where lambda has no bound and is not refined: order 2 is what is left."""
    assert measured(make(name, **settings), "flow", 512, even_in_t=True) >= order - 0.3


@pytest.mark.parametrize("name", ["euler_ancestral", "dpm_solver_pp_2m_sde"])
@pytest.mark.parametrize("schedule", ["table", "ve", "flow"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_moments_with_noise(name: str, schedule: str, eta: float) -> None:
    around, problem = toys.schedules()[schedule], gaussian.Gaussian()
    found = gaussian.moments(make(name, eta=eta), around, gaussian.graded_times(around.t_max, 0.0, 400), problem)
    assert found == pytest.approx((problem.mean, problem.std), abs=0.01)


@pytest.mark.parametrize(("name", "settings"), [("euler_ancestral", {}), ("dpm_solver_pp_2m_sde", {})])
def test_noise_has_a_factor_and_needs_streams(name: str, settings: dict[str, Any]) -> None:
    around, problem = toys.schedules()["table"], gaussian.Gaussian()
    start, times = torch.ones(1, 8, dtype=torch.float64), torch.tensor([900.0, 400.0], dtype=torch.float64)

    def run(noise: float) -> Tensor:
        sampler = make(name, noise=noise)
        return sampler.sample(problem.denoise(around), start, times, around, streams=Streams([1]))

    torch.testing.assert_close(run(0.5) - run(0.0), 0.5 * (run(1.0) - run(0.0)))
    assert float((run(1.0) - run(0.0)).abs().max()) > 0.1
    with pytest.raises(ValueError, match="draws noise: give it `streams`"):
        make(name).sample(problem.denoise(around), start, times, around)


def test_unipc_leaves_an_x_that_was_replaced_as_it_is() -> None:
    """What an observer puts in x's place is where the next step begins, not what the corrector makes of the old x."""
    around, problem = toys.schedules()["flow"], gaussian.Gaussian()
    times, put = toys.even_times(around, 5), torch.full((1, 4), 0.7, dtype=torch.float64)
    asked: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        asked.append(x)
        return problem.denoise(around)(x, t)

    def run(at: int) -> Tensor:
        replace = lambda i, t, x, x0: put if i == at else None  # noqa: E731
        sampler = UniPCSampler(UniPCConfig(order=1))
        return sampler.sample(denoise, 2 * put, times, around, on_step=replace)

    run(2)
    assert torch.equal(asked[3], put)
    # an order-1 step has no memory: from the replaced x it is Euler's
    x0 = problem.denoise(around)(put, times[3:4]).x0
    expected = float(times[4] / times[3]) * put + float(1 - times[4] / times[3]) * x0
    torch.testing.assert_close(asked[4], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("h", [1e-4, 0.3, 0.999, 1.001, 5.0, 80.0])
def test_unipcs_integrals(h: float) -> None:
    """h times the integral of e^(-h (1 - s)) s^k, against Gauss-Legendre quadrature."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(120)
    s = (nodes + 1) / 2
    expected = [float((weights / 2 * h * np.exp(-h * (1 - s)) * s**k).sum()) for k in (1, 2, 3)]
    assert moments(h, 3) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("euler_ancestral", {"eta": 1.5}),
        ("euler_ancestral", {"noise": -1.0}),
        ("dpm_solver_pp_2m_sde", {"eta": -0.1}),
        ("unipc", {"order": 4}),
        ("unipc", {"order": 0}),
        ("unipc", {"variant": "bh3"}),
        ("heun", {"churn": 1.0}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        make(name, **settings)


def test_defaults_are_the_published_ones() -> None:
    assert (EulerAncestralConfig().eta, DPMSolverPP2MSDEConfig().eta) == (1.0, 1.0)
    assert (UniPCConfig().order, UniPCConfig().variant) == (2, "bh2")


@pytest.mark.parametrize("steps", [6, 10, 25])
@pytest.mark.parametrize("name", ["heun", "plms"])
def test_a_first_level_with_next_to_no_signal_does_no_harm(name: str, steps: int) -> None:
    """The cosine table begins at sigma / alpha of 20,000, and its second level of ten is at 6: in that variable the
    step would multiply each error of x0 by thousands."""
    schedule = VPSchedule(VPConfig(kind="cosine"))
    times = EvenGrid(TrailingConfig()).times(schedule, steps)
    problem = gaussian.Gaussian()
    found, euler = (gaussian.flow_error(make(n), schedule, times, problem) for n in (name, "euler"))
    assert found < euler
