"""Settings of the KL first stage and the sizes of the paper. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from ldm_core.contracts import LatentSpec, Site


@attrs.frozen(kw_only=True)
class KLAEConfig:
    """Convolutional autoencoder with a diagonal Gaussian posterior (arXiv 2112.10752, appendix G); kl_f8 as
    it is."""

    channels: int = attrs.field(
        default=128, metadata={"help": "base width; every level's width is a multiple of norm_groups"}
    )
    channel_mult: tuple[int, ...] = attrs.field(
        default=(1, 2, 4, 4),
        metadata={"help": "width of each level as a multiple of channels; n levels give factor 2**(n-1)"},
    )
    res_blocks: int = attrs.field(
        default=2, metadata={"help": "residual blocks a level in the encoder; one more in the decoder"}
    )
    attention: tuple[int, ...] = attrs.field(
        default=(), metadata={"help": "downsampling factors (1, 2, 4, ...) of the levels with attention"}
    )
    mid_attention: bool = attrs.field(
        default=True, metadata={"help": "attention between the two blocks of the lowest resolution"}
    )
    z_channels: int = attrs.field(default=4, metadata={"help": "channels of the latents"})
    norm_groups: int = attrs.field(default=32, metadata={"help": "groups of every group normalisation"})
    dropout: float = attrs.field(default=0.0, metadata={"help": "dropout in residual blocks"})
    kl_weight: float = attrs.field(
        default=1e-6,
        metadata={"help": "weight of the KL term, a sum over the latent beside a sum over pixels"},
    )
    adversarial_start: int = attrs.field(
        default=50_001, metadata={"help": "batch from which the discriminator counts and is trained"}
    )
    adversarial_weight: float = attrs.field(
        default=0.5, metadata={"help": "weight of the generator's loss, beside the adaptive one"}
    )
    discriminator_layers: int = attrs.field(
        default=3, metadata={"help": "strided convolutions of the patch discriminator", "most": 32}
    )

    @property
    def latent(self) -> LatentSpec:
        """Channels and stride of the latents."""
        factor = 2 ** (len(self.channel_mult) - 1)
        return LatentSpec(channels=self.z_channels, stride=(factor, factor))

    def check(self, site: Site) -> Iterator[str]:
        """One line for each number that cannot work: empty levels, widths that the norm's groups do not
        divide."""
        for name, value in (("channel_mult", len(self.channel_mult)), ("res_blocks", self.res_blocks)):
            if value < 1:
                yield f"{name}: at least one is needed"
        for name in ("channels", "z_channels", "norm_groups"):
            if getattr(self, name) < 1:
                yield f"{name}: expected a whole number above 0, got {getattr(self, name)}"
                return
        if min(self.channel_mult, default=1) < 1:
            yield f"channel_mult: expected whole numbers above 0, got {list(self.channel_mult)}"
            return
        widths = [self.channels, *(self.channels * mult for mult in self.channel_mult)]
        if uneven := [width for width in widths if width % self.norm_groups]:
            yield (
                f"width {uneven[0]} is not divisible by norm_groups {self.norm_groups}; "
                f"make channels a multiple of it, or set norm_groups to a divisor"
            )


PRESETS: Mapping[str, KLAEConfig] = {
    "kl_f4": KLAEConfig(channel_mult=(1, 2, 4), z_channels=3),
    "kl_f8": KLAEConfig(channel_mult=(1, 2, 4, 4), z_channels=4),
    "kl_f16": KLAEConfig(channel_mult=(1, 1, 2, 2, 4), attention=(16,), z_channels=16),
    "kl_f32": KLAEConfig(channel_mult=(1, 1, 2, 2, 4, 4), attention=(16, 32), z_channels=64),
    # Ours, for a factor that the paper trains and nobody released. Attention would see a quarter of all pixels, so
    # there is none.
    "kl_f2": KLAEConfig(channel_mult=(1, 2), mid_attention=False, z_channels=2),
}
"""The released models: 55.3 M, 83.7 M, 69.6 M and 103.9 M parameters; and ours, kl_f2."""
