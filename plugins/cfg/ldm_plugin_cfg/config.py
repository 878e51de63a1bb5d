"""Classifier-free guidance's configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ldm_core.contracts import EMPTY
from ldm_core.contracts.configs import GuidanceConfig
from ldm_core.sampling.guidance_interval import interval_field


def _share(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name}: expected a number from 0 to 1, got {value}")


@attrs.frozen(kw_only=True)
class CFGConfig(GuidanceConfig):
    """Ho & Salimans 2022 (arXiv 2207.12598), in the scale of the latent diffusion paper."""

    # Between the 1.5 of the published class and text models and the 7.5 that pushes small ones out of range.
    scale: float = attrs.field(
        default=3.0,
        metadata={"help": "1: conditional, one evaluation; 0: unconditional; above 1: stronger than the data"},
    )
    scales: Mapping[str, float] = attrs.field(
        default=EMPTY,
        metadata={
            "help": "scales of conditioners by name; they are turned on in this order, all others last, at `scale`"
        },
    )
    rescale: float = attrs.field(
        default=0.0,
        validator=_share,
        metadata={"help": "share by which the output's deviation goes back to the conditional one's; 0 off, 0.7 usual"},
    )
    interval: tuple[float, float | None] | None = interval_field()

    @property
    def needs_null(self) -> bool:
        """True if the model is called without some condition: at every scale but 1."""
        return self.scale != 1.0 or any(scale != 1.0 for scale in self.scales.values())

    @property
    def conditioners(self) -> tuple[str, ...]:
        """The names of conditioners with a scale of their own."""
        return tuple(self.scales)
