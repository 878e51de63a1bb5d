"""Every recipe of the zoo trains two steps of its stages on the embedded data, scaled down, and samples."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_thread import each_test as _one_thread  # noqa: F401
from PIL import Image
from safetensors.torch import load_file

from ldm_core.catalog import Catalog
from ldm_core.cli import main
from ldm_core.config.documents import parse_yaml
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.recipe.resolve import resolve
from ldm_core.recipe.shipped import shipped

SHORT = [
    "scale=small", "image_size=32", "dataset.scenes=24", "dataset.val_scenes=4", "sample.steps=2", "sample.images=2",
    "first_stage_trainer.steps=2", "first_stage_trainer.images_per_step=4", "first_stage_trainer.statistics_images=16",
    "first_stage_trainer.validate_images=4", "first_stage_trainer.codebook_init_images=8", "trainer.steps=2",
    "first_stage_trainer.discriminator_width=8", "first_stage_trainer.log_every=1",
]  # fmt: skip
MODEL = ["trainer.images_per_step=4", "trainer.validate_images=4", "trainer.log_every=1"]
ZOO = sorted(set(shipped()) - {"laptop"})
FAST = ("ae_kl_f16", "ldm1_imagenet_tradeoff", "ldm4_layout_openimages", "ldm4_inpainting_big", "ldm8_churches")
"""A cut of different kinds: a first stage alone, pixels, boxes, masks, L1 with a warm-up on KL latents."""


def rows(out: Path, stage: str) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["stage"] == stage]


def differ(fresh: dict[str, Any], file: Path) -> bool:
    trained = load_file(file)
    return any(not torch.equal(v, trained[k]) for k, v in fresh.items() if v.is_floating_point() and "latent_" not in k)


def train_and_compare(name: str, out: Path) -> None:
    alone = name.startswith("ae_")
    line = ["train", "--until", "first_stage"] if alone else []
    more = SHORT if alone else [*SHORT, *MODEL, "observers=[]"]  # curves are drawn of the first stages
    assert main([*line, "--recipe", name, "--out", str(out), "--quiet", *more]) == 0
    catalog = Catalog.discover()
    recipe = resolve(parse_yaml((out / "recipe.yaml").read_text(encoding="utf-8"), ""), catalog)
    stage: Any = make_first_stage(recipe, catalog)
    if list(stage.parameters()):
        losses = [row["nll"] for row in rows(out, "first_stage")]
        assert len(losses) == 2 and all(map(math.isfinite, losses))
        assert differ(stage.state_dict(), out / "first_stage.safetensors")
    if alone:
        assert not (out / "model.safetensors").exists()
        return
    losses = [row["loss"] for row in rows(out, "denoiser")]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    fresh = make_model(recipe, catalog, stage).state_dict()
    assert differ({k: v for k, v in fresh.items() if k.startswith("denoiser.")}, out / "model.safetensors")
    pictures = sorted((out / "samples").iterdir())
    assert [np.asarray(Image.open(p)).shape for p in pictures] == [(32, 32, 3)] * 2


@pytest.mark.parametrize("name", FAST)
def test_a_cut_of_the_zoo_trains(name: str, tmp_path: Path) -> None:
    train_and_compare(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ZOO if name not in FAST])
def test_the_rest_of_the_zoo_trains(name: str, tmp_path: Path) -> None:
    train_and_compare(name, tmp_path)
