"""The configurations of this distribution. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import Accepts, Site
from ldm_core.contracts.configs import AdapterConfig, GuidanceConfig, ObjectiveConfig, SamplerConfig, TimeGridConfig
from ldm_core.errors import LDMError

SCALE = "guidance_scale"
"""The extra (B,) of a bundle, and the option of a branch, that tells a network the guidance scale."""
UNNAMED = (
    "teacher: no trained model is named to learn from; give a run's folder or its .safetensors file with "
    "objective.teacher=PATH_OR_URL, and let the student begin from it with trainer.init_from, or use the command "
    "`distil`"
)
"""The error of a distillation without its teacher."""


_UNDISTILLED = (
    "it is for distilled models; make one with `ldm-run distil RUN`, choose another sampler, or, of weights that were "
    "distilled elsewhere, set sampler.any_model=true"
)


def _scales(_: Any, attribute: attrs.Attribute[Any], value: float | tuple[float, float]) -> None:
    low, high = value if isinstance(value, tuple) else (value, value)
    if not 0 <= low <= high < float("inf"):
        raise ValueError(f"{attribute.name}: expected a scale of 0 or more, or [lowest, highest], got {value}")


def _decay(_: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name}: expected 0 or more and below 1, got {value}")


@attrs.frozen(kw_only=True)
class DistillationConfig(ObjectiveConfig):
    """The settings of all objectives: the teacher and its guidance."""

    teacher: str = attrs.field(
        default="",
        metadata={
            "help": "the trained model: a run's folder or its .safetensors file, of the same first stage and schedule",
            "sha256": "sha256",
            "file": "model.safetensors",
            "place": True,
        },
    )
    sha256: str = attrs.field(default="", metadata={"help": "the hash of the teacher's file; filled in"})
    scale: float | tuple[float, float] = attrs.field(
        default=1.0,
        validator=_scales,
        metadata={
            "help": "the teacher's classifier-free guidance, folded in; [lowest, highest]: drawn for each example"
        },
    )
    needs_context: ClassVar[bool] = True

    @property
    def scales(self) -> tuple[float, float]:
        """The lowest and the highest scale of the teacher's guidance."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale, self.scale)

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line if the teacher does not fit `site`, or cannot be guided so. Of a trained student, known by the
        hash alone, nothing is asked."""
        from ldm_core.sampling.second_model import find

        if not self.teacher:
            yield from () if self.sha256 else (UNNAMED,)
            return
        try:
            recipe = find(self.teacher, site).recipe
        except LDMError as error:
            yield f"teacher: {error}"
            return
        if self.scales != (1.0, 1.0) and not (
            recipe.conditioners and (recipe.trainer.joint_dropout or any(c.dropout for c in recipe.conditioners))
        ):
            yield (
                f"scale: {self.scale} compares with and without the conditions, and the teacher was never trained "
                "without them; set objective.scale=1"
            )


@attrs.frozen(kw_only=True)
class AveragedConfig(DistillationConfig):
    """The settings of the objectives with an average of the student."""

    decay: float = attrs.field(
        default=0.95,
        validator=_decay,
        metadata={"help": "of the average of the student's weights that sets its aims; 0 = the student as it is"},
    )


@attrs.frozen(kw_only=True)
class ConsistencyConfig(AveragedConfig):
    """Luo et al. 2023 (arXiv 2310.04378): T / `levels` of a table of T is the length of a jump."""

    levels: int = field(
        50, "levels of the teacher's sampler; the student is made equal at neighbours", 1, maximum=10**6
    )
    loss: Literal["huber", "l2"] = attrs.field(default="huber", metadata={"help": "distance of two estimates of x0"})
    huber: float = field(0.001, "c of the pseudo-Huber distance sqrt(d² + c²) - c", above=0, maximum=1000)
    boundary: float = field(10.0, "factor of time in c_skip and c_out; 0 = the estimate of x0 alone", 0, maximum=10**6)
    provides: ClassVar[tuple[str, ...]] = ("consistency",)


@attrs.frozen(kw_only=True)
class ProgressiveConfig(AveragedConfig):
    """Salimans and Ho 2022 (arXiv 2202.00512): `begin` steps become `begin` / 2, ..., `steps`, in equal parts of the
    training; the first half of steps takes the guidance in (Meng et al. 2023, arXiv 2210.03142)."""

    begin: int = field(32, "steps of the teacher's sampler; `steps` times 2, 4, 8, ...", 2, maximum=1 << 20)
    steps: int = field(4, "steps of the student's sampler", 1, maximum=1 << 19)

    def __attrs_post_init__(self) -> None:
        ratio, rest = divmod(self.begin, self.steps)
        if rest or ratio < 2 or ratio & (ratio - 1):
            raise ValueError(f"begin: {self.begin} is not {self.steps} steps times 2, 4, 8, ...; give {self.steps * 8}")

    @property
    def halvings(self) -> int:
        """The number of halvings."""
        return (self.begin // self.steps).bit_length() - 1


@attrs.frozen(kw_only=True)
class AdversarialConfig(DistillationConfig):
    """Sauer et al. 2023 (arXiv 2311.17042) and 2024 (arXiv 2403.12015): a discriminator on the teacher's features."""

    steps: int = field(4, "steps of the student's sampler", 1, maximum=1 << 19)
    weight: float = field(0.3, "of the discriminator's opinion in the student's loss", 0, maximum=10**6)
    distillation: float = field(1.0, "of the squared distance from the teacher's estimate; 0 = none", 0, maximum=10**6)
    data: float = field(0.0, "of the absolute distance from the data", 0, maximum=10**6)
    layers: tuple[str, ...] = attrs.field(
        default=(),
        metadata={"help": "layers of the teacher's network to look at; none = four blocks, evenly by depth"},
    )
    width: int = field(64, "width of the discriminator's heads", 1, maximum=1 << 16)
    rate: float = field(20.0, "the discriminator's learning rate, of the student's", above=0, maximum=10**6)
    noise: float = attrs.field(
        default=-1.5,
        metadata={"help": "mean of the logit of the times at which it looks: low = at detail, high = at shapes"},
    )
    provides: ClassVar[tuple[str, ...]] = ("consistency",)


@attrs.frozen(kw_only=True)
class LCMConfig(SamplerConfig):
    """Luo et al. 2023 (arXiv 2310.04378), algorithm 3."""

    boundary: float = field(10.0, "factor of time in c_skip and c_out; 0 = the estimate of x0 alone", 0, maximum=10**6)
    any_model: bool = field(False, "run any model: of weights that were distilled elsewhere nothing is known")

    @property
    def requires(self) -> Mapping[str, str]:
        """A model whose estimates are those of the end of its path."""
        return {} if self.any_model else {"consistency": _UNDISTILLED}


@attrs.frozen(kw_only=True)
class LCMGridConfig(TimeGridConfig):
    """`steps` of the `levels` of a distillation, even by their number: of 50 levels and a table of 1000, 4 steps are
    at table indices 999, 759, 499 and 259."""

    levels: int = field(50, "levels of the distillation", 1, maximum=10**6)
    needs_table: ClassVar[bool] = False

    def problem(self, table_steps: int | None, steps: int) -> str | None:
        """Say why `steps` are impossible on a table of `table_steps` (None: continuous); None if they are not."""
        if steps < 1:
            return f"{steps} steps: at least 1 is needed"
        most = min(self.levels, table_steps or self.levels)
        if steps > most:
            return f"the time grid 'lcm' cannot make {steps} steps of {most} levels; the most it can is {most}"
        return None

    def numbers(self, steps: int) -> list[int]:
        """The numbers of the levels, the noisiest, `levels`, first; rounded as the published code does it."""
        return [self.levels - int(i * (self.levels / steps)) for i in range(steps)]


@attrs.frozen(kw_only=True)
class LowRankConfig(AdapterConfig):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) of linear layers and convolutions."""

    rank: int = field(4, "rank of each change; a layer with fewer inputs or outputs has that many", 1, maximum=4096)
    scale: float = attrs.field(default=1.0, metadata={"help": "strength of the changes; 0 = the model without them"})
    targets: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": "ends of the names of the layers that are changed; none = all of the denoiser's"}
    )


@attrs.frozen(kw_only=True)
class ScaleInputConfig(AdapterConfig):
    """Luo et al. 2023 (arXiv 2310.04378), section 4.3; the guidance `embedded` tells the scale."""

    at: str = attrs.field(
        default="time_embed", metadata={"help": "the denoiser's layers that take the embedded noise level"}
    )
    width: int = field(256, "numbers that the scale is embedded in", 4, maximum=1 << 16)

    def __attrs_post_init__(self) -> None:
        if self.width % 2:
            raise ValueError(f"width: expected an even number, sines and cosines by halves, got {self.width}")

    @property
    def accepts(self) -> Accepts:
        """The scale, one an example or one for all."""
        return Accepts(extras=(SCALE,), options=(SCALE,))


@attrs.frozen(kw_only=True)
class EmbeddedConfig(GuidanceConfig):
    """The scale as an input of the network, in one evaluation; of the adapter `scale_input`."""

    scale: float = attrs.field(default=3.0, metadata={"help": "the scale that the network is told"})
    trained: tuple[float, float] | None = attrs.field(
        default=None, metadata={"help": "the lowest and the highest scale of the training; null = not known"}
    )
    branch_options: ClassVar[tuple[str, ...]] = (SCALE,)

    def __attrs_post_init__(self) -> None:
        if self.trained is None:
            return
        low, high = self.trained
        if not 0 <= low <= high < float("inf"):
            raise ValueError(f"trained: expected two scales, the lower one first, got {list(self.trained)}")
        if not low <= self.scale <= high:
            raise ValueError(f"scale: the student was trained for {low:g} to {high:g}, got {self.scale:g}")
