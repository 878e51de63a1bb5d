"""The sampling of CompVis' own scripts, by the kind of model: their defaults. No torch.

Facts from scripts/txt2img.py, sample_diffusion.py, inpaint.py and knn2img.py, the notebooks of ImageNet and
super-resolution, Stability's txt2img.py and gradio/inpainting.py; of layouts and label maps, without a script, from
training's pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_KINDS: Mapping[str, tuple[int, float, float | None]] = {
    "": (50, 1.0, None),
    "class_label": (20, 0.0, 3.0),
    "text": (200, 0.0, 5.0),
    "clip_text": (50, 0.0, 7.5),
    "clip_text 2": (50, 0.0, 9.0),
    "clip_text masked_image": (45, 1.0, 10.0),
    "masked_image": (50, 0.0, None),
    "low_resolution": (100, 1.0, None),
    "embedding": (50, 0.0, 5.0),
    "bbox_layout": (200, 1.0, None),
    "semantic_map": (200, 1.0, None),
}
"""Conditioners -> steps, eta and the scale of guidance (None: without)."""


def _guided(rows: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> bool:
    """True if a model was trained without its condition too, as far as its recipe says: a table of classes needs a row
    for none, and one of our own runs a share of examples without."""
    trained = rows[0].get("dropout", 1) or recipe.get("trainer", {}).get("joint_dropout", 0)
    return rows[0].get("null_class") is not False and bool(trained)


def conventions(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of sampling for a model, from its plain recipe; empty for one unknown to the scripts.

    DDIM on the legacy grid, with as many steps as it makes of a number not dividing the table, and pictures with cut
    levels.
    """
    rows = recipe.get("conditioners", [])
    name = " ".join(row["use"] for row in rows)
    if name == "clip_text" and rows[0].get("activation") == "gelu":
        name += " 2"
    if name not in _KINDS or recipe["schedule"]["use"] != "vp":
        return {}
    steps, eta, scale = _KINDS[name]
    if scale is not None and not _guided(rows, recipe):
        scale = None
    return {
        "sampler": {"use": "ddim", "eta": eta},
        "time_grid": {"use": "legacy", "uneven": True},
        "guidance": {"use": "none"} if scale is None else {"use": "cfg", "scale": scale},
        "sample": {"steps": steps, "levels": "cut", "seams": "none"},
    }
