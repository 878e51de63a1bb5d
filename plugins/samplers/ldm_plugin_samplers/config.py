"""The configurations of samplers and time grids, and the step counts of a grid. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts.configs import SamplerConfig, TimeGridConfig


def _unit_interval(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name}: expected a number from 0 to 1, got {value}")


def _not_negative(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name}: expected 0 or more, got {value}")


def _positive(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{attribute.name}: expected a number above 0, got {value}")


def _one_to_three(instance: Any, attribute: attrs.Attribute, value: int) -> None:
    if not 1 <= value <= 3:
        raise ValueError(f"{attribute.name}: expected 1, 2 or 3, got {value}")


# -------------------------------------------------------------------------------------------- samplers


@attrs.frozen(kw_only=True)
class EulerConfig(SamplerConfig):
    """Karras et al. 2022 (arXiv 2206.00364); it takes no settings."""


@attrs.frozen(kw_only=True)
class EulerAncestralConfig(SamplerConfig):
    """Song et al. 2021 (arXiv 2011.13456)."""

    eta: float = attrs.field(
        default=1.0, validator=_unit_interval, metadata={"help": "share of fresh noise: 0 deterministic, 1 ancestral"}
    )
    noise: float = attrs.field(default=1.0, validator=_not_negative, metadata={"help": "factor of the fresh noise"})


@attrs.frozen(kw_only=True)
class HeunConfig(SamplerConfig):
    """Karras et al. 2022 (arXiv 2206.00364), algorithm 1; it takes no settings."""


@attrs.frozen(kw_only=True)
class PLMSConfig(SamplerConfig):
    """Liu et al. 2022 (arXiv 2202.09778), as the published LDM code begins it; it takes no settings."""

    quantizes: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class DPMSolverPP2MConfig(SamplerConfig):
    """Lu et al. 2022 (arXiv 2211.01095), algorithm 2; it takes no settings."""


@attrs.frozen(kw_only=True)
class DPMSolverPP2MSDEConfig(SamplerConfig):
    """Lu et al. 2022 (arXiv 2211.01095), section 4.3."""

    eta: float = attrs.field(
        default=1.0, validator=_unit_interval, metadata={"help": "share of fresh noise: 0 is dpm_solver_pp_2m"}
    )
    noise: float = attrs.field(default=1.0, validator=_not_negative, metadata={"help": "factor of the fresh noise"})


@attrs.frozen(kw_only=True)
class UniPCConfig(SamplerConfig):
    """Zhao et al. 2023 (arXiv 2302.04867), in x0."""

    order: int = attrs.field(default=2, validator=_one_to_three, metadata={"help": "of the predictor: 1, 2 or 3"})
    variant: Literal["bh1", "bh2"] = attrs.field(default="bh2", metadata={"help": "B(h): h, or e^h - 1"})
    corrector: bool = attrs.field(default=True, metadata={"help": "correct each x by the estimate made from it"})
    lower_order_final: bool = attrs.field(
        default=True, metadata={"help": "end with steps of lower orders, which few steps need to be stable"}
    )


# ------------------------------------------------------------------------------------------ time grids


def _at_least_one(steps: int) -> str | None:
    return f"{steps} steps: at least 1 is needed" if steps < 1 else None


@attrs.frozen(kw_only=True)
class QuadConfig(TimeGridConfig):
    """The quadratic spacing of the published DDIM code: table indices (i sqrt(0.8 T) / (steps - 1))² + 1, rounded
    down; ends at index 0, and so keeps its noise.

    Times must decrease: a step whose index is taken gets the next free one. The published code stands still there.
    """

    needs_table: ClassVar[bool] = True

    def indices(self, table_steps: int, steps: int) -> list[int]:
        """Table indices, the noisiest first. A single step begins at the noisiest."""
        end = math.sqrt(0.8 * table_steps)
        rule = [int((i * (end / (steps - 1))) ** 2) + 1 for i in range(steps - 1)]
        found = [0]
        for index in [*rule, int(end**2) + 1]:
            found.append(max(index, found[-1] + 1))
        return found[:0:-1]

    def problem(self, table_steps: int | None, steps: int) -> str | None:
        """Say why `steps` are impossible on a table of `table_steps` (None: continuous); None if they are not."""
        if found := _at_least_one(steps):
            return found
        if table_steps is None:
            return "the time grid 'quad' needs a table schedule; use trailing, karras or log_snr"
        if self.indices(table_steps, 1)[0] >= table_steps:
            return f"the time grid 'quad' has no step count for a table of {table_steps}; use trailing"
        if steps >= table_steps:  # the rule's last index, or all of them in a row
            return (
                f"the time grid 'quad' cannot make {steps} steps of a table of {table_steps}; the most it can is "
                f"{table_steps - 1}"
            )
        return None


@attrs.frozen(kw_only=True)
class _RatioConfig(TimeGridConfig):
    sigma_min: float = attrs.field(
        default=0.0,
        validator=_not_negative,
        metadata={"help": "sigma / alpha of the last level above data; 0 = the table's first, or that at t_max / 1000"},
    )
    sigma_max: float = attrs.field(
        default=0.0,
        validator=_not_negative,
        metadata={
            "help": "sigma / alpha of the first level; 0 = the schedule's own end, and after it 80 where that is "
            "above 1000"
        },
    )
    needs_table: ClassVar[bool] = False

    def __attrs_post_init__(self) -> None:
        if self.sigma_min and self.sigma_max and self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")

    def problem(self, table_steps: int | None, steps: int) -> str | None:
        """Say why `steps` are impossible on a table of `table_steps` (None: continuous); None if they are not."""
        return _at_least_one(steps)


@attrs.frozen(kw_only=True)
class KarrasConfig(_RatioConfig):
    """Karras et al. 2022 (arXiv 2206.00364), equation 5: the root of order rho of sigma / alpha is even."""

    rho: float = attrs.field(default=7.0, validator=_positive, metadata={"help": "larger: more steps near the data"})


@attrs.frozen(kw_only=True)
class LogSNRConfig(_RatioConfig):
    """Lu et al. 2022 (arXiv 2206.00927), section 3.4: ln(alpha / sigma) is even; others call it exponential."""


@attrs.frozen(kw_only=True)
class ShiftedConfig(TimeGridConfig):
    """Esser et al. 2024 (arXiv 2403.03206), equation 23: even times whose sigma / alpha is multiplied by `shift`.

    With `base_cells` n the multiple depends on the size of the latents, m cells (h times w): it is `shift` times
    sqrt(m / n), the equation's own rule; with `top_cells` and `top_shift` too, its logarithm is linear in m, through
    `shift` at n and `top_shift` at `top_cells`, as FLUX has it (e^0.5 at 1,024 cells and e^1.15 at 16,384).
    """

    shift: float = attrs.field(
        default=3.0, validator=_positive, metadata={"help": "above 1: more steps at high noise, as large images need"}
    )
    base_cells: int = field(
        0, "latent cells at which `shift` holds, other sizes having others; 0 = all", 0, since="0.2"
    )
    top_cells: int = field(0, "latent cells at which `top_shift` holds; 0 = the root of the cells", 0, since="0.2")
    top_shift: float = field(0.0, "shift at `top_cells`, its logarithm linear in the cells", 0, since="0.2")
    needs_table: ClassVar[bool] = False

    def __attrs_post_init__(self) -> None:
        if bool(self.top_cells) != bool(self.top_shift) or (
            self.top_cells and not 0 < self.base_cells < self.top_cells
        ):
            raise ValueError(
                f"base_cells {self.base_cells}, top_cells {self.top_cells}, top_shift {self.top_shift}: a second point "
                "needs all three, and base_cells below top_cells"
            )

    @property
    def by_size(self) -> bool:
        """True if the shift depends on the latents' size."""
        return self.base_cells > 0

    def shift_at(self, shape: Sequence[int] | None) -> float:
        """The multiple of sigma / alpha for latents (C, *s); that of `base_cells` if no size is meant."""
        if not self.base_cells or shape is None:
            return self.shift
        cells = math.prod(shape[1:])
        if not self.top_cells:
            return self.shift * math.sqrt(cells / self.base_cells)
        part = (cells - self.base_cells) / (self.top_cells - self.base_cells)
        return math.exp((1 - part) * math.log(self.shift) + part * math.log(self.top_shift))

    def problem(self, table_steps: int | None, steps: int) -> str | None:
        """Say why `steps` are impossible on a table of `table_steps` (None: continuous); None if they are not."""
        return _at_least_one(steps)
