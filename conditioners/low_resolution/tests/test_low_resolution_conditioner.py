"""Small pictures: as they are, reduced as other programs reduce them, refused; nothing random, nothing learned."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from ldm_plugin_low_resolution.conditioner import LowResolutionConditioner
from ldm_plugin_low_resolution.config import LowResolutionConfig
from PIL import Image
from torch import Tensor

from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.errors import ConfigError, DataError

SITE = Site(size=(64, 48), latent=LatentSpec(3, (4, 4)))


def concat(conditioner: LowResolutionConditioner, images: Tensor) -> Tensor:
    out = conditioner.encode({"image": images}).concat
    assert out is not None
    return out


def levels(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round()


def pictures(height: int, width: int, seed: int = 0) -> Tensor:
    """Uint8 noise that was smoothed, as floats in [-1, 1]."""
    draw = np.random.default_rng(seed).integers(0, 256, (2, 3, height // 4 + 2, width // 4 + 2)).astype(np.uint8)
    planes = [[np.array(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC)) for p in i] for i in draw]
    return torch.from_numpy(np.array(planes)).float() / 127.5 - 1


def test_a_picture_of_the_latents_size_is_taken_as_it_is() -> None:
    conditioner = LowResolutionConditioner(LowResolutionConfig(), SITE)
    small = torch.rand(2, 3, 16, 12) * 2 - 1
    assert torch.equal(concat(conditioner, small), small)
    assert conditioner.spec == CondSpec(concat=3) and not list(conditioner.parameters())


def test_bicubic_is_pillows() -> None:
    """Pillow's antialiased bicubic on floats, to one of 256 levels."""
    images = pictures(64, 48)
    small = concat(LowResolutionConditioner(LowResolutionConfig(), SITE), images)
    assert small.shape == (2, 3, 16, 12)
    planes = levels(images).numpy()
    bicubic = Image.Resampling.BICUBIC
    want = [[np.array(Image.fromarray(p).resize((12, 16), bicubic)) for p in image] for image in planes]
    assert (levels(small) - torch.from_numpy(np.array(want)).clamp(0, 255)).abs().max() <= 0.51
    assert torch.allclose((small + 1) * 127.5, levels(small), atol=1e-4) and small.abs().max() <= 1


def test_area_is_the_mean_of_each_cell() -> None:
    images = pictures(64, 48)
    conditioner = LowResolutionConditioner(LowResolutionConfig(reduce="area"), SITE)
    want = levels(images.unflatten(2, (16, 4)).unflatten(4, (12, 4)).mean((3, 5)))
    assert (levels(concat(conditioner, images)) - want).abs().max() <= 1  # halves may round either way
    uneven = concat(conditioner, pictures(100, 60))
    assert uneven.shape == (2, 3, 16, 12)


def test_reducing_rounds_to_what_a_saved_picture_holds() -> None:
    conditioner = LowResolutionConditioner(LowResolutionConfig(), SITE)
    small = concat(conditioner, pictures(64, 48))
    saved = levels(small).byte().float() / 127.5 - 1
    assert torch.allclose(concat(conditioner, saved), small, atol=1e-6)


def test_the_null_is_the_picture_itself_unless_it_may_be_dropped() -> None:
    conditioner = LowResolutionConditioner(LowResolutionConfig(), SITE)
    cond = conditioner.encode({"image": pictures(64, 48)})
    assert conditioner.null(cond) is cond
    grey = LowResolutionConditioner(LowResolutionConfig(droppable=True), SITE).null(cond)
    assert grey.concat is not None and not grey.concat.any()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 15, 48), "'image' is 15x48; give it at 16x12, to be taken as it is, or larger"),
        (torch.zeros(1, 1, 64, 48), r"'image' is \(1, 1, 64, 48\); pictures \(B, 3, height, width\) are needed"),
        ([1, 2], "'image' is a list; pictures"),
    ],
)
def test_wrong_pictures_are_named(images: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LowResolutionConditioner(LowResolutionConfig(), SITE).encode({"image": images})


def test_sizes_and_channels_are_checked_without_torch() -> None:
    config = LowResolutionConfig()
    assert config.taken_sizes((64, 48), LatentSpec(3, (4, 4))) == {"image": (16, 12)}
    assert list(config.check(SITE)) == []
    assert "the pictures have 1; set image_channels=1" in next(iter(config.check(attrs.evolve(SITE, channels=1))))
    with pytest.raises(ConfigError, match="build it behind a first stage"):
        LowResolutionConditioner(config, Site(size=(64, 48)))


@pytest.mark.parametrize("factor", [2, 8])
def test_a_small_picture_of_another_size_is_resized_to_the_latents(factor: int) -> None:
    conditioner = LowResolutionConditioner(LowResolutionConfig(factor=factor), SITE)
    height, width = 64 // factor, 48 // factor
    assert LowResolutionConfig(factor=factor).taken_sizes((64, 48), LatentSpec(3, (4, 4))) == {"image": (height, width)}
    small = (torch.rand(2, 3, height, width) * 255).round() / 127.5 - 1
    grid = concat(conditioner, small)
    assert grid.shape == (2, 3, 16, 12) and grid.abs().max() <= 1
    assert torch.allclose(concat(conditioner, torch.full_like(small, 0.5)), torch.tensor(0.5), atol=1e-6)
    assert concat(conditioner, pictures(64, 48)).shape == (2, 3, 16, 12)
    with pytest.raises(DataError, match=f"give it at {height}x{width}"):
        concat(conditioner, small[:, :, 1:])
    flaw = "factor is 5, and does not divide pictures of 64x48"
    assert flaw in next(iter(LowResolutionConfig(factor=5).check(SITE)))


def stage(images: Tensor) -> Tensor:
    """Cells of 4x4 pixels as 48 channels: a first stage that loses nothing."""
    return torch.nn.functional.pixel_unshuffle(images, 4)


@pytest.mark.parametrize("factor", [0, 2, 8])
def test_encoded_hands_over_the_latents_of_the_enlarged_picture(factor: int) -> None:
    """Pillow's bicubic enlargement in floats, through the first stage; nothing is lost at any factor."""
    site = attrs.evolve(SITE, latent=LatentSpec(48, (4, 4)), encode=stage)
    config = LowResolutionConfig(factor=factor, encoded=True)
    conditioner = LowResolutionConditioner(config, site)
    assert conditioner.spec == config.spec(LatentSpec(48, (4, 4))) == CondSpec(concat=48)
    times = factor or 4
    small = levels(pictures(64 // times, 48 // times)) / 127.5 - 1
    latents = concat(conditioner, small)
    assert latents.shape == (2, 48, 16, 12) and not list(conditioner.parameters())
    enlarged = torch.nn.functional.pixel_shuffle(latents, 4)
    bicubic = Image.Resampling.BICUBIC
    want = [[np.array(Image.fromarray(p).resize((48, 64), bicubic)) for p in image] for image in small.numpy()]
    assert torch.allclose(enlarged, torch.from_numpy(np.array(want)).clamp(-1, 1), atol=1e-5)


def test_encoded_needs_a_first_stage() -> None:
    with pytest.raises(ConfigError, match="encoded needs the first stage's encode"):
        LowResolutionConditioner(LowResolutionConfig(encoded=True), SITE)
