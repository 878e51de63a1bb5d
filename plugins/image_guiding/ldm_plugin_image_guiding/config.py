"""Settings of image guiding, of blending and of RePaint's sampler. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import LatentSpec, Site
from ldm_core.contracts.configs import GuidanceConfig, SamplerConfig
from ldm_core.sampling.guidance_interval import interval_field


def _two_axes(site: Site) -> Iterator[str]:
    if site.latent is not None and len(site.latent.stride) != 2:
        yield f"pictures have 2 axes (height, width); the latents have {len(site.latent.stride)}"


def _two_keys(image: str, mask: str) -> Iterator[str]:
    if image == mask:
        yield f"image and mask are both '{image}'; name two keys"


def _weights(what: str) -> Any:
    """A field of a file of weights; its hash is filled in as `weights_sha256`, and another file is refused."""
    told = f"path or URL of {what} (safetensors, or what torch.save writes)"
    return attrs.field(default="", metadata={"help": told, "sha256": "weights_sha256", "place": True})


@attrs.frozen(kw_only=True)
class PullConfig(GuidanceConfig):
    """Settings of all targets (Rombach et al. 2022, arXiv 2112.10752, appendix D.6)."""

    strength: float = field(1.0, "factor of each correction; 0 = none", minimum=0, maximum=1000)
    step: Literal["fitted", "published"] = field(
        "fitted", "length of a correction: at its optimum along its direction, or as the paper has it"
    )
    iterations: int = field(
        2, "corrections a step, each along another direction; published has one", minimum=1, maximum=100
    )
    through_denoiser: bool = field(
        True, "gradients pass the denoiser, as published; false: the decoder alone, about half the time"
    )
    interval: tuple[float, float | None] | None = interval_field()

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line where the latents are no pictures'."""
        yield from _two_axes(site)


@attrs.frozen(kw_only=True)
class LowResolutionTargetConfig(PullConfig):
    """A small picture, for the sample, made small, to equal."""

    image: str = field("image", "key of the inputs with the small picture")
    factor: int = field(4, "how many times smaller than the sample the picture is", minimum=2, maximum=1024)
    reduce: Literal["bicubic", "area"] = field("bicubic", "how the sample is made small, antialiased")
    deviation: float = field(0.05, "standard deviation of the error at a pixel, in units of [-1, 1]", above=0)

    @property
    def reads(self) -> tuple[str, ...]:
        """The small picture."""
        return (self.image,)

    def taken_sizes(self, size: tuple[int, int], latent: LatentSpec) -> Mapping[str, tuple[int, int]]:
        """The small picture's size (h, w)."""
        return {self.image: (size[0] // self.factor, size[1] // self.factor)}

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line for a factor that does not divide the images' size."""
        yield from _two_axes(site)
        if any(side % self.factor for side in site.size):
            yield f"factor {self.factor} does not divide the image size {list(site.size)}; give one that does"


@attrs.frozen(kw_only=True)
class KnownPixelsTargetConfig(PullConfig):
    """A picture, for the sample to have its pixels outside of the holes of a mask."""

    image: str = field("image", "key of the inputs with the picture")
    mask: str = field("mask", "key of the inputs with the mask: what is white (128 and above), or 1, is to be filled")
    deviation: float = field(0.05, "standard deviation of the error at a pixel, in units of [-1, 1]", above=0)
    paste: bool = field(True, "put the known pixels over the finished sample, bit for bit")
    provides: ClassVar[tuple[str, ...]] = ("known_pixels",)

    @property
    def reads(self) -> tuple[str, ...]:
        """The picture and its mask."""
        return (self.image, self.mask)

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line where the latents are no pictures', or the two inputs are one."""
        yield from _two_axes(site)
        yield from _two_keys(self.image, self.mask)


@attrs.frozen(kw_only=True)
class PerceptualTargetConfig(PullConfig):
    """A picture, for the sample to resemble it, as a trained network sees both."""

    image: str = field("image", "key of the inputs with the picture")
    network: str = field("tf_efficientnet_lite0", "name of a timm network")
    weights: str = _weights("its weights")
    weights_sha256: str = field("", "hash of that file, 64 hex digits; filled in")
    layers: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": "names of its modules whose maps are compared; none = the ends of its stages"}
    )
    size: int | None = field(
        None, "side that pictures are scaled to for it; null = as they are", minimum=1, maximum=1 << 12
    )
    deviation: float = field(0.02, "standard deviation of the root of the distance", above=0)

    @property
    def reads(self) -> tuple[str, ...]:
        """The picture."""
        return (self.image,)

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line without weights."""
        yield from _two_axes(site)
        if not self.weights:
            yield _UNNAMED.format(what=f"the weights of {self.network}", use="perceptual_target")


@attrs.frozen(kw_only=True)
class ClassifierTargetConfig(PullConfig):
    """A class, for a classifier of clean pictures to see it in the sample."""

    label: str = field("class_label", "key of the inputs with the number of the class, an output of the classifier")
    network: str = field("", "name of a timm network")
    weights: str = _weights("its weights, of the classifier as well")
    weights_sha256: str = field("", "hash of that file, 64 hex digits; filled in")
    size: int | None = field(
        None, "side that pictures are scaled to for it; null = the network's own", minimum=1, maximum=1 << 12
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The class."""
        return (self.label,)

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line without a network or its weights."""
        yield from _two_axes(site)
        if not self.network:
            yield "network: the name of a timm network is missing, such as tf_efficientnet_lite0"
        if not self.weights:
            yield _UNNAMED.format(what="the classifier's weights", use="classifier_target")


_UNNAMED = (
    "weights: {what} are not named, and no file names them for you; give them with guides.{use}.weights=PATH_OR_URL"
)


@attrs.frozen(kw_only=True)
class BlendConfig(GuidanceConfig):
    """A picture, to stay as it is outside of the holes of a mask, at each step."""

    image: str = field("image", "key of the inputs with the picture")
    mask: str = field("mask", "key of the inputs with the mask: what is white (128 and above), or 1, is to be filled")
    space: Literal["latents", "pixels"] = field(
        "latents", "where they are joined; pixels: decoded and encoded again at each step, for finer holes"
    )
    paste: bool = field(True, "put the known pixels over the finished sample, bit for bit")
    interval: tuple[float, float | None] | None = interval_field()
    provides: ClassVar[tuple[str, ...]] = ("known_pixels",)

    @property
    def reads(self) -> tuple[str, ...]:
        """The picture and its mask."""
        return (self.image, self.mask)

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line where the latents are no pictures', or the two inputs are one."""
        yield from _two_axes(site)
        yield from _two_keys(self.image, self.mask)


@attrs.frozen(kw_only=True)
class RePaintConfig(SamplerConfig):
    """Lugmayr et al. 2022 (arXiv 2201.09865), algorithm 1 and section 4.2."""

    resamples: int = field(
        10, "how often each jump is made; 1 = once, a run without resampling", minimum=1, maximum=1000
    )
    jump: int = field(10, "steps of a jump: so many are gone down, and taken back by noise", minimum=1, maximum=10_000)
    eta: float = field(1.0, "share of fresh noise in a step: 1 as published, 0 deterministic", minimum=0, maximum=1)
    requires: ClassVar[Mapping[str, str]] = {
        "known_pixels": "it fits what it fills to what is known; give guides=[blend] and a picture with a mask "
        "(--image, --mask), or choose another sampler"
    }
