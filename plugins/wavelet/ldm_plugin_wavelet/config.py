"""Settings of the wavelet first stage. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ldm_core.contracts import FirstStageConfig, LatentSpec, Site


@attrs.frozen(kw_only=True)
class HaarConfig(FirstStageConfig):
    """The Haar transform of each block of pixels: as many numbers as pixels, on a grid smaller by the factor."""

    channels: int = attrs.field(default=3, metadata={"help": "channels of the images: 3 colour, 1 grey"})
    levels: int = attrs.field(
        default=1,
        validator=[attrs.validators.ge(1), attrs.validators.le(5)],
        metadata={"help": "halvings of the grid: factor 2**levels, channels * 4**levels latent channels"},
    )

    stage_objective = ""  # there is nothing to train

    @property
    def latent(self) -> LatentSpec:
        """One latent cell for each block of ``2**levels`` squared pixels."""
        return LatentSpec(channels=self.channels * 4**self.levels, stride=(2**self.levels,) * 2)

    def check(self, site: Site) -> Iterator[str]:
        """One line where the images have another number of channels."""
        if site.channels != self.channels:
            yield (
                f"the wavelets are of {self.channels} channels and the images have {site.channels}; "
                f"set first_stage.channels={site.channels}"
            )


F2 = HaarConfig()
F4 = HaarConfig(levels=2)
