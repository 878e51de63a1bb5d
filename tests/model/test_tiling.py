"""Large pictures and a first stage: when it takes them in pieces, and what a stage without pieces of its own does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_core.contracts import FirstStage, LatentSpec
from ldm_core.contracts.streams import Streams
from ldm_core.model.tiles.tiling import Tiling, current_tiling, tiled


class Blurring(FirstStage, nn.Module):
    """A third party's stage of factor 4 that sees some pixels around each cell, and counts what it is asked."""

    latent = LatentSpec(3, (4, 4))

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, ...]] = []

    def encode_moments(self, x: Tensor) -> Tensor:
        self.latent.shape(x.shape[2:])
        self.asked.append(tuple(x.shape))
        return F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), 4)

    def latents(self, moments: Tensor, *, streams: Streams | None = None) -> Tensor:
        return moments

    def decode(self, z: Tensor) -> Tensor:
        self.asked.append(tuple(z.shape))
        return F.interpolate(z, scale_factor=4.0, mode="bilinear")

    def project(self, z: Tensor) -> Tensor:
        return z

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        pass


class InPieces(Blurring):
    """The same with pieces of its own."""

    def encode_in_pieces(self, x: Tensor, memory: int) -> Tensor:
        self.asked.append(("encode", memory, len(x)))  # type: ignore[arg-type]
        return super().encode_moments(x)

    def decode_in_pieces(self, z: Tensor, memory: int) -> Tensor:
        self.asked.append(("decode", memory, len(z)))  # type: ignore[arg-type]
        return super().decode(z)


def smooth(*shape: int) -> Tensor:
    draw = torch.randn(
        shape[0], shape[1], shape[2] // 8 + 1, shape[3] // 8 + 1, generator=torch.Generator().manual_seed(0)
    )
    return F.interpolate(draw, shape[2:], mode="bicubic")


def asked(call: Callable[[Any], Tensor], given: Tensor, stage: Blurring) -> list[tuple[int, ...]]:
    stage.asked.clear()
    with torch.no_grad():
        call(given)
    return list(stage.asked)


def test_pictures_up_to_the_size_are_taken_whole() -> None:
    stage, tiling = InPieces(), Tiling(64, 1 << 24)
    for size in ((64, 64), (32, 128), (16, 256)):
        x = torch.zeros(2, 3, *size)
        assert asked(lambda x: tiling.moments(stage, x), x, stage) == [(2, 3, *size)]
        z = torch.zeros(2, 3, size[0] // 4, size[1] // 4)
        assert asked(lambda z: tiling.decode(stage, z), z, stage) == [tuple(z.shape)]
    never = Tiling()
    assert asked(lambda x: never.moments(stage, x), torch.zeros(1, 3, 512, 512), stage) == [(1, 3, 512, 512)]


def test_larger_ones_go_one_by_one_through_the_stages_own_pieces() -> None:
    stage, tiling = InPieces(), Tiling(64, 1 << 24)
    calls = asked(lambda x: tiling.moments(stage, x), torch.zeros(2, 3, 64, 68), stage)
    assert calls == [("encode", 1 << 24, 1), (1, 3, 64, 68)] * 2
    calls = asked(lambda z: tiling.decode(stage, z), torch.zeros(2, 3, 16, 17), stage)
    assert calls == [("decode", 1 << 24, 1), (1, 3, 16, 17)] * 2


def test_a_stage_without_pieces_is_asked_for_windows_that_blend() -> None:
    """Between windows the result is as smooth as inside them, and near that of the whole picture."""
    stage, tiling = Blurring(), Tiling(64, 0)
    x = smooth(2, 3, 160, 232)
    with torch.no_grad():
        whole, found = stage.encode_moments(x), tiling.moments(stage, x)
        image, shown = stage.decode(whole), tiling.decode(stage, whole)
    assert found.shape == whole.shape and shown.shape == image.shape == x.shape
    assert float((found - whole).abs().max()) < 0.02 * float(whole.abs().max())
    assert float((shown - image).abs().max()) < 0.02 * float(image.abs().max())
    sizes = {shape[2:] for shape in asked(lambda x: tiling.moments(stage, x), x, stage)}
    assert sizes == {(64, 64)}
    assert {s[2:] for s in asked(lambda z: tiling.decode(stage, z), whole, stage)} == {(16, 16)}


def test_a_narrow_picture_is_cut_along_its_length() -> None:
    stage, tiling = Blurring(), Tiling(64, 0)
    calls = asked(lambda x: tiling.moments(stage, x), torch.zeros(1, 3, 16, 400), stage)
    assert {shape[2:] for shape in calls} == {(16, 64)} and len(calls) > 6


def test_a_size_that_does_not_divide_is_the_stages_own_error() -> None:
    with torch.no_grad(), pytest.raises(ValueError, match="130"):
        Tiling(64, 0).moments(Blurring(), torch.zeros(1, 3, 130, 128))


def test_gradients_pass_through_whole_pictures() -> None:
    """A target at sampling time, as a low-resolution picture, wants the gradient of the decoder."""
    stage = InPieces()
    z = torch.zeros(1, 3, 32, 32, requires_grad=True)
    Tiling(64, 1 << 24).decode(stage, z).sum().backward()
    assert stage.asked == [(1, 3, 32, 32)] and z.grad is not None


def test_parts_follow_the_sampling_that_asks_them() -> None:
    assert current_tiling() == Tiling()
    with tiled(Tiling(64, 1)):
        assert current_tiling() == Tiling(64, 1)
        with tiled(Tiling()):
            assert current_tiling() == Tiling()
        assert current_tiling() == Tiling(64, 1)
    assert current_tiling() == Tiling()
