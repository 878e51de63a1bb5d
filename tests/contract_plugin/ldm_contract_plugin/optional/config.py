"""Options of these parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import attrs

from ldm_core.contracts import (
    Accepts,
    ConditionerConfig,
    CondSpec,
    Config,
    DegradationConfig,
    DenoiserConfig,
    FirstStageConfig,
    LatentSpec,
    MetricConfig,
    ObjectiveConfig,
    Precision,
    ScheduleConfig,
    Site,
)


@attrs.frozen(kw_only=True)
class ResolutionFlowConfig(ScheduleConfig):
    """Rectified flow whose training times are noisier for larger latents (Esser et al. 2024, arXiv 2403.03206, equation
    23): t' = s t / (1 + (s - 1) t), s the root of the latents' cells over `base_cells`."""

    base_cells: int = attrs.field(default=64, metadata={"help": "latent cells whose times are left as they are"})
    zero_terminal_alpha: ClassVar[bool] = True
    by_size: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class FlatColoursConfig(Config):
    """One colour a cell."""

    contrast: float = attrs.field(default=1.0, metadata={"help": "the factor of the colours"})


@attrs.frozen(kw_only=True)
class TeacherConfig(ObjectiveConfig):
    """Guided distillation from a slow copy of the model itself: the student learns in one call what the copy says with
    and without its conditions (Meng et al. 2023, arXiv 2210.03142), beside the plain error (Tarvainen & Valpola 2017,
    arXiv 1703.01780, have the copy)."""

    weight: float = attrs.field(default=0.5, metadata={"help": "weight of the teacher's estimate, 0 to 1"})
    scale: float = attrs.field(default=2.0, metadata={"help": "scale of the teacher's guidance"})
    decay: float = attrs.field(default=0.9, metadata={"help": "of the teacher's moving average, after each step"})
    samples: bool = attrs.field(default=False, metadata={"help": "sample with the teacher's weights"})
    needs_context: ClassVar[bool] = True


TARGET = "representation"
"""The extra of a picture's representation (B, D)."""


@attrs.frozen(kw_only=True)
class RepresentationConfig(ConditionerConfig):
    """A fixed representation of the clean picture: random features of a grid of its colours."""

    width: int = attrs.field(default=12, metadata={"help": "length of the representation"})
    cells: int = attrs.field(default=4, metadata={"help": "cells of the grid on each axis"})
    trained_by_default: ClassVar[bool] = False
    pretrained: ClassVar[bool] = True
    droppable: ClassVar[bool] = False

    @property
    def reads(self) -> tuple[str, ...]:
        """The picture itself."""
        return ("image",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """One extra, which no denoiser reads."""
        return CondSpec(extras={TARGET: (self.width,)})


@attrs.frozen(kw_only=True)
class AlignmentConfig(ObjectiveConfig):
    """The plain error, and a projection of the network's output towards the picture's representation (after Yu et al.
    2024, arXiv 2410.06940, which takes a hidden layer)."""

    weight: float = attrs.field(default=0.5, metadata={"help": "weight of the distance to the representation"})
    width: int = attrs.field(default=12, metadata={"help": "length of the representation"})
    needs_context: ClassVar[bool] = True
    accepts: ClassVar[Accepts] = Accepts(extras=(TARGET,))

    def check(self, site: Site) -> Iterator[str]:
        """A line where nobody writes the representation, or one of another length."""
        shape = site.cond.extras.get(TARGET)
        if shape != (self.width,):
            yield f"width {self.width}: no conditioner writes the extra '{TARGET}' of this length; add representation"


@attrs.frozen(kw_only=True)
class TableDenoiserConfig(DenoiserConfig):
    """Convolutions beside a learned table of positions, whose middle is cut out for smaller latents (Esser et al. 2024,
    arXiv 2403.03206)."""

    rows: int = attrs.field(default=8, metadata={"help": "cells of the table on each axis"})
    width: int = attrs.field(default=16, metadata={"help": "channels inside"})

    @property
    def max_size(self) -> tuple[int, int]:
        """The table's size."""
        return (self.rows, self.rows)


@attrs.frozen(kw_only=True)
class LoudStageConfig(FirstStageConfig):
    """Pixels as latents, through numbers beyond the range of fp16, as published autoencoders have them; a rounding to
    bf16 shows too."""

    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)
    loudness: float = attrs.field(default=3e5, metadata={"help": "factor of the numbers inside"})

    @property
    def latent(self) -> LatentSpec:
        """One latent cell a pixel."""
        return LatentSpec(channels=3, stride=(1, 1))


@attrs.frozen(kw_only=True)
class LoudClassConfig(ConditionerConfig):
    """The class as a vector, by layers whose numbers leave the range of fp16."""

    width: int = attrs.field(default=8, metadata={"help": "length of the vector"})
    classes: int = attrs.field(default=32, metadata={"help": "number of classes"})
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)

    @property
    def reads(self) -> tuple[str, ...]:
        """The class."""
        return ("class_label",)

    def spec(self, latent: LatentSpec) -> CondSpec:
        """One vector."""
        return CondSpec(vector=self.width)


@attrs.frozen(kw_only=True)
class NarrowDenoiserConfig(TableDenoiserConfig):
    """The network with the table, whose kernels are said to be bf16's alone."""

    precisions: ClassVar[tuple[Precision, ...]] = ("bf16",)


@attrs.frozen(kw_only=True)
class BrightnessConfig(MetricConfig):
    """The distance of two sets of pictures by their brightness alone."""

    against: ClassVar[Literal["set"]] = "set"


@attrs.frozen(kw_only=True)
class DrizzleConfig(DegradationConfig):
    """Every nth pixel of the picture, at a place that is drawn."""

    makes: ClassVar[Literal["image"]] = "image"


@attrs.frozen(kw_only=True)
class SmallPictureConfig(ConditionerConfig):
    """A picture of half the size, spread over the latents' grid of pixels."""

    key: str = attrs.field(default="image", metadata={"help": "the key of the small picture"})
    droppable: ClassVar[bool] = False

    @property
    def reads(self) -> tuple[str, ...]:
        """The small picture."""
        return (self.key,)

    @property
    def degradable(self) -> Mapping[str, str]:
        """It can be made."""
        return {"image": self.key}

    def spec(self, latent: LatentSpec) -> CondSpec:
        """Its channels beside the latents."""
        return CondSpec(concat=3)

    def taken_sizes(self, size: tuple[int, int], latent: LatentSpec) -> Mapping[str, tuple[int, int]]:
        """Half the size."""
        return {self.key: (size[0] // 2, size[1] // 2)}


@attrs.frozen(kw_only=True)
class CornerListConfig:
    """The sign between the values of a line."""

    sign: str = attrs.field(default="|", metadata={"help": "between the values of a line"})
