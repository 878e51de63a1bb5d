"""Settings of small decoders and of their training. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import Config, FirstStageConfig, LatentSpec, Site, StageObjectiveConfig
from ldm_core.errors import LDMError

_MOST_WIDTH, _MOST_BLOCKS = 1024, 32


def steps_of(stride: Sequence[int]) -> list[tuple[int, ...]]:
    """The factors of each upsampling, from the latents to the pixels: primes, the larger first, on every axis."""
    primes = [sorted(_primes(each), reverse=True) for each in stride]
    count = max(map(len, primes), default=0)
    return list(zip(*([*found, *[1] * (count - len(found))] for found in primes), strict=True))


def _primes(number: int) -> Iterator[int]:
    divisor = 2
    while number > 1:
        if divisor * divisor > number:
            divisor = number
        while number % divisor == 0:
            yield divisor
            number //= divisor
        divisor += 1


@attrs.frozen(kw_only=True)
class TinyDecoderConfig(Config):
    """Shape of the decoder; the defaults are those of TAESD, 1.2 million weights at factor 8."""

    widths: tuple[int, ...] = attrs.field(
        default=(64,),
        metadata={"help": "channels of each level, from the latents to the pixels; the last one goes on"},
    )
    blocks: int = field(3, "residual blocks of each level but the last", minimum=0, maximum=_MOST_BLOCKS)
    last_blocks: int = field(1, "residual blocks of the level of the pixels", minimum=0, maximum=_MOST_BLOCKS)

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line for each impossible width, and for latents without two axes."""
        if not self.widths or not all(0 < width <= _MOST_WIDTH for width in self.widths):
            yield f"widths: expected whole numbers from 1 to {_MOST_WIDTH}, one or more, got {list(self.widths)}"
        if site.latent is not None and len(site.latent.stride) != 2:
            yield f"latents have {len(site.latent.stride)} axes; this decoder takes two"

    def widths_of(self, levels: int) -> list[int]:
        """The channels of each of `levels` levels."""
        return [self.widths[min(i, len(self.widths) - 1)] for i in range(levels)]


SHAPE = tuple(each.name for each in attrs.fields(TinyDecoderConfig))
"""The fields of the network's shape."""


@attrs.frozen(kw_only=True)
class TrainedDecoderConfig(TinyDecoderConfig, FirstStageConfig):
    """A small decoder in training, as a first stage: encoder and latents are those of a trained stage, left as it
    is."""

    stage_objective: ClassVar[str] = "decoder_pixels"
    stage: str = attrs.field(
        default="",
        metadata={
            "help": "the trained first stage: a run's folder, or a file of weights",
            "sha256": "sha256",
            "file": "first_stage.safetensors",
            "place": True,
        },
    )
    sha256: str = attrs.field(default="", metadata={"help": "the hash of that file; filled in"})
    channels: int = field(4, "channels of its latents", minimum=1, maximum=4096)
    stride: tuple[int, int] = attrs.field(default=(8, 8), metadata={"help": "its factors [height, width]"})
    latents: Literal["drawn", "mode"] = field("drawn", "the latents that it sees; drawn: another draw at each step")
    keep: int = field(1 << 28, "bytes of moments kept in memory, so that no picture is encoded twice", minimum=0)

    @property
    def latent(self) -> LatentSpec:
        """The latents of the trained stage."""
        return LatentSpec(self.channels, self.stride)

    def check(self, site: Site) -> Iterator[str]:
        """Yield a line for each reason against a training on this stage."""
        from ldm_plugin_tiny_decoder.teacher import teacher_of

        if min(self.stride) < 1 or math.prod(self.stride) > 1 << 16:
            yield f"stride: expected two whole numbers above 0, got {list(self.stride)}"
            return
        yield from TinyDecoderConfig.check(self, attrs.evolve(site, latent=self.latent))
        try:
            teacher_of(self.stage, self.sha256, self.latent, site)
        except LDMError as error:
            yield f"stage: {error}"


@attrs.frozen(kw_only=True)
class DecoderPixelsConfig(StageObjectiveConfig):
    """The error of the pixels of a small decoder."""

    loss: Literal["l1", "l2", "huber"] = field("l1", "the error of a pixel, of values in [-1, 1]")
    huber_delta: float = field(0.1, "where huber turns from a square into a line", above=0)
    target: Literal["pictures", "decode"] = field(
        "pictures", "pictures: those of the data; decode: what the trained stage makes of the same latents"
    )

    def misfits(self, stage: Any, site: Site, steps: int) -> Iterator[str]:
        """Yield a line beside another first stage."""
        if not isinstance(stage, TrainedDecoderConfig):
            yield "decoder_pixels trains the first stage 'tiny_decoder' alone; leave stage_objective out"
