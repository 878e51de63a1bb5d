"""The settings of degradations. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import Site
from ldm_core.contracts.configs import DegradationConfig


def _span(default: tuple[int, int], help: str, least: int = 1, most: int = 100_000) -> Any:
    def ordered(_: Any, attribute: attrs.Attribute[Any], value: tuple[int, int]) -> None:
        if not least <= value[0] <= value[1] <= most:
            raise ValueError(f"{attribute.name}: expected [low, high] between {least} and {most}, got {list(value)}")

    return attrs.field(default=default, metadata={"help": help}, validator=ordered)


def _shares(default: tuple[float, float], help: str) -> Any:
    def ordered(_: Any, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:
        if not 0 < value[0] <= value[1] < 1:
            raise ValueError(f"{attribute.name}: expected [low, high] inside of 0 and 1, got {list(value)}")

    return attrs.field(default=default, metadata={"help": help}, validator=ordered)


def _chance(default: float, help: str) -> Any:
    return field(default, help, 0, maximum=1)


# ------------------------------------------------------------------------------------------------------- pictures


@attrs.frozen(kw_only=True)
class BicubicConfig(DegradationConfig):
    """The antialiased bicubic reduction of Pillow, to one of 256 levels."""

    makes: ClassVar[Literal["image"]] = "image"


@attrs.frozen(kw_only=True)
class GreyConfig(DegradationConfig):
    """The picture without colour, in its number of channels; made small for a reader of small ones."""

    makes: ClassVar[Literal["image"]] = "image"


@attrs.frozen(kw_only=True)
class BsrConfig(DegradationConfig):
    """Zhang et al. 2021 as the program of latent diffusion has it: blur, two resizes, noise and JPEG in an order drawn
    for each picture, JPEG last of all. `bsr_light` has one blur, narrow, and little noise."""

    blurs: int = field(2, "blurs in the chain", 0, maximum=4)
    width: float = field(1.0, "factor of the widths that blurs are drawn from", above=0, maximum=16)
    step: int = field(2, "a kernel has 3 + step times 2 to `longest` (round: `roundest`) pixels a side", 1, maximum=4)
    longest: int = field(11, "see `step`", 2, maximum=32)
    roundest: int = field(11, "see `step`", 2, maximum=32)
    resized: float = _chance(0.75, "chance of a resize of any size before the last; else a blur and every nth pixel")
    halved: float = _chance(0.25, "chance that a picture four times as large or more is halved at first")
    noise: tuple[int, int] = _span((2, 25), "levels (of 255) of Gaussian noise: [low, high]", 0, 255)
    poisson: float = _chance(0.25, "chance of shot noise; it stands in the place of a camera that is off")
    jpeg: tuple[int, int] = _span((30, 95), "qualities of JPEG: [low, high]", 1, 95)
    compressed: float = _chance(0.9, "chance of JPEG within the chain; at its end it is certain")
    makes: ClassVar[Literal["image"]] = "image"


BSR_LIGHT = BsrConfig(blurs=1, width=0.25, step=1, roundest=4, resized=0.8, noise=(1, 2), poisson=0.0, jpeg=(80, 95))
"""The paper's for pictures that are hardly spoilt."""


# ---------------------------------------------------------------------------------------------------------- masks


@attrs.frozen(kw_only=True)
class IrregularConfig(DegradationConfig):
    """LaMa's masks: strokes of several segments each, of a brush of one width, or boxes instead.

    Lengths are pixels of a picture with a shorter side of 256, and grow with it. A mask with more than `most` of the
    picture is drawn again.
    """

    strokes: tuple[int, int] = _span((4, 5), "number of strokes: [low, high]")
    width: int = field(50, "a brush is 5 pixels wide, and up to this number more", 1, maximum=10_000)
    length: int = field(100, "a segment is 10 pixels long, and up to this number more", 1, maximum=10_000)
    angle: int = field(4, "directions are below this number, in radians", 1, maximum=7)
    boxes: float = _chance(0.3 / 1.3, "chance of boxes in the place of strokes")
    count: tuple[int, int] = _span((1, 5), "number of boxes: [low, high]")
    side: tuple[int, int] = _span((10, 50), "their sides: [low, high]")
    margin: int = field(0, "pixels at the picture's edge that boxes leave free", 0, maximum=10_000)
    most: float = field(0.5, "the largest share of the picture", above=0, maximum=1)
    makes: ClassVar[Literal["mask"]] = "mask"


IRREGULAR: Mapping[str, IrregularConfig] = {
    "irregular_thin": IrregularConfig(strokes=(4, 50), width=10, length=40, boxes=0.0),
    "irregular_medium": IrregularConfig(),
    "irregular_thick": IrregularConfig(strokes=(1, 5), width=100, length=200, count=(1, 3), side=(30, 150), margin=10),
}
"""The published settings for pictures of 256 pixels."""


@attrs.frozen(kw_only=True)
class BoxesConfig(DegradationConfig):
    """Boxes anywhere, with sides in shares of the picture's."""

    count: tuple[int, int] = _span((1, 3), "number of boxes: [low, high]", 1, 1000)
    side: tuple[float, float] = _shares((0.2, 0.5), "their sides as shares of the picture's: [low, high]")
    makes: ClassVar[Literal["mask"]] = "mask"


@attrs.frozen(kw_only=True)
class HalfConfig(DegradationConfig):
    """One half is the hole."""

    side: Literal["any", "left", "right", "top", "bottom"] = attrs.field(
        default="any", metadata={"help": "the half that is the hole; any: drawn for each picture"}
    )
    makes: ClassVar[Literal["mask"]] = "mask"


@attrs.frozen(kw_only=True)
class OutpaintingConfig(DegradationConfig):
    """A window stays, and all around it is the hole."""

    window: tuple[float, float] = _shares((0.4, 0.8), "sides of the window as shares of the picture's: [low, high]")
    centred: bool = attrs.field(default=False, metadata={"help": "the window lies in the middle, else anywhere"})
    makes: ClassVar[Literal["mask"]] = "mask"


@attrs.frozen(kw_only=True)
class MaskMixtureConfig(DegradationConfig):
    """One of the makers of masks for each picture, with their own defaults; the numbers are shares of their sum."""

    thin: float = field(1.0, "share of irregular_thin", 0)
    medium: float = field(1.0, "share of irregular_medium", 0)
    thick: float = field(2.0, "share of irregular_thick", 0)
    boxes: float = field(1.0, "share of boxes", 0)
    half: float = field(0.5, "share of half", 0)
    outpainting: float = field(0.5, "share of outpainting", 0)
    makes: ClassVar[Literal["mask"]] = "mask"

    def check(self, site: Site) -> Iterator[str]:
        """A line if nothing is left to choose from."""
        if not any(attrs.astuple(self)):
            yield "all shares are 0; give one of them"
