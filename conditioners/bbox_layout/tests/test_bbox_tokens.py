"""Boxes to tokens: the golden examples, order, the crop, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ldm_plugin_bbox.config import PRESETS, LayoutConfig
from ldm_plugin_bbox.tokens import corner_tokens, layout_tokens

from ldm_core.contracts import DataInfo, LatentSpec, Site
from ldm_core.errors import DataError

PAPER = LayoutConfig()
BOXES = np.array([[0.5, 0.5, 0.1, 0.1], [0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.5, 0.5]], np.float32)
LABELS = np.array([4, 7, 2])


@pytest.mark.parametrize(("box", "tokens"), [((0, 0, 1, 1), [0, 8099]), ((0.25, 0.25, 0.5, 0.5), [2002, 6097])])
def test_golden_corners(box: tuple[float, ...], tokens: list[int]) -> None:
    assert PAPER.grid == 90
    assert corner_tokens(np.array([box]), 90).tolist() == [tokens]


def test_corners_round_halves_to_even_as_python_does() -> None:
    rng = np.random.default_rng(0)
    lows = rng.integers(0, 17, (200, 2)) / 32  # halves of a grid of 17 cells often enough
    boxes = np.concatenate([lows, rng.integers(1, 16, (200, 2)) / 32], 1)
    want = [
        [round(y * 16) * 17 + round(x * 16), round((y + h) * 16) * 17 + round((x + w) * 16)] for x, y, w, h in boxes
    ]
    assert corner_tokens(boxes, 17).tolist() == want


def test_layout_is_largest_first_and_padded() -> None:
    tokens = layout_tokens(BOXES, LABELS, PAPER)
    assert tokens.shape == (90,)
    assert tokens[:6].tolist() == [7, 0, 8099, 2, 2002, 6097]
    corner = round(0.5 * 89) * 90 + round(0.5 * 89)  # 44.5 rounds to 44
    assert tokens[6:8].tolist() == [4, corner] == [4, 44 * 91]
    assert set(tokens[9:].tolist()) == {8191}
    for order in ([2, 1, 0], [1, 0, 2]):
        assert np.array_equal(layout_tokens(BOXES[order], LABELS[order], PAPER), tokens)


def test_the_smallest_are_left_out() -> None:
    tokens = layout_tokens(BOXES, LABELS, LayoutConfig(objects=2))
    assert tokens.tolist() == [7, 0, 8099, 2, 2002, 6097]


def test_no_objects_and_the_crop() -> None:
    assert layout_tokens([], [], PAPER).tolist() == 90 * [8191]
    assert PRESETS["bbox_layout"].length == 92
    assert layout_tokens([], [], PRESETS["bbox_layout"]).tolist() == 90 * [8191] + [0, 8099]
    crop = LayoutConfig(encode_crop=True, crop="crop")
    assert crop.reads == ("boxes", "box_labels", "crop")
    assert layout_tokens([], [], crop, crop=[0.25, 0.25, 0.5, 0.5])[-2:].tolist() == [2002, 6097]


def test_float32_rounding_is_no_mistake() -> None:
    box = np.array([[0.3, 0.7, 0.7, 0.3]], np.float32) + np.float32(3e-8)
    assert layout_tokens(box, [0], PAPER)[2] == 8099


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([[0.5, 0, 0.6, 0.5]], [0], r"'boxes' of example 3: box 0, x 0.5 y 0 w 0.6 h 0.5, leaves the image"),
        ([[0, 0, 1, 1], [0, -0.2, 1, 1]], [0, 0], "box 1, .* leaves the image"),
        ([[0, 0, 0, 1]], [0], "box 0, .* has no extent"),
        ([[0, 0, -0.1, 1]], [0], "has no extent"),
        ([[0, 0, float("nan"), 1]], [0], "leaves the image"),
        ([[0, 0, 1]], [0], r"has shape \(1, 3\); rows of x, y, w, h"),
        ([["a", 0, 1, 1]], [0], "not numbers"),
        ([[0, 0, 1, 1]], [0, 1], r"'box_labels' of example 3 has shape \(2,\) .* each of the 1 boxes"),
        ([[0, 0, 1, 1]], [0.5], "one integer for each"),
        ([[0, 0, 1, 1]], [5], r"holds 5; allowed: 0 to 4 \(5 classes\)"),
        ([[0, 0, 1, 1]], [-1], "holds -1"),
    ],
)
def test_wrong_layouts_are_named(boxes: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        layout_tokens(boxes, labels, LayoutConfig(classes=5), where="example 3")


def test_config_finds_misfits() -> None:
    site = Site(size=(32, 32), latent=LatentSpec(4))
    assert list(PAPER.check(site)) == []
    assert "vocab_size 8 holds 7" in next(iter(LayoutConfig(vocab_size=8, classes=9).check(site)))
    info = DataInfo(keys={"boxes": "boxes"}, classes={"box_labels": 3})
    assert LayoutConfig().from_data(info).classes == 3
