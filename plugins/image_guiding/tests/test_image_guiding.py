"""Image guiding against closed forms: Gaussian data, of which the posterior given a measurement is known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_image_guiding import config as configs
from ldm_plugin_image_guiding.blend import Blend, smooth
from ldm_plugin_image_guiding.pull import ImageTarget, KnownPixelsTarget, LowResolutionTarget
from ldm_plugin_image_guiding.repaint import RePaintSampler
from torch import Tensor

from ldm_core.builtin.diffusion.config import VPConfig
from ldm_core.builtin.diffusion.schedules import VPSchedule
from ldm_core.contracts import Conditions, Estimate, LatentSpec, NoiseSchedule, Site
from ldm_core.contracts.streams import Streams
from ldm_core.errors import DataError
from ldm_core.testing.gaussian import FlowSchedule, Gaussian, VESchedule, graded_times

SIZE = (4, 6)
SITE = Site(size=SIZE, channels=1, latent=LatentSpec(1, (1, 1)), encode=lambda x: x, decode=lambda z: z)
SCHEDULES: Mapping[str, NoiseSchedule] = {
    "vp": VPSchedule(VPConfig()),
    "flow": FlowSchedule(),
    "ve": VESchedule(),
}
DATA = Gaussian(mean=0.3, std=1.0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hole() -> Tensor:
    """Two masks: the right half, and a box."""
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, :, 3:] = True
    masks[1, 1:3, 1:4] = True
    return masks


def estimate(guidance: Any, schedule: NoiseSchedule, x: Tensor, share: float, inputs: Mapping[str, Any]) -> Tensor:
    """The guided x0 of the exact denoiser at a share of t_max."""
    exact = DATA.denoise(schedule)
    t = torch.full((len(x),), share * schedule.t_max, dtype=torch.float64)
    found: Tensor = guidance.guide(
        lambda x, t, branches: [exact(x, t) for _ in branches], x, t, Conditions({}, {}, batch=inputs), schedule
    ).x0
    return found


def moments(schedule: NoiseSchedule, x: Tensor, share: float) -> tuple[Tensor, float]:
    """E and variance of x0 given x."""
    t = torch.tensor(share * schedule.t_max, dtype=torch.float64)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    variance = DATA.std**2 * sigma**2 / (alpha**2 * DATA.std**2 + sigma**2)
    return DATA.denoise(schedule)(x, t.expand(len(x))).x0, variance


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_known_pixels_give_the_posterior_mean(name: str, through: bool, share: float) -> None:
    schedule, deviation = SCHEDULES[name], 0.4
    x, y, masks = 1.5 * draw(2, 1, *SIZE), draw(2, 1, *SIZE, seed=1), hole()
    made_of = configs.KnownPixelsTargetConfig(deviation=deviation, through_denoiser=through)
    found = estimate(KnownPixelsTarget(made_of, SITE), schedule, x, share, {"image": y, "mask": masks})
    mean, variance = moments(schedule, x, share)
    want = torch.where(masks[:, None], mean, mean + variance / (variance + deviation**2) * (y - mean))
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_small_picture_gives_the_posterior_mean(name: str, iterations: int) -> None:
    schedule, deviation, share = SCHEDULES[name], 0.05, 0.4
    x, y = 1.5 * draw(2, 1, *SIZE), draw(2, 1, 2, 3, seed=1)
    made_of = configs.LowResolutionTargetConfig(factor=2, reduce="area", deviation=deviation, iterations=iterations)
    found = estimate(LowResolutionTarget(made_of, SITE), schedule, x, share, {"image": y})
    mean, variance = moments(schedule, x, share)
    error = y - torch.nn.functional.avg_pool2d(mean, 2)
    gain = (variance / 4) / (variance / 4 + deviation**2)
    want = mean + gain * error.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)


def test_the_published_step_is_the_papers() -> None:
    """eps - sigma grad log p, p of variance 1, by hand."""
    schedule, share = SCHEDULES["vp"], 0.5
    x, y, masks = draw(2, 1, *SIZE), draw(2, 1, *SIZE, seed=1), hole()
    made_of = configs.KnownPixelsTargetConfig(deviation=1.0, step="published", strength=0.7)
    found = estimate(KnownPixelsTarget(made_of, SITE), schedule, x, share, {"image": y, "mask": masks})
    t = torch.full((2,), share * schedule.t_max, dtype=torch.float64)
    alpha, sigma = float(schedule.alpha(t[:1])), float(schedule.sigma(t[:1]))
    leaf = x.clone().requires_grad_()
    x0 = DATA.denoise(schedule)(leaf, t).x0
    log_p = -0.5 * ((x0 - y) * ~masks[:, None]).square().sum()
    (gradient,) = torch.autograd.grad(log_p, leaf)
    eps = (x - alpha * x0.detach()) / sigma - 0.7 * sigma * gradient
    torch.testing.assert_close(found, (x - sigma * eps) / alpha, rtol=1e-4, atol=1e-4)


class Field:
    """Correlated Gaussian data on a row of pixels, its exact denoiser and conditional."""

    def __init__(self, count: int) -> None:
        place = torch.arange(count, dtype=torch.float64)
        self.covariance = torch.exp(-((place[:, None] - place) ** 2) / 8) + 1e-3 * torch.eye(count, dtype=torch.float64)

    def gain(self, alpha: float, sigma: float) -> Tensor:
        eye = torch.eye(len(self.covariance), dtype=torch.float64)
        return alpha * self.covariance @ torch.linalg.inv(alpha**2 * self.covariance + sigma**2 * eye)


def test_iterations_reach_the_posterior_mean_of_correlated_data() -> None:
    """E[x0 | x, y] of any Gaussian, after as many iterations as pixels are known; fewer ones come nearer each time."""
    count, schedule, deviation = 8, SCHEDULES["vp"], 0.2
    site = Site(size=(1, count), channels=1, latent=LatentSpec(1, (1, 1)), encode=lambda x: x, decode=lambda z: z)
    field, t = Field(count), torch.tensor([500.0], dtype=torch.float64)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    gain = field.gain(alpha, sigma)
    covariance = sigma**2 / alpha * gain
    x, y = draw(1, 1, 1, count), draw(1, 1, 1, count, seed=1)
    masks = torch.zeros(1, 1, count, dtype=torch.bool)
    masks[..., 4:] = True

    def predict(x: Tensor, t: Tensor, branches: Any) -> list[Estimate]:
        return [Estimate((x.double() @ gain.T).to(x.dtype))]

    mean = (x.double() @ gain.T).flatten()
    measured = covariance[:, :4]
    inverse = torch.linalg.inv(measured[:4] + deviation**2 * torch.eye(4, dtype=torch.float64))
    want = mean + measured @ inverse @ (y.double().flatten()[:4] - mean[:4])
    errors = []
    for iterations in (1, 2, 4):
        made_of = configs.KnownPixelsTargetConfig(deviation=deviation, iterations=iterations)
        conditions = Conditions({}, {}, batch={"image": y, "mask": masks})
        found = KnownPixelsTarget(made_of, site).guide(predict, x, t, conditions, schedule).x0
        errors.append(float((found.flatten() - want).abs().max()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 2e-3, errors


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_guided_flow_ends_at_the_posterior(name: str) -> None:
    """Samples have the mean and the deviation of x0 given y: a whole run of Euler's rule, as the flow is linear."""
    schedule, deviation = SCHEDULES[name], 0.5
    y = 0.8
    guidance = KnownPixelsTarget(configs.KnownPixelsTargetConfig(deviation=deviation), SITE)
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[..., 3:] = True
    conditions = Conditions({}, {}, batch={"image": torch.full((1, 1, *SIZE), y), "mask": masks})
    times = graded_times(schedule.t_max * 0.999, 0.0, 120)
    exact = DATA.denoise(schedule)

    def end(start: float) -> Tensor:
        x = torch.full((1, 1, *SIZE), start)
        for now, after in itertools.pairwise(times):
            x0 = guidance.guide(lambda x, t, b: [exact(x, t)], x, now[None], conditions, schedule).x0
            a, s, a2, s2 = (float(f(u)) for u in (now, after) for f in (schedule.alpha, schedule.sigma))
            x = s2 / s * x + (a2 - a * s2 / s) * x0
        return x

    mean, std = (float(v) for v in DATA.marginal(schedule, times[0]))
    middle, above = end(mean), end(mean + std)
    known = (slice(0, 1), slice(0, 1), slice(None), slice(0, 3))
    # y given x0 is N(x0, deviation²): posterior variance 1 / (1 / std² + 1 / deviation²)
    variance = 1 / (1 / DATA.std**2 + 1 / deviation**2)
    want = variance * (DATA.mean / DATA.std**2 + y / deviation**2)
    assert float((middle[known] - want).abs().max()) < 0.02
    assert float((above - middle)[known].sub(variance**0.5).abs().max()) < 0.04
    assert float((middle[..., 3:] - DATA.mean).abs().max()) < 0.01, "what is not known is as before"


def test_blending_with_the_exact_denoiser() -> None:
    """What is known comes out as it is, and independent values beside it as the model has them."""
    schedule, masks = SCHEDULES["vp"], hole()
    y, x = draw(2, 1, *SIZE, seed=1), draw(2, 1, *SIZE)
    guidance, exact = Blend(configs.BlendConfig(), SITE), DATA.denoise(schedule)
    conditions = Conditions({}, {}, batch={"image": y, "mask": masks})

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        return guidance.guide(lambda x, t, b: [exact(x, t)], x, t, conditions, schedule)

    times = graded_times(1000.0, 0.0, 60)
    sampler = RePaintSampler(configs.RePaintConfig(resamples=1, eta=0.0))
    found = sampler.sample(denoise, x, times, schedule)
    plain = sampler.sample(exact, x, times, schedule)
    assert torch.equal(found[~masks[:, None]], smooth(y, masks[:, None])[~masks[:, None]])
    assert torch.equal(smooth(y, masks[:, None])[~masks[:, None]], y[~masks[:, None]])
    torch.testing.assert_close(found[masks[:, None]], plain[masks[:, None]])


def test_resampling_brings_filled_values_nearer_to_their_distribution() -> None:
    """Correlated data: the mean of the hole given the rest, over many noises."""
    count, schedule = 8, SCHEDULES["vp"]
    field = Field(count)
    site = Site(size=(1, count), channels=1, latent=LatentSpec(1, (1, 1)), encode=lambda x: x, decode=lambda z: z)
    y = torch.linspace(0.5, 1.5, count)[None, None, None]
    masks = torch.zeros(1, 1, count, dtype=torch.bool)
    masks[..., 4:] = True
    cov = field.covariance
    want = cov[4:, :4] @ torch.linalg.inv(cov[:4, :4]) @ y.double().flatten()[:4]
    rows = 300
    batch = {"image": y.expand(rows, -1, -1, -1), "mask": masks.expand(rows, -1, -1)}
    guidance, conditions = Blend(configs.BlendConfig(), site), Conditions({}, {}, batch=batch)

    def predict(x: Tensor, t: Tensor, branches: Any) -> list[Estimate]:
        gain = field.gain(float(schedule.alpha(t[:1])), float(schedule.sigma(t[:1])))
        return [Estimate((x.double() @ gain.T).to(x.dtype))]

    def error(resamples: int) -> float:
        sampler = RePaintSampler(configs.RePaintConfig(resamples=resamples, jump=5))
        found = sampler.sample(
            lambda x, t: guidance.guide(predict, x, t, conditions, schedule),
            draw(rows, 1, 1, count),
            graded_times(999.0, 0.0, 20),
            schedule,
            streams=Streams(list(range(rows))),
        )
        return float((found[..., 4:].mean(0).flatten() - want).abs().max())

    once, often = error(1), error(8)
    assert often < 0.6 * once, (once, often)


class Elsewhere(ImageTarget):
    """A target of one's own."""

    def loss(self, inputs: Mapping[str, Any]) -> Any:
        return lambda pictures: pictures.square().flatten(1).sum(1) * 50


class Cliff(ImageTarget):
    """Almost flat near the estimate, so that a curvature measured there says nothing of the wall that follows."""

    def loss(self, inputs: Mapping[str, Any]) -> Any:
        def loss(pictures: Tensor) -> Tensor:
            far = (pictures - inputs["from"]).flatten(1)
            return (-0.01 * far + 100 * (far.abs() - inputs["wall"]).clamp(min=0) ** 2).sum(1)

        return loss


@pytest.mark.parametrize(
    ("wall", "least", "most"), [(0.5, 0.0, 0.52), (1.5, 1.0, 1.52), (3.0, 2.0, 3.02), (99.0, 64.0, 64.0)]
)
def test_a_step_beyond_the_measured_curvature_is_held_to_the_loss(wall: float, least: float, most: float) -> None:
    """With C = 1e6 in the network's eyes the quadratic's minimum is 1e4 deviations away."""
    target = Cliff(configs.LowResolutionTargetConfig(iterations=1), SITE)
    x0 = draw(2, 1, *SIZE)
    loss = target.loss({"from": x0, "wall": wall})
    moved = target._moved(loss, x0, lambda vector: 1e6 * vector, torch.ones(2))
    length = moved.flatten(1).square().mean(1).sqrt()
    assert bool((length >= least - 1e-4).all()) and bool((length <= most + 1e-4).all()), length
    assert bool((loss(x0 + moved) <= 0).all())


def test_a_target_of_ones_own() -> None:
    found = estimate(Elsewhere(configs.PullConfig(), SITE), SCHEDULES["vp"], draw(2, 1, *SIZE), 0.5, {})
    mean, variance = moments(SCHEDULES["vp"], draw(2, 1, *SIZE), 0.5)
    torch.testing.assert_close(found, mean * 0.01 / (0.01 + variance), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"mask": hole()}, "'image': expected pictures \\(1, 4, 6\\) .*, got NoneType"),
        ({"image": torch.zeros(2, 1, 3, 3), "mask": hole()}, "'image': expected pictures .*, got \\(1, 3, 3\\)"),
        ({"image": torch.zeros(2, 1, *SIZE)}, "'mask': expected a mask a picture"),
        ({"image": torch.zeros(2, 1, *SIZE), "mask": torch.zeros(2, *SIZE)}, "'mask' of image 0: the mask has no hole"),
        ({"image": torch.zeros(2, 1, *SIZE), "mask": torch.ones(2, *SIZE)}, "'mask' of image 0: the mask is one hole"),
        (
            {"image": torch.zeros(2, 1, *SIZE), "mask": torch.ones(2, 2, 2)},
            "'mask' of image 0: the mask is \\(2, 2\\) and its picture \\(4, 6\\)",
        ),
    ],
)
@pytest.mark.parametrize("made", [KnownPixelsTarget, Blend])
def test_inputs_that_are_none(made: Any, inputs: Mapping[str, Any], message: str) -> None:
    made_of = configs.BlendConfig() if made is Blend else configs.KnownPixelsTargetConfig()
    with pytest.raises(DataError, match=message):
        estimate(made(made_of, SITE), SCHEDULES["vp"], draw(2, 1, *SIZE), 0.5, inputs)


def test_settings_that_do_not_fit() -> None:
    made_of = configs.LowResolutionTargetConfig(factor=3)
    assert next(iter(made_of.check(SITE))) == "factor 3 does not divide the image size [4, 6]; give one that does"
    assert "name two keys" in next(iter(configs.BlendConfig(mask="image").check(SITE)))
    assert "weights: the weights of tf_efficientnet_lite0 are not named" in next(
        iter(configs.PerceptualTargetConfig().check(SITE))
    )
    assert "network: the name of a timm network" in next(iter(configs.ClassifierTargetConfig().check(SITE)))


def test_holes_are_filled_smoothly() -> None:
    picture = torch.linspace(-1, 1, 16)[None, None, None].expand(1, 1, 16, 16)
    holes = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    holes[..., 6:10, 6:10] = True
    found = smooth(torch.where(holes, torch.full_like(picture, 9.0), picture), holes)
    assert torch.equal(found[~holes], picture[~holes])
    assert float((found - picture).abs().max()) < 0.3, "the hole's own values count nothing"
    assert np.isfinite(found.numpy()).all()
