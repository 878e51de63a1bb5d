"""The nearness of a reconstruction to its image: PSNR and SSIM, on images quantised to 8 bits as they would be
saved."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Wang et al. 2004: an 11-tap Gaussian window of sigma 1.5, stabilising constants (0.01 L)² and (0.03 L)².
_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * 255.0) ** 2
_C2 = (0.03 * 255.0) ** 2


def quantize(images: Tensor) -> Tensor:
    """Images in [-1, 1] (clamped) -> uint8 levels, rounded to the nearest; uint8 passes through unchanged."""
    if images.dtype == torch.uint8:
        return images
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB, float64, of (B, c, H, W) in [-1, 1] or uint8; inf if equal.

    10 log10(255² / MSE), the error averaged over channels and pixels of the quantised images. ValueError for unequal
    shapes.
    """
    a, b = _levels(x, y)
    return 10.0 * torch.log10(255.0**2 / (a - b).square().mean((1, 2, 3)))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (B,), float64, at most 1, of (B, c, H, W) in [-1, 1] or uint8, sides at least 11.

    Per channel, with population covariances, over windows wholly inside, then averaged. Source: Wang et al., "Image
    Quality Assessment: From Error Visibility to Structural Similarity" (2004), equation 13. ValueError for unequal
    shapes or smaller sides.
    """
    a, b = _levels(x, y)
    if min(a.shape[2:]) < _WINDOW:
        raise ValueError(f"SSIM needs sides of at least {_WINDOW}, got {a.shape[2]} x {a.shape[3]}")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a * mean_a
    var_b = _blur(b * b) - mean_b * mean_b
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2.0 * mean_a * mean_b + _C1) / (mean_a * mean_a + mean_b * mean_b + _C1)
    structure = (2.0 * covariance + _C2) / (var_a + var_b + _C2)
    return (luminance * structure).mean((1, 2, 3))


def image_scores(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Score each image: `psnr` (B,), equal images counted as 100 dB, and `ssim` (B,) if the sides suffice."""
    scores = {"psnr": psnr(x, y).clamp(max=100.0)}
    if min(x.shape[2:]) >= _WINDOW:
        scores["ssim"] = ssim(x, y)
    return scores


def _levels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != y.shape or x.ndim != 4:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"expected two (B, c, H, W) of equal shape, got {shapes}")
    # float64: variances are differences of squares of numbers near 255
    return quantize(x).double(), quantize(y).double()


def _blur(x: Tensor) -> Tensor:
    """Gaussian means over the windows inside: (B, c, H, W) -> (B, c, H - 10, W - 10)."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    window = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    window = window / window.sum()
    flat = x.flatten(0, 1).unsqueeze(1)  # (B c, 1, H, W)
    flat = F.conv2d(F.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return flat.view(*x.shape[:2], *flat.shape[2:])
