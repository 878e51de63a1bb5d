"""The keys of a recipe, what each holds, and the share of them decisive for the trained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ldm_core.config.fields import later_defaults, same_keys
from ldm_core.config.key_hints import declare_sections
from ldm_core.recipe.settings import (
    DataSettings,
    FirstStageTrainerSettings,
    RecipeSettings,
    SampleSettings,
    TrainerSettings,
)
from ldm_core.storage.options import StorageSettings

OWN: Mapping[str, Any] = attrs.asdict(RecipeSettings())
"""Top-level keys with a value of their own, and their defaults."""
SINGLE = (
    "first_stage",
    "denoiser",
    "schedule",
    "parameterization",
    "objective",
    "time_grid",
    "sampler",
    "guidance",
    "dataset",
)
"""Top-level keys with one component each; the key is the component's kind."""


LISTS = {"conditioners": "conditioner", "adapters": "adapter", "observers": "observer"}
"""Top-level keys with a list of components, and their kind."""


DEFAULTS: Mapping[str, Any] = {
    "first_stage": "identity",
    "conditioners": [],
    "denoiser": "unet",
    "schedule": "vp",
    "parameterization": "eps",
    "objective": "simple",
    "time_grid": "trailing",
    "sampler": "ddpm",
    "guidance": "none",
    "dataset": "shapes",
    "adapters": [],
    "observers": [],
}


SECTIONS: Mapping[str, type] = {
    "data": DataSettings,
    "first_stage_trainer": FirstStageTrainerSettings,
    "trainer": TrainerSettings,
    "sample": SampleSettings,
    "storage": StorageSettings,
}


SAMPLING_KEYS = ("sample", "sampler", "guidance", "time_grid", "observers", "storage")
"""Keys free to change without making another model of it."""

declare_sections(SECTIONS)

SAME = {name: same_keys(section) for name, section in SECTIONS.items()}
"""Keys of the core's own :data:`SECTIONS` without effect on the training."""


LATER = {name: later_defaults(section) for name, section in SECTIONS.items()}
"""Keys of them missing from older recipes; their defaults hold there."""


def without_same(key: str, value: Any) -> Any:
    """The share of top-level key `key`'s plain value decisive for the trained model."""
    if key not in SECTIONS:
        return value
    later = LATER[key]
    left = {k: v for k, v in value.items() if k not in SAME[key] and not (k in later and v == later[k])}
    # only the presence of LPIPS weights counts, not their place; their content counts on reading
    return {**left, "lpips": bool(left["lpips"])} if "lpips" in left else left
