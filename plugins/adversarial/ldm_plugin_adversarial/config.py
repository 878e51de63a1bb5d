"""Settings of the adversarial loss of first stages. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import FirstStageConfig, Site, StageObjectiveConfig
from ldm_core.contracts.config import answer
from ldm_core.contracts.configs import of
from ldm_plugin_adversarial.perceptual.config import PerceptualConfig

LPIPS_SIDE = 16
"""The smallest image side for LPIPS: its trunk halves it four times before the last tap."""


def least_side(layers: int) -> int:
    """The smallest image side with a logit of a discriminator of `layers` strided layers (24 for three)."""
    return 3 * 2**layers


class AdversarialStageConfig:
    """Answers of the config of a first stage about this loss."""

    __slots__ = ()

    @answer
    def adversarial_start(self) -> int:
        """The batch from which the discriminator counts."""
        return 0

    @answer
    def adversarial_weight(self) -> float:
        """The weight of the generator's loss."""
        return 0.5

    @answer
    def discriminator_layers(self) -> int:
        """The number of strided convolutions of the discriminator."""
        return 3


def _start_share(config: Any, attribute: attrs.Attribute[Any], value: float | None) -> None:
    """A share, and the only word on the discriminator's start."""
    if value is None:
        return
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name}: expected a share from 0 to 1, got {value}")
    if config.adversarial_start is not None:
        raise ValueError(f"{attribute.name}: adversarial_start is given too; use one of them, and null for the other")


@attrs.frozen(kw_only=True)
class AdversarialConfig(StageObjectiveConfig):
    """L1 or L2 + a perceptual distance + patch discriminator + the stage's own regularisation (arXiv 2112.10752,
    appendix G)."""

    pixel_loss: Literal["l1", "l2"] = field("l1", "the loss on pixels")
    lpips: str = field(
        "", "path or URL of LPIPS weights (VGG16 and heads): in short for perceptual={use: lpips, ...}", place="whether"
    )
    perceptual: PerceptualConfig | None = attrs.field(
        default=None,
        metadata={
            "help": "the perceptual distance: {use: features, network: NAME, weights: PATH}, or use: lpips, or none",
            "since": "0.2",
        },
    )
    perceptual_weight: float = field(1.0, "weight of the perceptual distance", minimum=0)
    log_variance: bool = field(False, "learn the variance of the reconstruction error with the autoencoder")
    equivariance_weight: float = field(
        0.0, "weight of the same loss on halved images, decoded from halved latents; 0 = none", minimum=0, since="0.2"
    )
    adversarial: bool = field(True, "train a patch discriminator")
    adversarial_start: int | None = field(None, "batch at which it comes in; null = the stage's own", minimum=0)
    adversarial_start_share: float | None = attrs.field(
        default=None, validator=_start_share, metadata={"help": "the same as a share of the run's steps"}
    )
    adversarial_weight: float | None = field(None, "its weight; null = the stage's own", minimum=0)
    discriminator_layers: int | None = field(None, "its strided layers; null = the stage's own", minimum=1, maximum=16)
    discriminator_width: int = field(64, "its base width", minimum=1, maximum=1 << 16)
    discriminator_norm: Literal["batch", "group"] = field("group", "batch = as published, depends on rank count")
    r1_weight: float = field(0.0, "R1 penalty on the discriminator's gradients at real images; 0 = none", minimum=0)
    r1_every: int = field(16, "steps between penalties (each counts as many times)", minimum=1)
    codebook_start: int = field(
        0, "batch (at most the last) from which a codebook quantises; before it the latents pass", minimum=0
    )
    codebook_init_images: int = field(256, "images whose latents start a codebook; 0 = random start", minimum=0)
    revive_every: int = field(0, "steps between revivals of codes that no latent used; 0 = never", minimum=0)
    fd_weights: str = field(
        "",
        "path or URL of VGG16 weights for the reconstruction FD; none: random features",
        changes_training=False,
        place=True,
    )

    @property
    def distance(self) -> PerceptualConfig | None:
        """The perceptual distance, by either key; None without any."""
        found = self.perceptual or (PerceptualConfig(use="lpips", weights=self.lpips) if self.lpips else None)
        return None if found is None or found.use == "none" else found

    def start(self, stage: object, steps: int) -> int:
        """The discriminator's first batch (from 0) in `steps` steps of a stage with the config `stage`."""
        if self.adversarial_start_share is not None:
            return round(self.adversarial_start_share * steps)
        own = of(AdversarialStageConfig, stage).adversarial_start
        return own if self.adversarial_start is None else self.adversarial_start

    def layers(self, stage: object) -> int:
        """The discriminator's strided layers."""
        own = of(AdversarialStageConfig, stage).discriminator_layers
        return own if self.discriminator_layers is None else self.discriminator_layers

    def misfits(self, stage: object, site: Site, steps: int) -> Iterator[str]:
        """Images too small for one of the networks that look at them."""
        layers, side = self.layers(stage), min(site.size)
        if self.adversarial and self.start(stage, steps) < steps and side < least_side(layers):
            yield (
                f"discriminator_layers: {layers} strided layers need images of at least {least_side(layers)} pixels, "
                f"image_size is {list(site.size)}; use fewer layers, larger images, or "
                "stage_objective.adversarial=false"
            )
        strides = of(FirstStageConfig, stage).latent.stride if self.equivariance_weight else ()
        grid = [side // stride for side, stride in zip(site.size, strides, strict=False)]
        if any(side % 2 for side in grid):
            yield f"equivariance_weight: latents of {grid} cells cannot be halved; set another image_size, or 0"
        if self.perceptual is not None:
            yield from self.perceptual.misfits()
            if self.lpips:
                yield "lpips: perceptual is given too; use one of them"
        if self.distance is not None and self.distance.use == "lpips" and side < LPIPS_SIDE:
            key = "lpips" if self.lpips else "perceptual.use"
            yield (
                f"{key}: LPIPS needs images of at least {LPIPS_SIDE} pixels, image_size is {list(site.size)}; use "
                "larger images, or leave it out"
            )

    def remarks(self, stage: object, steps: int) -> Iterator[str]:
        """A discriminator that never comes in."""
        start = self.start(stage, steps)
        if self.adversarial and self.adversarial_start_share is None and start >= steps:
            yield (
                f"the discriminator never comes in: it starts at step {start} and the first stage has {steps}; set "
                "stage_objective.adversarial_start, or adversarial_start_share=0.5, or adversarial=false"
            )

    def longer(self, stage: object, steps: int, more: int) -> str:
        """A start that more steps would have moved."""
        shared = self.adversarial_start_share is not None
        late = self.adversarial and (shared or steps <= self.start(stage, steps) < more)
        if late or steps <= self.codebook_start:
            return (
                f"the discriminator or the codebook of the run starts at a share of its {steps} steps, or would have "
                "started later"
            )
        return ""
