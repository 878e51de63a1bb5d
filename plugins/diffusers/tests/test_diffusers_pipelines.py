"""Whole pipelines both ways: the same image from the same noise, here and in diffusers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from diffusers_models import (
    CATALOG,
    CLIP_STATE,
    KL,
    MERGES,
    STABLE,
    TEXT,
    UNCONDITIONAL,
    VOCABULARY,
    WORDS,
    drawn,
    folder_of,
    weights_of,
    with_words,
)

from ldm_core.contracts.codec import ModelWeights
from ldm_core.contracts.streams import mix_seed
from ldm_core.sampling.load import assemble
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing.suites.codec import random_weights

pytest.importorskip("diffusers")

SEEDS = (3, 11)
ENOUGH = 60.0
PROMPTS = ["a red cat.", "Blue dogs"]


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of 8-bit images (B, c, H, W) and of (B, H, W, c) in [0, 1]; both with something to be seen."""
    other = np.round(theirs * 255).transpose(0, 3, 1, 2)
    assert ours.shape == other.shape
    assert ours.std() > 20 and not np.array_equal(ours[0], ours[1])
    error = np.mean((ours.astype(np.float64) - other) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def generators() -> list[torch.Generator]:
    """The start noise of images with :data:`SEEDS`, as diffusers draws it."""
    return [torch.Generator().manual_seed(mix_seed("start", seed)) for seed in SEEDS]


def sampled(pipeline: Pipeline, **options: Any) -> np.ndarray:
    return np.stack([s.image for s in pipeline.sample(seed=list(SEEDS), **options)])


def theirs_of(folder: Path, **options: Any) -> Any:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def with_latents(weights: ModelWeights, mean: list[float], std: list[float]) -> ModelWeights:
    own = {"latent_mean": torch.tensor(mean), "latent_std": torch.tensor(std)}
    return attrs.evolve(weights, first_stage={**(weights.first_stage or {}), **own})


@pytest.mark.parametrize(
    ("change", "std"),
    [
        ({}, [4.0, 4.0, 4.0]),
        ({"time_grid": "trailing", "parameterization": "v", "schedule": {"use": "vp", "zero_terminal": True}}, None),
        ({"first_stage": {**KL, "channel_mult": [1, 2, 2], "z_channels": 3}, "time_grid": "legacy"}, [0.5, 2.0, 1.0]),
        ({"sampler": "ddpm", "parameterization": "x0", "time_grid": "leading"}, None),
    ],
    ids=["vq", "v_zero_terminal", "kl_by_channel", "x0_data"],
)
def test_ours_as_ldm_pipeline(change: dict[str, Any], std: list[float] | None, tmp_path: Path) -> None:
    weights = random_weights({**UNCONDITIONAL, **change}, seed=5)
    if std:
        weights = with_latents(weights, [0.1, -0.2, 0.3] if len(set(std)) > 1 else [0.0] * 3, std)
    folder, _ = folder_of(weights, tmp_path / "pipeline")
    theirs = theirs_of(folder)
    assert type(theirs).__name__ == "LDMPipeline"
    if change.get("sampler") == "ddpm":  # its noise is drawn otherwise: the deterministic sampler on the same table
        from diffusers import DDIMScheduler

        theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    images = theirs(batch_size=2, generator=generators(), num_inference_steps=5, output_type="np").images
    own = sampled(Pipeline.of(assemble(weights, CATALOG)).with_settings({"sampler": "ddim"}), steps=5)
    assert psnr(own, images) >= ENOUGH


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_ours_as_ldm_text_to_image(scale: float, tmp_path: Path) -> None:
    weights = with_words(random_weights(TEXT, seed=5))
    folder, notes = folder_of(weights, tmp_path / "pipeline")
    assert any("guidance_scale=3" in note for note in notes)
    theirs = theirs_of(folder)
    assert type(theirs).__name__ == "LDMTextToImagePipeline"
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in generators()])
    images = theirs(PROMPTS, num_inference_steps=4, guidance_scale=scale, latents=latents, output_type="np").images
    own = sampled(Pipeline.of(assemble(weights, CATALOG)), prompts=PROMPTS, steps=4, guidance=scale)
    assert psnr(own, images) >= ENOUGH


@pytest.mark.parametrize(
    ("change", "scale"),
    [({"sampler": "plms"}, 3.0), ({"parameterization": "v", "time_grid": {"use": "leading"}}, 1.0)],
    ids=["plms", "v_to_data"],
)
def test_ours_as_stable_diffusion(change: dict[str, Any], scale: float, tmp_path: Path) -> None:
    weights = with_words(random_weights({**STABLE, **change}, seed=5), CLIP_STATE)
    weights = with_latents(weights, [0.1, -0.2, 0.0, 0.3], [5.0, 4.0, 3.0, 6.0])
    folder, _ = folder_of(weights, tmp_path / "pipeline")
    theirs = theirs_of(folder)
    assert type(theirs).__name__ == "StableDiffusionPipeline"
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in generators()])
    images = theirs(PROMPTS, num_inference_steps=4, guidance_scale=scale, latents=latents, output_type="np").images
    own = sampled(Pipeline.of(assemble(weights, CATALOG)), prompts=PROMPTS, steps=4, guidance=scale)
    assert psnr(own, images) >= ENOUGH


# ------------------------------------------------------------------------------------------------- the way back

UNET_2D: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 16,
}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def autoencoder(kind: Any, levels: int, **extra: Any) -> Any:
    plain: dict[str, Any] = {
        "block_out_channels": (32,) + (64,) * (levels - 1),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 1,
        "sample_size": 32,
    }
    return drawn(kind(**plain, **extra), seed=2)


def test_their_ldm_pipeline_here(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel

    scheduler = DDIMScheduler(
        **{**SD, "beta_end": 0.0195},
        clip_sample=False,
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        steps_offset=1,
    )
    theirs = LDMPipeline(
        vqvae=autoencoder(VQModel, 3, num_vq_embeddings=64, scaling_factor=0.7),
        unet=drawn(UNet2DModel(**UNET_2D, sample_size=8)),
        scheduler=scheduler,
    )
    theirs.save_pretrained(tmp_path)
    theirs.set_progress_bar_config(disable=True)
    images = theirs(batch_size=2, generator=generators(), num_inference_steps=5, output_type="np").images
    weights = weights_of(tmp_path)
    assert weights.recipe["image_size"] == [32, 32]
    assert weights.recipe["parameterization"] == {"use": "v"}
    pipeline = Pipeline.of(assemble(weights, CATALOG))
    assert pipeline.recipe.sampler.use == "ddim"
    assert psnr(sampled(pipeline, steps=5), images) >= ENOUGH


def test_their_text_pipeline_here(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, LDMTextToImagePipeline, PNDMScheduler, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer

    config = LDMBertConfig(
        vocab_size=len(WORDS),
        d_model=24,
        encoder_layers=2,
        encoder_ffn_dim=96,
        encoder_attention_heads=2,
        head_dim=8,
    )
    (tmp_path / "vocab.txt").write_bytes(VOCABULARY)
    blocks = {key: tuple(b.replace("Attn", "CrossAttn") for b in UNET_2D[key]) for key in UNET_2D if "types" in key}
    theirs = LDMTextToImagePipeline(
        vqvae=autoencoder(AutoencoderKL, 4, latent_channels=4),
        bert=drawn(LDMBertModel(config), seed=4),
        tokenizer=BertTokenizer.from_pretrained(tmp_path),
        unet=drawn(
            UNet2DConditionModel(
                **{**UNET_2D, **blocks, "attention_head_dim": 4}, cross_attention_dim=24, sample_size=8
            )
        ),
        scheduler=PNDMScheduler(**SD, skip_prk_steps=True, steps_offset=1),
    )
    theirs.save_pretrained(tmp_path / "pipeline")
    theirs.set_progress_bar_config(disable=True)
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in generators()])
    images = theirs(PROMPTS, num_inference_steps=5, guidance_scale=2.0, latents=latents, output_type="np").images
    pipeline = Pipeline.of(assemble(weights_of(tmp_path / "pipeline"), CATALOG))
    assert pipeline.recipe.sampler.use == "plms"
    assert psnr(sampled(pipeline, prompts=PROMPTS, steps=5, guidance=2.0), images) >= ENOUGH


@pytest.mark.parametrize("version", [1, 2])
def test_their_stable_diffusion_here(version: int, tmp_path: Path) -> None:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        PNDMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = json.loads(CLIP_STATE)["vocab"]
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    end = words["<|endoftext|>"]
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="quick_gelu" if version == 1 else "gelu",
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    blocks = {key: tuple(b.replace("Attn", "CrossAttn") for b in UNET_2D[key]) for key in UNET_2D if "types" in key}
    heads: dict[str, Any] = {"attention_head_dim": 4}
    if version == 2:
        heads = {"attention_head_dim": [2, 4], "use_linear_projection": True}
    table = {**SD, "steps_offset": 1}
    scheduler = (
        PNDMScheduler(**table, skip_prk_steps=True)
        if version == 1
        else DDIMScheduler(**table, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction")
    )
    theirs = StableDiffusionPipeline(
        vae=autoencoder(AutoencoderKL, 4, latent_channels=4, scaling_factor=0.18215),
        text_encoder=drawn(CLIPTextModel(config), seed=4),
        tokenizer=CLIPTokenizer.from_pretrained(tmp_path, **({"pad_token": "!"} if version == 2 else {})),
        unet=drawn(UNet2DConditionModel(**{**UNET_2D, **blocks, **heads}, cross_attention_dim=24, sample_size=8)),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    theirs.tokenizer.model_max_length = 77
    folder = tmp_path / "pipeline"
    theirs.save_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in generators()])
    images = theirs(PROMPTS, num_inference_steps=5, guidance_scale=2.0, latents=latents, output_type="np").images
    pipeline = Pipeline.of(assemble(weights_of(folder), CATALOG))
    assert pipeline.recipe.sampler.use == ("plms" if version == 1 else "ddim")
    assert pipeline.recipe.conditioners[0].config.padding == ("<|endoftext|>" if version == 1 else "!")
    assert psnr(sampled(pipeline, prompts=PROMPTS, steps=5, guidance=2.0), images) >= ENOUGH
