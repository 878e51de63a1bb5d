"""Options of the metrics of pairs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import MetricConfig, Site
from ldm_plugin_metrics.weights import missing

SSIM_SIDE = 11
"""The side of SSIM's window, and the smallest of pictures."""
LPIPS_SIDE = 16
"""The smallest side of pictures for LPIPS' deepest layer."""


@attrs.frozen(kw_only=True)
class PairConfig(MetricConfig):
    """The config of a metric of reconstructions and their originals."""

    subject: ClassVar[Literal["reconstructions"]] = "reconstructions"


@attrs.frozen(kw_only=True)
class PSNRConfig(PairConfig):
    """The mean over the pictures of 10 log10(255² / mean squared error)."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("psnr",)


@attrs.frozen(kw_only=True)
class SSIMConfig(PairConfig):
    """The structural similarity of Wang et al. 2004: 1 for equal pictures."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("ssim",)

    def check(self, site: Site) -> Iterator[str]:
        """One line for pictures smaller than the window."""
        if min(site.size) < SSIM_SIDE:
            yield f"ssim: its window is {SSIM_SIDE} pixels wide, and pictures are {list(site.size)}; use psnr"


@attrs.frozen(kw_only=True)
class LPIPSConfig(PairConfig):
    """The perceptual distance of Zhang et al. 2018 on VGG16, version 0.1: 0 for equal pictures."""

    weights: str = field(
        "", "path or URL of the trained trunk and heads; of two files, both with a comma between", place="whether"
    )

    def check(self, site: Site) -> Iterator[str]:
        """A line for missing weights, and one for too small pictures."""
        for file in self.weights.split(","):
            if problem := missing(file, "a VGG16 and LPIPS' heads: FILE, or TRUNK,HEADS"):
                yield f"lpips: weights: {problem}"
        if min(site.size) < LPIPS_SIDE:
            yield f"lpips: pictures have at least {LPIPS_SIDE} pixels a side, and these are {list(site.size)}; use psnr"
