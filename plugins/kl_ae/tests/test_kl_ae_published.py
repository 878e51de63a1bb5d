"""The KL first stages against the published ones: golden outputs, parameter and key counts, key names."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from ldm_plugin_kl_ae.config import PRESETS, KLAEConfig
from ldm_plugin_kl_ae.gaussian import kl_to_standard_normal
from ldm_plugin_kl_ae.model import KLFirstStage
from torch import Tensor, nn

from ldm_core.contracts import Site

OURS = {"latent_mean", "latent_std"}


def fill(module: nn.Module) -> None:
    """Fill every parameter from its key and flat index alone, so that outputs compare across code bases."""
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


def test_golden_outputs() -> None:
    config = KLAEConfig(channels=32, channel_mult=(1, 2, 4), res_blocks=1, attention=(2,))
    stage = KLFirstStage(config, Site(size=(32, 32))).eval()
    fill(stage)
    assert sum(p.numel() for p in stage.parameters()) == 2_752_391
    assert len(stage.state_dict().keys() - OURS) == 186
    with torch.no_grad():
        moments = stage.encode_moments(ramp(1, 3, 32, 32, step=0.02))
        decoded = stage.decode(stage.latents(moments))
    expected = [0.037637, 0.018861, 0.066726, 0.036644, 0.045922, 0.045983, 0.045847, 0.045569]
    assert statistics(moments) == pytest.approx(expected, abs=1e-4)
    assert kl_to_standard_normal(moments).item() == pytest.approx(0.350687, abs=1e-4)
    expected = [0.044580, 0.130900, 0.539542, 0.035338, 0.024277, -0.101342, -0.056658, -0.052723]
    assert statistics(decoded) == pytest.approx(expected, abs=1e-4)


# preset, parameters of the whole, of the encoder, of the decoder, state keys, latent at 256 px
PUBLISHED = [
    ("kl_f4", 55_312_063, 22_351_238, 32_960_771, 204, (3, 64, 64)),
    ("kl_f8", 83_653_863, 34_163_592, 49_490_179, 248, (4, 32, 32)),
    ("kl_f16", 69_610_963, 28_265_760, 41_343_875, 342, (16, 16, 16)),
    ("kl_f32", 103_880_131, 42_614_656, 61_244_803, 436, (64, 8, 8)),
]
OURSELVES = [("kl_f2", 12_787_105, 5_214_852, 7_572_227, 136, (2, 128, 128))]


@pytest.mark.parametrize(("preset", "total", "encoder", "decoder", "keys", "latent"), PUBLISHED + OURSELVES)
def test_sizes(preset: str, total: int, encoder: int, decoder: int, keys: int, latent: tuple[int, ...]) -> None:
    config = PRESETS[preset]
    with torch.device("meta"):
        stage = KLFirstStage(config, Site(size=(256, 256)))
    counts = [sum(p.numel() for p in part.parameters()) for part in (stage, stage.encoder, stage.decoder)]
    assert counts == [total, encoder, decoder]
    assert len(stage.state_dict().keys() - OURS) == keys
    assert config.latent.shape((256, 256)) == latent
    assert (config.adversarial_start, config.adversarial_weight, config.discriminator_layers) == (
        50_001,
        0.5,
        3,
    )
    assert config.kl_weight == 1e-6


def test_every_preset_is_held_to_its_size() -> None:
    assert {row[0] for row in PUBLISHED + OURSELVES} == set(PRESETS)


def test_published_key_names() -> None:
    with torch.device("meta"):
        state = KLFirstStage(PRESETS["kl_f16"], Site(size=(256, 256))).state_dict()
    expected = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.0.block.0.norm1.weight": (128,),
        "encoder.down.2.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.down.3.downsample.conv.weight": (256, 256, 3, 3),
        "encoder.down.4.attn.1.proj_out.weight": (512, 512, 1, 1),
        "encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "encoder.norm_out.bias": (512,),
        "encoder.conv_out.weight": (32, 512, 3, 3),
        "quant_conv.weight": (32, 32, 1, 1),
        "post_quant_conv.weight": (16, 16, 1, 1),
        "decoder.conv_in.weight": (512, 16, 3, 3),
        "decoder.mid.block_2.conv2.bias": (512,),
        "decoder.up.4.attn.2.norm.weight": (512,),
        "decoder.up.1.upsample.conv.weight": (128, 128, 3, 3),
        "decoder.up.0.block.2.conv2.weight": (128, 128, 3, 3),
        "decoder.conv_out.weight": (3, 128, 3, 3),
    }
    assert {key: tuple(state[key].shape) for key in expected if key in state} == expected
    assert not any(key.startswith(("encoder.down.4.downsample", "decoder.up.0.upsample")) for key in state)
