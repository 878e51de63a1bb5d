"""The forms of conditioners' keys in words, for messages on missing inputs and for help. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ldm_core.contracts import ConditionerConfig, Config, GuidanceConfig, KeyForm, configs
from ldm_core.data.class_names import counts_of
from ldm_core.data.geometry import GEOMETRIES

NOUNS: Mapping[str, str] = {
    "caption": "a caption",
    "class_label": "a class",
    "boxes": "boxes",
    "box_labels": "the classes of the boxes",
    "segmentation": "a label map",
    "mask": "a mask",
    "image": "a picture",
    "embedding": "an embedding",
}
"""Names of the contents of known keys."""
_NOUNS = {"image": "a picture", "map": "a label map", "boxes": "boxes", "per_box": "values, one a box"}
_WORDS: Mapping[str, str] = {
    "class_label": "a name or a number",
    "boxes": "[x, y, w, h] each, in fractions of the picture, x and y of the upper left corner",
    "box_labels": "a name or number for each",
    "segmentation": "whole numbers, the class of each pixel",
    "mask": "white where the picture is to be filled",
    "embedding": "a vector of numbers, or several",
}


def form_of(recipe: Any, key: str) -> KeyForm:
    """The form of `key`: the words of the first of its conditioners with any, or those of a known key."""
    words, example = [_WORDS.get(key, "")], None
    if count := counts_of(recipe).get(key):
        words[0] += f", 0 to {count - 1}"
    taken = taken_sizes(recipe).get(key)
    if taken:
        words.append(f"a small one of {taken[0]}x{taken[1]} (height x width), or one that is made so small")
    for part in recipe.conditioners:
        if key in part.config.reads and (said := configs.of(ConditionerConfig, part.config).key_forms.get(key)):
            own = said.words
            words = [own] if own and key not in ("boxes", "box_labels") else [*words, own]
            example = said.example
            break
    return KeyForm("; ".join(filter(None, words)), example, geometries(recipe).get(key, ""))


def geometries(recipe: Any) -> dict[str, str]:
    """The geometries of keys, as the recipe's conditioners say them and beside the known ones."""
    forms = (configs.of(ConditionerConfig, part.config).key_forms for part in recipe.conditioners)
    return {key: form.geometry for own in forms for key, form in own.items() if form.geometry} | dict(GEOMETRIES)


def noun_of(key: str, geometry: str) -> str:
    """Name the contents of a key."""
    return NOUNS.get(key) or _NOUNS.get(geometry, "a value")


def lacking(recipe: Any, keys: Iterable[str]) -> str:
    """The line on missing inputs: the model's needs, their forms and readers."""
    said, given = [], []
    for key in dict.fromkeys(keys):
        form = form_of(recipe, key)
        words = form.words
        noun = noun_of(key, form.geometry)
        said.append(f"{noun} (key '{key}', read by {_readers(recipe, key)}{f'; {words}' if words else ''})")
        given.append(f"`inputs.{key}`")
    return f"this model needs {' and '.join(said)}: give {' '.join(given)}"


def _readers(recipe: Any, key: str) -> str:
    named = [f"'{part.name}'" for part in recipe.conditioners if key in part.config.reads]
    guides = [f"'{part.label}'" for part in recipe.guidances if key in configs.of(GuidanceConfig, part.config).reads]
    kinds = (("conditioner", named), ("guidance", guides))
    return " and ".join(f"{kind} {', '.join(names)}" for kind, names in kinds if names)


def taken_sizes(recipe: Any) -> dict[str, tuple[int, int]]:
    """Find the keys taken by all their readers at another size (h, w) than the images' as well.

    A small picture to enlarge has one.
    """
    latent, size = recipe.first_stage.config.latent, recipe.image_size
    found: dict[str, list[Any]] = {}
    for part in (*recipe.conditioners, *recipe.guidances):
        own = configs.of(Config, part.config).taken_sizes(size, latent)
        for key in configs.of(GuidanceConfig, part.config).reads:
            found.setdefault(key, []).append(own.get(key))
    return {key: sizes[0] for key, sizes in found.items() if sizes[0] and len(set(sizes)) == 1}
