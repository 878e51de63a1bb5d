"""The simple objective: the plain error of what the network predicts, and the published terms and weights around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ldm_core.builtin.diffusion.config import SimpleConfig
from ldm_core.contracts import LossOutput, Objective, Site, draw_times
from ldm_core.model.diffusion import _scaled, prediction_error

if TYPE_CHECKING:
    from ldm_core.contracts import DiffusionModel
    from ldm_core.contracts.conditioning import Cond
    from ldm_core.contracts.streams import Streams

_BELOW_ONE = 1 - 2.0**-53


class LogVariance(nn.Module):
    """A learned log-variance for each level of a table: `weight` (T,), 0 at first.

    A module of its own, called as one, since an engine that spreads parameters over processes brings them together
    around calls of modules.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(levels))

    def forward(self, index: Tensor) -> Tensor:
        """Table indices (B,) -> log-variances (B,), float32."""
        return self.weight[index].float()


class SimpleObjective(Objective, nn.Module):
    """L_simple (Ho et al. 2020, equation 14) for any schedule and parameterization.

    Each example draws its time first and then its noise from its own stream. The error is the mean over the
    example's values of |F - F*|, its square or Huber's mixture of the two, F* being what an exact network would
    answer; `weighting` ``eps`` and ``x0`` move it to the noise or to x0, by the same factor for all values of an
    example, and ``min_snr`` weighs it as min(snr, gamma) weighs the squared error of x0 (Hang et al. 2023, arXiv
    2303.09556): by min(snr, gamma) / snr for eps and by min(snr, gamma) / (snr + 1) for v.
    """

    def __init__(self, config: SimpleConfig, site: Site | None = None) -> None:
        super().__init__()
        self.config = config
        self.log_variance: LogVariance | None = None

    def prepare(self, model: DiffusionModel) -> None:
        """Make the log-variances, one for each level of the model's table, where they are learned."""
        if self.config.learn_logvar and self.log_variance is None:
            self.log_variance = LogVariance(round(model.schedule.t_max)).to(model.device)

    def loss(self, model: DiffusionModel, x0: Tensor, cond: Cond, *, streams: Streams) -> LossOutput:
        """x0 (B, C, *s) -> the loss of each example (B,), float32."""
        config = self.config
        x0 = x0.float()
        u = self._spread(streams.uniform((x0.shape[0],)).to(x0.device))
        t = draw_times(model.schedule, u, x0.shape[1:])  # (B,)
        eps = streams.normal(x0.shape).to(x0.device)
        error, alpha, sigma, c_out = prediction_error(model, x0, eps, t, cond)
        measured = error
        if config.weighting in ("eps", "x0"):
            measured = _scaled(c_out if config.weighting == "x0" else c_out * alpha / sigma, error)
        value = self._penalty(measured).flatten(1).mean(1)
        if config.weighting == "min_snr":
            value = value * (((alpha / sigma) ** 2).clamp(max=config.gamma) * c_out**2).float()
        logs: dict[str, Tensor] = {}
        if config.needs_table:
            logs["loss_simple"] = value.detach()
        if config.learn_logvar:
            self.prepare(model)
            assert self.log_variance is not None
            log_variance = self.log_variance(t.long() - 1)
            value = value / log_variance.exp() + log_variance
        if config.elbo_weight:
            bound = error.square().flatten(1).mean(1) * bound_weights(model, t).float()
            logs["loss_vlb"] = bound.detach()
            value = value + config.elbo_weight * bound
        return LossOutput(value, logs)

    def _spread(self, u: Tensor) -> Tensor:
        """Uniform u -> u of the same stream, distributed as the config says."""
        if self.config.times == "uniform":
            return u
        # The quantile of a normal distribution: one draw an example, whatever the distribution.
        normal = torch.special.ndtri(u.double())
        return torch.sigmoid(self.config.times_mean + self.config.times_std * normal).clamp(max=_BELOW_ONE)

    def _penalty(self, error: Tensor) -> Tensor:
        if self.config.loss == "l2":
            return error.square()
        if self.config.loss == "l1":
            return error.abs()
        delta, size = self.config.huber_delta, error.abs()
        return torch.where(size <= delta, error.square(), delta * (2 * size - delta))


def bound_weights(model: DiffusionModel, t: Tensor) -> Tensor:
    """Weight of F's squared error in the variational bound, at whole t (B,) of a table; (B,) float64.

    (snr(t - 1) - snr(t)) / 2 for the error of x0 (Kingma et al. 2021, equation 13), c_out² times that for F; for eps
    it is the published beta² / (2 var alpha_t (1 - alpha²)), with var that of the posterior (Ho et al. 2020, equation
    12). The first level, where it has no bound, has the weight of the second, as published. For x0 the published code
    has another formula, which is not the bound's.
    """
    t = t.double().clamp(min=2)
    here, before = ((model.schedule.alpha(s) / model.schedule.sigma(s)) ** 2 for s in (t, t - 1))
    return 0.5 * (before - here) * model.coefficients(t)[1] ** 2
