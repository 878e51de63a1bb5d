"""The VQ first stage, with the key names of the published autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

from torch import Tensor, nn

from ldm_core.contracts import FirstStage, Reconstruction, Site
from ldm_core.contracts.streams import Streams
from ldm_core.nn.autoencoder import Decoder, Encoder
from ldm_core.nn.latents import NormalizedLatents
from ldm_plugin_vq_ae.codebook import Codebook, perplexity
from ldm_plugin_vq_ae.config import VQAEConfig


class VQFirstStage(NormalizedLatents, FirstStage):
    """Images (B,c,H,W) <-> latents (B,z,h,w); decoding replaces each latent by its nearest code.

    The diffusion model works on the latents before quantisation, which are also the moments. In training the
    reconstruction error is averaged over pixels (`nll_reduction`), as `codebook_weight` expects.
    """

    nll_reduction: Literal["sum", "mean"] = "mean"
    quantizing = True
    """True if training passes go through the codebook; a trainer may leave it out for the first steps."""

    def __init__(self, config: VQAEConfig, site: Site) -> None:
        super().__init__(config.z_channels)
        if misfits := list(config.check(site)):
            raise ValueError("vq_ae: " + "; ".join(misfits))
        self.latent = config.latent
        self.regularization_weight = config.codebook_weight
        z = config.z_channels
        self.encoder = Encoder(config, out_channels=z, image_channels=site.channels)
        self.decoder = Decoder(config, image_channels=site.channels)
        self.quantize = Codebook(config.codebook_size, z, beta=config.beta, legacy_beta=config.legacy_beta)
        self.quant_conv = nn.Conv2d(z, z, 1)
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
        """Images (B,c,H,W) in [-1, 1] -> raw latents before quantisation (B,z,h,w), float32.

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
        """Moments (B,z,h,w) -> normalised latents, not quantised; nothing is drawn."""
        return self.normalized(moments)

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (B,z,h,w), quantised here -> images (B,c,H,W), float32, not clamped.

        Gradients pass the quantisation straight through.
        """
        raw = self.denormalized(z)
        codes = self.quantize.codes(self.indices(raw))
        return self._decode(raw + (codes - raw).detach() if raw.requires_grad else codes)

    def decode_in_pieces(self, z: Tensor, memory: int) -> Tensor:
        """:meth:`decode` to rounding, without gradients and within about `memory` bytes."""
        codes = self.quantize.codes(self.indices(self.denormalized(z))).to(self.last_layer.dtype)
        return self.decoder.in_pieces(self.post_quant_conv(codes), memory).float()

    def project(self, z: Tensor) -> Tensor:
        """The nearest code of each normalised latent, normalised."""
        return self.normalized(self.quantize.codes(self.indices(self.denormalized(z))))

    def reconstruct(self, x: Tensor, *, streams: Streams | None = None) -> Reconstruction:
        """One training pass: the image decoded from the codes, and the codebook loss.

        Logs: `codebook_counts` (codebook_size,), how often each code occurs in this batch (see :meth:`diagnostics`);
        none while not :attr:`quantizing`, when the latents are decoded as they are.
        """
        moments = self.encode_moments(x)
        if not self.quantizing:
            return Reconstruction(self._decode(moments), moments.new_zeros(()), z=moments)
        codes, loss, indices = self.quantize(moments)
        logs = {"codebook_counts": self.quantize.usage(indices)}
        return Reconstruction(self._decode(codes), loss, logs, moments)

    def diagnostics(self, logs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Codes in use, by the mean `codebook_counts` (codebook_size,) over a whole batch: `codebook_used`, their
        share, and their `perplexity`, the effective number of codes."""
        counts = logs["codebook_counts"]
        return {"codebook_used": (counts > 0).float().mean(), "perplexity": perplexity(counts)}

    @property
    def codebook_size(self) -> int:
        """The number of codes."""
        return self.quantize.size

    def indices(self, moments: Tensor) -> Tensor:
        """Raw latents (B,z,h,w) -> the index of each one's nearest code, (B,h,w) int64."""
        return self.quantize.indices(moments)

    def codebook_usage(self, indices: Tensor) -> Tensor:
        """Counts of each code among `indices` of any shape: (codebook_size,) int64; 0 = dead."""
        return self.quantize.usage(indices)

    def init_codebook(self, latents: Tensor, *, seed: int) -> None:
        """Start the codes from data: raw latents (B,z,h,w) or (N,z), by random picks and k-means.

        It writes the weights in place: call it before an optimizer copies them.
        """
        self.quantize.init_from(latents, seed=seed)

    def revive(self, latents: Tensor, dead: Tensor, *, seed: int) -> int:
        """Move the codes `dead` (codebook_size,) bool onto raw latents (B,z,h,w); returns their number."""
        return self.quantize.revive(latents, dead, seed=seed)

    def _decode(self, codes: Tensor) -> Tensor:
        codes = codes.to(self.last_layer.dtype)
        return self.decoder(self.post_quant_conv(codes)).float()
