"""Small pipelines put together from their parts, without a run and without files."""

from __future__ import annotations

from typing import Any

from ldm_core.catalog import Catalog
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.recipe.resolve import resolve
from ldm_core.sampling.pipeline import Pipeline
from ldm_core.testing.base import randomize

CATALOG = Catalog.discover()
BASE: dict[str, Any] = {
    "image_size": [16, 16],
    "scale": "small",
    "denoiser": {"use": "unet", "channels": 16, "channel_mult": [1, 2], "heads": 2, "attention": [2], "norm_groups": 8},
    "conditioners": [{"use": "class_label", "classes": 3, "width": 16, "dropout": 0.1}],
    "parameterization": "v",
    "guidance": {"use": "cfg", "scale": 5.0},
    "sampler": "ddim",
    "sample": {"steps": 2, "images": 4, "batch": 4},
}
STAGES: dict[str, Any] = {
    "pixels": "identity",
    "KL": {"use": "kl_f4", "channels": 16, "norm_groups": 8},
    "VQ": {"use": "vq_f4", "channels": 16, "codebook_size": 64, "norm_groups": 8},
}


def assembled(stage: str = "pixels", **changes: Any) -> Pipeline:
    """A pipeline of :data:`BASE` with `changes`, on a stage of :data:`STAGES`; its denoiser's weights are moved."""
    recipe = resolve({**BASE, "first_stage": STAGES[stage], **changes}, CATALOG)
    made: Any = make_first_stage(recipe, CATALOG)
    model = make_model(recipe, CATALOG, made)
    randomize(model, 3)
    return Pipeline(recipe, made.eval(), model.eval().requires_grad_(False), CATALOG)
