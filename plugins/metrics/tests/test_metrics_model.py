"""Metrics that call the model: the codes of a VQ stage, and the variational bound against closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from assembled import assembled
from ldm_plugin_metrics.model.bound import Bound, Chain, curve
from ldm_plugin_metrics.model.codebook_use import CodebookUse
from ldm_plugin_metrics.model.config import BoundConfig, CodebookUseConfig
from ldm_plugin_metrics.model.likelihood import binned
from torch import Tensor, nn

from ldm_core.contracts import Denoiser, LatentSpec, Pictures, Site
from ldm_core.contracts.conditioning import Cond
from ldm_core.errors import ConfigError, DataError
from ldm_core.model.diffusion import Model
from ldm_core.testing import MetricSuite
from ldm_core.testing.base import installed
from ldm_core.testing.gaussian import FlowSchedule, Gaussian
from ldm_core.testing.metrics.suite import Known

SITE = Site(size=(16, 16))
DATA = Gaussian(mean=0.1, std=0.2)
FIVE = [{"use": "class_label", "classes": 5, "width": 16}]
UNCONDITIONAL = {"conditioners": [], "guidance": "none"}


def pixels(count: int = 8, side: int = 16, mean: float = DATA.mean, std: float = DATA.std) -> Pictures:
    """Pictures of independent Gaussian values."""
    values = np.random.default_rng(1).normal(mean, std, (count, 3, side, side))
    images = torch.from_numpy(np.clip(((values + 1) * 127.5).round(), 0, 255).astype(np.uint8))
    return Pictures(images, range(count))


def part(kind: str, name: str, **settings: Any) -> Any:
    component = installed().get(kind, name)[0].component
    return component.load()(component.config(**settings), Site(size=(16, 16), latent=LatentSpec(3, (1, 1))))


class Exact(Denoiser, nn.Module):
    """The network that an endless training on Gaussian data ends with, in any parameterization."""

    def __init__(self, schedule: Any, parameterization: Any, data: Gaussian) -> None:
        super().__init__()
        self.parts, self.estimate = (schedule, parameterization), data.denoise(schedule)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """F of x0 = c_skip x + c_out F, with c_in = 1."""
        schedule, parameterization = self.parts
        t = noise_level.double() + 1
        skip, out, _ = (
            c.view(-1, 1, 1, 1) for c in parameterization.coefficients(schedule.alpha(t), schedule.sigma(t))
        )
        return ((self.estimate(x.double(), t).x0 - skip * x) / out).float()


def exact(parameterization: str = "eps", steps: int = 50, data: Gaussian = DATA, scale: float = 1.0) -> Any:
    """A pipeline, as far as a metric sees it, of the exact network on pixels of standard deviation `scale`."""
    schedule, means = part("schedule", "vp", steps=steps), part("parameterization", parameterization)
    stage = part("first_stage", "identity")
    stage.set_normalization(torch.zeros(3), torch.full((3,), scale))
    data = Gaussian(data.mean / scale, data.std / scale)
    model = Model(Exact(schedule, means, data), schedule, means).eval()
    return SimpleNamespace(stage=stage, model=model, reads=())


def measured(pictures: Pictures, pipeline: Any, **settings: Any) -> dict[str, Any]:
    metric = Bound(BoundConfig(**settings), SITE)
    rows = metric.measure(attrs.evolve(pictures, pipeline=pipeline))
    return {"rows": rows, "values": metric.values(metric.sums(rows), None), "curve": curve(metric.sums(rows))}


# ------------------------------------------------------------------------------------------------------ codebook use


class TestCodebookUseConformance(MetricSuite):
    component = "codebook_use"
    pipeline = assembled("VQ", **UNCONDITIONAL)

    def known(self) -> Known:
        """Of 4 codes two occur, three times as often the one."""
        rows = {"indices": np.array([[0, 2], [2, 2]], np.int32), "codes": np.array([4, 4])}
        entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
        return Known(rows, None, {"codebook_use": 0.5, "codebook_perplexity": math.exp(entropy)})


def test_codes_are_those_that_the_stage_counts() -> None:
    pipeline, metric = assembled("VQ", **UNCONDITIONAL), CodebookUse(CodebookUseConfig(), SITE)
    pictures = pixels()
    sums = metric.sums(metric.measure(attrs.evolve(pictures, pipeline=pipeline)))
    with torch.no_grad():
        counted = pipeline.stage.reconstruct(pictures.images.float() / 127.5 - 1).logs["codebook_counts"]  # type: ignore[attr-defined]
    assert np.array_equal(sums["counts"], counted.numpy()) and sums["counts"].sum() == 8 * 16
    values = metric.values(sums, None)
    assert values["codebook_use"] == float((counted > 0).float().mean())


def test_a_stage_without_a_codebook_and_pictures_alone_are_refused() -> None:
    metric = CodebookUse(CodebookUseConfig(), SITE)
    with pytest.raises(ConfigError, match="no codebook"):
        metric.measure(attrs.evolve(pixels(), pipeline=assembled("KL", **UNCONDITIONAL)))
    with pytest.raises(DataError, match="pictures alone"):
        metric.measure(pixels())


# ------------------------------------------------------------------------------------------------------------- bound


class TestBoundConformance(MetricSuite):
    component = "bound"
    settings = {"levels": 4, "points": 2}  # noqa: RUF012
    sizes = ((16, 16), (16, 24))
    atol = 1e-3  # of squared errors of up to 255²
    pipeline = assembled("pixels", schedule={"use": "vp", "steps": 20}, conditioners=FIVE)

    def known(self) -> Known:
        """Two pictures on a chain of three levels."""
        rows = {
            "prior": np.array([0.1, 0.3]),
            "first": np.array([2.0, 4.0]),
            "divergence": np.array([[0.0, 1.0, 0.5], [0.0, 3.0, 0.5]]),
            "error": np.array([[1.0, 4.0, 16.0], [1.0, 4.0, 20.0]]),
            "level": np.array([[1, 11, 20], [1, 11, 20]], np.int32),
        }
        values = {"bound": 0.2 + 2.5 + 3.0, "bound_prior": 0.2, "bound_first": 3.0}
        curve = {"rate@1": 2.7, "rmse@1": 1.0, "rate@20": 0.2, "rmse@20": math.sqrt(18)}
        return Known(rows, None, values | curve)


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
def test_terms_of_gaussian_data_are_those_of_the_closed_form(parameterization: str) -> None:
    """With the exact network |x0 - estimate|² is a value's posterior variance, s² sigma² / (alpha² s² + sigma²)."""
    found = measured(pixels(24), exact(parameterization), clip=False)
    chain = Chain.of(part("schedule", "vp", steps=50), BoundConfig())
    variance = DATA.std**2 * chain.sigma**2 / (chain.alpha**2 * DATA.std**2 + chain.sigma**2)
    snr = (chain.alpha / chain.sigma) ** 2
    expected = 0.5 * (snr[:-1] - snr[1:]) * variance[1:] / math.log(2)
    assert np.allclose(found["curve"]["bits"][1:], expected, rtol=0.04)
    assert np.allclose(found["curve"]["rmse"], 127.5 * variance.sqrt(), rtol=0.02)
    alpha, sigma = chain.alpha[-1], chain.sigma[-1]
    prior = 0.5 * (alpha**2 * (DATA.std**2 + DATA.mean**2) + sigma**2 - 1 - 2 * sigma.log()) / math.log(2)
    assert found["values"]["bound_prior"] == pytest.approx(float(prior), rel=0.02)


def test_the_bound_of_the_exact_network_comes_near_the_entropy() -> None:
    """The entropy of a Gaussian value in levels of 2/255 is log2(std sqrt(2 pi e) 127.5). Large variances are nearly
    those of the exact chain, but in the step to data, whose variance is the posterior's: its divergence is left."""
    entropy = math.log2(DATA.std * math.sqrt(2 * math.pi * math.e) * 127.5)
    chain = Chain.of(part("schedule", "vp", steps=200), BoundConfig())
    sigma = chain.sigma[0] ** 2
    ratio = float(DATA.std**2 * sigma / (DATA.std**2 + sigma) / chain.posterior[0])
    left = 0.5 * (ratio - 1 - math.log(ratio)) / math.log(2)
    found = measured(pixels(8), exact(steps=200), variance="large")["values"]["bound"]
    assert 0.1 < left < 0.2 and found == pytest.approx(entropy + left, abs=0.04)


def test_a_chain_of_fewer_levels_has_a_looser_bound() -> None:
    few, many = (measured(pixels(4), exact(steps=200), levels=levels)["values"]["bound"] for levels in (20, None))
    assert few > many + 1


def test_pixels_with_a_normalisation_have_the_same_bound() -> None:
    plain = measured(pixels(), exact(steps=20, data=Gaussian(0.0, 0.2)), clip=False)
    other = measured(pixels(), exact(steps=20, data=Gaussian(0.0, 0.2), scale=0.999), clip=False)
    assert plain["values"]["bound"] == pytest.approx(other["values"]["bound"], rel=0.01)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_terms_agree_with_the_published_way_to_them(variance: str) -> None:
    """Means and variances of q(x_s | x_t, x0) and p(x_s | x_t) by betas, as Ho et al. write them, from the same x_t."""
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    pipeline, pictures = exact(steps=10), pixels(2)
    seen: list[tuple[Tensor, Tensor]] = []
    network = pipeline.model.denoiser
    network.register_forward_hook(lambda module, given, out: seen.append((given[0].double(), out.double())))
    found = measured(pictures, pipeline, variance=variance, clip=True)
    x0 = pictures.images.double() / 127.5 - 1
    bar = part("schedule", "vp", steps=10).alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    beta = 1 - bar / before
    posterior = beta * (1 - before) / (1 - bar)
    small = torch.cat([posterior[1:2], posterior[1:]])
    model = small if variance == "small" else torch.cat([posterior[1:2], beta[1:]])
    for i, (x, eps) in enumerate(seen):
        estimate = ((x - (1 - bar[i]).sqrt() * eps) / bar[i].sqrt()).clamp(-1, 1)
        of_x0 = before[i].sqrt() * beta[i] / (1 - bar[i])
        of_x = (1 - beta[i]).sqrt() * (1 - before[i]) / (1 - bar[i])
        means = [of_x0 * each + of_x * x for each in (x0, estimate)]
        if i == 0:
            down = torch.where(x0 < -0.999, -torch.inf, x0 - 1 / 255)
            up = torch.where(x0 > 0.999, torch.inf, x0 + 1 / 255)
            low, high = (stats.norm.cdf(edge, estimate, math.sqrt(model[0])) for edge in (down, up))
            expected = -np.log(np.maximum(high - low, 1e-300))
            terms = found["rows"]["first"]
        else:
            spread = (model[i] / small[i]).log() - 1 + small[i] / model[i]
            expected = 0.5 * (spread + (means[0] - means[1]).square() / model[i]).numpy()
            terms = found["rows"]["divergence"][:, i]
        assert np.allclose(terms, expected.reshape(2, -1).mean(1) / math.log(2), rtol=1e-4), i


def test_levels_have_probabilities_that_add_up_to_1() -> None:
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.0, 0.3), (-1.2, 0.05), (0.7, 1e-3), (0.0, 4.0)):
        each = binned(levels, torch.full_like(levels, mean), torch.tensor(std, dtype=torch.float64))
        assert float(each.exp().sum()) == pytest.approx(1.0, abs=1e-12)
        assert bool(each.isfinite().all()), "far levels are unlikely, and not impossible"


def test_latents_have_a_density_and_pictures_decoded_of_them_an_error() -> None:
    pipeline = assembled("KL", schedule={"use": "vp", "steps": 20}, **UNCONDITIONAL)
    decoded, latent = (measured(pixels(2), pipeline, levels=3, distortion=d) for d in ("pictures", "latents"))
    assert np.array_equal(decoded["rows"]["divergence"], latent["rows"]["divergence"])
    assert not np.allclose(decoded["rows"]["error"], latent["rows"]["error"])
    assert decoded["curve"]["rate"][0] > decoded["curve"]["rate"][-1] > 0


def test_rows_are_of_the_picture_s_place_and_condition() -> None:
    pipeline = assembled("pixels", schedule={"use": "vp", "steps": 20}, conditioners=FIVE)
    pictures = attrs.evolve(pixels(3), pipeline=pipeline, examples={"class_label": torch.tensor([0, 1, 2])})
    metric = Bound(BoundConfig(levels=3), SITE)
    whole = metric.measure(pictures)
    last: dict[str, Any] = {"images": pictures.images[2:], "places": (2,), "pipeline": pipeline}
    alone = metric.measure(Pictures(**last, examples={"class_label": torch.tensor([2])}))
    other = metric.measure(Pictures(**last, examples={"class_label": torch.tensor([0])}))
    moved = metric.measure(Pictures(**{**last, "places": (3,)}, examples={"class_label": torch.tensor([2])}))
    assert np.allclose(whole["divergence"][2:], alone["divergence"], rtol=1e-4)
    assert not np.allclose(other["divergence"], alone["divergence"], rtol=1e-4)
    assert not np.allclose(moved["divergence"], alone["divergence"], rtol=1e-4)
    with pytest.raises(DataError, match="reads 'class_label'"):
        metric.measure(attrs.evolve(pictures, examples={}))
    with pytest.raises(DataError, match="number them"):
        metric.measure(attrs.evolve(pictures, places=()))


def test_other_schedules_are_refused() -> None:
    pipeline = exact()
    pipeline.model.schedule = FlowSchedule()
    with pytest.raises(ConfigError, match="a table"):
        measured(pixels(1), pipeline)
