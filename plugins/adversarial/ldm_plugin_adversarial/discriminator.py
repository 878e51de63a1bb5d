"""The patch discriminator of the first stages' adversarial loss.

Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (arXiv 1611.07004),
as used by Esser et al. (arXiv 2012.09841) and Rombach et al. (arXiv 2112.10752).
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from ldm_plugin_adversarial.config import least_side

_KERNEL = 4
_MAX_MULT = 8


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches: images -> one logit a patch, positive for real.

    4x4 convolutions with padding 1: `layers` with stride 2, then two with stride 1; widths `width` times 1, 2, 4, 8
    (then constant); leaky ReLU 0.2; normalisation in all but the first and the last. Convolutions start at N(0, 0.02²),
    norm weights at N(1, 0.02²). State keys: ``main.N.*``, as in published checkpoints.

    `layers` 3: 2,765,633 parameters, patches of 70 x 70. `layers` 2: 663,361 parameters, patches of 34 x 34
    (`channels_in` 3, `width` 64).

    `norm` "batch" is the published one; its statistics are those of one process's batch, so a run's numbers depend on
    the number of processes sharing the batch. "group" (32 groups, fewer if 32 does not divide the width) has no such
    dependence and no running statistics.

    Raises ValueError for fewer than one layer or an unknown `norm`.
    """

    def __init__(
        self,
        channels_in: int = 3,
        width: int = 64,
        layers: int = 3,
        norm: Literal["batch", "group"] = "batch",
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"a patch discriminator has at least 1 layer, got {layers}")
        if norm not in ("batch", "group"):
            raise ValueError(f"norm is 'batch' or 'group', got {norm!r}")
        self.strides = (2,) * layers + (1, 1)
        modules: list[nn.Module] = [nn.Conv2d(channels_in, width, _KERNEL, stride=2, padding=1), _leaky()]
        previous = width
        for level, stride in enumerate(self.strides[1:-1], start=1):
            channels = width * min(2**level, _MAX_MULT)
            # no bias in front of a norm that has its own
            modules += [
                nn.Conv2d(previous, channels, _KERNEL, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(32, channels), channels),
                _leaky(),
            ]
            previous = channels
        modules.append(nn.Conv2d(previous, 1, _KERNEL, stride=1, padding=1))
        self.main = nn.Sequential(*modules)
        for module in self.main:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the patch behind one logit."""
        side = 1
        for stride in reversed(self.strides):
            side = (side - 1) * stride + _KERNEL
        return side

    @property
    def min_size(self) -> int:
        """Smallest side of an image with a logit."""
        return least_side(len(self.strides) - 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, channels_in, H, W) in [-1, 1] -> logits (B, 1, h, w); ValueError if too small."""
        if min(x.shape[2:]) < self.min_size:
            raise ValueError(
                f"images of {x.shape[2]} x {x.shape[3]} are too small for a patch discriminator of "
                f"{len(self.strides) - 2} layers: sides of at least {self.min_size}, or fewer layers"
            )
        return self.main(x)


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)
