"""Options of the metrics of a model. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import MetricConfig


@attrs.frozen(kw_only=True)
class ModelConfig(MetricConfig):
    """The config of a metric of a model on data."""

    subject: ClassVar[Literal["data"]] = "data"
    needs_pipeline: ClassVar[bool] = True


@attrs.frozen(kw_only=True)
class CodebookUseConfig(ModelConfig):
    """The codes of a VQ first stage in use on the data: their share, and their effective number."""

    higher_is_better: ClassVar[tuple[str, ...]] = ("codebook_use", "codebook_perplexity")


@attrs.frozen(kw_only=True)
class BoundConfig(ModelConfig):
    """The variational bound of a model on a variance-preserving table, and the rate and distortion along it."""

    levels: int | None = field(
        None, "levels of the chain, evenly spaced among the table's; null = all: a call of the network each", minimum=2
    )
    variance: Literal["small", "large"] = field(
        "small", "of the model's steps: that of the posterior, or that of the added noise"
    )
    clip: bool = field(True, "clip estimates of pixels to [-1, 1], as the published code does; latents stay")
    distortion: Literal["pictures", "latents"] = field(
        "pictures", "the error of decoded estimates, in levels of 255, or of the latents themselves"
    )
    points: int = field(8, "levels whose rate and distortion are told, evenly spaced", minimum=0, maximum=1000)
    seed: int = field(0, "of the noise, with the place of the picture", minimum=0)
