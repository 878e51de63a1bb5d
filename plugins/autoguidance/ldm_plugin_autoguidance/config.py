"""Autoguidance's configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ldm_core.contracts import Site
from ldm_core.contracts.configs import GuidanceConfig
from ldm_core.errors import LDMError
from ldm_core.sampling.guidance_interval import interval_field

UNNAMED = (
    "model: the weaker model is not named, and no weights file names it for you; give a run's folder or its "
    ".safetensors file with guidance.model=PATH_OR_URL, or another guidance (`guidance=NAME`)"
)
"""The error of a guidance without its second model."""


@attrs.frozen(kw_only=True)
class AutoGuidanceConfig(GuidanceConfig):
    """Karras et al. 2024 (arXiv 2406.02507)."""

    model: str = attrs.field(
        default="",
        metadata={
            "help": "the weaker model: a run's folder or its .safetensors file, of the same first stage",
            "sha256": "sha256",
            "file": "model.safetensors",
            "place": True,
        },
    )
    sha256: str = attrs.field(default="", metadata={"help": "the hash of the weaker model's file; filled in"})
    scale: float = attrs.field(
        default=2.0,
        metadata={"help": "1: the model alone, one evaluation; 0: the weaker one; above 1: away from the weaker one"},
    )
    interval: tuple[float, float | None] | None = interval_field()

    @property
    def needs_null(self) -> bool:
        """Never: both models see all conditions."""
        return False

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line if the weaker model does not fit `site`."""
        from ldm_core.sampling.second_model import find

        if not self.model:
            yield from (UNNAMED,) if self.scale != 1.0 else ()
            return
        try:
            find(self.model, site)
        except LDMError as error:
            yield f"model: {error}"
