"""The recipes under examples/: each fits its data, trains a step on it and samples what its README asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_thread import each_module as _one_thread  # noqa: F401

import ldm_core
from ldm_core.catalog import Catalog
from ldm_core.cli.inputs import name_classes, read_inputs
from ldm_core.recipe.shipped import load_plain
from ldm_core.training import workflow

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
RECIPES = {
    "emoji_text": ("emoji_noto", {"caption"}, (32, 32), {}),
    "layout_cells": ("bccd", {"boxes", "box_labels"}, (96, 128), {"box_labels": 3}),
    "semantic_cells": ("wbc", {"segmentation"}, (64, 64), {"segmentation": 3}),
    "class_clothing": ("clothing", {"class_label"}, (64, 48), {"class_label": 10}),
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.discover()


def plain_of(name: str) -> dict[str, Any]:
    folder = DATA / RECIPES[name][0]
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} data beside the project (../shared/data/{folder.name})")
    plain = load_plain(str(ROOT / "examples" / name / "recipe.yaml"))
    if "stage_objective" in plain:
        plain["stage_objective"]["perceptual"] = {"use": "none"}  # its weights are the user's to give
    if str(plain["first_stage"]).startswith("runs/"):
        plain |= {"first_stage": {"use": "kl_f4", "channels": 8}, "stage_objective": {"use": "reconstruction"}}
    return {**plain, "dataset": {"use": "tar", "url": str(folder)}}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_fits_its_data(name: str, catalog: Catalog) -> None:
    _, reads, size, classes = RECIPES[name]
    recipe, info = workflow.prepare(plain_of(name), catalog)
    assert recipe.image_size == size and recipe.first_stage.config.latent.stride == (4, 4)
    assert {k for c in recipe.conditioners for k in c.config.reads} == reads
    assert {k: info.classes[k] for k in classes} == classes
    assert all(c.dropout > 0 for c in recipe.conditioners) and recipe.guidance.use == "cfg"


@pytest.mark.parametrize("name", ["layout_cells", "semantic_cells", "class_clothing"])
def test_a_step_of_it_runs_through_and_its_inputs_sample(name: str, catalog: Catalog, tmp_path: Path) -> None:
    plain = plain_of(name)
    plain["first_stage_trainer"] = {
        "steps": 1,
        "images_per_step": 2,
        "statistics_images": 8,
        "validate_images": 4,
    }
    plain["trainer"] |= {"steps": 1, "images_per_step": 2, "cache_latents": False, "validate_images": 4}
    plain["sample"] = {"steps": 1, "images": 1}
    plain["dataset"] |= {"split": "val"}
    recipe, info = workflow.prepare(plain, catalog)
    result = workflow.run(recipe, info, catalog, str(tmp_path))
    assert result.status == "done"
    folder = ROOT / "examples" / name
    given: dict[str, dict[str, Any]] = {
        "layout_cells": {"boxes": str(folder / "boxes.json")},
        "semantic_cells": {"segmentation": str(folder / "map.png")},
        "class_clothing": {"pairs": ["class_label=dress"]},
    }
    pipeline = ldm_core.load(str(tmp_path), device="cpu")
    inputs = name_classes(read_inputs(**given[name]), pipeline.class_names)
    made = pipeline.sample(inputs=inputs, steps=1)
    assert made[0].image.shape == (3, *recipe.image_size)


def test_the_layout_of_the_readme_is_a_layout() -> None:
    layout = json.loads((ROOT / "examples" / "layout_cells" / "boxes.json").read_text())
    boxes = np.array(layout["boxes"])
    assert len(boxes) == len(layout["labels"]) and (boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 1).all()
