"""The low-resolution conditioner's configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import ConditionerConfig, CondSpec, KeyForm, LatentSpec, Site


@attrs.frozen(kw_only=True)
class LowResolutionConfig(ConditionerConfig):
    """A small version of the picture, `factor` times smaller, concatenated to the latents as it is.

    Without a degradation of the recipe the picture is made small here; one of the small size is taken as it is. Where
    the small size is not the latents', as for a factor of 2 behind a first stage of stride 4, the small picture is
    resized to theirs (bicubic, antialiased): what a smaller grid cannot hold is lost to the model. `encoded` hands the
    model latents instead, those of the small picture enlarged to full size: nothing is lost, and they are an estimate
    of the latents to be made.
    """

    reduce: Literal["bicubic", "area"] = attrs.field(
        default="bicubic", metadata={"help": "how pictures are made small, antialiased; area: the mean of each cell"}
    )
    image_channels: int = attrs.field(default=3, metadata={"help": "channels of the pictures: 3, or 1 for grey ones"})
    key: str = attrs.field(default="image", metadata={"help": "which key of a batch holds the pictures"})
    droppable: bool = attrs.field(
        default=False,
        metadata={"help": "let dropout and guidance replace the picture by zeros: mid-grey, or mean latents"},
    )
    factor: int = field(
        0, "how many times smaller the small picture is: 2, 4, 8; 0 = as many times as the latents are", 0, since="0.2"
    )
    encoded: bool = field(
        False, "hand over the first stage's latents of the picture, enlarged, in the place of its pixels", since="0.2"
    )
    fixed_size: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:
        """The one key of a batch with the pictures."""
        return (self.key,)

    @property
    def degradable(self) -> Mapping[str, str]:
        """The small picture can be made by a degradation."""
        return {"image": self.key}

    @property
    def key_forms(self) -> Mapping[str, KeyForm]:
        """Pictures, under any name."""
        return {self.key: KeyForm(geometry="image")}

    def spec(self, latent: LatentSpec) -> CondSpec:
        """The channels of the picture or of its latents, concatenated to the latents."""
        return CondSpec(concat=latent.channels if self.encoded else self.image_channels)

    def taken_sizes(self, size: tuple[int, int], latent: LatentSpec) -> Mapping[str, tuple[int, int]]:
        """The picture to enlarge, at its own small size (h, w)."""
        height, width = latent.shape(size)[1:]
        if self.factor:
            height, width = size[0] // self.factor, size[1] // self.factor
        return {self.key: (height, width)}

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible size."""
        if self.image_channels != site.channels:
            yield (
                f"image_channels is {self.image_channels}, the pictures have {site.channels}; "
                f"set image_channels={site.channels}"
            )
        if self.factor and any(side % self.factor for side in site.size):
            height, width = site.size
            yield f"factor is {self.factor}, and does not divide pictures of {height}x{width}; set another image_size"
        if site.latent is not None and len(site.latent.stride) != 2:
            yield f"pictures have 2 axes (height, width); the latents have {len(site.latent.stride)}"
