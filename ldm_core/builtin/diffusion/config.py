"""Configurations of the built-in diffusion mathematics, from the noise schedule to the sampler.

Imports no torch: the tables and the rules on a grid's possible step counts live here, so that a recipe is checked
without it.
"""

from __future__ import annotations

import math
import operator
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal

import attrs

from ldm_core.contracts import (
    GuidanceConfig,
    ObjectiveConfig,
    ParameterizationConfig,
    SamplerConfig,
    ScheduleConfig,
    TimeGridConfig,
)
from ldm_core.errors import quoted

_LONGEST_TABLE = 100_000  # published ones have 1,000; the table is made when the recipe is read


def _positive_fraction(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{attribute.name}: expected a number between 0 and 1, got {value}")


def _at_least_one(instance: Any, attribute: attrs.Attribute, value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name}: expected 1 or more, got {quoted(value)}")
    if value > _LONGEST_TABLE:
        raise ValueError(f"{attribute.name}: expected at most {_LONGEST_TABLE:,}, got {quoted(value)}")


@attrs.frozen(kw_only=True)
class VPConfig(ScheduleConfig):
    """A variance-preserving table of T steps: alpha² + sigma² = 1, alpha² the running product of 1 - beta.

    Kinds of beta, from `beta_start` to `beta_end`: ``linear`` is linear in the square root, as published latent
    diffusion models use the word; ``sqrt_linear`` is linear in beta itself; ``sqrt`` is the root of a linear one;
    ``cosine`` (Nichol & Dhariwal 2021, offset 0.008, beta at most 0.999) reads neither end.

    `zero_terminal` shifts and stretches alpha to end at 0 and keep its beginning (Lin et al. 2024, arXiv 2305.08891,
    algorithm 1): the last level holds no signal, and a network for eps cannot be trained there.
    """

    kind: Literal["linear", "sqrt_linear", "cosine", "sqrt"] = attrs.field(
        default="linear", metadata={"help": "how beta grows; linear: linear in its square root"}
    )
    beta_start: float = attrs.field(
        default=0.0015, validator=_positive_fraction, metadata={"help": "first beta (not read by cosine)"}
    )
    beta_end: float = attrs.field(
        default=0.0195, validator=_positive_fraction, metadata={"help": "last beta (not read by cosine)"}
    )
    steps: int = attrs.field(
        default=1000, validator=_at_least_one, metadata={"help": "length T of the table", "most": 1_000_000}
    )
    zero_terminal: bool = attrs.field(
        default=False, metadata={"help": "stretch the table to end without signal (needs parameterization v or x0)"}
    )

    def __attrs_post_init__(self) -> None:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start {self.beta_start} exceeds beta_end {self.beta_end}")
        if self.zero_terminal and self.steps < 2:
            raise ValueError("zero_terminal needs a table of 2 steps or more")
        if self._products(self._own_betas())[-1] < 1e-250:  # double precision holds nothing smaller for long
            raise ValueError(
                f"nothing of the signal is left after {self.steps} steps of beta up to {self.beta_end}; "
                "lower beta_end or steps"
            )

    def _own_betas(self) -> list[float]:
        """The betas of the kind, before any stretching."""
        n = self.steps
        if self.kind == "cosine":
            bar = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
            return [min(max(1 - after / before, 0.0), 0.999) for before, after in pairwise(bar)]
        a, b = self.beta_start, self.beta_end
        if self.kind == "linear":
            a, b = math.sqrt(a), math.sqrt(b)
        line = [a + (b - a) * (i / (n - 1) if n > 1 else 0.0) for i in range(n)]
        if self.kind == "linear":
            return [v * v for v in line]
        return [math.sqrt(v) for v in line] if self.kind == "sqrt" else line

    @staticmethod
    def _products(betas: list[float]) -> list[float]:
        return list(accumulate((1 - beta for beta in betas), operator.mul))

    def betas(self) -> list[float]:
        """The T variances beta of single steps, in double precision."""
        if not self.zero_terminal:
            return self._own_betas()
        return [1 - after / before for before, after in pairwise([1.0, *self.alphas_cumprod()])]

    def alphas_cumprod(self) -> list[float]:
        """alpha² of the T table entries (index 0 = the least noise, t = 1), in double precision."""
        products = self._products(self._own_betas())
        if not self.zero_terminal:
            return products
        roots = [math.sqrt(p) for p in products]
        first, last = roots[0], roots[-1]
        return [((root - last) * first / (first - last)) ** 2 for root in roots]

    @property
    def table_steps(self) -> int | None:
        """T; None would mean a continuous schedule."""
        return self.steps

    @property
    def zero_terminal_alpha(self) -> bool:
        """True if alpha is 0 at the last time; there, an eps prediction says nothing of x0."""
        return self.alphas_cumprod()[-1] <= 0.0


VP_PRESETS: dict[str, VPConfig] = {
    "vp_ldm": VPConfig(beta_start=0.0015, beta_end=0.0195),
    "vp_churches": VPConfig(beta_start=0.0015, beta_end=0.0155),
    "vp_layout": VPConfig(beta_start=0.0015, beta_end=0.0205),
    "vp_rdm": VPConfig(beta_start=0.0015, beta_end=0.015),
    "vp_sd": VPConfig(beta_start=0.00085, beta_end=0.012),
    "vp_cosine": VPConfig(kind="cosine"),
}
"""Published tables: unconditional and class models; churches and super-resolution; layout, semantic and
inpainting; retrieval; text-to-image and Stable Diffusion; improved DDPM."""


@attrs.frozen(kw_only=True)
class EpsConfig(ParameterizationConfig):
    """The network predicts the noise (Ho et al. 2020); it takes no settings."""

    needs_terminal_alpha: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class X0Config(ParameterizationConfig):
    """The network predicts the clean latents; it takes no settings."""

    needs_terminal_alpha: ClassVar[bool] = False


@attrs.frozen(kw_only=True)
class VConfig(ParameterizationConfig):
    """The network predicts the velocity (Salimans & Ho 2022); it takes no settings."""

    needs_terminal_alpha: ClassVar[bool] = False


def _positive(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{attribute.name}: expected a number above 0, got {value}")


def _finite(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{attribute.name}: expected a finite number, got {value}")


def _not_negative(instance: Any, attribute: attrs.Attribute, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name}: expected 0 or more, got {value}")


@attrs.frozen(kw_only=True)
class SimpleConfig(ObjectiveConfig):
    """The simple loss: the error of the network's prediction, averaged over an example's values.

    ``huber`` is the square up to `huber_delta` and the tangent line beyond it, 2 delta |e| - delta² (twice the usual
    Huber loss, so that small errors cost the same as under l2). Two terms of the published objective are off by
    default: with `elbo_weight` w, w times the variational bound's term of the drawn level, always squared; with
    `learn_logvar`, loss / exp(v_t) + v_t with a learned log-variance v_t for each entry of the table.
    """

    loss: Literal["l2", "l1", "huber"] = attrs.field(default="l2", metadata={"help": "squared, absolute or Huber's"})
    huber_delta: float = attrs.field(
        default=1.0, validator=_positive, metadata={"help": "error at which huber turns from square to line"}
    )
    weighting: Literal["target", "eps", "x0", "min_snr"] = attrs.field(
        default="target",
        metadata={
            "help": "error of what the network predicts (as published), of the noise or of x0; min_snr: the squared "
            "error of x0 times min(snr, gamma)"
        },
    )
    gamma: float = attrs.field(
        default=5.0, validator=_positive, metadata={"help": "min_snr's bound on alpha²/sigma² (Hang et al. 2023)"}
    )
    elbo_weight: float = attrs.field(
        default=0.0, validator=_not_negative, metadata={"help": "weight of the variational bound's term; 0 = none"}
    )
    learn_logvar: bool = attrs.field(default=False, metadata={"help": "learn a log-variance of the loss per level"})
    times: Literal["uniform", "logit_normal"] = attrs.field(
        default="uniform",
        metadata={"help": "how training times are drawn; logit_normal: the middle of the schedule more often"},
    )
    times_mean: float = attrs.field(default=0.0, validator=_finite, metadata={"help": "of the logit; above 0: noisier"})
    times_std: float = attrs.field(default=1.0, validator=_positive, metadata={"help": "of the logit"})

    @property
    def needs_table(self) -> bool:
        """True if it is defined on the levels of a table alone."""
        return self.elbo_weight > 0 or self.learn_logvar


@attrs.frozen(kw_only=True)
class DDPMConfig(SamplerConfig):
    """Ancestral sampling: each step draws from the Gaussian posterior of the level below."""

    quantizes: ClassVar[bool] = True

    variance: Literal["small", "large"] = attrs.field(
        default="small",
        metadata={"help": "of the posterior given x0, or of one forward step"},
    )


@attrs.frozen(kw_only=True)
class NoGuidanceConfig(GuidanceConfig):
    """The conditional estimate as it is; it takes no settings."""

    needs_null: ClassVar[bool] = False


# ------------------------------------------------------------------------------------------ time grids


def _range_problem(table_steps: int | None, steps: int) -> str | None:
    if steps < 1:
        return f"{steps} steps: at least 1 is needed"
    if table_steps is not None and steps > table_steps:
        return f"{steps} steps: the schedule's table has {table_steps}; use {table_steps} or fewer"
    return None


@attrs.frozen(kw_only=True)
class LegacyConfig(TimeGridConfig):
    """The grid of the published LDM samplers: table indices 1, 1 + c, … with c = T // steps; ends at index 0.

    Its output keeps the noise of index 0. It gives only step counts met exactly by this rule; if the published code
    would make another number of steps, this is an error naming the nearest count, unless `uneven` takes that number.
    """

    needs_table: ClassVar[bool] = True
    uneven: bool = attrs.field(
        default=False,
        metadata={"help": "take step counts that do not divide the table as published: 30 of 1,000 make 31 steps"},
    )

    def indices(self, table_steps: int, steps: int) -> range:
        """Table indices, the least noise first; with `uneven`, more than `steps` if the rule makes more."""
        return range(1, table_steps + 1, table_steps // steps)

    def possible(self, table_steps: int) -> list[int]:
        """Every exact step count of the rule on a table of `table_steps`."""
        found = []
        for steps in range(1, table_steps + 1):
            indices = self.indices(table_steps, steps)
            if (self.uneven or len(indices) == steps) and indices[-1] < table_steps:
                found.append(steps)
        return found

    def problem(self, table_steps: int | None, steps: int) -> str | None:
        """The mistake in `steps` on a table of `table_steps` (None: continuous); None if there is none."""
        if table_steps is None:
            return "the time grid 'legacy' needs a table schedule; use trailing, leading or linspace"
        possible = self.possible(table_steps)
        if steps in possible:
            return None
        if not possible:
            return f"the time grid 'legacy' has no step count for a table of {table_steps}; use trailing"
        near = min(possible, key=lambda n: (abs(n - steps), -n))
        there = self.indices(table_steps, steps) if 1 <= steps <= table_steps else range(table_steps, table_steps + 1)
        published = "" if there[-1] >= table_steps else f"; time_grid.uneven=true makes {len(there)}, as published"
        return (
            f"the time grid 'legacy' cannot make {steps} steps of a table of {table_steps}; "
            f"the nearest it can is {near}, and trailing, leading and linspace take any number{published}"
        )


@attrs.frozen(kw_only=True)
class LeadingConfig(TimeGridConfig):
    """Indices offset, offset + c, … with c = T // steps, as Stable Diffusion samples; ends at data."""

    offset: int = attrs.field(
        default=1,
        metadata={"help": "added to every index, as far as the table goes; published models: 1"},
    )
    final: Literal["data", "first"] = attrs.field(
        default="data",
        metadata={"help": "level of the output: no noise at all, or that of the table's first entry"},
    )
    needs_table: ClassVar[bool] = False

    def __attrs_post_init__(self) -> None:
        if self.offset < 0:
            raise ValueError(f"offset {self.offset} is negative")

    def indices(self, table_steps: int, steps: int) -> list[int]:
        """Table indices, the noisiest first."""
        stride = table_steps // steps
        offset = min(self.offset, table_steps - 1 - (steps - 1) * stride)
        return [i * stride + offset for i in reversed(range(steps))]

    def problem(self, table_steps: int | None, steps: int) -> str | None:
        """The mistake in `steps` on a table of `table_steps` (None: continuous); None if there is none."""
        found = _range_problem(table_steps, steps)
        if found or self.final == "data":
            return found
        if table_steps is None:
            return "the time grid 'leading' with final=first needs a table schedule; use final=data"
        if self.indices(table_steps, steps)[-1] == 0:
            return (
                f"time grid 'leading': {steps} steps visit the table's first entry, final=first repeats it; "
                "use final=data, or offset=1 and fewer steps than the table has"
            )
        return None


@attrs.frozen(kw_only=True)
class TrailingConfig(TimeGridConfig):
    """Indices T - 1, T - 1 - T / steps, …, rounded (Lin et al. 2023): begins at pure noise, ends at data."""

    needs_table: ClassVar[bool] = False

    def indices(self, table_steps: int, steps: int) -> list[int]:
        """Table indices, the noisiest first."""
        # The double-precision product, and half to even: the roundings that published samplers have.
        step = table_steps - (table_steps - table_steps / steps)
        return [round(table_steps - i * step) - 1 for i in range(steps)]

    def problem(self, table_steps: int | None, steps: int) -> str | None:
        """The mistake in `steps` on a table of `table_steps` (None: continuous); None if there is none."""
        return _range_problem(table_steps, steps)


@attrs.frozen(kw_only=True)
class LinspaceConfig(TimeGridConfig):
    """Indices evenly from T - 1 to 0, both included, rounded; ends at data. A single step begins at T - 1."""

    needs_table: ClassVar[bool] = False

    def indices(self, table_steps: int, steps: int) -> list[int]:
        """Table indices, the noisiest first."""
        if steps == 1:
            return [table_steps - 1]
        step = (table_steps - 1) / (steps - 1)
        return [round(i * step) for i in reversed(range(steps))]

    def problem(self, table_steps: int | None, steps: int) -> str | None:
        """The mistake in `steps` on a table of `table_steps` (None: continuous); None if there is none."""
        return _range_problem(table_steps, steps)
