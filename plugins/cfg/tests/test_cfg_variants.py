"""cfg's scales by conditioner, rescaling and interval: against closed forms, published code and counted evaluations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from ldm_plugin_cfg.config import CFGConfig
from ldm_plugin_cfg.guidance import ClassifierFreeGuidance, chain
from torch import Tensor, nn

from ldm_core import Denoiser
from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.builtin.diffusion.parameterizations import EpsParameterization, VParameterization, X0Parameterization
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.config.structure import structure
from ldm_core.contracts import Cond, Conditions, NoiseSchedule, Parameterization, Sampler, Site, TimeGrid
from ldm_core.errors import ConfigError
from ldm_core.model.build import SamplingParts
from ldm_core.model.diffusion import Model, make_predict
from ldm_core.sampling.run import sample_latents
from ldm_core.testing.gaussian import FlowSchedule, VESchedule

VP = VPSchedule(VPConfig())
LEVEL = VESchedule()
STD = 0.6
SHAPE = (1, 4, 4)


class Gaussians(Denoiser, nn.Module):
    """Data N(m, STD²), m the sum of two conditions' effects and a part that only both together have; estimates x0.

    `together` 0 makes the two conditions independent. Rows of every call are counted.
    """

    def __init__(self, together: float = 0.0) -> None:
        super().__init__()
        self.together, self.rows = together, []  # type: ignore[var-annotated]

    def mean(self, vector: Tensor) -> Tensor:
        text, plan = vector[:, 0], vector[:, 1]
        return 0.1 + text + plan + self.together * text * plan

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        assert cond.vector is not None
        self.rows.append(len(x))
        m, sigma = self.mean(cond.vector.double()), (4 * noise_level.double()).exp()
        gain = (STD**2 / (STD**2 + sigma**2)).view(-1, 1, 1, 1)
        m = m.view(-1, 1, 1, 1)
        scaled_back = x.double() * (1 + sigma**2).sqrt().view(-1, 1, 1, 1)  # c_in of the parameterization
        return (m + gain * (scaled_back - m)).float()


TEXT, PLAN = 0.8, -0.5


def conditions(rows: int = 2) -> Conditions:
    """Two conditioners, `text` and `plan`, each one number; 0 is none."""
    one = {"text": TEXT, "plan": PLAN}
    return Conditions(
        {k: Cond(vector=torch.full((rows, 1), v)) for k, v in one.items()},
        {k: Cond(vector=torch.zeros(rows, 1)) for k in one},
    )


def guidance(parameterization: Parameterization | None = None, **config: Any) -> ClassifierFreeGuidance:
    site = Site(size=(4, 4), parameterization=parameterization or X0Parameterization())
    return ClassifierFreeGuidance(structure(config, CFGConfig, "cfg"), site)


def noise(sigma: float, rows: int = 2) -> Tensor:
    return sigma * torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(1))


def flow(guide: ClassifierFreeGuidance, net: Gaussians, start: float, steps: int = 160) -> tuple[Tensor, Tensor]:
    """Noise at level `start` and where the guided probability flow dx / dsigma = (x - x0) / sigma carries it (Heun)."""
    predict, given = make_predict(Model(net, LEVEL, X0Parameterization())), conditions()
    x = begin = noise(start)

    def slope(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = guide.guide(predict, x, sigma.expand(len(x)), given, LEVEL).x0
        return (x - x0) / float(sigma)

    levels = torch.cat([torch.logspace(1, -2.5, steps, dtype=torch.float64) * start / 10, torch.zeros(1)]).double()
    for sigma, after in itertools.pairwise(levels):
        d = slope(x, sigma)
        ahead = x + d * float(after - sigma)
        x = ahead if after == 0 else x + (d + slope(ahead, after)) / 2 * float(after - sigma)
    return begin, x


@pytest.mark.parametrize(
    "config, together, mean",
    [
        ({"scale": 5.0}, 0.7, lambda m: m(0, 0) + 5 * (m(1, 1) - m(0, 0))),
        (  # the map first, at 1.5, then the text at 5
            {"scale": 5.0, "scales": {"plan": 1.5}},
            0.7,
            lambda m: m(0, 0) + 1.5 * (m(0, 1) - m(0, 0)) + 5 * (m(1, 1) - m(0, 1)),
        ),
        (  # the other order
            {"scales": {"text": 5.0, "plan": 1.5}},
            0.7,
            lambda m: m(0, 0) + 5 * (m(1, 0) - m(0, 0)) + 1.5 * (m(1, 1) - m(1, 0)),
        ),
        (  # independent conditions: the sum of what each does by itself, whatever the order
            {"scales": {"text": 5.0, "plan": 1.5}},
            0.0,
            lambda m: m(0, 0) + 5 * (m(1, 0) - m(0, 0)) + 1.5 * (m(0, 1) - m(0, 0)),
        ),
        (
            {"scales": {"plan": 1.5, "text": 5.0}},
            0.0,
            lambda m: m(0, 0) + 5 * (m(1, 0) - m(0, 0)) + 1.5 * (m(0, 1) - m(0, 0)),
        ),
        ({"scale": 1.0, "scales": {"plan": 0.0}}, 0.7, lambda m: m(1, 1) - (m(0, 1) - m(0, 0))),
        ({"scale": 2.0, "scales": {"plan": 1.0}}, 0.7, lambda m: m(0, 1) + 2 * (m(1, 1) - m(0, 1))),
        ({"scale": 0.0, "scales": {"plan": 3.0}}, 0.7, lambda m: m(0, 0) + 3 * (m(0, 1) - m(0, 0))),
    ],
)
def test_guided_gaussians_have_the_guided_mean(
    config: dict[str, Any], together: float, mean: Callable[[Callable[[float, float], float]], float]
) -> None:
    """All branches are Gaussians of one deviation, so the guided estimate is that of the Gaussian with the guided mean,
    and the flow ends at m + s / sqrt(s² + sigma²) (x - m)."""
    net = Gaussians(together)
    m = mean(lambda text, plan: float(net.mean(torch.tensor([[text * TEXT, plan * PLAN]], dtype=torch.float64))))
    for sigma in (0.1, 1.0, 8.0):
        x = noise(sigma)
        t = torch.full((2,), sigma, dtype=torch.float64)
        predict = make_predict(Model(net, LEVEL, X0Parameterization()))
        found = guidance(**config).guide(predict, x, t, conditions(), LEVEL).x0
        want = m + STD**2 / (STD**2 + sigma**2) * (x - m)
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    begin, end = flow(guidance(**config), net, 10.0)
    torch.testing.assert_close(end, m + STD / (STD**2 + 100) ** 0.5 * (begin - m), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "config, sets, scales",
    [
        ({"scale": 3.0}, [(), ("text", "plan")], [3.0]),
        ({"scale": 1.0}, [("text", "plan")], []),
        ({"scale": 0.0}, [()], []),
        ({"scale": 3.0, "scales": {"plan": 3.0}}, [(), ("plan", "text")], [3.0]),
        ({"scale": 3.0, "scales": {"plan": 1.5}}, [(), ("plan",), ("plan", "text")], [1.5, 3.0]),
        ({"scale": 3.0, "scales": {"plan": 1.0}}, [("plan",), ("plan", "text")], [3.0]),
        ({"scale": 0.0, "scales": {"plan": 2.0}}, [(), ("plan",)], [2.0]),
        ({"scale": 0.0, "scales": {"plan": 1.0}}, [("plan",)], []),
        ({"scale": 9.0, "scales": {"text": 2.0, "plan": 1.0}}, [(), ("text",), ("text", "plan")], [2.0, 1.0]),
    ],
)
def test_only_branches_that_count_are_evaluated(
    config: dict[str, Any], sets: list[tuple[str, ...]], scales: list[float]
) -> None:
    made = structure(config, CFGConfig, "cfg")
    assert chain(made, ("text", "plan")) == (sets, scales)
    net = Gaussians()
    predict = make_predict(Model(net, LEVEL, X0Parameterization()))
    guidance(**config).guide(predict, noise(1.0), torch.ones(2, dtype=torch.float64), conditions(), LEVEL)
    assert net.rows == [2 * len(sets)], "branches are batched into one call"
    assert made.conditioners == tuple(config.get("scales", {}))


def test_without_conditioners_there_is_one_branch() -> None:
    assert chain(CFGConfig(scale=4.0), ()) == ([()], [])


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("parameterization", [EpsParameterization(), VParameterization(), X0Parameterization()])
def test_rescaling_is_that_of_published_code(parameterization: Parameterization, share: float) -> None:
    """diffusers rescales what the network predicts, be it eps or v."""
    published = pytest.importorskip(
        "diffusers.guiders.guider_utils", reason="a diffusers with guiders is not installed"
    )

    class Shifts(Denoiser, nn.Module):
        def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
            assert cond.vector is not None
            shift = cond.vector.sum(1).view(-1, 1, 1, 1)
            return 0.8 * x + torch.tanh(3 * x.flip(-1)) * shift + shift

    model = Model(Shifts(), VP, parameterization)
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([30.0, 500.0, 990.0], dtype=torch.float64)
    given = conditions(3)
    found = guidance(parameterization, scale=7.5, rescale=share).guide(make_predict(model), x, t, given, VP).x0
    cond, null = (model.network(x, t, c).double() for c in (given.cond, given.null))
    f = null + 7.5 * (cond - null)
    f = published.rescale_noise_cfg(f, cond, guidance_rescale=share)
    c_skip, c_out, _ = (c.view(-1, 1, 1, 1) for c in model.coefficients(t))
    want = c_skip * x + c_out * f
    torch.testing.assert_close(found.double() / c_out, want / c_out, rtol=1e-4, atol=1e-4)


def test_rescaling_changes_a_row_by_itself_and_leaves_what_is_constant() -> None:
    class Flat(Denoiser, nn.Module):
        def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
            assert cond.vector is not None
            return cond.vector.sum(1).view(-1, 1, 1, 1).expand_as(x).clone()

    predict = make_predict(Model(Flat(), LEVEL, X0Parameterization()))
    t = torch.ones(2, dtype=torch.float64)
    plain, rescaled = (
        guidance(scale=4.0, rescale=r).guide(predict, noise(1.0), t, conditions(), LEVEL).x0 for r in (0.0, 1.0)
    )
    assert torch.equal(plain, rescaled), "a deviation of 0 cannot be brought to another one"


def test_rescaling_must_know_what_the_network_predicts() -> None:
    with pytest.raises(ConfigError, match=r"guidance.rescale: .* Site\(parameterization=...\)"):
        ClassifierFreeGuidance(CFGConfig(rescale=0.5), Site(size=(4, 4)))


class _Even(TimeGrid):
    def times(self, schedule: NoiseSchedule, steps: int) -> Tensor:
        return torch.linspace(schedule.t_max, 0, steps + 1, dtype=torch.float64)


class _FirstOrder(Sampler):
    """x to the next level along the noise that x0 leaves."""

    def sample(self, denoise: Any, x: Tensor, times: Tensor, schedule: NoiseSchedule, **_: Any) -> Tensor:
        alphas, sigmas = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
        for i in range(len(times) - 1):
            x0 = denoise(x, times[i].expand(len(x))).x0
            x = alphas[i + 1] * x0 + sigmas[i + 1] / sigmas[i] * (x - alphas[i] * x0)
        return x


@pytest.mark.parametrize("schedule", [VP, VESchedule(), FlowSchedule()])
@pytest.mark.parametrize("interval", [[0.0, None], [0.3, 5.0], [0.3, None], [100.0, 200.0]])
def test_outside_the_interval_a_step_costs_one_evaluation(schedule: NoiseSchedule, interval: list[Any]) -> None:
    """Evaluations of a whole run, counted by rows, against the levels of its own steps."""

    class Counts(Denoiser, nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = 0

        def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
            self.rows += len(x)
            assert cond.vector is not None
            return 0.1 * x + cond.vector.sum(1).view(-1, 1, 1, 1)

    net = Counts()
    parts = SamplingParts(_FirstOrder(), guidance(scale=3.0, interval=interval), _Even())
    sample_latents(Model(net, schedule, X0Parameterization()), parts, conditions(), SHAPE, [1, 2], 20)
    times = _Even().times(schedule, 20)[:-1]
    levels = (schedule.sigma(times) / schedule.alpha(times)).tolist()
    low, high = interval[0], float("inf") if interval[1] is None else interval[1]
    guided = sum(low < level <= high for level in levels)
    assert net.rows == 2 * (2 * guided + (20 - guided))
    assert interval != [0.0, None] or guided == 20


def _ends(text: str, other: str, scale: float) -> Tensor:
    """Guided towards `text` and away from `other`, at the conditioner `text` of :class:`Gaussians`."""
    values = {"a": 0.8, "b": -0.3}
    given = Conditions(
        {"text": Cond(vector=torch.full((2, 1), values[text])), "plan": Cond(vector=torch.full((2, 1), PLAN))},
        {"text": Cond(vector=torch.full((2, 1), values[other])), "plan": Cond(vector=torch.full((2, 1), PLAN))},
    )
    predict = make_predict(Model(Gaussians(0.7), LEVEL, X0Parameterization()))
    t = torch.tensor([0.5, 3.0], dtype=torch.float64)
    return guidance(scale=scale).guide(predict, noise(1.0), t, given, LEVEL).x0


@pytest.mark.parametrize("scale", [3.0, 7.5, 0.25])
def test_a_negative_is_the_condition_with_the_other_scale(scale: float) -> None:
    """x0(c, n, s) = n + s (c - n) = c + (1 - s) (n - c) = x0(n, c, 1 - s)."""
    torch.testing.assert_close(_ends("a", "b", scale), _ends("b", "a", 1 - scale), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config, said",
    [
        ({"rescale": 1.5}, "cfg.rescale: expected a number from 0 to 1, got 1.5"),
        ({"interval": [5.0, 0.3]}, "cfg.interval: expected two noise levels sigma / alpha, the lower one first"),
        ({"interval": [-1.0, 2.0]}, "cfg.interval: expected two noise levels"),
        ({"interval": [1.0]}, "cfg.interval: expected 2 values"),
        ({"scales": {"text": "much"}}, "expected a number, got 'much'"),
        ({"scales": 3.0}, "cfg.scales: expected a mapping, got 3.0"),
    ],
)
def test_wrong_settings(config: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        structure(config, CFGConfig, "cfg")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "config, needs",
    [
        ({"scale": 1.0}, False),
        ({"scale": 1.0, "scales": {"text": 1.0}}, False),
        ({"scale": 1.0, "scales": {"text": 2.0}}, True),
        ({"scale": 0.0}, True),
        ({"interval": [0.1, 2.0]}, True),
    ],
)
def test_needs_null(config: Mapping[str, Any], needs: bool) -> None:
    assert structure(config, CFGConfig, "cfg").needs_null is needs


def test_an_unknown_conditioner_is_refused_at_the_latest_when_guiding() -> None:
    def predict(x: Tensor, t: Tensor, branches: Sequence[Cond]) -> list[Any]:
        raise AssertionError("nothing is evaluated")

    with pytest.raises(ValueError, match="no conditioner named"):
        guidance(scales={"txt": 2.0}).guide(predict, noise(1.0), torch.ones(2), conditions(), LEVEL)
