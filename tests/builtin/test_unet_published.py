"""The U-Net against the published architectures: golden outputs, parameter and key counts."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from torch import Tensor, nn

from ldm_core.builtin.unet.config import PRESETS, UNetConfig
from ldm_core.builtin.unet.network import UNet
from ldm_core.contracts import CondSpec, LatentSpec, Site
from ldm_core.contracts.conditioning import Cond


def fill(module: nn.Module) -> None:
    """Fill every parameter from its key and flat index alone, so that outputs can be compared across code
    bases."""
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            phase = (zlib.crc32(key.encode()) % 1000) / 1000
            index = torch.arange(parameter.numel(), dtype=torch.float64)
            value = 0.05 * torch.sin(0.37 * index + phase)
            if parameter.dim() == 1 and key.endswith(".weight"):
                value = value + 1.0
            parameter.copy_(value.view_as(parameter))


def ramp(*shape: int, step: float) -> Tensor:
    return torch.sin(step * torch.arange(math.prod(shape), dtype=torch.float64)).float().view(shape)


def statistics(out: Tensor) -> list[float]:
    return [
        out.mean().item(),
        out.std(unbiased=False).item(),
        out.abs().max().item(),
        *out.flatten()[:5].tolist(),
    ]


def test_golden_self_attention() -> None:
    config = UNetConfig(channels=32, channel_mult=(1, 2), res_blocks=1, attention=(2,), head_channels=16)
    unet = UNet(config, Site(size=(32, 32), latent=LatentSpec(channels=3, stride=(4, 4)))).eval()
    fill(unet)
    assert sum(p.numel() for p in unet.parameters()) == 702_499
    assert len(unet.state_dict()) == 128
    with torch.no_grad():
        out = unet(ramp(2, 3, 8, 8, step=0.1), torch.tensor([7, 421]), Cond())
    expected = [0.054413, 0.111671, 0.349217, 0.126466, 0.128812, 0.073837, 0.003204, -0.042763]
    assert statistics(out) == pytest.approx(expected, abs=1e-4)


def test_golden_cross_attention() -> None:
    config = UNetConfig(channels=32, channel_mult=(1, 2), res_blocks=1, attention=(1, 2), heads=4, transformer_depth=2)
    site = Site(size=(64, 64), latent=LatentSpec(channels=4, stride=(8, 8)), cond=CondSpec(crossattn=24))
    unet = UNet(config, site).eval()
    fill(unet)
    assert sum(p.numel() for p in unet.parameters()) == 1_422_500
    assert len(unet.state_dict()) == 426
    context = torch.cos(0.05 * torch.arange(2 * 5 * 24, dtype=torch.float64)).float().view(2, 5, 24)
    with torch.no_grad():
        out = unet(ramp(2, 4, 8, 8, step=0.1), torch.tensor([7, 421]), Cond(crossattn=context))
    expected = [0.064029, 0.106163, 0.338344, 0.007074, -0.054731, -0.115547, -0.177750, -0.208070]
    assert statistics(out) == pytest.approx(expected, abs=1e-4)


# preset, latent channels, cross-attention width, concat channels, parameters, state keys
PUBLISHED = [
    ("unet_ldm4", 3, 0, 0, 274_056_163, 368),
    ("unet_churches", 4, 0, 0, 294_966_916, 520),
    ("unet_cin_f8", 4, 512, 0, 394_984_196, 626),
    ("unet_cin_f4", 3, 512, 0, 400_920_579, 688),
    ("unet_tradeoff_f1", 3, 512, 0, 396_835_971, 806),  # these two: the paper says 396 M and 391 M, no more
    ("unet_tradeoff_f2", 2, 512, 0, 390_888_578, 746),
    ("unet_text_f8", 4, 1280, 0, 872_300_484, 686),
    ("unet_text_f4", 3, 640, 0, 403_623_939, 688),
    ("unet_layout", 3, 512, 0, 246_277_379, 1328),
    ("unet_semantic", 3, 0, 3, 215_229_315, 216),
    ("unet_sr", 3, 0, 3, 113_622_563, 306),
    ("unet_inpainting", 3, 0, 4, 387_245_827, 416),
    ("unet_rdm", 16, 768, 0, 1_335_480_400, 688),
    ("unet_sd1", 4, 768, 0, 859_520_964, 686),
]


@pytest.mark.parametrize(("preset", "channels", "crossattn", "concat", "parameters", "keys"), PUBLISHED)
def test_published_sizes(preset: str, channels: int, crossattn: int, concat: int, parameters: int, keys: int) -> None:
    cond = CondSpec(crossattn=crossattn, concat=concat)
    site = Site(size=(512, 512), latent=LatentSpec(channels=channels, stride=(4, 4)), cond=cond)
    with torch.device("meta"):
        unet = UNet(PRESETS[preset], site)
    assert sum(p.numel() for p in unet.parameters()) == parameters
    assert len(unet.state_dict()) == keys


def test_every_preset_is_held_to_its_published_size() -> None:
    assert {row[0] for row in PUBLISHED} == set(PRESETS)


def test_published_key_names() -> None:
    """Names as in the released files, one of each kind of layer."""
    site = Site(size=(256, 256), latent=LatentSpec(channels=4), cond=CondSpec(crossattn=768, vector=16))
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in UNet(PRESETS["unet_sd1"], site).state_dict().items()}
    expected = {
        "time_embed.0.weight": (1280, 320),
        "label_emb.0.0.weight": (1280, 16),
        "label_emb.0.2.bias": (1280,),
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.0.in_layers.0.weight": (320,),
        "input_blocks.1.0.emb_layers.1.weight": (320, 1280),
        "input_blocks.1.0.out_layers.3.bias": (320,),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (320, 320),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.bias": (320,),
        "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
        "input_blocks.1.1.transformer_blocks.0.ff.net.2.weight": (320, 1280),
        "middle_block.1.norm.weight": (1280,),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.bias": (1280,),
        "out.0.weight": (320,),
        "out.2.weight": (4, 320, 3, 3),
    }
    assert {key: shapes.get(key) for key in expected} == expected
    assert "input_blocks.12.0.in_layers.0.weight" not in shapes


def test_zero_initialised_branches() -> None:
    """A fresh network predicts zero, and its residual branches start as the identity (§3.5)."""
    site = Site(size=(32, 32), latent=LatentSpec(channels=3, stride=(4, 4)), cond=CondSpec(crossattn=8))
    unet = UNet(UNetConfig(channels=32), site)
    zero = {key.rsplit(".", 1)[0] for key, p in unet.named_parameters() if not p.any() and key.endswith("weight")}
    assert {"out.2", "middle_block.0.out_layers.3", "middle_block.1.proj_out"} <= zero
    assert not unet(torch.randn(2, 3, 8, 8), torch.tensor([1, 2]), Cond(crossattn=torch.ones(2, 1, 8))).any()
