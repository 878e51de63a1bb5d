"""Every sampler against diffusers' scheduler of the same method, step by step over whole runs.

Both get the same start, the same noise and the same model, a fixed nonlinear function of x and t that predicts eps.
Schedulers that work in sigma / alpha hold x / alpha; what they hold is multiplied by alpha. Where two spacings go by
one name and differ (DPM-Solver and UniPC divide by steps + 1 under ``leading`` and ``linspace``), our sampler is given
the scheduler's own levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts import Estimate, Sampler, TimeGrid
from ldm_core.contracts.streams import Streams
from ldm_core.testing import toys
from ldm_core.testing.gaussian import Gaussian

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

SD = VPSchedule(VPConfig(beta_start=0.00085, beta_end=0.012))
TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CATALOG = Catalog.discover()
EMPTY: Mapping[str, Any] = MappingProxyType({})


def make(kind: str, name: str, settings: Mapping[str, Any] = EMPTY) -> Any:
    component = CATALOG.get(kind, name)[0].component
    return component.load()(structure(dict(settings), component.config), None)


@cache
def level(t: float) -> tuple[float, float]:
    at = torch.tensor(t, dtype=torch.float64)
    return float(SD.alpha(at)), float(SD.sigma(at))


def network(x: Tensor, t: float) -> Tensor:
    """The predicted noise at level t; the x0 that it implies is bounded and far from linear."""
    alpha, sigma = level(t)
    x0 = torch.tanh(1.3 * x + 0.4 * math.sin(0.01 * t)) - 0.2 * torch.sin(x.roll(1, -1))
    return (x - alpha * x0) / sigma


def denoise(x: Tensor, t: Tensor) -> Estimate:
    alpha, sigma = level(float(t[0]))
    return Estimate((x - sigma * network(x, float(t[0]))) / alpha)


@attrs.frozen
class Pair:
    """One of our samplers, the scheduler of the same method, and how the two are brought together."""

    ours: str
    scheduler: str
    settings: Mapping[str, Any] = EMPTY  # of the scheduler
    own: Mapping[str, Any] = EMPTY  # of our sampler
    scaled: bool = False  # the scheduler holds x / alpha
    exact: bool = False  # it takes a table of alpha² in double precision
    evaluations: str = "one"  # a step; "heun": two but the last, "plms": two in the first

    def __str__(self) -> str:
        extra = [f"{k}={v}" for k, v in (self.own or self.settings).items()]
        return "-".join([self.ours, *extra])


DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
MULTISTEP = (DPM, UNIPC)
SIGMA_MIN = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
PAIRS = {
    "ddim": Pair("ddim", "DDIMScheduler", {"clip_sample": False}, exact=True),
    "ddpm": Pair("ddpm", "DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_small"}, exact=True),
    "plms": Pair(
        "plms", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}, exact=True, evaluations="plms"
    ),
    "euler": Pair("euler", "EulerDiscreteScheduler", scaled=True),
    "euler_ancestral": Pair("euler_ancestral", "EulerAncestralDiscreteScheduler", scaled=True),
    "heun": Pair("heun", "HeunDiscreteScheduler", scaled=True, evaluations="heun"),
    "2m": Pair("dpm_solver_pp_2m", DPM, {"algorithm_type": "dpmsolver++"}),
    "2m sigma_min": Pair("dpm_solver_pp_2m", DPM, {"algorithm_type": "dpmsolver++", **SIGMA_MIN}),
    "2m sde": Pair("dpm_solver_pp_2m_sde", DPM, {"algorithm_type": "sde-dpmsolver++"}),
    "2m sde sigma_min": Pair("dpm_solver_pp_2m_sde", DPM, {"algorithm_type": "sde-dpmsolver++", **SIGMA_MIN}),
    **{
        f"unipc {order} {variant}": Pair(
            "unipc",
            UNIPC,
            {"solver_order": order, "solver_type": variant},
            {"order": order, "variant": variant},
        )
        for order in (1, 2, 3)
        for variant in ("bh1", "bh2")
    },
    "unipc sigma_min": Pair("unipc", UNIPC, {"solver_order": 3, **SIGMA_MIN}, {"order": 3, "lower_order_final": False}),
}
"""All settings that are compared; those of a scheduler that are not named are diffusers' defaults."""

SPACINGS = {
    # DDIM's and PNDM's own step, T // steps, does not follow their linspace
    "ddim": ("leading", "trailing"),
    "plms": ("leading", "trailing", "first"),
    "ddpm": ("leading", "trailing", "linspace"),
    "euler_ancestral": ("leading", "trailing", "linspace"),
    **dict.fromkeys(("2m sigma_min", "2m sde sigma_min", "unipc sigma_min"), ("leading", "trailing", "linspace")),
}
OTHERS = ("leading", "trailing", "linspace", "karras")


def scheduler_of(pair: Pair, spacing: str, steps: int) -> Any:
    """The scheduler under this spacing, its table in double precision where it takes one."""
    settings: dict[str, Any] = {**TABLE, **pair.settings, "timestep_spacing": spacing, "steps_offset": 1}
    if spacing == "karras":
        settings |= {"timestep_spacing": "linspace", "use_karras_sigmas": True}  # Euler's ends are the spacing's
    if spacing == "first":
        settings |= {"timestep_spacing": "leading", "set_alpha_to_one": False}
    scheduler = getattr(diffusers, pair.scheduler)(**settings)
    if pair.exact:
        scheduler.alphas_cumprod = SD.alphas_cumprod
        first = SD.alphas_cumprod[0] if spacing == "first" else torch.ones((), dtype=torch.float64)
        scheduler.final_alpha_cumprod = first
        scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(steps)
    return scheduler


def times_of(pair: Pair, spacing: str, steps: int, scheduler: Any) -> Tensor:
    """Our levels: our grid of that name where it is the scheduler's, else the scheduler's own; both are compared."""
    theirs = [float(t) + 1 for t in scheduler.timesteps]
    if pair.evaluations == "heun":
        theirs = [theirs[0], *theirs[1::2]]
    elif pair.evaluations == "plms":
        theirs = [theirs[0], *theirs[2:]]
    end = 1.0 if pair.settings.get("final_sigmas_type") == "sigma_min" else 0.0
    own = torch.tensor([*theirs, end], dtype=torch.float64)
    if pair.scheduler in MULTISTEP and spacing in ("leading", "linspace"):
        return own
    if spacing == "linspace" and pair.scaled:
        return own  # not rounded to entries of the table, as ours are
    first = spacing == "first"
    made: TimeGrid = make("time_grid", "leading" if first else spacing, {"final": "first"} if first else EMPTY)
    times = made.times(SD, steps)
    # Karras' levels lie between the table's entries; some schedulers round the index that they tell the network
    rounded = 0.501 if pair.scheduler in MULTISTEP else 2e-3
    torch.testing.assert_close(times[:-1], own[:-1], rtol=0, atol=rounded if spacing == "karras" else 0)
    if end:
        times[-1] = end
    return times


def their_run(pair: Pair, scheduler: Any, times: Tensor, start: Tensor, noise: Streams) -> list[Tensor]:
    """x after each step of the scheduler's run; the model is asked at our levels."""
    alphas = SD.alpha(times).tolist() if pair.scaled else [1.0] * len(times)
    at = {"one": lambda k: k, "heun": lambda k: (k + 1) // 2, "plms": lambda k: k if k < 2 else k - 1}[pair.evaluations]
    held, found = start / alphas[0], list[Tensor]()
    for k, t in enumerate(scheduler.timesteps):
        i = at(k)
        x = scheduler.scale_model_input(held, t)
        more = {"variance_noise": noise.normal(start.shape)} if "sde" in pair.ours else {}
        held = scheduler.step(network(x, float(times[i])), t, held, **more).prev_sample
        last = k == len(scheduler.timesteps) - 1
        probe = {"one": False, "heun": k % 2 == 0 and not last, "plms": k == 0}[pair.evaluations]
        if not probe:
            found.append(held * alphas[len(found) + 1])
    return found


def compare(name: str, spacing: str, steps: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> float:
    """The greatest difference of any step's x, relative to that x."""
    pair = PAIRS[name]
    scheduler = scheduler_of(pair, spacing, steps)
    times = times_of(pair, spacing, steps, scheduler)
    start = Streams([5, 6]).normal((2, 3, 4, 4)).to(dtype)
    noise = Streams([1, 2])
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    if pair.ours in ("ddpm", "euler_ancestral"):
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: noise.normal(shape).to(dtype))
    theirs = their_run(pair, scheduler, times, start, noise)
    ours: list[Tensor] = []
    sampler: Sampler = make("sampler", pair.ours, pair.own)
    sampler.sample(
        denoise, start, times, SD, streams=Streams([1, 2]), on_step=lambda i, t, x, x0: ours.append(x.clone())
    )
    assert len(ours) == len(theirs) == len(times) - 1
    assert ours[0].dtype == dtype
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


CASES = [(name, spacing) for name in PAIRS for spacing in SPACINGS.get(name, OTHERS)]


@pytest.mark.parametrize(("name", "spacing"), CASES)
@pytest.mark.parametrize("steps", [10, pytest.param(20, marks=pytest.mark.slow), 50])
def test_in_single_precision(name: str, spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare(name, spacing, steps, torch.float32, monkeypatch) <= 1e-3


@pytest.mark.parametrize(("name", "spacing"), CASES)
@pytest.mark.parametrize("steps", [10, pytest.param(20, marks=pytest.mark.slow), 50])
def test_in_double_precision(name: str, spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding where the scheduler takes the table as it is; else its own single-precision sigmas set the limit."""
    limit = 1e-9 if PAIRS[name].exact else 1e-4
    assert compare(name, spacing, steps, torch.float64, monkeypatch) <= limit


@pytest.mark.parametrize("schedule", ["table", "ve", "flow"])
def test_eulers_steps_are_ddims(schedule: str) -> None:
    """Euler in sigma / alpha is DDIM, its ancestral form DDIM with the same eta, and DDPM's sampler at eta 1."""
    around, problem = toys.schedules()[schedule], Gaussian()
    times = toys.even_times(around, 13)
    start = Streams([8, 9]).normal((2, 16)).double()

    def run(name: str, **settings: float) -> Tensor:
        sampler = make("sampler", name, settings)
        return sampler.sample(problem.denoise(around), start, times, around, streams=Streams([1, 2]))

    torch.testing.assert_close(run("euler"), run("ddim"), rtol=0, atol=1e-12)
    for eta in (0.3, 1.0):
        torch.testing.assert_close(run("euler_ancestral", eta=eta), run("ddim", eta=eta), rtol=0, atol=1e-12)
    torch.testing.assert_close(run("euler_ancestral"), run("ddpm"), rtol=0, atol=1e-12)
    torch.testing.assert_close(run("dpm_solver_pp_2m_sde", eta=0.0), run("dpm_solver_pp_2m"), rtol=0, atol=1e-12)
    torch.testing.assert_close(run("unipc", order=1, corrector=False), run("euler"), rtol=0, atol=1e-12)
