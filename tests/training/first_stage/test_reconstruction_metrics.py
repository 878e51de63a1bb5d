"""PSNR and SSIM against closed forms and against SciPy's Gaussian filter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from ldm_core.training.first_stage.metrics import psnr, quantize, ssim


def grey(level: int, size: int = 16) -> torch.Tensor:
    return torch.full((1, 3, size, size), level, dtype=torch.uint8)


def pictures(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((2, 3, 6, 5), generator=generator) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, size=(30, 24), mode="bilinear")
    return smooth + 0.1 * torch.randn((2, 3, 30, 24), generator=generator)


def test_quantize_rounds_and_clamps() -> None:
    x = torch.tensor([-3.0, -1.0, -1.0 + 0.4 / 127.5, 0.0, 1.0 - 0.4 / 127.5, 1.0, 2.0])
    assert quantize(x).tolist() == [0, 0, 0, 128, 255, 255, 255]
    assert quantize(torch.arange(256, dtype=torch.uint8)).tolist() == list(range(256))
    levels = torch.arange(256).float() / 127.5 - 1.0
    assert quantize(levels).tolist() == list(range(256))


def test_psnr_closed_forms() -> None:
    assert psnr(grey(100), grey(101)).item() == pytest.approx(20 * math.log10(255), abs=1e-9)
    assert psnr(grey(0), grey(255)).item() == pytest.approx(0.0, abs=1e-12)
    assert psnr(grey(7), grey(7)).item() == math.inf
    half = grey(100).clone()
    half[..., :8] += 2  # half of the pixels off by two: MSE 2
    assert psnr(grey(100), half).item() == pytest.approx(10 * math.log10(255**2 / 2), abs=1e-9)


def test_psnr_is_per_example() -> None:
    x, y = pictures(0), pictures(1)
    assert psnr(x, y).shape == (2,)
    torch.testing.assert_close(psnr(x, y)[1:], psnr(x[1:], y[1:]), rtol=1e-12, atol=0)


def test_below_half_a_level_is_no_error() -> None:
    x = quantize(pictures(0)).float() / 127.5 - 1.0
    assert torch.isinf(psnr(x, x + 0.4 / 127.5)).all()


def test_ssim_of_constant_images_is_the_luminance_term() -> None:
    a, b, c1 = 100.0, 140.0, (0.01 * 255) ** 2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ssim(grey(100), grey(140)).item() == pytest.approx(expected, abs=1e-9)


def test_ssim_is_one_for_equal_images_and_symmetric() -> None:
    x, y = pictures(0), pictures(1)
    torch.testing.assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(ssim(x, y), ssim(y, x), rtol=0, atol=1e-12)
    assert (ssim(x, y) < 0.9).all()


def test_ssim_against_scipy() -> None:
    x, y = pictures(0), pictures(0) + 0.2 * pictures(1)

    def mean(values: np.ndarray) -> np.ndarray:
        # sigma 1.5 cut off at 3.5 sigma is a radius of 5: eleven taps; the border is left out
        return ndimage.gaussian_filter(values, 1.5, truncate=3.5)[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    for i in range(2):
        values = []
        for a, b in zip(quantize(x)[i].double().numpy(), quantize(y)[i].double().numpy(), strict=True):
            ma, mb = mean(a), mean(b)
            va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
            top = (2 * ma * mb + c1) * (2 * cov + c2)
            values.append((top / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())
        assert ssim(x, y)[i].item() == pytest.approx(np.mean(values), abs=1e-10)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_unequal_shapes_are_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match="equal shape"):
        metric(grey(1), grey(1, size=17))
    with pytest.raises(ValueError, match="at least 11"):
        ssim(grey(1, size=10), grey(1, size=10))
