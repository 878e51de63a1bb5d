"""Settings of the VQ first stage and the sizes of the paper. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import attrs

from ldm_core.contracts import Site
from ldm_core.nn.autoencoder_config import AutoencoderConfig


@attrs.frozen(kw_only=True)
class VQAEConfig(AutoencoderConfig):
    """Convolutional autoencoder with a learned codebook (arXiv 2012.09841; 2112.10752, appendix G); vq_f4 as
    it is."""

    codebook_size: int = attrs.field(default=8192, metadata={"help": "number of codes"})
    beta: float = attrs.field(default=0.25, metadata={"help": "the smaller weight in the codebook loss"})
    legacy_beta: bool = attrs.field(
        default=True,
        metadata={"help": "beta weighs the codes' term (as published) instead of the encoder's commitment"},
    )
    codebook_weight: float = attrs.field(default=1.0, metadata={"help": "weight of the codebook loss"})
    stage_objective: ClassVar[str] = "adversarial"
    adversarial_start: int = attrs.field(
        default=0, metadata={"help": "batch from which the discriminator counts and is trained"}
    )
    adversarial_weight: float = attrs.field(
        default=0.75, metadata={"help": "weight of the generator's loss, beside the adaptive one"}
    )
    discriminator_layers: int = attrs.field(
        default=3, metadata={"help": "strided convolutions of the patch discriminator", "most": 32}
    )

    def check(self, site: Site) -> Iterator[str]:
        """One line for each number that cannot work."""
        if self.codebook_size < 1:
            yield f"codebook_size: expected a whole number above 0, got {self.codebook_size}"
        yield from super().check(site)


_F8 = VQAEConfig(
    channel_mult=(1, 2, 2, 4),
    attention=(8,),
    z_channels=4,
    codebook_size=16384,
    adversarial_start=1,
    adversarial_weight=0.6,
    discriminator_layers=2,
)

PRESETS: Mapping[str, VQAEConfig] = {
    "vq_f4": VQAEConfig(),
    "vq_f4_noattn": VQAEConfig(mid_attention=False, adversarial_start=11),
    "vq_f8": _F8,
    "vq_f8_n256": attrs.evolve(
        _F8, codebook_size=256, adversarial_start=250_001, adversarial_weight=0.75, discriminator_layers=3
    ),
    "vq_f16": VQAEConfig(
        channel_mult=(1, 1, 2, 2, 4),
        attention=(16,),
        z_channels=8,
        codebook_size=16384,
        adversarial_start=250_001,
        discriminator_layers=2,
    ),
    # Two of our own for factors that the paper trains and nobody released. At factor 2 attention would see a quarter
    # of all pixels, so there is none.
    "vq_f2": VQAEConfig(channel_mult=(1, 2), mid_attention=False, z_channels=2, codebook_size=2048),
    "vq_f32": VQAEConfig(
        channel_mult=(1, 1, 2, 2, 4, 4),
        attention=(16, 32),
        z_channels=16,
        codebook_size=16384,
        adversarial_start=250_001,
        discriminator_layers=2,
    ),
}
"""The released models: 55.3 M, 53.2 M, 67.7 M, 67.7 M and 69.6 M parameters; and ours, vq_f2 and vq_f32."""
