"""Settings of the adversarial loss of first stages. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from ldm_core.config.fields import field


def _start_share(config: Any, attribute: attrs.Attribute[Any], value: float | None) -> None:
    """A share, and the only word on the discriminator's start."""
    if value is None:
        return
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name}: expected a share from 0 to 1, got {value}")
    if config.adversarial_start is not None:
        raise ValueError(f"{attribute.name}: adversarial_start is given too; use one of them, and null for the other")


@attrs.frozen(kw_only=True)
class AdversarialConfig:
    """L1 or L2 + LPIPS + patch discriminator + the stage's own regularisation (arXiv 2112.10752, appendix G)."""

    pixel_loss: Literal["l1", "l2"] = field("l1", "the loss on pixels")
    lpips: str = field(
        "", "path or URL of LPIPS weights (VGG16 and heads); none: trained without, and said so", place="whether"
    )
    perceptual_weight: float = field(1.0, "weight of LPIPS", minimum=0)
    log_variance: bool = field(False, "learn the variance of the reconstruction error with the autoencoder")
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
