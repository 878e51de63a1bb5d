"""The VQ first stages against the published ones: golden outputs, parameter and key counts, key names."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from ldm_plugin_vq_ae.config import PRESETS, VQAEConfig
from ldm_plugin_vq_ae.model import VQFirstStage
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
    config = VQAEConfig(channels=32, channel_mult=(1, 2, 4), res_blocks=1, z_channels=3, codebook_size=16)
    stage = VQFirstStage(config, Site(size=(32, 32))).eval()
    fill(stage)
    assert sum(p.numel() for p in stage.parameters()) == 2_695_150
    with torch.no_grad():
        moments = stage.encode_moments(ramp(1, 3, 32, 32, step=0.02))
        _, loss, indices = stage.quantize(moments)
        decoded = stage.decode(stage.latents(moments))
    expected = [0.027918, 0.014500, 0.064650, -0.003747, -0.000717, 0.002041, 0.002957, 0.002982]
    assert statistics(moments) == pytest.approx(expected, abs=1e-4)
    assert indices.flatten()[:16].tolist() == [11] * 8 + [13] * 7 + [7]
    assert loss.item() == pytest.approx(8.0812e-05, rel=1e-3)
    expected = [0.046384, 0.138519, 0.542394, 0.140984, 0.122210, -0.090518, -0.117220, -0.177795]
    assert statistics(decoded) == pytest.approx(expected, abs=1e-4)


# preset, parameters of the whole, of the encoder, of the decoder, state keys, latent at 256 px, codes
PUBLISHED = [
    ("vq_f4", 55_322_782, 22_337_411, 32_960_771, 205, (3, 64, 64), 8192),
    ("vq_f4_noattn", 53_219_486, 21_285_763, 31_909_123, 185, (3, 64, 64), 8192),
    ("vq_f8", 67_717_295, 27_397_764, 40_253_955, 299, (4, 32, 32), 16384),
    ("vq_f8_n256", 67_652_783, 27_397_764, 40_253_955, 299, (4, 32, 32), 256),
    ("vq_f16", 69_593_371, 28_155_144, 41_307_011, 343, (8, 16, 16), 16384),
]
# the same of our own two; vq_f32's decoder is the published kl_f32's but for the latents' channels in its first layer
OURSELVES = [
    ("vq_f2", 12_786_577, 5_210_242, 7_572_227, 137, (2, 128, 128), 2048),
    ("vq_f32", 103_384_755, 42_098_448, 61_244_803 - 512 * (64 - 16) * 9, 437, (16, 8, 8), 16384),
]
ADVERSARIAL = {  # batch at which it starts, weight, layers of the discriminator
    "vq_f4": (0, 0.75, 3),
    "vq_f4_noattn": (11, 0.75, 3),
    "vq_f8": (1, 0.6, 2),
    "vq_f8_n256": (250_001, 0.75, 3),
    "vq_f16": (250_001, 0.75, 2),
    "vq_f2": (0, 0.75, 3),
    "vq_f32": (250_001, 0.75, 2),
}


@pytest.mark.parametrize(("preset", "total", "encoder", "decoder", "keys", "latent", "codes"), PUBLISHED + OURSELVES)
def test_sizes(
    preset: str, total: int, encoder: int, decoder: int, keys: int, latent: tuple[int, ...], codes: int
) -> None:
    config = PRESETS[preset]
    with torch.device("meta"):
        stage = VQFirstStage(config, Site(size=(256, 256)))
    counts = [sum(p.numel() for p in part.parameters()) for part in (stage, stage.encoder, stage.decoder)]
    assert counts == [total, encoder, decoder]
    assert len(stage.state_dict().keys() - OURS) == keys
    assert config.latent.shape((256, 256)) == latent
    assert stage.quantize.embedding.weight.shape == (codes, latent[0])
    settings = (config.adversarial_start, config.adversarial_weight, config.discriminator_layers)
    assert settings == ADVERSARIAL[preset]


def test_every_preset_is_held_to_its_size() -> None:
    assert {row[0] for row in PUBLISHED + OURSELVES} == set(PRESETS)


def test_published_key_names() -> None:
    with torch.device("meta"):
        state = VQFirstStage(PRESETS["vq_f8"], Site(size=(256, 256))).state_dict()
    expected = {
        "quantize.embedding.weight": (16384, 4),
        "quant_conv.weight": (4, 4, 1, 1),
        "post_quant_conv.bias": (4,),
        "encoder.conv_out.weight": (4, 512, 3, 3),
        "encoder.down.3.attn.1.v.weight": (512, 512, 1, 1),
        "encoder.down.2.downsample.conv.bias": (256,),
        "decoder.up.3.attn.2.k.weight": (512, 512, 1, 1),
        "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    }
    assert {key: tuple(state[key].shape) for key in expected if key in state} == expected
