"""Settings of the networks whose features metrics compare. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.config.structure import unstructure
from ldm_core.contracts import MetricConfig, Site

Triple = tuple[float, float, float]
INCEPTION = "inception"
"""The name of FID's network, beside those of timm."""
CLIP = "clip"
"""The name of CLIP's image tower."""
PIXELS = "pixels"
"""The name of no network: levels are compared."""


def _positive(_: Any, attribute: attrs.Attribute[Any], values: Any) -> None:
    if wrong := [value for value in values or () if not value > 0]:
        raise ValueError(f"{attribute.name}: expected numbers above 0, got {wrong[0]}")


@attrs.frozen(kw_only=True)
class WeightsConfig(MetricConfig):
    """Weights from a file or from a seed, and the pictures that are measured."""

    weights: str = field(
        "", "path or URL of the network's weights (safetensors, or what torch.save writes)", place=True
    )
    weights_sha256: str = field("", "hash that the file must have, 64 hex digits; none: any")
    random_seed: int | None = field(
        None, "seed of random weights, in the place of a file: a network that learned nothing", minimum=0
    )
    subject: Literal["samples", "reconstructions", "data"] = field("samples", "the pictures that are measured")

    def check(self, site: Site) -> Iterator[str]:
        """Two sources of weights at once."""
        if self.weights and self.random_seed is not None:
            yield "random_seed: weights is given too; use one of them"


@attrs.frozen(kw_only=True)
class NetworkConfig(WeightsConfig):
    """A network, its weights, and the layer whose output is compared."""

    network: str = field(
        INCEPTION, "inception (that of FID), clip, pixels, or the name of a timm network, tf_efficientnet_lite0 for one"
    )
    layer: str = field(
        "", "a module of a timm network, or one of inception's 64, 192, 768; none = what its classifier is given"
    )
    size: int | None = field(
        None, "side that pictures are scaled to; null = the network's own", minimum=1, maximum=1 << 14
    )
    resize: Literal["bicubic", "bilinear"] = field(
        "bicubic", "the filter, antialiased; inception and clip have their own"
    )
    mean: Triple | None = attrs.field(default=None, metadata={"help": "of pixels in [0, 1]; null = the network's own"})
    std: Triple | None = attrs.field(
        default=None, validator=_positive, metadata={"help": "of pixels in [0, 1]; null = the network's own"}
    )

    def check(self, site: Site) -> Iterator[str]:
        """Settings that the network does not have."""
        yield from super().check(site)
        if not self.network:
            yield "network: the name of a network is missing: inception, clip, pixels, or one of timm's"
        if self.network in (INCEPTION, CLIP):
            for name, value in (("size", self.size), ("mean", self.mean), ("std", self.std)):
                if value is not None:
                    yield f"{name}: {self.network} has its own; leave it out"
        if self.network == CLIP and self.layer:
            yield "layer: clip has one output; leave it out"
        if self.network == PIXELS:
            for name in ("weights", "weights_sha256", "random_seed", "layer", "mean", "std"):
                if unstructure(self)[name] not in ("", None):
                    yield f"{name}: pixels have none; leave it out"
