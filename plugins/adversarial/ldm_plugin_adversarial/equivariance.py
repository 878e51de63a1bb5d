"""Scale equivariance of a first stage: halved latents decode to halved images.

Source: Skorokhodov et al. 2025, arXiv 2502.14831, section 4, with the mean in the place of bilinear scaling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ldm_core.errors import ConfigError


def take_raw_latents(stage: Any, device: torch.device) -> None:
    """Let `decode` take the raw latents of a pass, as halved ones are: the core measures the normalisation after the
    training, and a stage that goes on from a file has its old one. ConfigError for a stage that cannot decode."""
    if missing := [name for name in ("decode", "latent", "set_normalization") if name not in dir(stage)]:
        raise ConfigError(
            f"equivariance_weight: first stage {type(stage).__name__} has no {', '.join(missing)}, as a FirstStage "
            "has; set equivariance_weight=0"
        )
    channels = stage.latent.channels
    stage.set_normalization(torch.zeros(channels, device=device), torch.ones(channels, device=device))


def halved_loss(stage: Any, x: Tensor, z: Tensor | None, nll: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The reconstruction loss () of halved images (B, c, H/2, W/2) by the decoder's picture of halved latents.

    Both are means of squares of 2x2, of images (B, c, H, W) and of the raw latents (B, C, h, w) of their pass; `nll` is
    the loss of images by their reconstruction. A pixel counts as much as one of a whole image. It keeps detail that
    images lack out of the latents. ConfigError without latents.
    """
    if z is None:
        name = type(stage).__name__
        raise ConfigError(f"equivariance_weight: first stage {name} gives no Reconstruction.z; set 0")
    image = stage.decode(F.avg_pool2d(z, 2)).float()
    loss = nll(F.avg_pool2d(x, 2), image)
    return loss * (x.numel() / image.numel()) if stage.nll_reduction == "sum" else loss
