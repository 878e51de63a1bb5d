"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl
from ldm_plugin_degradations import config

_PACKAGE = "ldm_plugin_degradations"
_BSR = "Zhang et al. 2021, arXiv 2103.14006; light: Rombach et al. 2022, arXiv 2112.10752, section 4.4"
_LAMA = "Suvorov et al. 2021, arXiv 2109.07161, and the settings of its program"


@hookimpl
def ldm_components() -> list[Component]:
    """Small pictures and masks."""
    return [
        Component(
            kind="degradation",
            name="bicubic",
            config=config.BicubicConfig,
            factory=f"{_PACKAGE}.pictures.plain:Bicubic",
            summary="a small version, by the antialiased bicubic filter",
        ),
        Component(
            kind="degradation",
            name="grey",
            config=config.GreyConfig,
            factory=f"{_PACKAGE}.pictures.plain:Grey",
            summary="without colour, for colourisation",
            source="luma of ITU-R BT.601",
        ),
        Component(
            kind="degradation",
            name="bsr",
            config=config.BsrConfig,
            factory=f"{_PACKAGE}.pictures.bsr:Bsr",
            summary="a small version with blur, noise and JPEG's blocks, in an order that is drawn",
            source=_BSR,
            presets={"bsr": config.BsrConfig(), "bsr_light": config.BSR_LIGHT},
        ),
        Component(
            kind="degradation",
            name="irregular",
            config=config.IrregularConfig,
            factory=f"{_PACKAGE}.masks.irregular:Irregular",
            summary="a mask of strokes with a broad brush, or of boxes",
            source=_LAMA,
            presets={f"irregular_{word}": settings for word, settings in config.IRREGULAR.items()},
        ),
        Component(
            kind="degradation",
            name="boxes",
            config=config.BoxesConfig,
            factory=f"{_PACKAGE}.masks.shapes:Boxes",
            summary="a mask of boxes",
        ),
        Component(
            kind="degradation",
            name="half",
            config=config.HalfConfig,
            factory=f"{_PACKAGE}.masks.shapes:Half",
            summary="a mask of one half of the picture",
        ),
        Component(
            kind="degradation",
            name="outpainting",
            config=config.OutpaintingConfig,
            factory=f"{_PACKAGE}.masks.shapes:Outpainting",
            summary="a mask of all but a window of the picture",
        ),
        Component(
            kind="degradation",
            name="mask_mixture",
            config=config.MaskMixtureConfig,
            factory=f"{_PACKAGE}.masks.mixture:MaskMixture",
            summary="one of the other masks for each picture, in shares of their own",
        ),
    ]
