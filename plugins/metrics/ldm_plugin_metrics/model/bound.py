"""The variational bound by level, and the rate and distortion along it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm_core.contracts import NoiseSchedule, Pictures, Rows, ScheduleAnswers, Site, configs
from ldm_core.contracts.streams import Streams, mix_seed
from ldm_core.errors import ConfigError, DataError
from ldm_core.model.diffusion import make_predict
from ldm_plugin_metrics.means import MeanMetric, means
from ldm_plugin_metrics.model.config import BoundConfig
from ldm_plugin_metrics.model.likelihood import binned, densities, scale_of_pixels
from ldm_plugin_metrics.model.pipelines import pipeline_of, shown


class Bound(MeanMetric):
    """The negative evidence lower bound in bits per value of the picture (c H W of them), and its parts: `bound_prior`,
    a divergence at each level, and `bound_first`, the last step to data.

    The chain has the table's `levels`, with a mean by the estimate of x0 and the variance of the config; each
    level is one call of the network on noise of its own, from a stream of the picture's place (Ho et al. 2020, arXiv
    2006.11239, equation 5; Nichol & Dhariwal 2021, arXiv 2102.09672, section 3). A chain of fewer levels has a looser
    bound of its own. With pixels for latents the last step is the probability of the 8-bit level (Ho et al., equation
    13). Other latents are continuous: the last step is a density of the normalised latents, possibly negative, and
    bounds of two first stages do not compare; their rates do.

    ``rate@t`` are a receiver's bits of x_t per value of the picture, `bound_prior` and the divergences above t, and
    ``rmse@t`` is the error of the estimate of x0 from x_t: the axes of figure 2 of Rombach et al. 2022 and of figure 5
    of Ho et al. 2020. :func:`curve` has them for all levels.
    """

    name = "bound"

    def __init__(self, config: BoundConfig, site: Site) -> None:
        self.config = config
        levels = "all levels" if config.levels is None else f"{config.levels} levels"
        clip = ", clipped" if config.clip else ""
        how = f"{config.variance} variance{clip}, distortion of {config.distortion}, seed {config.seed}"
        self.source = f"variational bound on {levels}, {how}"

    def measure(self, pictures: Pictures) -> dict[str, NDArray[Any]]:
        """Bits per value of the picture: `prior` (B), `first` (B) and `divergence` (B, n); the squared error of the
        estimates (B, n); the levels (B, n), upwards."""
        pipeline = pipeline_of(pictures, self.name)
        if pipeline.model is None:
            raise ConfigError(f"{self.name}: a first stage alone has no levels; evaluate a run with a trained denoiser")
        if len(pictures.places) != len(pictures.images):
            raise DataError(f"{self.name} draws noise by the places of pictures, and these have none; number them")
        chain = Chain.of(pipeline.model.schedule, self.config)
        with torch.no_grad():
            found = _Measured(self.config, pipeline, chain).rows(pictures)
        bits = 1 / (math.log(2) * pictures.images[0].numel())
        rows = {key: (value * bits if key != "error" else value).cpu().numpy() for key, value in found.items()}
        return {**rows, "level": np.tile(chain.levels.numpy().astype(np.int32), (len(pictures.images), 1))}

    def values(self, own: Rows, against: Rows | None) -> Mapping[str, float]:
        """The bound, its first and last term, and some points of the curve."""
        found = means(self.name, own)
        total = found["prior"] + found["divergence"].sum() + found["first"]
        values = {"bound": total, "bound_prior": found["prior"], "bound_first": found["first"]}
        along = curve(own)
        count = len(along["level"])
        for i in np.unique(np.linspace(0, count - 1, min(self.config.points, count)).round().astype(int)):
            level = int(along["level"][i])
            values |= {f"rate@{level}": along["rate"][i], f"rmse@{level}": along["rmse"][i]}
        return {key: float(value) for key, value in values.items()}


def curve(sums: Rows) -> dict[str, NDArray[np.float64]]:
    """The sums of a :class:`Bound` -> arrays by level, upwards: `level`, `bits`, the level's term in bits per value of
    the picture, `rate`, the bits of a receiver of x there, and `rmse`, the error of its estimate."""
    found = means("bound", sums)
    above = np.cumsum(found["divergence"][::-1])[::-1] - found["divergence"]
    bits = found["divergence"].copy()
    bits[0] += found["first"]  # the divergence of the step to data is 0: that step is `first`
    return {
        "level": found["level"],
        "bits": bits,
        "rate": found["prior"] + above,
        "rmse": np.sqrt(found["error"]),
    }


class Chain(NamedTuple):
    """Levels of a table, upwards, with alpha and sigma; `gain` of x0 in the mean of a step down; `posterior` and
    `model`, variances of the step. Each (n,), float64.

    The variance of the step to data is the posterior's of the step above it, as published.
    """

    levels: Tensor
    alpha: Tensor
    sigma: Tensor
    gain: Tensor
    posterior: Tensor
    model: Tensor

    @classmethod
    def of(cls, schedule: NoiseSchedule, config: BoundConfig) -> Chain:
        """The chain of a schedule; ConfigError if it is no variance-preserving table."""
        count = configs.of(ScheduleAnswers, schedule).table_steps
        if count is None or count < 2:
            raise ConfigError("bound: it is for schedules of a table (vp), and this model's is none")
        wanted = min(config.levels or count, count)
        levels = torch.linspace(1, count, wanted, dtype=torch.float64).round()
        alpha, sigma = schedule.alpha(levels).double(), schedule.sigma(levels).double()
        if float((alpha**2 + sigma**2 - 1).abs().max()) > 1e-6:
            raise ConfigError("bound: it is for variance-preserving schedules (vp), and alpha² + sigma² is not 1 here")
        one = torch.ones(1, dtype=torch.float64)
        alpha_below, sigma_below = torch.cat([one, alpha[:-1]]), torch.cat([0 * one, sigma[:-1]])
        added = sigma**2 - (alpha / alpha_below) ** 2 * sigma_below**2
        posterior = added * sigma_below**2 / sigma**2
        posterior[0] = posterior[1]
        model = posterior if config.variance == "small" else torch.cat([posterior[:1], added[1:]])
        return cls(levels, alpha, sigma, alpha_below * added / sigma**2, posterior, model)

    def divergence(self, i: int, squares: Tensor, count: int) -> Tensor:
        """KL(q || p) in nats of the step down from level i > 0, for `squares` (B,), |x0 - estimate|² over `count`
        values; 0 for i = 0, the step to data."""
        if i == 0:
            return torch.zeros_like(squares)
        posterior, model = self.posterior[i], self.model[i]
        spread = torch.log(model / posterior) - 1 + posterior / model
        return 0.5 * (count * spread + self.gain[i] ** 2 / model * squares)

    def prior(self, z: Tensor) -> Tensor:
        """KL(q(x_T | x0) || N(0, 1)) in nats (B,), for latents (B, ...), float64."""
        alpha, sigma = self.alpha[-1], self.sigma[-1]
        each = alpha**2 * z.square() + sigma**2 - 1 - 2 * torch.log(sigma)
        return 0.5 * each.flatten(1).sum(1)


class _Measured:
    """The terms of a batch."""

    def __init__(self, config: BoundConfig, pipeline: Any, chain: Chain) -> None:
        self.config, self.stage, self.model, self.chain = config, pipeline.stage, pipeline.model, chain
        self.pipeline, self.device = pipeline, pipeline.model.device

    def rows(self, pictures: Pictures) -> dict[str, Tensor]:
        """Terms in nats a picture, float64, and squared errors a value."""
        x, chain = shown(pictures, self.stage), self.chain
        streams = Streams([mix_seed("bound", self.config.seed, place) for place in pictures.places], self.device)
        z = self.stage.latents(self.stage.encode_moments(x), streams=streams).float()
        scale = scale_of_pixels(self.stage, x, z)
        cond, predict = self._cond(pictures), make_predict(self.model)
        found: dict[str, list[Tensor]] = {"divergence": [], "error": []}
        first = torch.zeros(len(x), dtype=torch.float64)
        for i, level in enumerate(chain.levels):
            t = torch.full((len(x),), float(level), dtype=torch.float64, device=self.device)
            noised = chain.alpha[i].float() * z + chain.sigma[i].float() * streams.normal(z.shape)
            estimate = predict(noised, t, [cond])[0].x0.float()
            if scale is not None and self.config.clip:
                estimate = self.stage.project(estimate)
            squares = (z.double() - estimate.double()).square().flatten(1).sum(1).cpu()
            found["divergence"].append(chain.divergence(i, squares, z[0].numel()))
            found["error"].append(self._error(x, z, estimate))
            if i == 0:
                first = self._first(z, estimate, x, scale)
        return {
            "prior": chain.prior(z.double().cpu()),
            "first": first,
            **{key: torch.stack(value, dim=1) for key, value in found.items()},
        }

    def _cond(self, pictures: Pictures) -> Any:
        model, examples = self.model, pictures.examples
        if lacking := [key for key in self.pipeline.reads if key not in examples]:
            raise DataError(f"bound: the model reads '{lacking[0]}', and the pictures have none; give data with it")
        return model.merged(model.encode({key: examples[key] for key in self.pipeline.reads}))

    def _first(self, z: Tensor, estimate: Tensor, x: Tensor, scale: Tensor | None) -> Tensor:
        """-log p(x0 | x1) in nats (B,): of the 8-bit levels of pixels, of the density of other latents."""
        std = self.chain.model[0].sqrt().to(z.device)
        if scale is None:
            return -densities(z.double(), estimate.double(), std).flatten(1).sum(1).cpu()
        mean = self.stage.decode(estimate)
        return -binned(x.double(), mean.double(), scale.double() * std).flatten(1).sum(1).cpu()

    def _error(self, x: Tensor, z: Tensor, estimate: Tensor) -> Tensor:
        """The mean squared error of a picture's values (B,), float64."""
        if self.config.distortion == "latents":
            return (z.double() - estimate.double()).square().flatten(1).mean(1).cpu()
        made = self.stage.decode(estimate).float().clamp(-1, 1)
        return ((made.double() - x.double()) * 127.5).square().flatten(1).mean(1).cpu()
