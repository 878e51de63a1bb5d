"""The diagonal Gaussian posterior, as functions of its moments (B,2z,*s): means, then log variances, on
channels."""

from __future__ import annotations

from torch import Tensor

from ldm_core.contracts.streams import Streams


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Moments -> mean and log variance, each (B,z,*s) float32; the latter kept in [-30, 20]."""
    mean, log_variance = moments.float().chunk(2, dim=1)
    return mean, log_variance.clamp(-30.0, 20.0)


def draw(moments: Tensor, streams: Streams | None) -> Tensor:
    """The mean (B,z,*s), or with `streams` one draw from each example's posterior."""
    mean, log_variance = split_moments(moments)
    if streams is None:
        return mean
    return mean + log_variance.mul(0.5).exp() * streams.normal(tuple(mean.shape)).to(mean.device)


def kl_by_channel(moments: Tensor) -> Tensor:
    """KL divergence of each example's posterior from N(0, I), in nats, summed over positions: (B,z)."""
    mean, log_variance = split_moments(moments)
    terms = mean.square() + log_variance.exp() - 1.0 - log_variance
    return 0.5 * terms.flatten(2).sum(dim=2)


def kl_to_standard_normal(moments: Tensor) -> Tensor:
    """The same summed over the whole latent: (B,)."""
    return kl_by_channel(moments).sum(dim=1)
