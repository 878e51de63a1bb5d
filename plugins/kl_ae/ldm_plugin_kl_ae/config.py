"""Settings of the KL first stage and the sizes of the paper. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from ldm_core.nn.autoencoder_config import AutoencoderConfig, in_order


@attrs.frozen(kw_only=True, field_transformer=in_order)
class KLAEConfig(AutoencoderConfig):
    """Convolutional autoencoder with a diagonal Gaussian posterior (arXiv 2112.10752, appendix G); kl_f8 as
    it is."""

    channel_mult: tuple[int, ...] = attrs.field(
        default=(1, 2, 4, 4), metadata=attrs.fields(AutoencoderConfig).channel_mult.metadata
    )
    z_channels: int = attrs.field(default=4, metadata=attrs.fields(AutoencoderConfig).z_channels.metadata)
    kl_weight: float = attrs.field(
        default=1e-6,
        metadata={"help": "weight of the KL term, a sum over the latent beside a sum over pixels"},
    )
    stage_objective: ClassVar[str] = "adversarial"
    adversarial_start: int = attrs.field(
        default=50_001, metadata={"help": "batch from which the discriminator counts and is trained"}
    )
    adversarial_weight: float = attrs.field(
        default=0.5, metadata={"help": "weight of the generator's loss, beside the adaptive one"}
    )
    discriminator_layers: int = attrs.field(
        default=3, metadata={"help": "strided convolutions of the patch discriminator", "most": 32}
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
