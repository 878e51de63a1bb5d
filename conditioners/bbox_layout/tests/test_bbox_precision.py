"""Boxes keep their numbers up to the token: corners on the middle of two cells fall where Python's numbers say."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ldm_plugin_bbox.config import LayoutConfig
from ldm_plugin_bbox.tokens import layout_tokens

from ldm_core.cli.inputs import read_boxes, read_inputs
from ldm_core.data.collate import collate
from ldm_core.sampling.inputs import as_data


def published(box: list[float], grid: int) -> list[int]:
    """The tokenizer of the published layout models, in Python's own numbers."""

    def token(x: float, y: float) -> int:
        return round(y * (grid - 1)) * grid + round(x * (grid - 1))

    return [token(box[0], box[1]), token(box[0] + box[2], box[1] + box[3])]


def hundredths() -> list[list[float]]:
    """Boxes on a grid of 1/100, among them many whose corners are on the middle of two cells of 90."""
    draw = np.random.default_rng(0)
    out = [[0.3, 0.05, 0.2, 0.25], [0.0, 0.0, 0.5, 0.5], [0.1, 0.1, 0.4, 0.4], [0.35, 0.2, 0.15, 0.3]]
    while len(out) < 400:
        x, y, w, h = (int(v) / 100 for v in draw.integers(0, 100, 4))
        if 0 < w <= 1 - x and 0 < h <= 1 - y:
            out.append([x, y, w, h])
    return out


@pytest.mark.parametrize("way", ["--boxes", "--input", "python", "array"])
def test_tokens_are_those_of_the_published_arithmetic(way: str) -> None:
    config, boxes = LayoutConfig(encode_crop=False), hundredths()
    differ = 0
    for box in boxes:
        given: Any
        if way == "--boxes":
            given = read_boxes(json.dumps({"boxes": [box], "labels": [3]}))["boxes"]
        elif way == "--input":
            given = read_inputs([f"boxes={[box]}"])["boxes"]
        else:
            given = as_data([box] if way == "python" else np.array([box]), "boxes")
        batch = collate([{"boxes": given}])
        tokens = layout_tokens(batch["boxes"][0].numpy(), [3], config)[1:3].tolist()
        assert tokens == published(box, config.grid), box
        single = layout_tokens(np.array([box], np.float32), [3], config)[1:3].tolist()
        differ += single != tokens
    assert differ > 0  # in single precision they would not be


def test_half_cells_are_exact() -> None:
    """0.5 of 89 steps is 44.5, which goes to the even 44; only a sum that is exactly a half does."""
    assert Fraction(0.3 + 0.2) == Fraction(1, 2)
    assert layout_tokens(np.array([[0.3, 0.05, 0.2, 0.25]]), [3], LayoutConfig())[:3].tolist() == [3, 387, 2474]


def test_other_lists_stay_single() -> None:
    assert as_data([[0.1, 0.2]], "embedding").dtype == np.float32 and as_data([[0.1, 0.2]]).dtype == np.float32


def test_tokens_of_the_original_program() -> None:
    """Two layouts as its own data set made their tokens: largest first, 30 objects, the whole picture as the crop."""
    boxes = [[0.1, 0.2, 0.5, 0.6], [0.3, 0.05, 0.2, 0.25], [0, 0, 0.9, 0.95], [0.55, 0.5, 0.123, 0.3]]
    config = LayoutConfig(encode_crop=True)
    first = [500, 0, 7730, 17, 1629, 6443, 3, 387, 2474, 17, 4009, 6450]
    assert layout_tokens(np.array(boxes), [17, 3, 500, 17], config).tolist() == [*first, *[8191] * 78, 0, 8099]
    assert layout_tokens(np.array(boxes[:2]), [17, 3], config).tolist() == [*first[3:9], *[8191] * 84, 0, 8099]
