"""Coarse colours of an enlarged picture are those of the given one, and its detail stays."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from ldm_core.data.colours import LEVELS, back_projected, sharpened, wavelet_fixed


def enlarged(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    planes = [Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC) for plane in picture]
    return np.stack([np.asarray(plane) for plane in planes])


def test_a_shift_of_colour_goes_and_detail_stays() -> None:
    random = np.random.default_rng(0)
    given = enlarged(random.integers(100, 150, (3, 4, 5), dtype=np.uint8), (32, 40))
    right = enlarged(given, (128, 160)).astype(int)
    rows, columns = np.mgrid[:128, :160]
    detail = 20 * (-1) ** (rows + columns)  # of the finest scale: nothing of it is coarse
    sample = (right + detail + np.array([25, -15, 5])[:, None, None]).astype(np.uint8)
    off = wavelet_fixed(sample, given).astype(int) - right - detail
    assert np.abs(off).max() <= 1


def test_a_picture_with_the_right_colours_stays_bit_for_bit() -> None:
    given = np.random.default_rng(1).integers(0, 256, (1, 6, 7), dtype=np.uint8)
    right = enlarged(given, (24, 28))
    assert (wavelet_fixed(right, given) == right).all()


def test_the_coarse_part_is_a_blur_of_known_width() -> None:
    """Of a single pixel's change: each scale adds half the square of its step to the variance, 170 in all."""
    given = np.full((1, 255, 255), 100, np.uint8)
    sample = given.copy()
    sample[0, 127] = 255  # a line, so that rounding leaves something to be seen
    change = sample.astype(int) - wavelet_fixed(sample, given)
    profile = change[0, :, 127].astype(float)
    places = np.arange(255) - 127
    width = (profile * places**2).sum() / profile.sum()
    assert abs(width - sum(4**i / 2 for i in range(LEVELS))) < 40  # rounding takes the tails
    assert profile[127] == profile.max() and change.min() >= 0


def test_a_grey_sample_of_a_picture_in_colour_and_of_a_dot() -> None:
    given = np.full((3, 1, 1), 80, np.uint8)
    assert (wavelet_fixed(np.full((1, 4, 4), 200, np.uint8), given) == 80).all()


def small(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By Pillow's bicubic filter, on levels as numbers: the degradation, without its rounding."""
    planes = [Image.fromarray(p.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC) for p in picture]
    return np.stack([np.asarray(plane) for plane in planes])


def test_a_back_projected_picture_is_the_given_one_when_made_small() -> None:
    """Of a right picture with an error of every scale, the part that the small picture shows goes."""
    random = np.random.default_rng(0)
    right = enlarged(random.integers(60, 200, (3, 12, 10), dtype=np.uint8), (96, 80))
    given = np.rint(small(right, (24, 20))).astype(np.uint8)
    rough = np.clip(right + random.normal(0, 12, right.shape) + 15, 0, 255).astype(np.uint8)
    made = back_projected(rough, given)
    assert np.abs(small(rough, (24, 20)) - given).mean() > 10
    assert np.abs(small(made, (24, 20)) - given).max() < 1.5 and np.abs(small(made, (24, 20)) - given).mean() < 0.3
    assert np.abs(made.astype(int) - right).mean() < np.abs(rough.astype(int) - right).mean() - 4
    detail = rough.astype(float) - enlarged(small(rough, (24, 20)), (96, 80))
    kept = made.astype(float) - enlarged(small(made, (24, 20)), (96, 80))
    assert np.abs(kept - detail).mean() < 2  # what the small picture cannot show stays


def test_a_back_projected_picture_that_fits_stays() -> None:
    right = np.full((3, 32, 32), 90, np.uint8)
    assert (back_projected(right, np.full((1, 8, 8), 90, np.uint8)) == right).all()


def test_sharpened_pictures_are_scipys_unsharp_mask() -> None:
    random = np.random.default_rng(0)
    picture = enlarged(random.integers(0, 256, (3, 12, 10), dtype=np.uint8), (48, 40))
    for amount in (0.5, 0.8, 3.0):
        values = picture.astype(np.float64)
        blurred = gaussian_filter(values, (0, 1, 1), mode="nearest", truncate=4)
        aim = np.clip(values + amount * (values - blurred), 0, 255)
        assert np.abs(sharpened(picture, amount) - aim).max() <= 0.51  # half a level, and float32


def test_sharpened_pictures_of_one_level_stay() -> None:
    for shape in ((1, 1, 1), (3, 2, 7), (4, 9, 1)):
        assert (sharpened(np.full(shape, 77, np.uint8), 1.0) == 77).all()
