"""The simple objective: uniform times, the plain error of what the network predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ldm_core.builtin.diffusion_config import SimpleConfig
from ldm_core.contracts import LossOutput, Objective, Site

if TYPE_CHECKING:
    from ldm_core.cond import Cond
    from ldm_core.diffusion import Model
    from ldm_core.streams import Streams


class SimpleObjective(Objective):
    """L_simple (Ho et al. 2020, equation 14) for any schedule and parameterization.

    Each example draws its time first and then its noise from its own stream. The error is the mean over the
    example's values of |F - F*| or its square, F* being what an exact network would answer; `weighting` moves
    it to the noise or to x0, by the same factor for all values of an example.
    """

    def __init__(self, config: SimpleConfig, site: Site | None = None) -> None:
        self.config = config

    def loss(self, model: Model, x0: Tensor, cond: Cond, *, streams: Streams) -> LossOutput:
        """x0 (B, C, *s) -> the loss of each example (B,), float32."""
        x0 = x0.float()
        t = model.schedule.draw(streams.uniform((x0.shape[0],)).to(x0.device))  # (B,)
        eps = streams.normal(x0.shape).to(x0.device)
        alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
        c_skip, c_out, _ = model.parameterization.coefficients(alpha, sigma)
        # F* = (x0 - c_skip x) / c_out with x = alpha x0 + sigma eps put in: the two weights in double
        # precision are exact where the difference in float32 would lose digits (eps at small sigma: weights 0
        # and 1).
        target = _scaled((1 - c_skip * alpha) / c_out, x0) + _scaled(-c_skip * sigma / c_out, eps)
        x = _scaled(alpha, x0) + _scaled(sigma, eps)
        error = model.network(x, t, cond)[:, : x0.shape[1]].float() - target  # (B, C, *s)
        if self.config.weighting != "target":
            scale = c_out if self.config.weighting == "x0" else c_out * alpha / sigma
            error = _scaled(scale, error)
        value = (error.abs() if self.config.loss == "l1" else error.square()).flatten(1).mean(1)
        return LossOutput(value)


def _scaled(factor: Tensor, x: Tensor) -> Tensor:
    """`factor` (B,) float64 times `x` (B, ...) in x's dtype."""
    return factor.to(x.dtype).view(-1, *[1] * (x.dim() - 1)) * x
