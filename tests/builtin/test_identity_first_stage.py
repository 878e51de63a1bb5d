"""The identity first stage: pixels as latents."""

from __future__ import annotations

import pytest
import torch

from ldm_core.builtin.identity.config import IdentityConfig
from ldm_core.builtin.identity.stage import IdentityFirstStage
from ldm_core.contracts import FirstStage, Site


def test_pixels_pass_through_normalised() -> None:
    stage = IdentityFirstStage(IdentityConfig(), Site(size=(5, 7)))
    assert isinstance(stage, FirstStage)
    assert stage.latent.shape((5, 7)) == (3, 5, 7)
    x = torch.rand(2, 3, 5, 7) * 2 - 1
    assert torch.equal(stage.latents(stage.encode_moments(x)), x)
    stage.set_normalization(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 1.0]))
    z = stage.latents(stage.encode_moments(x))
    torch.testing.assert_close(z[:, 1], (x[:, 1] - 0.2) / 0.25)
    torch.testing.assert_close(stage.decode(z), x)


def test_projection_clamps_pixels() -> None:
    stage = IdentityFirstStage(IdentityConfig(channels=1), Site(size=(4, 4), channels=1))
    stage.set_normalization(torch.tensor([0.5]), torch.tensor([0.5]))
    z = torch.tensor([-9.0, -3.0, 0.0, 1.0, 4.0]).view(1, 1, 1, 5)  # pixels -4, -1, 0.5, 1, 2.5
    assert stage.project(z).flatten().tolist() == pytest.approx([-3.0, -3.0, 0.0, 1.0, 1.0])


def test_other_image_channels_are_refused() -> None:
    config, site = IdentityConfig(), Site(size=(4, 4), channels=1)
    assert list(config.check(site)) == [
        "the identity first stage has 3 channels and the images have 1; set first_stage.channels=1"
    ]
    with pytest.raises(ValueError, match="3 channels and the images have 1"):
        IdentityFirstStage(config, site)
