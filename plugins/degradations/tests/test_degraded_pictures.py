"""Small pictures against Pillow and closed forms: filters, blurs, noise, JPEG, and the chain of all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ldm_plugin_degradations.config import BSR_LIGHT, BicubicConfig, BsrConfig, GreyConfig
from ldm_plugin_degradations.pictures import blurs, noise
from ldm_plugin_degradations.pictures.bsr import Bsr, _order
from ldm_plugin_degradations.pictures.plain import Bicubic, Grey
from ldm_plugin_degradations.pictures.resampling import resample, strided
from PIL import Image

from ldm_core.contracts import Site
from ldm_core.errors import DataError

SITE = Site(size=(64, 48))
NONE = np.random.default_rng(0)


def picture(height: int = 64, width: int = 48, seed: int = 0) -> Any:
    """Smooth colours, uint8 (3, H, W)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def test_bicubic_is_pillows_of_a_colour_picture() -> None:
    made = Bicubic(BicubicConfig(), SITE).degrade(picture(), (16, 12), NONE)
    whole = Image.fromarray(np.ascontiguousarray(picture().transpose(1, 2, 0)))
    want = whole.resize((12, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(made.transpose(1, 2, 0), np.asarray(want))


@pytest.mark.parametrize("size", [(16, 12), (21, 17), (64, 48)])
def test_the_chains_bicubic_is_pillows_on_fractions(size: tuple[int, int]) -> None:
    plane = picture()[0].astype(np.float32)
    want = np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC))
    assert np.abs(resample(plane[..., None].astype(np.float64), size, "bicubic")[..., 0] - want).max() < 1e-3


def test_the_other_filters_by_their_definitions() -> None:
    plane = np.random.default_rng(1).random((8, 8, 1))
    halves = plane.reshape(4, 2, 4, 2, 1).mean((1, 3))
    assert np.allclose(resample(plane, (4, 4), "area"), halves)
    assert np.allclose(resample(plane, (4, 4), "linear"), halves)  # a centre lies between two pixels
    line = np.arange(8.0)[:, None, None] * np.ones((1, 8, 1))
    assert np.allclose(resample(line, (3, 8), "area")[:, 0, 0], [0.875, 3.5, 6.125])
    for each in ("linear", "bicubic"):  # a straight line stays one, away from the edges
        fine = resample(line, (16, 8), each)[4:12, 0, 0]
        assert np.allclose(fine, (np.arange(4, 12) + 0.5) / 2 - 0.5)
    near, far = 1.25 * 0.125 - 2.25 * 0.25 + 1, -0.75 * (1.5**3 - 5 * 2.25 + 8 * 1.5 - 4)  # half a pixel off, and 1.5
    weights = [far, near, near, far]
    assert np.allclose(resample(plane, (4, 8), "cubic")[1, :, 0], np.tensordot(weights, plane[1:5, :, 0], 1))


def test_every_nth_pixel_has_the_centre_of_its_cell() -> None:
    line = np.arange(64.0)[:, None, None] * np.ones((1, 4, 1))
    made = strided(line, (16, 4), 1.0)[:, 0, 0]
    assert np.allclose(made[4:12], np.arange(4, 12) * 4 + 1.5)


def test_blurs_have_their_variances() -> None:
    places = np.arange(41) - 20.0
    kernel = blurs.gaussian(41, (9.0, 4.0), np.pi / 2)  # turned: the first variance lies along the columns
    assert np.isclose(kernel.sum(), 1)
    assert np.isclose((kernel.sum(1) * places**2).sum(), 9, rtol=1e-3)
    assert np.isclose((kernel.sum(0) * places**2).sum(), 4, rtol=1e-3)
    point = np.zeros((64, 64, 1))
    point[20, 30] = 1
    assert np.allclose(blurs.blurred(point, kernel)[0:41, 10:51, 0], kernel, atol=1e-12)
    assert np.allclose(blurs.blurred(np.full((5, 7, 3), 0.3), kernel), 0.3)  # smaller than the kernel
    assert blurs.blurred(picture().transpose(1, 2, 0) / 255, blurs.gaussian(8, (2, 2))).shape == (64, 48, 3)


def test_noise_has_its_level_and_its_three_kinds() -> None:
    grey, kinds = np.full((64, 64, 3), 0.5), []
    for seed in range(60):
        added = noise.gaussian_noise(grey, 0.05, np.random.default_rng(seed)) - 0.5
        tied, spread = np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1], added.std((0, 1))
        plain = bool(np.allclose(spread, 0.05, rtol=0.05))
        kinds.append("grey" if plain and tied > 0.9999 else "apart" if plain and abs(tied) < 0.06 else "tied")
        assert kinds[-1] != "tied" or spread.max() < 0.052
    assert {kind: kinds.count(kind) for kind in ("apart", "grey")} == pytest.approx({"apart": 24, "grey": 24}, abs=9)
    assert kinds.count("tied") == pytest.approx(12, abs=8)


def test_photons_are_counted() -> None:
    for level in (0.2, 0.8):  # the variance of a count is its mean
        made = [noise.shot_noise(np.full((64, 64, 1), level), np.random.default_rng(s)) for s in range(8)]
        photons = [level / (each.var()) for each in made]
        assert all(80 < each < 12_000 for each in photons) and max(photons) > 3 * min(photons)
        assert np.isclose(np.mean(made), level, rtol=0.01)


def test_jpeg_is_pillows_and_coarser_with_less_quality() -> None:
    whole = picture().transpose(1, 2, 0) / 255.0
    errors = [np.abs(noise.compressed(whole, quality) - whole).mean() * 255 for quality in (95, 80, 30)]
    assert errors == sorted(errors) and errors[2] > 3 * errors[0] and errors[0] < 3


def test_the_last_resize_is_behind_the_first_in_every_order() -> None:
    orders = [_order(np.random.default_rng(seed)) for seed in range(400)]
    assert all(order.index("size") > order.index("any size") and len(set(order)) == 7 for order in orders)
    first = [order[0] for order in orders]
    assert set(first) == set(orders[0]) - {"size"}
    assert first.count("noise") == pytest.approx(400 / 7, abs=25)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_light_is_nearer_to_the_small_picture(factor: int) -> None:
    clean, size = picture(64, 64), (64 // factor, 64 // factor)
    want = Bicubic(BicubicConfig(), SITE).degrade(clean, size, NONE).astype(float)
    found = {}
    for name, config in (("full", BsrConfig()), ("light", BSR_LIGHT)):
        made = [Bsr(config, SITE).degrade(clean, size, np.random.default_rng(s)).astype(float) for s in range(24)]
        found[name] = np.mean([np.abs(each - want).mean() for each in made])
        shift = np.mean([each.mean() - want.mean() for each in made])
        assert abs(shift) < 6  # the mean colour stays
    assert found["light"] < 0.9 * found["full"]


def test_without_chance_the_chain_is_a_resize_and_a_jpeg() -> None:
    config = BsrConfig(blurs=0, resized=1.0, halved=0.0, noise=(0, 0), poisson=0.0, jpeg=(95, 95), compressed=0.0)
    flat = np.full((3, 32, 32), 77, dtype=np.uint8)
    assert np.abs(Bsr(config, SITE).degrade(flat, (8, 8), np.random.default_rng(0)).astype(int) - 77).max() <= 1
    odd = Bsr(BSR_LIGHT, SITE).degrade(picture(50, 45)[:, :47, :41], (13, 9), np.random.default_rng(1))
    assert odd.shape == (3, 13, 9)


def test_grey_has_one_level_in_all_channels() -> None:
    made = Grey(GreyConfig(), SITE).degrade(picture(), (64, 48), NONE)
    assert made.shape == (3, 64, 48) and (made == made[:1]).all()
    luma = np.tensordot([0.299, 0.587, 0.114], picture().astype(float), 1)
    assert np.abs(made[0] - luma).max() < 1


@pytest.mark.parametrize("part", [Bicubic(BicubicConfig(), SITE), Bsr(BsrConfig(), SITE)])
def test_nothing_is_made_larger(part: Any) -> None:
    with pytest.raises(DataError, match=r"a picture of 64x48 was to be made 128x48 .*smaller, not larger"):
        part.degrade(picture(), (128, 48), NONE)


def test_settings_have_bounds() -> None:
    for wrong in ({"noise": (9, 2)}, {"jpeg": (0, 50)}, {"resized": 1.5}, {"blurs": -1}):
        with pytest.raises(ValueError, match="expected"):
            BsrConfig(**wrong)  # type: ignore[arg-type]
