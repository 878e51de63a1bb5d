"""Features of a trained VGG16 for the Fréchet distance."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ldm_plugin_adversarial.perceptual.lpips import LPIPS


class VGG16Features(nn.Module):
    """Features of a trained VGG16: (B, 1 or 3, H, W) in [-1, 1], sides of at least 16 -> (B, 512).

    They are the means over positions of the last convolution's output (relu5_3). `urls`: files or URLs in any format of
    :class:`~ldm_plugin_adversarial.perceptual.lpips.LPIPS`; its heads are not needed. Raises as LPIPS does.
    """

    name = "fd_vgg16"

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__()
        self.trunk = LPIPS.from_weights(*urls, heads=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 512) float32."""
        return self.trunk.features(x)[-1].float().mean((2, 3))
