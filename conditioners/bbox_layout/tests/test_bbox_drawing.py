"""Boxes drawn onto a grid, against cells counted one by one, and the channels made from them."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from ldm_plugin_bbox.conditioner import LayoutConditioner
from ldm_plugin_bbox.config import LayoutConfig
from ldm_plugin_bbox.drawing import drawn_boxes

from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.errors import ConfigError

SITE = Site(size=(32, 48), latent=LatentSpec(4, (8, 8)))
CONFIG = LayoutConfig(classes=5, objects=3, vocab_size=101, width=16, layers=1, heads=1, head_width=8, map_channels=6)


def build(config: LayoutConfig = CONFIG) -> LayoutConditioner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LayoutConditioner(config, SITE).eval()


def test_each_cell_belongs_to_the_smallest_box_around_its_centre() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        corner, size = random.uniform(0, 0.5, (4, 2)), random.uniform(0.2, 0.5, (4, 2))
        boxes, classes = np.concatenate([corner, size], 1), random.integers(0, 9, 4)
        found, place = drawn_boxes(boxes, classes, (7, 11))
        for i in range(7):
            for j in range(11):
                x, y = (j + 0.5) / 11, (i + 0.5) / 7
                around = [
                    n
                    for n, (a, b, w, h) in enumerate(boxes)
                    if (a <= x <= a + w and b <= y <= b + h) or (int((b + h / 2) * 7), int((a + w / 2) * 11)) == (i, j)
                ]
                if not around:
                    assert found[i, j] == -1 and not place[:, i, j].any()
                    continue
                n = min(around, key=lambda n: boxes[n, 2] * boxes[n, 3])
                a, b, w, h = boxes[n]
                assert found[i, j] == classes[n]
                assert place[:, i, j] == pytest.approx([2 * (x - a) / w - 1, 2 * (y - b) / h - 1], abs=1e-6)


def test_a_box_smaller_than_a_cell_is_drawn_in_the_cell_of_its_centre() -> None:
    found, place = drawn_boxes(np.array([[0.01, 0.99, 0.02, 0.01]]), np.array([4]), (4, 4))
    assert found[3, 0] == 4 and (found == 4).sum() == 1
    assert np.abs(place).max() <= 1.0


def test_the_channels_are_of_class_and_place_and_zero_elsewhere() -> None:
    layout = build()
    assert CONFIG.spec(SITE.latent or LatentSpec(4)) == layout.spec == CondSpec(crossattn=16, concat=6)
    boxes, labels = [[[0.0, 0.0, 0.5, 0.5]], []], [[3], []]
    cond = layout.encode({"boxes": boxes, "box_labels": labels})
    null = layout.null(cond)
    assert cond.concat is not None and null.concat is not None
    assert cond.concat.shape == (2, 6, 4, 6)
    assert not cond.concat[1].any() and not null.concat.any()
    assert not cond.concat[0, :, 2:].any() and not cond.concat[0, :, :, 3:].any()
    u, v = -2 / 3, -0.5  # the first cell of 3 x 2 in the box
    weight = layout.map_place.weight[:, :, 0, 0]
    expected = layout.map_class.weight[:, 3, 0, 0] + u * weight[:, 0] + v * weight[:, 1]
    assert torch.allclose(cond.concat[0, :, 0, 0], expected, atol=1e-6)


def test_objects_that_are_left_out_are_not_drawn() -> None:
    boxes = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 0.5, 0.5], [0.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.2, 0.2]]
    four, three = ({"boxes": [boxes[:n]], "box_labels": [[0, 1, 2, 3][:n]]} for n in (4, 3))
    layout = build()
    assert torch.equal(layout.encode(four).concat, layout.encode(three).concat)  # type: ignore[arg-type]


def test_without_a_drawing_nothing_is_added() -> None:
    layout = build(attrs.evolve(CONFIG, map_channels=0))
    assert layout.encode({"boxes": [[]], "box_labels": [[]]}).concat is None
    assert not any(key.startswith("map_channels") for key in layout.state_dict())


def test_unknown_classes_are_drawn_alike() -> None:
    layout = build(attrs.evolve(CONFIG, classes=0))
    one, other = (layout.encode({"boxes": [[[0, 0, 0.5, 0.5]]], "box_labels": [[k]]}).concat for k in (0, 7))
    assert one is not None and torch.equal(one, other)  # type: ignore[arg-type]
    assert one[0, :, 0, 0].any() and list(layout.class_tables) == ["transformer.token_emb.weight"]


def test_a_drawing_has_a_grid() -> None:
    assert not list(CONFIG.check(SITE))
    with pytest.raises(ConfigError, match="set map_channels=0"):
        LayoutConditioner(CONFIG, Site(size=(32, 48)))
    assert "map_channels is 6" in "".join(CONFIG.check(Site(size=(4, 8, 8))))
