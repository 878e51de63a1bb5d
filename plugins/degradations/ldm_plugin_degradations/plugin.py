"""The components of this distribution."""

from __future__ import annotations

from typing import Any

from ldm_core import Component, hookimpl

_PACKAGE = "ldm_plugin_degradations"
_BSR = "Zhang et al. 2021, arXiv 2103.14006; light: Rombach et al. 2022, arXiv 2112.10752, section 4.4"
_LAMA = "Suvorov et al. 2021, arXiv 2109.07161, and the settings of its program"


@hookimpl
def ldm_components() -> list[Component]:
    """Small and grey pictures, and masks."""
    return [*_pictures(), *_masks()]


def _pictures() -> list[Component]:
    return [
        _part("bicubic", "BicubicConfig", "pictures.plain:Bicubic", "a small version, by antialiased bicubic filter"),
        _part("grey", "GreyConfig", "pictures.plain:Grey", "without colour, for colourisation", "ITU-R BT.601"),
        _part(
            "bsr",
            "BsrConfig",
            "pictures.bsr:Bsr",
            "a small version with blur, noise and JPEG's blocks, in a drawn order",
            _BSR,
            presets={"bsr_light": f"{_PACKAGE}.config:BSR_LIGHT"},
        ),
    ]


def _masks() -> list[Component]:
    irregular = ("irregular_thin", "irregular_medium", "irregular_thick")
    return [
        _part(
            "irregular",
            "IrregularConfig",
            "masks.irregular:Irregular",
            "a mask of strokes with a broad brush, or of boxes",
            _LAMA,
            presets=dict.fromkeys(irregular, f"{_PACKAGE}.config:IRREGULAR"),
        ),
        _part("boxes", "BoxesConfig", "masks.shapes:Boxes", "a mask of boxes"),
        _part("half", "HalfConfig", "masks.shapes:Half", "a mask of one half of the picture"),
        _part("outpainting", "OutpaintingConfig", "masks.shapes:Outpainting", "a mask of all but a window"),
        _part(
            "mask_mixture",
            "MaskMixtureConfig",
            "masks.mixture:MaskMixture",
            "one of the other masks for each picture, in shares",
        ),
    ]


def _part(name: str, settings: str, factory: str, summary: str, source: str = "", **more: Any) -> Component:
    return Component(
        kind="degradation",
        name=name,
        config=f"{_PACKAGE}.config:{settings}",
        factory=f"{_PACKAGE}.{factory}",
        summary=summary,
        source=source,
        **more,
    )
