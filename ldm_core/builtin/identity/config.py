"""Settings of the identity first stage. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ldm_core.contracts import FirstStageConfig, LatentSpec, Site


@attrs.frozen(kw_only=True)
class IdentityConfig(FirstStageConfig):
    """Pixels as latents: diffusion in pixel space (LDM-1 of arXiv 2112.10752)."""

    channels: int = attrs.field(default=3, metadata={"help": "channels of the images: 3 colour, 1 grey"})

    stage_objective = ""  # there is nothing to train

    @property
    def latent(self) -> LatentSpec:
        """One latent cell a pixel."""
        return LatentSpec(channels=self.channels, stride=(1, 1))

    def check(self, site: Site) -> Iterator[str]:
        """One line where the images have another number of channels."""
        if site.channels != self.channels:
            yield (
                f"the identity first stage has {self.channels} channels and the images have {site.channels}; "
                f"set first_stage.channels={site.channels}"
            )
