"""Everything that a config may answer beside its settings, by name and with the default. Imports no torch.

A config that derives from the class of its kind, as ``class PaletteConfig(ConditionerConfig)``, answers in any form: by
a constant, a field, a property or a method. A plain attrs class that derives from nothing may answer the same names.
The core reads both through :func:`of`. These classes add no fields, so a config's stored form stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from ldm_core.contracts.config import (
    Config,
    DatasetConfig,
    DegradationConfig,
    RuntimeConfig,
    TimesConfig,
    allowed_precisions,
    answer,
    misspelt,
    of,
    precision_among,
)
from ldm_core.contracts.site import Site
from ldm_core.contracts.values import EMPTY, PRECISIONS, Accepts, CondSpec, DataInfo, KeyForm, LatentSpec, Precision

# what `from ldm_core.contracts.configs import ...` offers beside the classes below
__all__ = ["PRECISIONS", "Config", "DatasetConfig", "DegradationConfig", "RuntimeConfig", "TimesConfig"]
__all__ += ["allowed_precisions", "misspelt", "of", "precision_among"]


class ConditionerConfig(Config):
    """The config of a conditioner; `reads` and `spec` are required."""

    __slots__ = ()

    @answer
    def reads(self) -> tuple[str, ...]:
        """The batch keys that the conditioner touches."""
        raise AttributeError("a conditioner's config needs the property `reads`: the batch keys that it touches")

    def spec(self, latent: LatentSpec) -> CondSpec:
        """Return the widths that the conditioner writes beside latents of `latent`."""
        raise AttributeError("a conditioner's config needs the method spec(latent) -> CondSpec")

    @answer
    def from_data(self) -> Callable[[DataInfo], Any] | None:
        """``from_data(info) -> config`` fills numbers in from the data, such as the number of classes."""
        return None

    @answer
    def degradable(self) -> Mapping[str, str]:
        """The keys of the conditioner by the products of degradations that it takes, ``image`` and ``mask``."""
        return {}

    @answer
    def pretrained(self) -> bool:
        """True if the part brings trained weights."""
        return False

    @answer
    def trained_by_default(self) -> bool:
        """False if the part stays as it is until a recipe says ``train: true``. A constant of the class."""
        return True

    @answer
    def draws(self) -> bool:
        """True if ``encode(batch, streams=streams)`` draws noise for each example; then it is handed the streams."""
        return False

    @answer
    def droppable(self) -> bool:
        """False if ``null(like)`` returns `like` itself, so that guidance cannot leave the condition out."""
        return True

    @answer
    def classes(self) -> Any:
        """The number of classes that the conditioner knows, or None."""
        return None

    @answer
    def key_forms(self) -> Mapping[str, KeyForm]:
        """By batch key, the form of its values in words, and an example, for those who are to give one."""
        return EMPTY

    @answer
    def tokenizer(self) -> str:
        """The tokenizer's file, or "" for one that is learned from the data."""
        return ""


class FirstStageConfig(Config):
    """The config of a first stage; `latent` is required."""

    __slots__ = ()

    @answer
    def latent(self) -> LatentSpec:
        """Channels and stride of the latents."""
        raise AttributeError("a first stage's config needs the property `latent`: a LatentSpec")

    @answer
    def image_channels(self) -> int | None:
        """The number of image channels that the stage takes; None = the recipe's."""
        return None

    @answer
    def stage_objective(self) -> str:
        """The objective that trains the stage where a recipe names none; "" for a stage with nothing to train."""
        return "reconstruction"

    def remarks(self) -> Iterable[str]:
        """Yield a line for each setting (``first_stage.NAME: ...``) without effect on the stage's training."""
        return ()


class StageObjectiveConfig(Config):
    """The config of a stage objective. `stage` below is the config of the first stage, which is to be trained."""

    __slots__ = ()

    def misfits(self, stage: object, site: Site, steps: int) -> Iterable[str]:
        """Yield a line for each setting that does not fit the stage, the images or a training of `steps` steps."""
        return ()

    def remarks(self, stage: object, steps: int) -> Iterable[str]:
        """Yield a line for each setting that is allowed and without effect."""
        return ()

    def longer(self, stage: object, steps: int, more: int) -> str:
        """Return why a training of `steps` steps is not how one of `more` steps begins; "" if it is."""
        return ""


class AuxiliaryLossConfig(Config):
    """The config of an auxiliary loss of first stages."""

    __slots__ = ()

    @answer
    def weight(self) -> float:
        """The factor of the loss, 0 or more."""
        return 1.0

    @answer
    def adaptive(self) -> bool:
        """True: times the ratio of the gradients' norms, the objective's to this loss's, at the stage's
        `encoder_layer`, taken for each micro-batch and averaged over processes; at most 10,000."""
        return False


class DenoiserConfig(Config):
    """The config of a denoiser."""

    __slots__ = ()

    @answer
    def accepts(self) -> Accepts:
        """The parts of a conditioning bundle that the network uses."""
        return Accepts()

    @answer
    def factor(self) -> int:
        """A number that divides the height and width of the latents."""
        return 1

    @answer
    def max_size(self) -> tuple[int, ...] | None:
        """The largest latents (h, w) that the network takes, as by a table of positions; None = any."""
        return None

    @answer
    def dropout(self) -> float:
        """The rate of dropout inside the network."""
        return 0.0


class GuidanceConfig(Config):
    """The config of a guidance."""

    __slots__ = ()

    @answer
    def needs_null(self) -> bool:
        """True if the guidance calls the model without some condition."""
        return False

    @answer
    def conditioners(self) -> Sequence[str]:
        """The names of the conditioners that the guidance tells apart."""
        return ()

    @answer
    def accepts(self) -> Accepts | None:
        """The extras that the guidance reads; None = none."""
        return None

    @answer
    def branch_options(self) -> Sequence[str]:
        """The names of the options that the guidance gives its branches by ``conditions.with_options``."""
        return ()

    @answer
    def scale(self) -> float | None:
        """The strength of the guidance; None if it has none."""
        return None

    @answer
    def reads(self) -> tuple[str, ...]:
        """The keys of inputs, needed of whoever samples, that the guidance finds in ``conditions.batch``."""
        return ()


class AdapterConfig(Config):
    """The config of an adapter."""

    __slots__ = ()

    @answer
    def accepts(self) -> Accepts | None:
        """The extras and options that the adapter reads; None = none."""
        return None

    @answer
    def scale(self) -> float | None:
        """The strength that the adapter starts with, as a field, so that a recipe can set it; None if it has none."""
        return None

    @answer
    def learns(self) -> bool:
        """False if there is nothing to learn (a cache): a trained model takes it, of any settings, without a file."""
        return True


class SamplerConfig(Config):
    """The config of a sampler."""

    __slots__ = ()

    @answer
    def quantizes(self) -> bool:
        """True if the sampler takes the noise from ``Estimate.x0`` and steps to ``Estimate.data``."""
        return False

    @answer
    def eta(self) -> float | None:
        """The share of fresh noise; None if the sampler has no such setting."""
        return None


class ScheduleConfig(TimesConfig):
    """The config of a noise schedule."""

    __slots__ = ()

    @answer
    def table_steps(self) -> int | None:
        """The number of levels of a table; None = continuous."""
        return None

    @answer
    def zero_terminal_alpha(self) -> bool:
        """True if alpha is 0 at t_max."""
        return False


class ParameterizationConfig(Config):
    """The config of a parameterization."""

    __slots__ = ()

    @answer
    def needs_terminal_alpha(self) -> bool:
        """True if the coefficients divide by alpha."""
        return False


class ObjectiveConfig(Config):
    """The config of an objective."""

    __slots__ = ()

    @answer
    def needs_table(self) -> bool:
        """True if the objective is defined on the levels of a table."""
        return False

    @answer
    def needs_context(self) -> bool:
        """True if ``loss`` takes the keyword `context`, a :class:`~ldm_core.contracts.LossContext`."""
        return False

    @answer
    def accepts(self) -> Accepts | None:
        """The extras and named tokens that the objective reads; None = none."""
        return None


class TimeGridConfig(TimesConfig):
    """The config of a time grid."""

    __slots__ = ()

    def problem(self, table_steps: int | None, steps: int) -> str | None:
        """Return what is wrong with `steps` on a table of `table_steps` (None = continuous); None if nothing is."""
        return None

    @answer
    def uneven(self) -> bool:
        """True if the grid may make more steps than were asked for; it then has :meth:`indices`."""
        return False

    def indices(self, table_steps: int, steps: int) -> Sequence[int]:
        """Return the table's indices, the noisiest first."""
        raise AttributeError("an uneven time grid's config needs indices(table_steps, steps)")


class CodecConfig(Config):
    """The config of a codec."""

    __slots__ = ()

    @answer
    def conventions(self) -> Callable[[Mapping[str, Any]], Mapping[str, Any]] | None:
        """``conventions(plain recipe)`` -> the sampling settings of the program's own scripts. A static method."""
        return None

    @answer
    def writes_adapters(self) -> bool:
        """True if the format holds an adapter by itself, so that ``write`` takes one."""
        return False


class MetricConfig(Config):
    """The config of a metric."""

    __slots__ = ()

    @answer
    def subject(self) -> Literal["samples", "reconstructions", "data"]:
        """The pictures that are measured: a model's samples, its first stage's reconstructions, or the data's own."""
        return "samples"

    @answer
    def against(self) -> Literal["nothing", "set", "training"]:
        """The other set that ``values`` is handed: none, real pictures, or those that the model was trained on."""
        return "nothing"

    @answer
    def reads(self) -> tuple[str, ...]:
        """The keys of examples that ``measure`` reads, such as ``class_label``."""
        return ()

    @answer
    def needs_pipeline(self) -> bool:
        """True if ``measure`` calls the model, so that pictures alone cannot be measured."""
        return False

    @answer
    def higher_is_better(self) -> tuple[str, ...]:
        """The names of values of which a higher one is better; of all others a lower one is."""
        return ()

    @answer
    def precisions(self) -> tuple[Precision, ...]:
        """Float32 alone: a figure does not depend on the arithmetic of a machine."""
        return ("fp32",)


CONFIGS: Mapping[str, type[Config]] = {
    "adapter": AdapterConfig,
    "auxiliary_loss": AuxiliaryLossConfig,
    "codec": CodecConfig,
    "conditioner": ConditionerConfig,
    "dataset": DatasetConfig,
    "degradation": DegradationConfig,
    "denoiser": DenoiserConfig,
    "first_stage": FirstStageConfig,
    "guidance": GuidanceConfig,
    "metric": MetricConfig,
    "objective": ObjectiveConfig,
    "parameterization": ParameterizationConfig,
    "runtime": RuntimeConfig,
    "sampler": SamplerConfig,
    "schedule": ScheduleConfig,
    "stage_objective": StageObjectiveConfig,
    "time_grid": TimeGridConfig,
}
"""The class of optional answers of each kind's config; the other kinds have :class:`Config`."""
