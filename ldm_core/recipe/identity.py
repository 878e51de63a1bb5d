"""The part of a recipe decisive for the trained model, for its hash."""

from __future__ import annotations

from typing import Any

from ldm_core.config.fields import later_defaults, same_keys
from ldm_core.recipe.keys import SECTIONS

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
