"""Settings of perceptual distances. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import attrs

from ldm_core.config.fields import field

Triple = tuple[float, float, float]


def _positive(_: Any, attribute: attrs.Attribute[Any], values: Any) -> None:
    if wrong := [value for value in values or () if not value > 0]:
        raise ValueError(f"{attribute.name}: expected numbers above 0, got {wrong[0]}")


@attrs.frozen(kw_only=True)
class FeaturesConfig:
    """A trained timm network, and the layers whose maps are compared."""

    network: str = field("", "name of a timm network: tf_efficientnet_lite0, vgg16, ...")
    weights: str = field(
        "", "path or URL of its weights (safetensors, or what torch.save writes); of LPIPS' for lpips", place="whether"
    )
    weights_sha256: str = field("", "hash that the file must have, 64 hex digits; none: any", changes_training=False)
    layers: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": "names of its modules; none = the ends of its stages, as timm lists them"}
    )
    layer_weights: tuple[float, ...] = attrs.field(
        default=(), validator=_positive, metadata={"help": "a weight a layer; none = equal ones that add up to 1"}
    )
    size: int | None = field(
        None, "side that images are scaled to; null = as they are, if the network can", minimum=1, maximum=1 << 14
    )
    mean: Triple | None = attrs.field(default=None, metadata={"help": "of pixels in [0, 1]; null = the network's own"})
    std: Triple | None = attrs.field(
        default=None, validator=_positive, metadata={"help": "of pixels in [0, 1]; null = the network's own"}
    )


@attrs.frozen(kw_only=True)
class PerceptualConfig(FeaturesConfig):
    """The perceptual distance of a loss: `lpips`, `features` of any timm network, or `none`."""

    use: Literal["none", "lpips", "features"] = field("features", "which distance")

    def misfits(self) -> Iterator[str]:
        """Settings that are missing, or that belong to another distance."""
        default = PerceptualConfig()
        own: Sequence[str] = {"none": ("use",), "lpips": ("use", "weights")}.get(self.use, ())
        for name in attrs.fields_dict(type(self)) if own else ():
            if name not in own and getattr(self, name) != getattr(default, name):
                yield f"perceptual.{name}: is a setting of features, and use is {self.use}; leave it out"
        if self.use == "features":
            if not self.network:
                yield "perceptual.network: the name of a timm network is missing, tf_efficientnet_lite0 for one"
            if self.layers and self.layer_weights and len(self.layers) != len(self.layer_weights):
                yield f"perceptual.layer_weights: {len(self.layer_weights)} weights for {len(self.layers)} layers"
        if self.use != "none" and (problem := self._lacking()):
            yield f"perceptual.weights: {problem}"

    def _lacking(self) -> str:
        """A line if weights are not named, or a local file of them is missing."""
        how = (
            how_to_get(self.network) if self.use == "features" else "LPIPS' are a VGG16 and its heads (two files: A,B)"
        )
        if not self.weights:
            return f"path or URL of the weights is missing; {how}"
        from ldm_core import storage  # here: every `ldm-run plugins` reads this module

        for file in self.weights.split(",") if self.use == "lpips" else [self.weights]:
            if storage.local_path(file) is not None and not storage.exists(file):
                return f"no file {file}; {how}"
        return ""


def how_to_get(network: str) -> str:
    """A command that writes a network's published weights, for messages."""
    name = network or "NAME"
    return (
        f'get them once, on a machine with internet: python -c "import timm, safetensors.torch as s; '
        f"s.save_file(timm.create_model('{name}', pretrained=True).state_dict(), '{name}.safetensors')\""
    )
