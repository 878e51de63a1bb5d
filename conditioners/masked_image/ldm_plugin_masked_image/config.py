"""The masked-image conditioner's configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ldm_core.contracts import ConditionerConfig, CondSpec, KeyForm, LatentSpec, Site


def _positive(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name}: expected a number above 0, got {value}")


@attrs.frozen(kw_only=True)
class MaskedImageConfig(ConditionerConfig):
    """The picture with its holes made black, through the first stage, and the mask; concatenated to the latents.

    The first stage hands out normalised latents, and `scale` multiplies them. Published weights of the paper's model
    saw latents without a factor, which those of their first stage (factor 1) are. Weights that were trained on the
    encoding without the first stage's factor s, while their noise was added to latents times s, need scale = 1 / s.
    """

    scale: float = attrs.field(
        default=1.0, validator=_positive, metadata={"help": "factor of the encoded picture, not of the mask"}
    )
    hole: float = attrs.field(
        default=-1.0, metadata={"help": "what pictures hold in holes: -1 (black); Stable Diffusion: 0 (mid-grey)"}
    )
    outside: float = attrs.field(
        default=-1.0, metadata={"help": "what the mask holds outside of holes: -1; Stable Diffusion: 0"}
    )
    image: str = attrs.field(default="image", metadata={"help": "which key of a batch holds the pictures"})
    mask: str = attrs.field(default="mask", metadata={"help": "which key of a batch holds the masks"})
    droppable: bool = attrs.field(
        default=False, metadata={"help": "let dropout and guidance replace picture and mask by one large hole"}
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """Pictures and masks."""
        return (self.image, self.mask)

    @property
    def degradable(self) -> Mapping[str, str]:
        """The mask can be made by a degradation."""
        return {"mask": self.mask}

    @property
    def key_forms(self) -> Mapping[str, KeyForm]:
        """Pictures and masks, under any names."""
        words = "white where the picture is to be filled"
        return {self.image: KeyForm(geometry="image"), self.mask: KeyForm(words, geometry="map")}

    def spec(self, latent: LatentSpec) -> CondSpec:
        """The latents' channels and one for the mask, concatenated to the latents."""
        return CondSpec(concat=latent.channels + 1)

    def check(self, site: Site) -> Iterator[str]:
        """One line for each impossible setting."""
        if self.image == self.mask:
            yield f"image and mask are both '{self.image}'; name two keys"
        if site.latent is not None and len(site.latent.stride) != 2:
            yield f"masks have 2 axes (height, width); the latents have {len(site.latent.stride)}"
