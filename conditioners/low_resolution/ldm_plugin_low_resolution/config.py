"""The low-resolution conditioner's configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import attrs

from ldm_core.contracts import ConditionerConfig, CondSpec, LatentSpec, Site


@attrs.frozen(kw_only=True)
class LowResolutionConfig(ConditionerConfig):
    """A small version of the picture, as large as the latents, concatenated to them as it is.

    The picture is made small here, by the latents' stride; one of the latents' size is taken as it is.
    """

    reduce: Literal["bicubic", "area"] = attrs.field(
        default="bicubic", metadata={"help": "how pictures are made small, antialiased; area: the mean of each cell"}
    )
    image_channels: int = attrs.field(default=3, metadata={"help": "channels of the pictures: 3, or 1 for grey ones"})
    key: str = attrs.field(default="image", metadata={"help": "which key of a batch holds the pictures"})
    droppable: bool = attrs.field(
        default=False, metadata={"help": "let dropout and guidance replace the picture by mid-grey"}
    )
    fixed_size: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:
        """The one key of a batch with the pictures."""
        return (self.key,)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """The picture's channels, concatenated to the latents."""
        return CondSpec(concat=self.image_channels)

    def taken_sizes(self, size: tuple[int, int], latent: LatentSpec) -> Mapping[str, tuple[int, int]]:
        """The picture to enlarge, at the latents' size (h, w)."""
        height, width = latent.shape(size)[1:]
        return {self.key: (height, width)}

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible size."""
        if self.image_channels != site.channels:
            yield (
                f"image_channels is {self.image_channels}, the pictures have {site.channels}; "
                f"set image_channels={site.channels}"
            )
        if site.latent is not None and len(site.latent.stride) != 2:
            yield f"pictures have 2 axes (height, width); the latents have {len(site.latent.stride)}"
