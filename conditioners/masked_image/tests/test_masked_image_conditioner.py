"""Pictures with holes: the published recipe step by step, every form of a mask, precision, the null, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ldm_plugin_masked_image.conditioner import MaskedImageConditioner, holes
from ldm_plugin_masked_image.config import MaskedImageConfig
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.errors import ConfigError, DataError

CONV = nn.Conv2d(3, 5, 4, 4)


def encode(images: Tensor) -> Tensor:
    with torch.no_grad():
        return CONV(images)


def build(config: MaskedImageConfig | None = None) -> MaskedImageConditioner:
    return MaskedImageConditioner(
        config or MaskedImageConfig(), Site(size=(16, 24), latent=LatentSpec(5, (4, 4)), encode=encode)
    )


def concat(conditioner: MaskedImageConditioner, images: Tensor, mask: Any) -> Tensor:
    out = conditioner.encode({"image": images, "mask": mask}).concat
    assert out is not None
    return out


def test_equals_the_published_steps() -> None:
    """Image and mask in [0, 1]; (1 - mask) image; all times 2 - 1; encode, and the mask by nearest beside it."""
    draw = torch.Generator().manual_seed(0)
    image, soft = torch.rand(2, 3, 16, 24, generator=draw), torch.rand(2, 1, 16, 24, generator=draw)
    mask = (soft >= 0.5).float()
    masked = (1 - mask) * image * 2 - 1
    want = torch.cat([encode(masked), F.interpolate(mask * 2 - 1, size=(4, 6))], 1)
    got = concat(build(), image * 2 - 1, soft)
    assert got.shape == (2, 6, 4, 6) and build().spec == CondSpec(concat=6)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    assert set(got[:, 5].unique().tolist()) == {-1.0, 1.0}


def test_the_scale_is_of_the_latents_alone() -> None:
    image, mask = torch.rand(1, 3, 16, 24), torch.rand(1, 16, 24)
    plain, scaled = concat(build(), image, mask), concat(build(MaskedImageConfig(scale=5.5)), image, mask)
    torch.testing.assert_close(scaled[:, :5], plain[:, :5] * 5.5)
    assert torch.equal(scaled[:, 5], plain[:, 5])


def test_equals_the_steps_of_stable_diffusion() -> None:
    """Picture in [-1, 1] times (1 - mask), so that holes are mid-grey, and the mask as 0 and 1."""
    image, mask = torch.rand(2, 3, 16, 24) * 2 - 1, (torch.rand(2, 1, 16, 24) > 0.6).float()
    want = torch.cat([encode(image * (1 - mask)), F.interpolate(mask, size=(4, 6))], 1)
    got = concat(build(MaskedImageConfig(hole=0.0, outside=0.0)), image, mask)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_every_form_of_a_mask() -> None:
    image = torch.rand(2, 3, 16, 24)
    hole = torch.rand(2, 16, 24) > 0.6
    want = concat(build(), image, hole)
    classes, grey = hole.to(torch.uint8), hole.to(torch.uint8) * 255
    forms = [hole[:, None], classes, grey, hole.float(), list(hole.numpy()), [grey[0].numpy(), classes[1].numpy()]]
    for form in forms:
        assert torch.equal(concat(build(), image, form), want)


def test_which_values_are_holes() -> None:
    assert holes(torch.tensor([0, 1, 127, 128, 255], dtype=torch.uint8)).tolist() == [False, False, False, True, True]
    assert holes(torch.tensor([0, 1, 255])).tolist() == [False, True, True]  # classes, and padding
    assert holes(torch.tensor([0.0, 0.49, 0.5, 1.0])).tolist() == [False, False, True, True]
    assert not holes(torch.zeros(3, dtype=torch.int64)).any()


def test_the_encoding_is_float32_under_autocast() -> None:
    """The latents that the model learns to fill in are, so these are."""
    image, mask = torch.rand(2, 3, 16, 24), torch.rand(2, 16, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = concat(build(), image, mask)
    assert torch.equal(got, concat(build(), image, mask))


def test_the_first_stage_is_not_registered() -> None:
    assert not list(build().parameters()) and not build().state_dict()


def test_the_null_is_the_condition_itself_unless_it_may_be_dropped() -> None:
    cond = build().encode({"image": torch.rand(2, 3, 16, 24), "mask": torch.rand(2, 16, 24)})
    assert build().null(cond) is cond
    null = build(MaskedImageConfig(droppable=True)).null(cond).concat
    assert null is not None and not null[:, :5].any() and bool((null[:, 5] == 1).all())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(2, 8, 24), r"'mask' of example 0 is \(8, 24\) and its picture \(16, 24\)"),
        ([np.zeros((16, 24)), np.zeros((3, 16, 24))], r"'mask' of example 1 is \(3, 16, 24\)"),
        (torch.zeros(1, 16, 24), "2 pictures and 1 masks; give one mask a picture"),
    ],
)
def test_wrong_masks_are_named(mask: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        concat(build(), torch.rand(2, 3, 16, 24), mask)


def test_what_cannot_be_built() -> None:
    with pytest.raises(ConfigError, match="needs the first stage's latents and its encode"):
        MaskedImageConditioner(MaskedImageConfig(), Site(size=(16, 24), latent=LatentSpec(5, (4, 4))))
    with pytest.raises(ValueError, match="scale: expected a number above 0"):
        MaskedImageConfig(scale=0.0)
    assert "name two keys" in next(iter(MaskedImageConfig(mask="image").check(Site(size=(16, 24)))))
