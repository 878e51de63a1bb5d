"""The DDIM sampler's configuration. Imports no torch."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs

from ldm_core.contracts.configs import SamplerConfig


def _unit_interval(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name}: expected a number from 0 to 1, got {value}")


def _not_negative(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name}: expected 0 or more, got {value}")


@attrs.frozen(kw_only=True)
class DDIMConfig(SamplerConfig):
    """Song, Meng & Ermon 2020 (arXiv 2010.02502); the step count and the spacing are the run's and its time
    grid's."""

    quantizes: ClassVar[bool] = True

    eta: float = attrs.field(
        default=0.0,
        validator=_unit_interval,
        metadata={"help": "share of fresh noise: 0 deterministic, 1 as the ancestral sampler"},
    )
    temperature: float = attrs.field(
        default=1.0,
        validator=_not_negative,
        metadata={"help": "factor of the fresh noise; only eta > 0 has any"},
    )
