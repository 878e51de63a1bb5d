"""Masks: their shares of the picture, their shapes, and small pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ldm_plugin_degradations.config import (
    IRREGULAR,
    BoxesConfig,
    HalfConfig,
    IrregularConfig,
    MaskMixtureConfig,
    OutpaintingConfig,
)
from ldm_plugin_degradations.masks.irregular import Irregular
from ldm_plugin_degradations.masks.mixture import MaskMixture
from ldm_plugin_degradations.masks.shapes import Boxes, Half, Outpainting

from ldm_core.contracts import Site

SITE = Site(size=(256, 256))


def masks(part: Any, count: int, height: int = 256, width: int = 256) -> Any:
    picture = np.zeros((3, height, width), dtype=np.uint8)
    return np.stack([part.degrade(picture, (height, width), np.random.default_rng(i)) for i in range(count)]) > 0


def thickness(mask: Any) -> int:
    """How often a mask can be worn off by a pixel all around until nothing is left, per picture of 256 pixels."""
    mask, count = np.pad(mask, 1), 0
    while mask.any():
        inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        mask, count = np.pad(inner, 1), count + 1
    return count


def test_strokes_cover_what_lamas_do() -> None:
    """At most half of the picture, as published; about a quarter on the whole; thick ones are thick."""
    worn = {}
    for word, config in IRREGULAR.items():
        made = masks(Irregular(config, SITE), 60)
        shares = made.mean((1, 2))
        assert shares.min() > 0 and shares.max() <= 0.5, word
        assert 0.12 < shares.mean() < 0.36, (word, shares.mean())
        worn[word] = np.median([thickness(mask) for mask in made[:16]])
    assert worn["irregular_thin"] < worn["irregular_medium"] < worn["irregular_thick"]


def test_strokes_grow_with_the_picture() -> None:
    thick = Irregular(IRREGULAR["irregular_thick"], SITE)
    for height, width in ((64, 64), (32, 96), (8, 8), (1, 5)):
        made = masks(thick, 40, height, width)
        assert made.any((1, 2)).all(), "a mask is empty"
        assert height < 9 or 0.1 < made.mean() < 0.45


def test_more_than_the_most_is_drawn_again() -> None:
    little = masks(Irregular(IrregularConfig(most=0.05), SITE), 30).mean((1, 2))
    assert little.max() <= 0.05


def test_boxes_halves_and_windows() -> None:
    half = masks(Half(HalfConfig(), SITE), 40, 32, 17)
    assert {float(mask.mean().round(2)) for mask in half} == {0.5, 0.47}  # 8 of 17 columns
    top = Half(HalfConfig(side="top"), SITE).degrade(np.zeros((1, 4, 3), np.uint8), (4, 3), np.random.default_rng(0))
    assert top.tolist() == [[255] * 3] * 2 + [[0] * 3] * 2
    one = masks(Boxes(BoxesConfig(count=(1, 1), side=(0.5, 0.5)), SITE), 8)
    assert (one.mean((1, 2)) == 0.25).all() and len({mask.tobytes() for mask in one}) > 1
    window = ~masks(Outpainting(OutpaintingConfig(window=(0.5, 0.5), centred=True), SITE), 2)
    assert window[0, 64:192, 64:192].all() and window[0].sum() == 128 * 128
    tiny = masks(Outpainting(OutpaintingConfig(), SITE), 8, 2, 2)
    assert tiny.any((1, 2)).all() and not tiny.all((1, 2)).any()


def test_a_mixture_takes_each_in_its_share() -> None:
    only = MaskMixture(MaskMixtureConfig(thin=0, medium=0, thick=0, boxes=0, half=1, outpainting=0), SITE)
    assert (masks(only, 12).mean((1, 2)) == 0.5).all()
    both = MaskMixture(MaskMixtureConfig(thin=0, medium=0, thick=0, boxes=0, half=3, outpainting=1), SITE)
    halves = (masks(both, 80, 16, 16).mean((1, 2)) == 0.5).sum()
    assert 46 <= halves <= 76
    nothing = MaskMixtureConfig(thin=0, medium=0, thick=0, boxes=0, half=0, outpainting=0)
    assert "all shares are 0" in next(iter(nothing.check(SITE)))


@pytest.mark.parametrize("wrong", [{"most": 0.0}, {"strokes": (0, 4)}, {"strokes": (5, 4)}, {"boxes": 2.0}])
def test_settings_of_masks_have_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        IrregularConfig(**wrong)
