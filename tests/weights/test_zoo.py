"""The shipped recipes of the paper's models: each is accepted, has the published hyperparameters and the exact sizes.

The tables stand for themselves: they were written from the published configurations and not from the recipes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_core.catalog import Catalog
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve
from ldm_core.recipe.shipped import load_plain, shipped

# first stage: factor, latent channels, codes, parameters, keys of a checkpoint without its loss, batch, steps,
# discriminator: from batch, weight, layers
STAGES = {
    "vq_f4": (4, 3, 8192, 55_322_782, 205, 8, 533_066, 0, 0.75, 3),
    "vq_f4_noattn": (4, 3, 8192, 53_219_486, 185, 8, 658_131, 11, 0.75, 3),
    "vq_f8": (8, 4, 16384, 67_717_295, 299, 10, 971_043, 1, 0.6, 2),
    "vq_f8_n256": (8, 4, 256, 67_652_783, 299, 10, 1_608_649, 250_001, 0.75, 3),
    "vq_f16": (16, 8, 16384, 69_593_371, 343, 14, 1_101_166, 250_001, 0.75, 2),
    "kl_f4": (4, 3, 0, 55_312_063, 204, 10, 176_991, 50_001, 0.5, 3),
    "kl_f8": (8, 4, 0, 83_653_863, 248, 4, 246_803, 50_001, 0.5, 3),
    "kl_f16": (16, 16, 0, 69_610_963, 342, 6, 442_998, 50_001, 0.5, 3),
    "kl_f32": (32, 64, 0, 103_880_131, 436, 6, 406_763, 50_001, 0.5, 3),
}
# model: first stage, latents, input channels of the U-Net, its parameters, its keys, the conditioner's parameters and
# keys
SIZES = {
    "ldm4_celebahq": ("vq_f4", (3, 64, 64), 3, 274_056_163, 368, 0, 0),
    "ldm4_ffhq": ("vq_f4", (3, 64, 64), 3, 274_056_163, 368, 0, 0),
    "ldm4_bedrooms": ("vq_f4", (3, 64, 64), 3, 274_056_163, 368, 0, 0),
    "ldm8_churches": ("kl_f8", (4, 32, 32), 4, 294_966_916, 520, 0, 0),
    "ldm8_imagenet": ("vq_f8", (4, 32, 32), 4, 394_984_196, 626, 512_000, 1),
    "ldm4_imagenet": ("vq_f4", (3, 64, 64), 3, 400_920_579, 688, 512_512, 1),
    "ldm8_text_laion": ("kl_f8", (4, 32, 32), 4, 872_300_484, 686, 581_994_042, 422),
    "ldm4_text_cc": ("vq_f4", (3, 64, 64), 3, 403_623_939, 688, 186_154_682, 422),
    "ldm4_layout_openimages": ("vq_f4", (3, 64, 64), 3, 246_277_379, 1328, 58_858_496, 214),
    "ldm4_semantic_landscapes": ("vq_f4", (3, 64, 64), 6, 215_229_315, 216, 546, 1),
    "ldm4_semantic_landscapes_512": ("vq_f4", (3, 128, 128), 6, 215_229_315, 216, 546, 1),
    "ldm4_sr_bsr": ("vq_f4", (3, 64, 64), 6, 113_622_563, 306, 0, 0),
    "ldm4_inpainting_big": ("vq_f4_noattn", (3, 64, 64), 7, 387_245_827, 416, 0, 0),
    "ldm16_rdm": ("kl_f16", (16, 48, 48), 16, 1_335_480_400, 688, 0, 0),
    # of the series the paper says 396, 391, 391 and 395 M; the last three have the released models' widths
    "ldm1_imagenet_tradeoff": ("identity", (3, 256, 256), 3, 396_835_971, 806, 512_000, 1),
    "ldm2_imagenet_tradeoff": ("vq_f2", (2, 128, 128), 2, 390_888_578, 746, 512_000, 1),
    "ldm4_imagenet_tradeoff": ("vq_f4", (3, 64, 64), 3, 400_920_579, 688, 512_000, 1),
    "ldm8_imagenet_tradeoff": ("vq_f8", (4, 32, 32), 4, 394_984_196, 626, 512_000, 1),
    "ldm16_imagenet_tradeoff": ("vq_f16", (8, 16, 16), 8, 395_002_632, 626, 512_000, 1),
    "ldm32_imagenet_tradeoff": ("vq_f32", (16, 8, 8), 16, 395_039_504, 626, 512_000, 1),
}
# model: beta's ends, loss, images of a step, rate, steps (the last three: None where nothing is published), sampler's
# steps and eta, guidance's scale
TRAINING = {
    "ldm4_celebahq": (0.0015, 0.0195, "l2", 48, 9.6e-5, 410_000, 200, 0, 1),
    "ldm4_ffhq": (0.0015, 0.0195, "l2", 42, 8.4e-5, 635_000, 200, 1, 1),
    "ldm4_bedrooms": (0.0015, 0.0195, "l2", 48, 9.6e-5, 1_900_000, 200, 1, 1),
    "ldm8_churches": (0.0015, 0.0155, "l1", 96, 5e-5, 500_000, 500, 0, 1),
    "ldm8_imagenet": (0.0015, 0.0195, "l2", 64, 6.4e-5, 2_000_000, 200, 1, 1),
    "ldm4_imagenet": (0.0015, 0.0195, "l2", 1200, 1e-4, 178_000, 250, None, 1.5),
    "ldm8_text_laion": (0.00085, 0.012, "l2", 680, 5e-5, 390_000, 250, None, 1.5),
    "ldm4_text_cc": (0.0015, 0.0195, "l2", 28, 5.6e-5, None, 100, 0, 1),
    "ldm4_layout_openimages": (0.0015, 0.0205, "l1", 24, 4.8e-5, 4_400_000, 200, 0, 1),
    "ldm4_semantic_landscapes": (0.0015, 0.0205, "l1", None, None, 360_000, None, None, 1),
    "ldm4_semantic_landscapes_512": (0.0015, 0.0205, "l1", 8, 8e-6, None, None, None, 1),
    "ldm4_sr_bsr": (0.0015, 0.0155, "l2", 64, 6.4e-5, 860_000, None, 1, 1),
    "ldm4_inpainting_big": (0.0015, 0.0205, "l1", None, None, 360_000, 50, 0, 1),
    "ldm16_rdm": (0.0015, 0.015, "l2", None, 1e-4, None, 50, None, 5),
    "ldm1_imagenet_tradeoff": (0.0015, 0.0195, "l2", 7, None, 2_000_000, None, None, 1),
    "ldm2_imagenet_tradeoff": (0.0015, 0.0195, "l2", 9, None, 2_000_000, None, None, 1),
    "ldm4_imagenet_tradeoff": (0.0015, 0.0195, "l2", 40, None, 2_000_000, None, None, 1),
    "ldm8_imagenet_tradeoff": (0.0015, 0.0195, "l2", 64, 6.4e-5, 2_000_000, None, None, 1),
    "ldm16_imagenet_tradeoff": (0.0015, 0.0195, "l2", 112, None, 2_000_000, None, None, 1),
    "ldm32_imagenet_tradeoff": (0.0015, 0.0195, "l2", 112, None, 2_000_000, None, None, 1),
}
OURS = 2
"""Keys that a first stage of ours has beyond the published ones: mean and standard deviation of its latents."""


@cache
def catalog() -> Catalog:
    return Catalog.discover()


def recipe_of(name: str) -> Recipe:
    return resolve(load_plain(name), catalog())


def test_every_shipped_recipe_is_in_the_tables() -> None:
    assert set(SIZES) == set(TRAINING)
    assert set(shipped()) == {"laptop", *SIZES, *(f"ae_{name}" for name in STAGES)}
    assert all(line and len(line) < 120 for line in shipped().values())


def test_the_check_accepts_each_without_torch() -> None:
    """All in one process, on the embedded data."""
    code = """
import sys
from ldm_core.catalog import Catalog
from ldm_core.recipe.shipped import load_plain, shipped
from ldm_core.training.workflow import prepare
catalog = Catalog.discover()
for name in shipped():
    recipe, info = prepare(load_plain(name), catalog)
    assert recipe.dataset.use == "shapes", name
    print(name)
assert not {"torch", "deepspeed"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == list(shipped())


def test_the_command_line_accepts_one() -> None:
    line = [sys.executable, "-m", "ldm_core.cli", "check", "--recipe", "ldm4_imagenet", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "ok" and document["recipe"]["denoiser"]["channel_mult"] == [1, 2, 3, 5]


@pytest.mark.parametrize("name", STAGES)
def test_first_stages(name: str) -> None:
    factor, channels, codes, parameters, keys, batch, steps, start, weight, layers = STAGES[name]
    recipe = recipe_of(f"ae_{name}")
    assert recipe.image_size == (256, 256)
    config, settings, objective = recipe.first_stage.config, recipe.first_stage_trainer, recipe.stage_objective.config
    assert config.latent.shape((256, 256)) == (channels, 256 // factor, 256 // factor)
    assert getattr(config, "codebook_size", 0) == codes
    own = (config.adversarial_start, config.adversarial_weight, config.discriminator_layers)
    assert own == (start, weight, layers)
    assert objective.adversarial and objective.adversarial_start is objective.adversarial_weight is None
    assert (settings.steps, settings.images_per_step, settings.accumulate) == (steps, batch, 1)
    assert settings.lr == pytest.approx(4.5e-6 * batch)
    assert (settings.betas, settings.weight_decay, settings.clip) == ((0.5, 0.9), 0, 0)
    assert (objective.pixel_loss, objective.perceptual_weight, objective.log_variance) == ("l1", 1, False)
    assert objective.discriminator_norm == "batch" and objective.discriminator_width == 64
    if codes:
        assert (config.codebook_weight, config.beta, config.legacy_beta) == (1, 0.25, True)
    else:
        assert config.kl_weight == 1e-6
    with torch.device("meta"):
        stage = make_first_stage(recipe, catalog())
    assert sum(p.numel() for p in stage.parameters()) == parameters  # type: ignore[attr-defined]
    assert len(stage.state_dict()) == keys + OURS  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    """Built on the meta device, which holds shapes and no numbers."""
    stage_name, latents, inputs, parameters, keys, own_parameters, own_keys = SIZES[name]
    recipe = recipe_of(name)
    assert recipe.first_stage.asked == stage_name
    assert recipe.first_stage.config.latent.shape(recipe.image_size) == latents
    with torch.device("meta"):
        stage = make_first_stage(recipe, catalog())
        model: Any = make_model(recipe, catalog(), stage)
    state = model.denoiser.state_dict()
    assert all(v.is_meta for v in state.values())
    assert state["input_blocks.0.0.weight"].shape[1] == inputs
    assert (sum(p.numel() for p in model.denoiser.parameters()), len(state)) == (parameters, keys)
    conditioners = model.conditioners.state_dict()
    tensors = [k for k in conditioners if not k.endswith("_extra_state")]  # that is a learned tokenizer
    assert (sum(p.numel() for p in model.conditioners.parameters()), len(tensors)) == (own_parameters, own_keys)
    if stage_name in STAGES:
        assert sum(p.numel() for p in stage.parameters()) == STAGES[stage_name][3]  # type: ignore[attr-defined]
        alone = recipe_of(f"ae_{stage_name}")
        assert recipe.first_stage_trainer == alone.first_stage_trainer
        assert recipe.stage_objective == alone.stage_objective


@pytest.mark.parametrize("name", TRAINING)
def test_hyperparameters(name: str) -> None:
    start, end, loss, batch, rate, steps, sampler_steps, eta, scale = TRAINING[name]
    recipe = recipe_of(name)
    schedule, settings = recipe.schedule.config, recipe.trainer
    assert (schedule.kind, schedule.steps, schedule.zero_terminal) == ("linear", 1000, False)
    assert (schedule.beta_start, schedule.beta_end) == (start, end)
    assert recipe.parameterization.use == "eps"
    assert (recipe.objective.config.loss, recipe.objective.config.weighting) == (loss, "target")
    assert (settings.betas, settings.weight_decay, settings.ema, settings.clip) == ((0.9, 0.999), 0.01, 0.9999, 0)
    assert recipe.sampler.use == "ddim" and recipe.time_grid.use == "legacy"
    said = (settings.images_per_step, settings.lr, settings.steps, recipe.sample.steps, recipe.sampler.config.eta)
    for ours, published in zip(said, (batch, rate, steps, sampler_steps, eta), strict=True):
        assert published is None or ours == pytest.approx(published)
    dropped = max((c.dropout for c in recipe.conditioners), default=0.0)
    if scale == 1:
        assert recipe.guidance.use == "none" and dropped == settings.joint_dropout == 0
    else:
        assert recipe.guidance.config.scale == scale and dropped > 0
    flips = {"ldm4_bedrooms", "ldm8_churches"}
    assert recipe.data.flip is (name in flips)


def test_rates_that_change() -> None:
    churches, inpainting = recipe_of("ldm8_churches").trainer, recipe_of("ldm4_inpainting_big").trainer
    assert (churches.schedule, churches.warmup_steps, churches.warmup_from) == ("constant", 10_000, 0)
    peak = 0.1 * 1e-6 * inpainting.images_per_step  # the published factor's highest value times the published rate
    assert inpainting.lr == pytest.approx(peak)
    assert (inpainting.schedule, inpainting.warmup_steps, inpainting.decay_end) == ("cosine", 1000, 50_000)
    assert inpainting.warmup_from * peak == pytest.approx(0.001 * 1e-6 * inpainting.images_per_step)
    assert inpainting.final_lr * peak == pytest.approx(0.0001 * 1e-6 * inpainting.images_per_step)
    others = [recipe_of(n).trainer for n in TRAINING if n not in ("ldm8_churches", "ldm4_inpainting_big")]
    assert {(t.schedule, t.warmup_steps) for t in others} == {("constant", 0)}
    semantic = recipe_of("ldm4_semantic_landscapes").trainer
    assert semantic.lr == pytest.approx(1e-6 * semantic.images_per_step)


def test_the_document_has_these_numbers() -> None:
    text = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text(encoding="utf-8")
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for name, (_, _, codes, parameters, _, batch, steps, *_) in STAGES.items():
        row = lines[f"ae_{name}"]
        assert f"| {parameters:,} | {batch} | {steps:,} |" in row
        assert not codes or f"{codes:,} codes" in row
    for name, (stage, _, _, parameters, _, own, _) in SIZES.items():
        recipe, cells = recipe_of(name), [cell.strip() for cell in lines_of(text, name)]
        assert cells[1:3] == [stage, f"{parameters:,}"] and (not recipe.conditioners or f", {own:,}" in cells[3])
        images, rate = re.sub(r"[*\\]", "", cells[4]).split(", ")
        assert (int(images), float(rate)) == (recipe.trainer.images_per_step, recipe.trainer.lr)
        number = re.sub(r"[()*\\]", "", cells[5])
        assert float(number[:-1]) * {"k": 1e3, "M": 1e6}[number[-1]] == recipe.trainer.steps
        said = [float(n) for n in re.sub(r"[*\\]", "", cells[6]).split(", ")]
        scale = [recipe.guidance.config.scale] if recipe.guidance.use == "cfg" else []
        assert said == [recipe.sample.steps, recipe.sampler.config.eta, *scale]


def lines_of(text: str, name: str) -> list[str]:
    """The cells of a model's first row."""
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` ") and line.count("|") == 9)
    return row.strip("|").split("|")
