"""A model in words for its clients: its inputs, its settings, its parts. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ldm_core.contracts import ConditionerConfig, DenoiserConfig, GuidanceConfig
from ldm_core.contracts.configs import of
from ldm_core.contracts.values import SIZE_KEYS
from ldm_core.data.class_names import counts_of
from ldm_core.data.fit_notes import multiple_of
from ldm_core.data.inputs.forms import form_of, noun_of, taken_sizes
from ldm_core.errors import LDMError
from ldm_core.sampling.image_to_image import STRENGTH
from ldm_core.sampling.pieces.enlarged import Enlarger
from ldm_core.sampling.settings import with_settings
from ldm_plugin_serve.limits import Limits

if TYPE_CHECKING:
    from ldm_core.catalog import Catalog
    from ldm_core.recipe.recipe import Recipe
    from ldm_plugin_serve.models.shelf import Entry

START = "init_image"
"""The key of a picture to begin from."""
MOST_SEED = (1 << 53) - 1
"""The largest seed: still whole in JavaScript."""
_MOST_CLASSES = 2000
_UP_TO = re.compile(r"up to (\d{1,6})")
_MOST_GUIDANCE = 50.0
_FORMS = {"caption": "text", "class_label": "class", "segmentation": "label_map", "mask": "mask", "image": "image"}
_TASKS = {
    "boxes": "layout to image", "segmentation": "label map to image", "mask": "inpainting", "caption": "text to image",
    "class_label": "class to image",
}  # fmt: skip


def described(entry: Entry, catalog: Catalog, limits: Limits) -> dict[str, Any]:
    """The JSON document of one model."""
    recipe = entry.recipe
    loaded = entry.pipeline is not None
    if recipe is None:
        return {"id": entry.id, "name": entry.id, "ready": False, "loaded": False, "inputs": [], "settings": {}}
    return {
        "id": entry.id,
        "name": entry.id,
        "ready": True,
        "loaded": loaded,
        "task": task_of(recipe),
        "size": list(recipe.image_size),
        "size_multiple": multiple_of(recipe),
        "channels": recipe.image_channels,
        "inputs": list(inputs_of(entry, recipe, catalog, limits)),
        "settings": settings_of(recipe, catalog, limits),
        "presets": list(presets_of(entry, recipe, catalog)),
        "parts": parts_of(recipe),
        "weights_sha256": entry.sha256,
    }


def presets_of(entry: Entry, recipe: Recipe, catalog: Catalog) -> Iterator[dict[str, Any]]:
    """The presets of the weights, each with its settings in the words of ``settings``, and its figures."""
    for name, preset in entry.presets.items():
        made = with_settings(recipe, preset.settings, catalog)
        settings: dict[str, Any] = {"sampler": made.sampler.use, "grid": made.time_grid.use, "steps": made.sample.steps}
        if (scale := of(GuidanceConfig, made.guidance.config).scale) is not None:
            settings["guidance"] = scale
        about = preset.measured.in_words() if preset.measured else "not measured"
        yield {"name": name, "about": about, "settings": settings}


def task_of(recipe: Recipe) -> str:
    """The model's task in a few words."""
    if taken_sizes(recipe):
        return "super-resolution"
    return next((task for key, task in _TASKS.items() if key in recipe.reads), "unconditional")


def parts_of(recipe: Recipe) -> dict[str, Any]:
    """The names of its components."""
    single = ("first_stage", "denoiser", "schedule", "parameterization", "sampler", "time_grid", "guidance")
    return {key: getattr(recipe, key).use for key in single} | {
        "conditioners": [part.name for part in recipe.conditioners],
        "adapters": [part.name for part in recipe.adapters],
    }


def fills_holes(recipe: Recipe, catalog: Catalog) -> bool:
    """True of a model without a mask of its own, if the guidance ``blend`` is there to fill its pictures."""
    return "mask" not in recipe.inputs and "image" not in recipe.inputs and "blend" in catalog.names("guidance")


def form_name(key: str, geometry: str) -> str:
    """The form of a key on the wire."""
    if key in _FORMS:
        return _FORMS[key]
    return {"boxes": "boxes", "image": "image", "map": "label_map"}.get(geometry, "json")


def inputs_of(entry: Entry, recipe: Recipe, catalog: Catalog, limits: Limits) -> Iterator[dict[str, Any]]:
    """The entries of ``inputs``: keys read by conditioners and guidances, and a picture to begin from."""
    counts, taken = counts_of(recipe), taken_sizes(recipe)
    for key in recipe.inputs:
        if key == "box_labels" and "boxes" in recipe.inputs:
            continue  # they come with the boxes
        form = form_of(recipe, key)
        name = form_name(key, form.geometry)
        words = ": ".join(filter(None, [noun_of(key, form.geometry), form.words]))
        said: dict[str, Any] = {"key": key, "form": name, "required": key not in SIZE_KEYS, "help": words}
        said["example"] = _example(name) if form.example is None or name == "boxes" else form.example
        if name == "text" and key == "caption" and entry.prompt:
            said["example"] = entry.prompt
        if name == "text":
            said["max"] = limits.text
        if name in ("class", "label_map"):
            said["classes"] = _classes(entry, key, counts.get(key, 0) or _class_count(recipe, key))
        if name == "boxes":
            said["classes"] = _classes(entry, "box_labels", counts.get("box_labels", 0))
            said["labelled"] = "box_labels" in recipe.inputs
            most = _UP_TO.search(form.words)
            said["max"] = min(int(most[1]) if most else limits.boxes, limits.boxes)
        if name == "label_map":
            palette = entry.palettes.get(key)
            said["palette"] = [list(row) for row in palette.rows] if palette else None
            said["size"] = list(recipe.image_size)
        if name == "image":
            said["size"] = list(taken.get(key, recipe.image_size))
        if name == "mask":
            said["of"] = "image"
        yield said
    if not {"image", START} & set(recipe.inputs):
        words = "a picture to begin from; the setting strength is how much of it changes"
        yield {"key": START, "form": "image", "required": False, "help": words, "size": list(recipe.image_size),
               "example": None}  # fmt: skip
        if fills_holes(recipe, catalog):
            words = "a mask: white where the picture to begin from is to be filled; the rest is kept"
            yield {"key": "mask", "form": "mask", "of": START, "required": False, "help": words, "example": None}


def settings_of(recipe: Recipe, catalog: Catalog, limits: Limits) -> dict[str, Any]:
    """The entries of ``settings``, with default and bounds; those without a meaning for the model are left out."""
    guidance = of(GuidanceConfig, recipe.guidance.config)
    enlarges = Enlarger.of(recipe) is not None
    said: dict[str, Any] = {
        "sampler": {
            "default": recipe.sampler.use,
            "choices": choices(recipe, "sampler", catalog),
            "filling": choices(recipe, "sampler", catalog, filling=True) if fills_holes(recipe, catalog) else [],
        },
        "grid": {"default": recipe.time_grid.use, "choices": choices(recipe, "time_grid", catalog)},
        "steps": {"default": min(recipe.sample.steps, limits.steps), "min": 1, "max": limits.steps},
        "seed": {"default": None, "min": 0, "max": MOST_SEED},
        "images": {"default": 1 if enlarges else min(4, limits.images), "min": 1, "max": limits.images},
        "size": {
            "default": list(recipe.image_size),
            "multiple": multiple_of(recipe),
            "max_pixels": limits.pixels,
            "largest": _largest(recipe),
        },
    }
    if guidance.scale is not None:
        said["guidance"] = {"default": guidance.scale, "min": 0.0, "max": _MOST_GUIDANCE}
    if guidance.needs_null and "caption" in recipe.reads and _droppable(recipe, "caption"):
        said["negative"] = {"default": None, "max": limits.text}
    if enlarges:
        said["whole"] = {"default": True}
    if "image" not in recipe.inputs:
        said["strength"] = {"default": STRENGTH, "min": 0.01, "max": 1.0}
    return said


_known: dict[tuple[int, str, bool], tuple[Any, list[str]]] = {}


def choices(recipe: Recipe, kind: str, catalog: Catalog, *, filling: bool = False) -> list[str]:
    """The installed samplers or time grids fit for the model, its own first; `filling`: those fit for nothing but to
    fill holes of a picture."""
    known, found = _known.get((id(recipe), kind, filling), (None, []))
    if known is recipe:
        return found
    own = getattr(recipe, kind).use
    without = choices(recipe, kind, catalog) if filling else [own]
    guides: dict[str, Any] = {"guides": {"blend": {}}} if filling else {}
    fitting = [
        name for name in catalog.names(kind) if name not in without and _fits(recipe, {kind: name, **guides}, catalog)
    ]
    found = fitting if filling else [own, *fitting]
    if len(_known) > 256:
        _known.clear()
    _known[id(recipe), kind, filling] = recipe, found
    return found


def _fits(recipe: Recipe, settings: Mapping[str, Any], catalog: Catalog) -> bool:
    try:
        with_settings(recipe, settings, catalog)
    except LDMError:
        return False
    return True


def _droppable(recipe: Recipe, key: str) -> bool:
    return all(of(ConditionerConfig, part.config).droppable for part in recipe.conditioners if key in part.config.reads)


def _largest(recipe: Recipe) -> list[int] | None:
    """The denoiser's largest size, if it has one."""
    most = of(DenoiserConfig, recipe.denoiser.config).max_size
    stride = recipe.first_stage.config.latent.stride
    return None if most is None else [cells * step for cells, step in zip(most, stride, strict=True)]


def _classes(entry: Entry, key: str, count: int) -> list[str]:
    """The names of the classes, or their numbers."""
    names = [str(name) for name in entry.class_names.get(key, ())]
    return (names or [str(i) for i in range(count)])[:_MOST_CLASSES]


def _class_count(recipe: Recipe, key: str) -> int:
    counts = (of(ConditionerConfig, part.config).classes for part in recipe.conditioners if key in part.config.reads)
    return next((count for count in counts if isinstance(count, int) and count > 0), 0)


def _example(form: str) -> Any:
    return {
        "text": "a red circle",
        "class": 0,
        "boxes": [{"class": 0, "box": [0.1, 0.2, 0.4, 0.5]}],
        "label_map": [[0, 0], [0, 1]],
    }.get(form)
