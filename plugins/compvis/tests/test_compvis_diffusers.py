"""Stable Diffusion single files written here and read by diffusers, with a configuration on disk: the same outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from compvis_files import ramp
from ldm_plugin_compvis.codec import CompVisCodec
from ldm_plugin_compvis.config import CompVisConfig

from ldm_core.catalog import Catalog
from ldm_core.contracts import Cond
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.nn.torchvision_operators import importable
from ldm_core.recipe.resolve import resolve
from ldm_core.testing.suites.codec import put, random_weights
from ldm_core.weights.source import open_source

WIDTH = 64


@cache
def diffusers() -> Any:
    pytest.importorskip("transformers")
    with importable():
        return pytest.importorskip("diffusers")


def recipe(version: int) -> dict[str, Any]:
    """A small Stable Diffusion: convolutions and quick_gelu (1), or linear layers, OpenCLIP's names and v (2)."""
    text = {"use": "clip_text", "name": "text", "width": WIDTH, "layers": 2, "heads": 1, "inner": 128, "train": False}
    later = {"activation": "gelu", "padding": "!"} if version == 2 else {}
    heads = {"head_channels": 32, "linear_projection": True} if version == 2 else {"heads": 4}
    unet = {"use": "unet", "channels": 32, "channel_mult": [1, 2], "res_blocks": 1, "attention": [1], **heads}
    return {
        "image_size": 32,
        "first_stage": {"use": "kl_f8", "channels": 32, "channel_mult": [1, 2], "res_blocks": 1},
        "conditioners": [{**text, **later, "vocab_size": 64}],
        "denoiser": unet,
        "schedule": "vp_sd",
        "parameterization": "v" if version == 2 else "eps",
    }


def configs(folder: Path, version: int) -> Path:
    """A pipeline's folder of configurations, without weights."""
    linear: Mapping[str, Any] = {"use_linear_projection": True, "attention_head_dim": [1, 2]} if version == 2 else {}
    unet = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        **linear,
    }
    vae = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "latent_channels": 4,
        "sample_size": 32,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    text = {
        "model_type": "clip_text_model",
        "architectures": ["CLIPTextModel"],
        "vocab_size": 64,
        "hidden_size": WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "max_position_embeddings": 77,
        "hidden_act": "gelu" if version == 2 else "quick_gelu",
        "projection_dim": WIDTH,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction" if version == 2 else "epsilon",
    }
    words = ["<|startoftext|>", "<|endoftext|>", *(c for c in "abcdefgh"), *(f"{c}</w>" for c in "abcdefgh")]
    files: dict[str, Any] = {
        "model_index.json": index,
        "unet/config.json": unet,
        "vae/config.json": vae,
        "text_encoder/config.json": text,
        "scheduler/scheduler_config.json": scheduler,
        "tokenizer/vocab.json": {word: i for i, word in enumerate(words)},
        "tokenizer/tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77},
    }
    for name, plain in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(plain))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    return folder


@pytest.mark.parametrize(("version", "suffix"), [(1, "safetensors"), (2, "safetensors"), (1, "ckpt")])
def test_single_files(version: int, suffix: str, tmp_path: Path) -> None:
    library = diffusers()
    catalog = Catalog.discover()
    weights = random_weights(recipe(version), catalog=catalog)
    name = f"model.{suffix}"
    codec = CompVisCodec(CompVisConfig())
    written = codec.write(weights, name)
    assert list(written.beside) == ["model.yaml"]
    path = put(written.files, tmp_path, name)
    folder = configs(tmp_path / "configs", version)
    pipeline = library.StableDiffusionPipeline.from_single_file(
        str(path), config=str(folder), local_files_only=True, safety_checker=None, requires_safety_checker=False
    )

    back = codec.read(open_source(str(path)))
    assert weights.model is not None and back.model is not None and back.first_stage is not None
    built = resolve(back.recipe, catalog)
    stage: Any = make_first_stage(built, catalog)
    stage.load_state_dict(dict(back.first_stage))
    model: Any = make_model(built, catalog, stage).eval()
    model.load_state_dict(dict(back.model))

    tokens = torch.arange(2 * 77).view(2, 77) % 64
    x, t = ramp(2, 4, 16, 16, step=0.1), torch.tensor([7, 421])
    with torch.no_grad():
        ours = model.conditioners["text"].transformer(tokens)
        theirs = pipeline.text_encoder(tokens).last_hidden_state
        assert torch.allclose(ours, theirs, atol=1e-4)
        assert theirs.std() > 0.1
        ours = model.denoiser(x, t, Cond(crossattn=theirs))
        theirs = pipeline.unet(x, t, encoder_hidden_states=theirs).sample
        assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())
        image = ramp(1, 3, 32, 32, step=0.02)
        moments = stage.encode_moments(image)
        assert torch.allclose(moments, pipeline.vae.encode(image).latent_dist.parameters, atol=1e-4)
        raw = stage.latents(moments)
        decoded = pipeline.vae.decode(stage.denormalized(raw)).sample
        assert (stage.decode(raw) - decoded).abs().max() <= 1e-4 * max(1.0, decoded.abs().max().item())


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_single_models(part: str, tmp_path: Path) -> None:
    library = diffusers()
    weights = random_weights(recipe(1))
    path = put(CompVisCodec(CompVisConfig()).write(weights, "model.safetensors").files, tmp_path, "model.safetensors")
    folder = configs(tmp_path / "configs", 1)
    kind = library.UNet2DConditionModel if part == "unet" else library.AutoencoderKL
    found = kind.from_single_file(str(path), config=str(folder), subfolder=part, local_files_only=True)
    theirs = sum(p.numel() for p in found.parameters())
    prefix = "denoiser." if part == "unet" else ""
    own = weights.model if part == "unet" else weights.first_stage
    assert own is not None
    assert theirs == sum(v.numel() for k, v in own.items() if k.startswith(prefix) and not k.startswith("latent_"))
