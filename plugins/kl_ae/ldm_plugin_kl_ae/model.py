"""The KL first stage, with the key names of the published autoencoders."""

from __future__ import annotations

from typing import Any, Literal, cast

from torch import Tensor, nn

from ldm_core.contracts import FirstStage, Reconstruction, Site
from ldm_core.nn.autoencoder import Decoder, Encoder
from ldm_core.nn.latents import NormalizedLatents
from ldm_core.streams import Streams
from ldm_plugin_kl_ae.config import KLAEConfig
from ldm_plugin_kl_ae.gaussian import draw, kl_to_standard_normal, split_moments


class KLFirstStage(NormalizedLatents, FirstStage):
    """Images (B,c,H,W) <-> latents (B,z,h,w) drawn from a diagonal Gaussian posterior.

    Moments are raw: mean and log variance, (B,2z,h,w). In training the reconstruction error is summed over
    pixels (`nll_reduction`), which is the scale that `kl_weight` is made for.
    """

    nll_reduction: Literal["sum", "mean"] = "sum"

    def __init__(self, config: KLAEConfig, site: Site) -> None:
        super().__init__(config.z_channels)
        if misfits := list(config.check(site)):
            raise ValueError("kl_ae: " + "; ".join(misfits))
        self.latent = config.latent
        self.regularization_weight = config.kl_weight
        network: dict[str, Any] = {
            "image_channels": site.channels,
            "channels": config.channels,
            "channel_mult": config.channel_mult,
            "res_blocks": config.res_blocks,
            "attention": config.attention,
            "mid_attention": config.mid_attention,
            "dropout": config.dropout,
            "norm_groups": config.norm_groups,
        }
        z = config.z_channels
        self.encoder = Encoder(out_channels=2 * z, **network)
        self.decoder = Decoder(z_channels=z, **network)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight, at which the adversarial weight compares gradients."""
        return cast(nn.Parameter, self.decoder.conv_out.weight)

    def encode_moments(self, x: Tensor) -> Tensor:
        """Images (B,c,H,W) in [-1, 1] -> mean and log variance (B,2z,h,w), float32.

        Raises ValueError naming both numbers where H or W is not divisible by the factor.
        """
        self.latent.shape(tuple(x.shape[2:]))
        x = x.to(self.last_layer.dtype)
        return self.quant_conv(self.encoder(x)).float()

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        """Moments (B,2z,h,w) -> normalised latents (B,z,h,w): the mean, or with `streams` one draw each."""
        return self.normalized(draw(moments, streams))

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (B,z,h,w) -> images (B,c,H,W), float32, not clamped."""
        return self._decode(self.denormalized(z))

    def project(self, z: Tensor) -> Tensor:
        """Every latent means an image: `z` itself."""
        return z

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        """One training pass: the image decoded from a draw (or the mean), and the KL divergence per
        example."""
        moments = self.encode_moments(x)
        kl = kl_to_standard_normal(moments).mean()
        std = split_moments(moments)[1].mul(0.5).exp()
        logs = {"kl": kl.detach(), "posterior_std": std.detach().mean()}
        return Reconstruction(self._decode(draw(moments, streams)), kl, logs)

    def _decode(self, raw: Tensor) -> Tensor:
        raw = raw.to(self.last_layer.dtype)
        return self.decoder(self.post_quant_conv(raw)).float()
