"""Label maps to channels: against the paper's chain of bilinear halvings, published sizes, the null, and errors."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
import torch
from ldm_plugin_semantic_map.conditioner import SemanticMapConditioner
from ldm_plugin_semantic_map.config import PRESETS, SemanticMapConfig
from torch.nn import functional as F

from ldm_core.contracts import CondSpec, DataInfo, LatentSpec, Site
from ldm_core.errors import ConfigError, DataError

SIZE = (32, 48)
CONFIG = SemanticMapConfig(classes=5)


def build(config: SemanticMapConfig = CONFIG, stride: int = 4, size: tuple[int, int] = SIZE) -> SemanticMapConditioner:
    return SemanticMapConditioner(config, Site(size=size, latent=LatentSpec(3, (stride, stride))))


def concat(conditioner: SemanticMapConditioner, maps: Any) -> torch.Tensor:
    with torch.no_grad():
        out = conditioner.encode({"segmentation": maps}).concat
    assert out is not None
    return out


def test_published_size() -> None:
    state = build(PRESETS["semantic_map_landscapes"]).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {"channel_mapper.weight": (3, 182, 1, 1)}
    assert sum(v.numel() for v in state.values()) == 546


@pytest.mark.parametrize("halvings", [0, 1, 2, 3])
def test_equals_bilinear_halvings_of_the_one_hot_map(halvings: int) -> None:
    maps = torch.randint(0, 6, (2, *SIZE), generator=torch.Generator().manual_seed(0))
    maps[maps == 5] = 255
    conditioner = build(stride=2**halvings)
    hot = torch.stack([(maps == c).float() for c in range(5)], 1)
    for _ in range(halvings):
        hot = F.interpolate(hot, scale_factor=0.5, mode="bilinear")
    want = torch.einsum("oc,bchw->bohw", conditioner.channel_mapper.weight[:, :, 0, 0], hot)
    got = concat(conditioner, maps)
    assert got.shape == (2, 3, SIZE[0] >> halvings, SIZE[1] >> halvings)
    torch.testing.assert_close(got, want.detach(), atol=1e-6, rtol=0)


def test_unlabeled_pixels_and_the_null_are_zeros() -> None:
    conditioner = build()
    maps = torch.full((2, *SIZE), 255)
    maps[1] = 3
    cond = conditioner.encode({"segmentation": maps})
    null = conditioner.null(cond)
    assert cond.concat is not None and null.concat is not None
    assert not cond.concat[0].any()
    weight = conditioner.channel_mapper.weight[:, 3]
    torch.testing.assert_close(cond.concat[1], weight.expand(3, 8, 12), atol=1e-6, rtol=0)
    assert torch.equal(null.concat, torch.zeros_like(cond.concat))
    fixed = build(attrs.evolve(CONFIG, droppable=False))
    assert fixed.null(cond) is cond


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_maps_of_any_size_and_type_are_resized_by_nearest_pixel(dtype: torch.dtype) -> None:
    conditioner = build()
    small = torch.randint(0, 5, (2, 8, 12), generator=torch.Generator().manual_seed(1))
    exact = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    want = concat(conditioner, exact)
    assert torch.equal(concat(conditioner, small.to(dtype)), want)
    assert torch.equal(concat(conditioner, [small[0].to(dtype), exact[1].numpy()]), want)
    big = exact.repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert torch.equal(concat(conditioner, list(big.numpy().astype(np.uint8))), want)


def test_odd_strides_and_unlabeled_as_a_class() -> None:
    conditioner = SemanticMapConditioner(
        SemanticMapConfig(classes=300), Site(size=(6, 6), latent=LatentSpec(3, (3, 2)))
    )
    maps = torch.full((1, 6, 6), 255)
    got = concat(conditioner, maps)
    torch.testing.assert_close(got[0], conditioner.channel_mapper.weight[:, 255].detach().expand(3, 2, 3))


def test_bfloat16_keeps_the_type() -> None:
    conditioner = build()
    maps = torch.randint(0, 5, (2, *SIZE))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = concat(conditioner, maps)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, concat(conditioner, maps), atol=0.02, rtol=0)


def test_numbers_come_from_data_and_site() -> None:
    info = DataInfo(keys={"segmentation": "map"}, classes={"segmentation": 3})
    assert SemanticMapConfig().from_data(info).classes == 3
    site = Site(size=SIZE, latent=LatentSpec(4))
    assert list(CONFIG.check(site)) == []
    assert "does not tell how many 'segmentation' has; set classes" in next(SemanticMapConfig().check(site))
    with pytest.raises(ConfigError, match="set classes, or give data"):
        build(SemanticMapConfig())
    assert CONFIG.spec(LatentSpec(4)) == CondSpec(concat=3)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (
            torch.tensor([[[0, 1]], [[2, 7]]]),
            r"of example 1 has the label 7; allowed: 0 to 4 \(5 classes\) and 255",
        ),
        ([np.array([[0, -3]])], "of example 0 has the label -3"),
        (torch.zeros(2, 4, 4), "type torch.float32"),
        ([np.zeros((4, 4, 3), int)], r"'segmentation' of example 0 has shape \(4, 4, 3\)"),
    ],
)
def test_wrong_maps_are_named(maps: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build().encode({"segmentation": maps})
