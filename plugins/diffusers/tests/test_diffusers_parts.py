"""Components of diffusers with random weights, read by the codec and built here: the same outputs."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers_models import count, drawn, gap, normal, ours, saved
from ldm_plugin_diffusers.autoencoder.read import read_autoencoder
from ldm_plugin_diffusers.unet.read import read_unet
from ldm_plugin_diffusers.weights import Stored

from ldm_core.contracts import Cond

pytest.importorskip("diffusers")

TOLERANCE = 1e-4

KL = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 16,
    "sample_size": 32,
}
VQ = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 2,
    "latent_channels": 3,
    "norm_num_groups": 32,
    "num_vq_embeddings": 40,
    "sample_size": 32,
    "scaling_factor": 0.5,
}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False, "use_post_quant_conv": False},
        {"scaling_factor": 0.5, "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 1.5]},
        {"mid_block_add_attention": False},
    ],
    ids=["sd1", "sd3", "by_channel", "no_middle_attention"],
)
def test_autoencoder_kl(extra: dict[str, Any], tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    theirs = drawn(AutoencoderKL(**{**KL, **extra}))
    stage = ours(saved(theirs, tmp_path))
    images, raw = normal(2, 3, 32, 32), normal(2, 4, 8, 8, seed=2)
    moments = stage.encode_moments(images)
    assert gap(moments, theirs._encode(images)) <= TOLERANCE
    scale = extra.get("scaling_factor", 0.18215)
    mean = torch.tensor(extra.get("latents_mean", [extra.get("shift_factor", 0.0)])).view(1, -1, 1, 1)
    std = torch.tensor(extra.get("latents_std", [1.0])).view(1, -1, 1, 1)
    z = (theirs.encode(images).latent_dist.mode() - mean) * scale / std
    assert gap(stage.latents(moments), z) <= TOLERANCE
    assert gap(stage.decode((raw - mean) * scale / std), theirs.decode(raw).sample) <= TOLERANCE
    without = 0 if extra.get("use_quant_conv", True) else 8 * 8 + 8 + 4 * 4 + 4
    assert count(stage) == count(theirs) + without


def test_vq_model(tmp_path: Path) -> None:
    from diffusers import VQModel

    theirs = drawn(VQModel(**VQ))
    stage = ours(saved(theirs, tmp_path))
    images, raw = normal(2, 3, 32, 32), normal(2, 3, 8, 8, seed=2)
    assert gap(stage.encode_moments(images), theirs.encode(images).latents) <= TOLERANCE
    assert gap(stage.decode(raw * 0.5), theirs.decode(raw).sample) <= TOLERANCE
    assert count(stage) == count(theirs)


UNCONDITIONAL = {
    "block_out_channels": (32, 64, 96),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": 16,
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": 8,
}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"attention_head_dim": None},
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 32},
        {
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
        },
    ],
    ids=["ldm4", "one_head", "scale_shift", "resnet_resampling"],
)
def test_unet_2d(extra: dict[str, Any], tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    theirs = drawn(UNet2DModel(**{**UNCONDITIONAL, **extra}))
    unet = ours(saved(theirs, tmp_path))
    x, t = normal(2, 3, 8, 8), torch.tensor([7, 421])
    assert gap(unet(x, t.float(), Cond()), theirs(x, t).sample) <= TOLERANCE
    assert count(unet) == count(theirs)


TEXT = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 8,
}


@pytest.mark.parametrize(
    "extra",
    [
        {"down_block_types": ("CrossAttnDownBlock2D",) * 3, "up_block_types": ("CrossAttnUpBlock2D",) * 3},
        {},
        {"attention_head_dim": [2, 4, 4], "use_linear_projection": True, "upcast_attention": True},
        {"transformer_layers_per_block": 2, "in_channels": 9},
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 10},
        {"resnet_time_scale_shift": "scale_shift"},
    ],
    ids=["text", "sd1", "sd2", "inpainting", "vector", "scale_shift"],
)
def test_unet_2d_condition(extra: dict[str, Any], tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    theirs = drawn(UNet2DConditionModel(**{**TEXT, **extra}))
    unet = ours(saved(theirs, tmp_path))
    x, t, context = normal(2, theirs.config.in_channels, 8, 8), torch.tensor([7, 421]), normal(2, 5, 24, seed=3)
    vector = normal(2, 10, seed=4) if extra.get("class_embed_type") else None
    concat = x[:, 4:] if x.shape[1] > 4 else None
    cond = Cond(crossattn=context, vector=vector, concat=concat)
    expected = theirs(x, t, encoder_hidden_states=context, class_labels=vector).sample
    assert gap(unet(x[:, :4], t.float(), cond), expected) <= TOLERANCE
    for other in (cond._replace(crossattn=-context), cond._replace(crossattn=context.flip(2))):
        assert gap(unet(x[:, :4], t.float(), other), expected) > 10 * TOLERANCE  # the context does something
    assert count(unet) == count(theirs)


def test_the_vector_of_text_and_sizes(tmp_path: Path) -> None:
    """addition_embed_type text_time: the pooled text, then each size embedded, go through one network."""
    from diffusers import UNet2DConditionModel

    from ldm_core.nn.embeddings import timestep_embedding

    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 + 2 * 4,
    }
    theirs = drawn(UNet2DConditionModel(**{**TEXT, **extra}))
    unet = ours(saved(theirs, tmp_path))
    x, t, context = normal(2, 4, 8, 8), torch.tensor([7, 421]), normal(2, 5, 24, seed=3)
    pooled, sizes = normal(2, 6, seed=5), torch.tensor([[64.0, 32.0], [16.0, 8.0]])
    added = {"text_embeds": pooled, "time_ids": sizes}
    expected = theirs(x, t, encoder_hidden_states=context, added_cond_kwargs=added).sample
    vector = torch.cat([pooled, timestep_embedding(sizes.flatten(), 4).view(2, 8)], dim=1)
    assert gap(unet(x, t.float(), Cond(crossattn=context, vector=vector)), expected) <= TOLERANCE


def test_ldm_bert(tmp_path: Path) -> None:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    config = LDMBertConfig(
        vocab_size=50, d_model=32, encoder_layers=3, encoder_ffn_dim=128, encoder_attention_heads=2, head_dim=8
    )
    theirs = drawn(LDMBertModel(config))
    text = ours(saved(theirs, tmp_path))
    ids = torch.randint(0, 50, (2, 77), generator=torch.Generator().manual_seed(0))
    assert gap(text.transformer(ids), theirs(ids)[0]) <= TOLERANCE
    assert count(text) == count(theirs)


def test_clip_text_model(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    plain = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    for activation in ("quick_gelu", "gelu"):
        config = CLIPTextConfig(**plain, vocab_size=50, hidden_act=activation, bos_token_id=48, eos_token_id=49)
        theirs = drawn(CLIPTextModel(config))
        text = ours(saved(theirs, tmp_path / activation))
        ids = torch.randint(0, 48, (2, 77), generator=torch.Generator().manual_seed(0))
        assert gap(text.transformer(ids), theirs(ids).last_hidden_state) <= TOLERANCE
        assert count(text) == count(theirs)


SD1 = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
TEXT_F8 = {
    **SD1,
    "cross_attention_dim": 1280,
}
LDM4 = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [224, 448, 672, 896],
    "attention_head_dim": 32,
}
KL_F8 = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
VQ_F4 = {
    **KL_F8,
    "_class_name": "VQModel",
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "num_vq_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("plain", "parameters", "fields"),
    [
        (SD1, 859_520_964, {"channels": 320, "channel_mult": [1, 2, 4, 4], "attention": [1, 2, 4], "heads": 8}),
        (TEXT_F8, 872_300_484, {"transformer_depth": 1}),
        (LDM4, 274_056_163, {"channels": 224, "channel_mult": [1, 2, 3, 4], "head_channels": 32}),
        (KL_F8, 83_653_863, {"channels": 128, "channel_mult": [1, 2, 4, 4], "z_channels": 4}),
        (VQ_F4, 55_322_782, {"channels": 128, "codebook_size": 8192, "z_channels": 3}),
    ],
    ids=["sd1", "text_f8", "ldm4", "kl_f8", "vq_f4"],
)
def test_published_sizes(plain: dict[str, Any], parameters: int, fields: dict[str, Any]) -> None:
    """Configs as published stand for networks of the published parameter counts."""
    empty: Any = SimpleNamespace(infos={})
    read: Any = read_unet if plain["_class_name"].startswith("UNet") else read_autoencoder
    part = read(plain, "config", Stored.of(empty, "config"))
    assert sum(math.prod(w.shape) for w in part.weights) == parameters
    assert {key: part.fields[key] for key in fields} == fields
