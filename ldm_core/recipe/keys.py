"""The keys of a recipe, what each holds, and the share of them decisive for the trained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from ldm_core.config.fields import inner_configs, later_defaults, same_keys
from ldm_core.config.key_hints import declare_sections
from ldm_core.recipe.settings import (
    DataSettings,
    FirstStageTrainerSettings,
    RecipeSettings,
    SampleSettings,
    TrainerSettings,
)
from ldm_core.storage.options import StorageSettings

Plain: TypeAlias = Mapping[str, Any]
"""A recipe as plain values."""

OWN: Plain = attrs.asdict(RecipeSettings())
"""Top-level keys with a value of their own, and their defaults."""
SINGLE = (
    "first_stage",
    "stage_objective",
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


LISTS = {
    "auxiliary_losses": "auxiliary_loss",
    "conditioners": "conditioner",
    "adapters": "adapter",
    "observers": "observer",
    "metrics": "metric",
    "guides": "guidance",
}
"""Top-level keys with a list of components, and their kind."""


DEFAULTS: Mapping[str, Any] = {
    "first_stage": "identity",
    "stage_objective": "reconstruction",
    "auxiliary_losses": [],
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
    "metrics": [],
    "guides": [],
}


SECTIONS: Mapping[str, type] = {
    "data": DataSettings,
    "first_stage_trainer": FirstStageTrainerSettings,
    "trainer": TrainerSettings,
    "sample": SampleSettings,
    "storage": StorageSettings,
}


SAMPLING_KEYS = ("sample", "sampler", "guidance", "guides", "time_grid", "observers", "metrics", "storage")
"""Keys free to change without making another model of it."""

OBJECTIVE, _SECTION = "stage_objective", "first_stage_trainer"
_NAME = "adversarial"  # the one objective that there was
FORMER: Mapping[str, object] = {
    "pixel_loss": "l1",
    "lpips": "",
    "perceptual_weight": 1.0,
    "log_variance": False,
    "adversarial": True,
    "adversarial_start": None,
    "adversarial_start_share": None,
    "adversarial_weight": None,
    "discriminator_layers": None,
    "discriminator_width": 64,
    "discriminator_norm": "group",
    "r1_weight": 0.0,
    "r1_every": 16,
    "codebook_start": 0,
    "codebook_init_images": 256,
    "revive_every": 0,
    "fd_weights": "",
}
"""Settings of the objective that lay in ``first_stage_trainer`` before there was its kind, and their defaults."""

declare_sections(SECTIONS, {OBJECTIVE: FORMER})

SAME = {name: same_keys(section) for name, section in SECTIONS.items()}
"""Keys of the core's own :data:`SECTIONS` without effect on the training."""


LATER = {name: later_defaults(section) for name, section in SECTIONS.items()}
"""Keys of them missing from older recipes; their defaults hold there."""


def without_same(key: str, value: Any) -> Any:
    """The share of top-level key `key`'s plain value decisive for the trained model."""
    if key not in SECTIONS:
        return value
    later = LATER[key]
    return {k: v for k, v in value.items() if k not in SAME[key] and not (k in later and v == later[k])}


def without_same_fields(config: type, row: Mapping[str, object]) -> dict[str, object]:
    """The share of a part's plain values, of the class `config`, that is decisive for training by it.

    Of files that are known by their content, only the presence counts here.
    """
    whether = {f.name for f in attrs.fields(config) if f.metadata.get("place") == "whether"}
    out = {k: bool(v) if k in whether else v for k, v in row.items() if k not in same_keys(config)}
    for key, inner in inner_configs(config).items():
        if key in out and isinstance(value := row[key], Mapping):
            out[key] = without_same_fields(inner, value)
    return out


def renewed(plain: Plain) -> Plain:
    """`plain` with the settings of the objective in their place; they stand before those that are there already.

    A recipe of then that names no objective means the one that there was.
    """
    section = plain.get(_SECTION)
    found = {k: section[k] for k in FORMER if k in section} if isinstance(section, Mapping) else {}
    part = plain.get(OBJECTIVE) or {"use": _NAME}
    if isinstance(part, str):
        part = {"use": part}
    if not found or not isinstance(part, Mapping):
        return plain
    rest = {k: v for k, v in plain[_SECTION].items() if k not in found}
    return {**plain, _SECTION: rest, OBJECTIVE: {"use": _NAME, **part, **found}}


def use_of(part: object) -> str:
    """The name of the component of `part`, plain values or a bare name; "" without one."""
    return str(part.get("use", "")) if isinstance(part, Mapping) else str(part or "")


def as_before(plain: Plain, *, trained: bool) -> dict[str, Any]:
    """The plain values of a recipe in the form of then; what had no place there stays as it is.

    `trained`: the recipe trains a first stage. One that trains none had the settings all the same. Only the presence of
    LPIPS weights counts, and weights that only measure do not: they are left out.
    """
    out = dict(renewed(plain))
    part, section = out.get(OBJECTIVE), out.get(_SECTION)
    if not out.get("auxiliary_losses"):
        out.pop("auxiliary_losses", None)
    if not isinstance(part, Mapping) or not isinstance(section, Mapping):
        return out
    named = part.get("use") == _NAME
    if not named and (trained or part.get("use") != DEFAULTS[OBJECTIVE]):
        return out
    own = {k: part.get(k, default) if named else default for k, default in FORMER.items() if k != "fd_weights"}
    out[_SECTION] = {**section, **own, "lpips": bool(own["lpips"])}
    del out[OBJECTIVE]
    if named and (rest := {k: v for k, v in part.items() if k not in FORMER and k != "use"}):
        out[OBJECTIVE] = rest
    return out
