"""The descriptors of these parts."""

from __future__ import annotations

from ldm_contract_plugin.conditioning import config
from ldm_core import Component

_PACKAGE = "ldm_contract_plugin.conditioning"


def components() -> list[Component]:
    """Letters, patches and a denoiser of both; a noisy small picture; picture sizes."""
    return [
        Component(
            kind="conditioner",
            name="letters",
            config=config.LettersConfig,
            factory=f"{_PACKAGE}.letters:Letters",
            summary="the caption's letters, joined by length or width, or a set by name",
        ),
        Component(
            kind="conditioner",
            name="patches",
            config=config.PatchesConfig,
            factory=f"{_PACKAGE}.two_roles:Patches",
            summary="the picture's patches, a named set of tokens",
        ),
        Component(
            kind="denoiser",
            name="two_roles",
            config=config.TwoRolesConfig,
            factory=f"{_PACKAGE}.two_roles:TwoRoles",
            summary="attends to text and to a picture apart",
        ),
        Component(
            kind="conditioner",
            name="noisy_small",
            config=config.NoisySmallConfig,
            factory=f"{_PACKAGE}.noisy_small:NoisySmall",
            summary="a small picture with noise of a drawn level, and the level",
            source="Ho et al. 2021, arXiv 2106.15282",
        ),
        Component(
            kind="conditioner",
            name="sizes",
            config=config.SizesConfig,
            factory=f"{_PACKAGE}.sizes:Sizes",
            summary="original size, crop offset and target size as sinusoids",
            source="Podell et al. 2023, arXiv 2307.01952",
        ),
    ]
