"""An auxiliary loss of first stages: latents are aligned with the features of a fixed network, as VA-VAE does.

Source: Yao et al. 2025, "Reconstruction vs. Generation", arXiv 2501.01423: the cosine part of their loss, with their
adaptive weight. The network here is random; theirs is a trained one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_contract_plugin.config import AlignedConfig
from ldm_core.contracts import AuxiliaryLoss, Reconstruction, Site


class Aligned(nn.Module, AuxiliaryLoss):
    """mean relu(1 - margin - cosine of a learned projection of z and of the image's features, cell by cell)."""

    def __init__(self, config: AlignedConfig, site: Site) -> None:
        super().__init__()
        assert site.latent is not None
        self.margin = config.margin
        self.projection = nn.Conv2d(site.latent.channels, config.width, 1, bias=False)
        shape = (config.width, site.channels, *site.latent.stride)
        kernel = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        self._network = (kernel,)  # frozen, and so not registered

    def loss(self, images: Tensor, z: Tensor, reconstruction: Reconstruction) -> Tensor:
        """images (B, c, H, W), z (B, C, h, w) -> the loss ()."""
        (kernel,) = self._network
        features = F.conv2d(images, kernel.to(images), stride=tuple(kernel.shape[2:]))
        cosine = F.cosine_similarity(self.projection(z), features, dim=1)
        return F.relu(1 - self.margin - cosine).mean()
