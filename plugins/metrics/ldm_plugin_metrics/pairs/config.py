"""Options of the metrics of pairs. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

import attrs

from ldm_core.contracts import MetricConfig


@attrs.frozen(kw_only=True)
class PairConfig(MetricConfig):
    """The config of a metric of reconstructions and their originals."""

    subject: ClassVar[Literal["reconstructions"]] = "reconstructions"


@attrs.frozen(kw_only=True)
class PSNRConfig(PairConfig):
    """The mean over the pictures of 10 log10(255² / mean squared error)."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("psnr",)
