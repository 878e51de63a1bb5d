"""The simple objective's other losses, weights, terms and times, against closed forms and diffusers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_objectives import PARAMETERIZATIONS, SEEDS, X0, Fixed, exact, run
from torch import Tensor

from ldm_core.builtin.diffusion.config import EpsConfig, SimpleConfig, VPConfig
from ldm_core.builtin.diffusion.objectives import SimpleObjective, bound_weights
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.catalog import Catalog
from ldm_core.config.structure import structure
from ldm_core.contracts.conditioning import Cond
from ldm_core.contracts.streams import Streams
from ldm_core.errors import ConfigError
from ldm_core.model.diffusion import Model
from ldm_core.nn.torchvision_operators import importable
from ldm_core.recipe.check import diffusion_misfits
from ldm_core.recipe.resolve import resolve

TABLE = VPSchedule(VPConfig())


def model_of(name: str, schedule: VPSchedule = TABLE, answer: Tensor = X0) -> Model:
    return Model(Fixed(answer), schedule, PARAMETERIZATIONS[name])


def times(objective: SimpleObjective, u: Tensor) -> Tensor:
    return TABLE.draw(objective._spread(u))


def test_huber_is_the_square_and_then_its_tangent() -> None:
    target = exact("v", TABLE)
    for offset, expected in ((0.25, 0.0625), (0.5, 0.25), (2.0, 0.5 * (4.0 - 0.5)), (-2.0, 1.75)):
        value = run(target + offset, PARAMETERIZATIONS["v"], TABLE, loss="huber", huber_delta=0.5)
        torch.testing.assert_close(value, torch.full((3,), expected), rtol=1e-4, atol=0)
    mine = run(target + 0.9, PARAMETERIZATIONS["v"], TABLE, loss="huber", huber_delta=0.3)
    torchs = torch.nn.functional.huber_loss(torch.tensor(0.9), torch.tensor(0.0), delta=0.3)
    torch.testing.assert_close(mine, torch.full((3,), 2 * float(torchs)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("gamma", [0.7, 5.0])
def test_min_snr_weights_are_those_of_diffusers(name: str, gamma: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    try:
        with importable():
            from diffusers import training_utils as training
    except ImportError as error:
        pytest.skip(f"diffusers' training code does not import: {error}")
    scheduler = diffusers.DDPMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
    t = TABLE.draw(Streams(SEEDS).uniform((3,)))
    snr = training.compute_snr(scheduler, t.long() - 1).double()
    clipped = snr.clamp(max=gamma)
    expected = {"eps": clipped / snr, "x0": clipped, "v": clipped / (snr + 1)}[name] * 0.01
    value = run(exact(name, TABLE) + 0.1, PARAMETERIZATIONS[name], TABLE, weighting="min_snr", gamma=gamma)
    torch.testing.assert_close(value.double(), expected, rtol=2e-3, atol=0)


def test_min_snr_is_0_where_there_is_no_signal() -> None:
    schedule = VPSchedule(VPConfig(steps=2, zero_terminal=True))
    model = Model(Fixed(torch.zeros_like(X0)), schedule, PARAMETERIZATIONS["v"])
    seeds = [s for s in range(40) if float(schedule.draw(Streams([s]).uniform((1,)))) == 2][:3]
    objective = SimpleObjective(SimpleConfig(weighting="min_snr"))
    assert objective.loss(model, X0, Cond(), streams=Streams(seeds)).value.tolist() == [0.0, 0.0, 0.0]


def test_the_bounds_weights_are_the_published_table_for_eps() -> None:
    config = VPConfig()
    beta = torch.tensor(config.betas(), dtype=torch.float64)
    bar = torch.tensor(config.alphas_cumprod(), dtype=torch.float64)
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    posterior = beta * (1 - before) / (1 - bar)
    published = beta**2 / (2 * posterior * (1 - beta) * (1 - bar))
    published[0] = published[1]
    found = bound_weights(model_of("eps"), torch.arange(1, 1001))
    torch.testing.assert_close(found, published, rtol=1e-9, atol=0)


def test_the_bounds_term_is_the_same_for_every_parameterization() -> None:
    """The divergence of two Gaussians does not ask what the network predicts: an error of x0 costs the same."""
    t = torch.tensor([2.0, 3.0, 400.0, 1000.0], dtype=torch.float64)
    bar = TABLE.alphas_cumprod[t.long() - 1]
    before, beta = TABLE.alphas_cumprod[t.long() - 2], torch.tensor(VPConfig().betas(), dtype=torch.float64)
    beta = beta[t.long() - 1]
    # Means of the posterior differ by sqrt(before) beta / (1 - bar) an error of x0 (Ho et al. 2020, equation 7).
    divergence = (before.sqrt() * beta / (1 - bar)) ** 2 / (2 * beta * (1 - before) / (1 - bar))
    for name in PARAMETERIZATIONS:
        model = model_of(name)
        weight = bound_weights(model, t) / model.coefficients(t)[1] ** 2
        torch.testing.assert_close(weight, divergence, rtol=1e-7, atol=0)


def test_the_elbo_term_is_added_with_its_weight() -> None:
    plain = run(exact("v", TABLE) + 0.1, PARAMETERIZATIONS["v"], TABLE, loss="l1")
    both = run(exact("v", TABLE) + 0.1, PARAMETERIZATIONS["v"], TABLE, loss="l1", elbo_weight=0.5)
    weights = bound_weights(model_of("v"), TABLE.draw(Streams(SEEDS).uniform((3,))))
    torch.testing.assert_close((both - plain).double(), 0.5 * 0.01 * weights, rtol=5e-3, atol=1e-7)


def test_a_learned_log_variance_finds_the_logarithm_of_the_loss() -> None:
    """loss / exp(v) + v is least at v = ln(loss), where it is 1 + ln(loss)."""
    model = model_of("v", answer=exact("v", TABLE) + 0.3)
    objective = SimpleObjective(SimpleConfig(learn_logvar=True))
    assert not list(objective.parameters())
    objective.prepare(model)
    (weight,) = objective.parameters()
    assert weight.shape == (1000,) and not bool(weight.any())
    first = objective.loss(model, X0, Cond(), streams=Streams(SEEDS))
    torch.testing.assert_close(first.value, torch.full((3,), 0.09), rtol=1e-4, atol=0)  # at 0: the plain loss
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        out = objective.loss(model, X0, Cond(), streams=Streams(SEEDS))
        out.value.sum().backward()
        optimizer.step()
    torch.testing.assert_close(out.value, torch.full((3,), 1 + math.log(0.09)), rtol=1e-3, atol=0)
    torch.testing.assert_close(out.logs["loss_simple"], torch.full((3,), 0.09), rtol=1e-4, atol=0)
    index = TABLE.draw(Streams(SEEDS).uniform((3,))).long() - 1
    torch.testing.assert_close(weight.detach()[index], torch.full((3,), math.log(0.09)), rtol=1e-2, atol=0)
    assert int(weight.detach().ne(0).sum()) == len(set(index.tolist()))


def test_logit_normal_times_have_their_mean_and_spread() -> None:
    objective = SimpleObjective(SimpleConfig(times="logit_normal", times_mean=0.5, times_std=0.8))
    u = (torch.arange(20000) + 0.5) / 20000
    spread = objective._spread(u)
    logits = torch.logit(spread)
    assert float(logits.mean()) == pytest.approx(0.5, abs=1e-3)
    assert float(logits.std()) == pytest.approx(0.8, abs=1e-3)
    assert bool(spread.diff().gt(0).all())  # still monotone: the same stream, other times
    t = times(objective, u)
    assert bool((t == t.round()).all()) and float(t.min()) >= 1 and float(t.max()) <= 1000
    assert float((t <= 500).double().mean()) == pytest.approx(
        0.5 * (1 + math.erf(-0.5 / 0.8 / math.sqrt(2))), abs=2e-3
    )  # half of the table lies below u = 0.5, where the logit is 0
    ends = times(SimpleObjective(SimpleConfig(times="logit_normal", times_std=9.0)), torch.tensor([0.0, 1 - 2**-24]))
    assert ends.tolist() == [1.0, 1000.0]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"huber_delta": 0.0}, "huber_delta: expected a number above 0"),
        ({"gamma": -1.0}, "gamma: expected a number above 0"),
        ({"elbo_weight": -0.1}, "elbo_weight: expected 0 or more"),
        ({"times_mean": math.inf}, "times_mean: expected a finite number"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        structure(settings, SimpleConfig, "objective")


def test_the_check_refuses_what_has_no_meaning() -> None:
    catalog = Catalog.discover()
    base = {"first_stage": "identity", "conditioners": [], "image_size": 16, "dataset": "shapes"}
    schedule = {"use": "vp", "zero_terminal": True}
    lines = list(diffusion_misfits(resolve({**base, "schedule": schedule, "parameterization": "eps"}, catalog)))
    assert lines and "divides by alpha" in lines[0] and "parameterization=v" in lines[0]
    assert EpsConfig.needs_terminal_alpha
    fine = resolve({**base, "schedule": schedule, "parameterization": "v"}, catalog)
    assert not list(diffusion_misfits(fine))
    assert SimpleConfig(learn_logvar=True).needs_table and not SimpleConfig().needs_table
