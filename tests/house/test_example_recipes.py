"""The recipes under examples/ fit the data that they are for; tests/acceptance/test_task_examples.py runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_thread import each_module as _one_thread  # noqa: F401

from ldm_core.catalog import Catalog
from ldm_core.recipe.shipped import load_plain
from ldm_core.training import workflow

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
RECIPES = {
    "class_clothing": ("clothing", "tar", {"class_label"}, (64, 48), {"class_label": 10}),
    "class_fashion": ("fashion_mnist", "idx", {"class_label"}, (32, 32), {"class_label": 10}),
    "emoji_text": ("emoji_noto", "tar", {"caption"}, (64, 64), {}),
    "emoji_text/words": ("emoji_noto", "tar", {"caption"}, (64, 64), {}),
    "first_stage_clothing": ("clothing", "tar", set(), (64, 64), {}),
    "inpainting_clothing": ("clothing", "tar", {"image", "mask"}, (64, 48), {}),
    "layout_cells": ("bccd", "tar", {"boxes", "box_labels"}, (96, 128), {"box_labels": 3}),
    "semantic_cells": ("wbc", "tar", {"segmentation"}, (64, 64), {"segmentation": 3}),
    "super_resolution_clothing": ("clothing", "tar", {"image"}, (64, 64), {}),
    "super_resolution_clothing/latents": ("clothing", "tar", {"image"}, (64, 64), {}),
    "unconditional_clothing": ("clothing", "tar", set(), (64, 48), {}),
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


def plain_of(name: str) -> dict[str, Any]:
    folder = DATA / RECIPES[name][0]
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} data beside the project (../shared/data/{folder.name})")
    folder_of, _, file = name.partition("/")
    plain = load_plain(str(ROOT / "examples" / folder_of / f"{file or 'recipe'}.yaml"))
    if "stage_objective" in plain:
        plain["stage_objective"]["perceptual"] = {"use": "none"}  # its weights are the user's to give
    if str(plain["first_stage"]).startswith("runs/"):
        plain |= {"first_stage": {"use": "kl_f4", "channels": 8}, "stage_objective": {"use": "reconstruction"}}
    return {**plain, "dataset": {"use": RECIPES[name][1], "url": str(folder)}}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_fits_its_data(name: str, catalog: Catalog) -> None:
    _, _, reads, size, classes = RECIPES[name]
    recipe, info = workflow.prepare(plain_of(name), catalog)
    assert recipe.image_size == size
    assert {k for c in recipe.conditioners for k in c.config.reads} == reads
    assert {k: info.classes[k] for k in classes} == classes
    dropped = {c.dropout > 0 for c in recipe.conditioners if not reads & {"image"}}
    assert recipe.guidance.use == ("cfg" if dropped else "none") and False not in dropped


def test_the_layout_of_the_readme_is_a_layout() -> None:
    layout = json.loads((ROOT / "examples" / "layout_cells" / "boxes.json").read_text())
    boxes = np.array(layout["boxes"])
    assert len(boxes) == len(layout["labels"]) and (boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 1).all()


@pytest.mark.parametrize(
    "file", sorted((ROOT / "examples").glob("*/*.yaml")), ids=lambda f: f"{f.parent.name}-{f.stem}"
)
def test_a_recipe_says_how_long_it_trains(file: Path) -> None:
    """What is left out has the defaults of the paper's models: 500,000 steps."""
    plain = load_plain(str(file))
    shared = str(plain["first_stage"]).startswith(("runs/", "haar"))
    for key in ["first_stage_trainer"] * (not shared) + ["trainer"] * ("denoiser" in plain):
        assert 0 < plain.get(key, {}).get("steps", 0) <= 10_000, f"{key}.steps"
