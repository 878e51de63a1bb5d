"""MultiDiffusion's configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import AdapterConfig, Site
from ldm_core.errors import quoted


def _window(_: Any, attribute: attrs.Attribute[Any], value: int | tuple[int, int]) -> None:
    """One number of cells for both sides, or [rows, columns]; each 1 or more."""
    sides = (value,) if isinstance(value, int) else tuple(value)
    if isinstance(value, bool) or not all(1 <= side <= 1 << 16 for side in sides):
        raise ValueError(f"{attribute.name}: expected latent cells, from 1 to {1 << 16:,}, got {quoted(value)}")


@attrs.frozen(kw_only=True)
class MultiDiffusionConfig(AdapterConfig):
    """Latents beyond a window are estimated in windows of it (Bar-Tal et al. 2023, arXiv 2302.08113)."""

    learns = False
    window: int | tuple[int, int] = attrs.field(
        default=64,
        validator=_window,
        metadata={"help": "latent cells of a window's sides, or [rows, columns]: best those of training", "least": 1},
    )
    overlap: int = field(
        16,
        "cells that neighbouring windows share, or more; fewer if a window could not move by the denoiser's factor",
        minimum=0,
    )
    batch: int = field(16, "windows that the network computes at once, over all images and branches", minimum=1)

    def __attrs_post_init__(self) -> None:
        if self.overlap >= min(self.sides):
            raise ValueError(f"overlap: {self.overlap} cells, and a window has {min(self.sides)}; choose fewer")

    @property
    def sides(self) -> tuple[int, int]:
        """The rows and columns of a window."""
        return (self.window, self.window) if isinstance(self.window, int) else self.window

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line for latents without rows and columns."""
        if site.latent is not None and len(site.latent.stride) != 2:
            yield f"windows have rows and columns; the latents have {len(site.latent.stride)} axes"
