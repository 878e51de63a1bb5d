"""Normalisation of latents, common to every first stage and kept with its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NormalizedLatents(nn.Module):
    """Base of the first stages: raw latents (B,C,*s) <-> latents close to N(0, 1), per channel.

    `latent_mean` and `latent_std` (C,) are buffers, saved with the weights; fresh, they change nothing.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        """Take the mean and std (C,) of raw latents; ValueError for another shape or a std that is not above
        0."""
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.latent_mean.shape or not bool(torch.isfinite(value).all()):
                raise ValueError(
                    f"{name} of the latents must be {len(self.latent_mean)} finite numbers, one a channel; "
                    f"got {tuple(value.shape)} with values {value.flatten()[:4].tolist()}"
                )
        if not bool((std > 0).all()):
            raise ValueError(f"std of the latents must be above 0 in every channel; the smallest is {std.min().item()}")
        with torch.no_grad():
            self.latent_mean.copy_(mean)
            self.latent_std.copy_(std)

    def normalized(self, raw: Tensor) -> Tensor:
        """Raw latents (B,C,*s) -> float32 latents of mean 0 and std 1."""
        mean, std = self._broadcast(raw)
        return (raw.float() - mean) / std

    def denormalized(self, z: Tensor) -> Tensor:
        """The inverse of :meth:`normalized`, in float32."""
        mean, std = self._broadcast(z)
        return z.float() * std + mean

    def _broadcast(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *[1] * (like.dim() - 2))
        return self.latent_mean.float().view(shape), self.latent_std.float().view(shape)
