"""The wavelet first stage against the transform's own properties and against its matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ldm_plugin_wavelet.config import HaarConfig
from ldm_plugin_wavelet.stage import HaarFirstStage

from ldm_core import Catalog
from ldm_core.contracts import Site
from ldm_core.recipe.resolve import resolve


def stage(levels: int, channels: int = 3) -> HaarFirstStage:
    return HaarFirstStage(HaarConfig(levels=levels, channels=channels), Site(size=(16, 24), channels=channels))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_map_is_orthonormal(levels: int) -> None:
    made = stage(levels)
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    z = made.encode_moments(x)
    assert z.shape == (2, 3 * 4**levels, 16 >> levels, 24 >> levels)
    torch.testing.assert_close(z.square().sum(), x.square().sum())
    torch.testing.assert_close(made.decode(made.latents(z)), x)


def test_the_coefficients_are_those_of_haars_matrix() -> None:
    """One level of a 4x4 picture beside W X W^T, with W of the textbook."""
    x = torch.arange(16.0).reshape(1, 1, 4, 4) ** 2 / 100
    w = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, -1, 0, 0], [0, 0, 1, -1]]) / np.sqrt(2)
    want = (w.double() @ x[0, 0].double() @ w.T.double()).float()
    got = stage(1, channels=1).encode_moments(x)[0]
    torch.testing.assert_close(got, torch.stack([want[:2, :2], want[:2, 2:], want[2:, :2], want[2:, 2:]]))


def test_a_flat_picture_is_its_mean() -> None:
    z = stage(2, channels=1).encode_moments(torch.full((1, 1, 16, 24), 0.5))
    torch.testing.assert_close(z[:, 0], torch.full((1, 4, 6), 0.5 * 4))
    assert z[:, 1:].abs().max() == 0


def test_projection_clamps_the_pixels() -> None:
    made = stage(1)
    made.set_normalization(torch.full((12,), 0.1), torch.full((12,), 2.0))
    x = 2 * torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    z = made.latents(made.encode_moments(x))
    torch.testing.assert_close(made.decode(made.project(z)), x.clamp(-1, 1))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="15"):
        stage(1).encode_moments(torch.zeros(1, 3, 15, 16))
    with pytest.raises(ValueError, match=r"set first_stage\.channels=1"):
        HaarFirstStage(HaarConfig(), Site(size=(16, 16), channels=1))
    with pytest.raises(Exception, match="levels"):
        resolve({"first_stage": {"use": "haar", "levels": 6}}, Catalog.discover())
