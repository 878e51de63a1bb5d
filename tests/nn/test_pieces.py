"""Autoencoders in pieces: the results of the whole picture, for any memory, and windows that blend without a seam."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from one_thread import each_module as _one_thread  # noqa: F401
from torch import Tensor, nn

from ldm_core.nn.autoencoder import Decoder, Encoder
from ldm_core.nn.autoencoder_config import AutoencoderConfig
from ldm_core.nn.tiles.pieces import Kept, Made, Pieces, Window
from ldm_core.nn.tiles.windows import places, starts, weights
from ldm_core.testing.base import randomize


def network(decodes: bool, **settings: Any) -> nn.Module:
    config = AutoencoderConfig(channels=8, norm_groups=4, res_blocks=1, **settings)
    made = Decoder(config) if decodes else Encoder(config, out_channels=6)
    randomize(made, 1)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("decodes", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{}, {"mid_attention": False, "channel_mult": (1, 2)}, {"attention": (4,)}, {"patch": 2, "channel_mult": (1, 2)}],
    ids=["f4", "f2 without attention", "attention at two places", "patches"],
)
def test_pieces_are_the_whole_to_rounding(decodes: bool, settings: dict[str, Any]) -> None:
    """From maps that are all kept to maps that are all made anew, at a size that no window divides."""
    made = network(decodes, **settings)
    factor = settings.get("patch", 1) * 2 ** (len(settings.get("channel_mult", (1, 2, 4))) - 1)
    size = (17, 22) if decodes else (17 * factor, 22 * factor)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    whole = made(x)
    for memory in (1 << 19, 1 << 21, 1 << 30):
        found = made.in_pieces(x, memory)  # type: ignore[operator]
        assert found.shape == whole.shape
        assert float((found - whole).abs().max()) < 1e-4 * float(whole.abs().max()), memory


def test_pieces_follow_autocast() -> None:
    made, z = network(True), torch.randn(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    exact = made(z)
    with torch.autocast("cpu", torch.bfloat16):
        whole, found = made(z), made.in_pieces(z, 1 << 20)  # type: ignore[operator]
    assert found.dtype == whole.dtype
    rounding = float((whole - exact).abs().mean())
    assert 0 < float((found - whole).abs().mean()) < 2 * rounding  # two roundings apart, and no more


def test_a_map_is_let_go_row_by_row() -> None:
    """Of a kept map only the rows stay that a later window needs, so that two maps of a size never stand together."""
    source = Kept([torch.full((1, 4, 8, 16), float(i)) for i in range(4)])
    conv = nn.Conv2d(4, 4, 3, padding=1)
    made = Made([source], conv, 4, halo=1)
    whole = conv(torch.cat([torch.full((1, 4, 8, 16), float(i)) for i in range(4)], 2))
    assert torch.allclose(made.window(Window(3, 17, 2, 9)), whole[:, :, 3:17, 2:9], atol=1e-6)
    before = source.kept_bytes
    made.release(8)  # the convolution at row 8 looks at row 7
    assert source.kept_bytes == before
    made.release(9)
    assert source.kept_bytes == before * 3 // 4
    assert torch.allclose(made.window(Window(9, 12, 0, 16)), whole[:, :, 9:12], atol=1e-6)


def test_windows_are_as_large_as_the_memory() -> None:
    x = Pieces.whole(torch.zeros(1, 16, 100, 300))
    assert list(Pieces(1 << 30).windows(x)) == [Window(0, 100, 0, 300)]
    small = list(Pieces(3 << 20).windows(x))
    covered = torch.zeros(100, 300)
    for at in small:
        covered[at.top : at.bottom, at.left : at.right] += 1
    assert bool((covered == 1).all()) and len(small) > 4
    assert max((at.bottom - at.top) * (at.right - at.left) for at in small) * 4 * 16 * 8 <= 1 << 20


@pytest.mark.parametrize(
    ("size", "window", "overlap", "step"),
    [(64, 64, 16, 1), (10, 64, 16, 1), (65, 64, 16, 1), (512, 64, 16, 8), (200, 32, 0, 1), (72, 64, 63, 8),
     (37, 5, 4, 1), (256, 64, 33, 16)],
)  # fmt: skip
def test_windows_cover_an_axis_and_share_cells(size: int, window: int, overlap: int, step: int) -> None:
    found = starts(size, window, overlap, step)
    assert found[0] == 0 and found == sorted(set(found))
    assert found[-1] + window == size or (found == [0] and size <= window)
    assert all(start % step == 0 for start in found) or size % step
    stride = max((window - overlap) // step, 1) * step
    assert all(b - a <= stride for a, b in pairwise(found))


def test_windows_that_share_all_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of 8 cells cannot share 8"):
        starts(64, 8, 8)


def test_blended_windows_of_one_map_are_the_map() -> None:
    whole = torch.randn(3, 50, 70, generator=torch.Generator().manual_seed(0))
    out, total = torch.zeros_like(whole), torch.zeros(50, 70)
    weight = weights((16, 16), 6)
    assert 0 < float(weight.min()) < 0.01 and float(weight.max()) == 1
    for place in places((50, 70), (16, 16), 6):
        out[:, place[0], place[1]] += whole[:, place[0], place[1]] * weight
        total[place] += weight
    assert torch.allclose(out / total, whole, atol=1e-5)


def test_weights_change_smoothly() -> None:
    """Between two windows the share of one falls without a jump."""
    weight = weights((32,), 12)
    share = weight[20:] / (weight[20:] + weight[:12])
    assert float(share.diff().abs().max()) < 0.2 and float(share[0]) > 0.95 and float(share[-1]) < 0.05
    assert weights((4,), 0).tolist() == [1, 1, 1, 1]


def test_the_gradient_of_the_whole_is_not_kept() -> None:
    made = network(True).requires_grad_(True)
    found: Tensor = made.in_pieces(torch.zeros(1, 3, 8, 8), 1 << 20)  # type: ignore[operator]
    assert not found.requires_grad
