"""The Fréchet distance between two sets of images, and the features of a fixed random network.

It is not the FID of the literature, by the features of one InceptionV3: numbers compare among themselves only. Source
of the distance: Dowson and Landau 1982; Heusel et al., arXiv 1706.08500.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTHS = (32, 64, 96)
_SEED = 20_220_413


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians with the means and covariances of features `a` (N, D), `b` (M, D).

    In ``|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½)`` the last trace is the one of the symmetric
    ``(C_a^½ C_b C_a^½)^½``, from eigenvalues, in float64; covariances are unbiased. ValueError for under two rows, or
    other shapes.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"expected (N, D) and (M, D) with N, M of at least 2, got {tuple(a.shape)}, {tuple(b.shape)}")
    a, b = a.double(), b.double()
    first, second = _covariance(a), _covariance(b)
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    product = root @ second @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0.0).sqrt().sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return max(0.0, float(shift + first.trace() + second.trace() - 2.0 * cross))


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


class RandomFeatures(nn.Module):
    """Features of a fixed network of random convolutions: (B, 1 or 3, H, W) in [-1, 1] -> (B, 192).

    Three strided 3x3 convolutions with leaky ReLU, widths 32, 64 and 96; the features are the means over positions of
    each. Weights are drawn once from a seed in this file, so numbers compare across runs.
    """

    name = "fd_random"

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(_SEED)
        channels = 3
        for number, width in enumerate(_WIDTHS):
            weight = torch.randn((width, channels, 3, 3), generator=generator) * math.sqrt(2 / (9 * channels))
            self.register_buffer(f"weight{number}", weight)
            channels = width

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 192) float32."""
        h, found = x.float().expand(-1, 3, -1, -1), []
        for weight in self.buffers():
            h = F.leaky_relu(F.conv2d(h, weight, stride=2, padding=1), 0.2)
            found.append(h.mean((2, 3)))
        return torch.cat(found, dim=1)
