"""Options of the metrics of a model. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import MetricConfig
from ldm_plugin_metrics.networks.config import PIXELS, NetworkConfig


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


@attrs.frozen(kw_only=True)
class NearestConfig(NetworkConfig):
    """The distance to the nearest training picture by pixels or features, and the share of memorised pictures. Pixels
    are compared at 32 a side, unless `size` says otherwise."""

    against: ClassVar[Literal["training"]] = "training"
    higher_is_better: ClassVar[tuple[str, ...]] = ("nearest", "nearest_training", "authentic")

    network: str = field(PIXELS, "pixels, inception (that of FID), or the name of a timm network")
    threshold: float = field(
        1 / 3, "a picture is memorised up to this part of the nearest training picture's own distance", above=0
    )
