"""The KL first stage, with the key names of the published autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

from torch import Tensor, nn

from ldm_core.contracts import FirstStage, Reconstruction, Site
from ldm_core.contracts.streams import Streams
from ldm_core.nn.autoencoder import Decoder, Encoder
from ldm_core.nn.latents import NormalizedLatents
from ldm_plugin_kl_ae.config import KLAEConfig
from ldm_plugin_kl_ae.gaussian import draw, kl_by_channel, split_moments

_SHOWN_CHANNELS = 16


class KLFirstStage(NormalizedLatents, FirstStage):
    """Images (B,c,H,W) <-> latents (B,z,h,w) drawn from a diagonal Gaussian posterior.

    Moments are raw: mean and log variance, (B,2z,h,w). In training the reconstruction error is summed over pixels
    (`nll_reduction`), the scale expected by `kl_weight`.
    """

    nll_reduction: Literal["sum", "mean"] = "sum"

    def __init__(self, config: KLAEConfig, site: Site) -> None:
        super().__init__(config.z_channels)
        if misfits := list(config.check(site)):
            raise ValueError("kl_ae: " + "; ".join(misfits))
        self.latent = config.latent
        self.regularization_weight = config.kl_weight
        z = config.z_channels
        self.encoder = Encoder(config, out_channels=2 * z, image_channels=site.channels)
        self.decoder = Decoder(config, image_channels=site.channels)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight, at which the adversarial weight compares gradients."""
        return cast(nn.Parameter, self.decoder.conv_out.weight)

    @property
    def encoder_layer(self) -> nn.Parameter:
        """The encoder's last weight, at which auxiliary losses compare gradients."""
        return cast(nn.Parameter, self.encoder.conv_out.weight)

    def encode_moments(self, x: Tensor) -> Tensor:
        """Images (B,c,H,W) in [-1, 1] -> mean and log variance (B,2z,h,w), float32.

        Raises ValueError naming both numbers if H or W is not divisible by the factor.
        """
        self.latent.shape(tuple(x.shape[2:]))
        x = x.to(self.last_layer.dtype)
        return self.quant_conv(self.encoder(x)).float()

    def encode_in_pieces(self, x: Tensor, memory: int) -> Tensor:
        """:meth:`encode_moments` to rounding, within about `memory` bytes."""
        self.latent.shape(tuple(x.shape[2:]))
        return self.quant_conv(self.encoder.in_pieces(x.to(self.last_layer.dtype), memory)).float()

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        """Moments (B,2z,h,w) -> normalised latents (B,z,h,w): the mean, or with `streams` one draw each."""
        return self.normalized(draw(moments, streams))

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (B,z,h,w) -> images (B,c,H,W), float32, not clamped."""
        return self._decode(self.denormalized(z))

    def decode_in_pieces(self, z: Tensor, memory: int) -> Tensor:
        """:meth:`decode` to rounding, without gradients and within about `memory` bytes."""
        raw = self.denormalized(z).to(self.last_layer.dtype)
        return self.decoder.in_pieces(self.post_quant_conv(raw), memory).float()

    def project(self, z: Tensor) -> Tensor:
        """Every latent means an image: `z` itself."""
        return z

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        """One training pass: the image decoded from a draw (or the mean), and the KL divergence per
        example.

        Logs: `kl` and `posterior_std`, and `kl_channels` (z_channels,), the part of each channel in `kl`.
        """
        moments = self.encode_moments(x)
        channels = kl_by_channel(moments).mean(dim=0)
        kl = channels.sum()
        std = split_moments(moments)[1].mul(0.5).exp()
        logs = {"kl": kl.detach(), "posterior_std": std.detach().mean(), "kl_channels": channels.detach()}
        z = draw(moments, streams)
        return Reconstruction(self._decode(z), kl, logs, z)

    def diagnostics(self, logs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Numbers of `kl_channels` (z_channels,): `kl_0` and so on for up to 16 channels, and `kl_min` and `kl_max`; a
        channel near 0 carries nothing."""
        channels = logs["kl_channels"]
        each = {f"kl_{i}": v for i, v in enumerate(channels)} if len(channels) <= _SHOWN_CHANNELS else {}
        return {**each, "kl_min": channels.min(), "kl_max": channels.max()}

    def _decode(self, raw: Tensor) -> Tensor:
        raw = raw.to(self.last_layer.dtype)
        return self.decoder(self.post_quant_conv(raw)).float()
