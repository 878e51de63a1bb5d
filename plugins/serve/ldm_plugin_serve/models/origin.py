"""The model, the inputs and the settings of a picture, by its metadata: of this server, or of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ldm_core.config.documents import parse_json
from ldm_core.data import images
from ldm_core.errors import LDMError
from ldm_plugin_serve.faults import Fault
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.models import values
from ldm_plugin_serve.models.description import inputs_of, settings_of
from ldm_plugin_serve.models.request import REQUEST
from ldm_plugin_serve.models.shelf import Entry, Shelf

if TYPE_CHECKING:
    from ldm_core.recipe.recipe import Recipe

_CLASS = re.compile(r"(?:(.*?) \((\d{1,9})\)|(\d{1,9}))(?:, |$)")
"""``dog (1)``, or ``1`` of a class without a name."""
_KEPT = ("model", "inputs", "settings", "preset", "left_out")


def origin_of(data: bytes, shelf: Shelf, limits: Limits) -> dict[str, Any]:
    """The request to make a picture like this again; ``left_out`` names inputs too large for its metadata.

    :class:`Fault` for a picture without such metadata.
    """
    opened = images.open_picture(values.held(data, "picture", limits), "picture")
    if opened.format != "PNG":
        raise Fault("is no PNG; other formats carry no settings", "picture")
    try:
        metadata = images.png_metadata(data)
    except Exception:
        raise Fault("does not read", "picture") from None
    entry = _entry(metadata, shelf)
    said = _of_server(metadata) or _of_command(metadata, opened.size, entry)
    if not said:
        raise Fault("carries no settings of a sample", "picture")
    recipe = None if entry is None else entry.recipe
    if entry is None or recipe is None:
        return {**said, "model": None, "name": said.get("model")}
    return _known({**said, "model": entry.id}, entry, recipe, shelf, limits)


def _entry(metadata: Mapping[str, str], shelf: Shelf) -> Entry | None:
    """The served model with the weights of the picture."""
    weights = metadata.get("weights_sha256", "")
    return next((entry for entry in shelf.entries.values() if weights and entry.sha256 == weights), None)


def _of_server(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The request in the metadata, in its own words; empty without one."""
    try:
        said = parse_json(metadata.get(REQUEST, "null"), "picture")
    except LDMError:
        return {}
    if not isinstance(said, dict) or not isinstance(said.get("inputs"), dict):
        return {}
    if not isinstance(said.get("settings"), dict):
        return {}
    return {key: said[key] for key in _KEPT if key in said}


def _of_command(metadata: Mapping[str, str], size: tuple[int, int], entry: Entry | None) -> dict[str, Any]:
    """The same from the texts written by the library; pictures, masks and maps are known by hash alone."""
    if "software" not in metadata or "seed" not in metadata:
        return {}
    settings: dict[str, Any] = {"images": 1, "size": [size[1], size[0]]}
    for key in ("seed", "steps"):
        if metadata.get(key, "").isdecimal() and len(metadata[key]) < 17:
            settings[key] = int(metadata[key])
    for key, ours in (("sampler", "sampler"), ("grid", "time_grid"), ("negative", "negative")):
        if ours in metadata:
            settings[key] = metadata[ours]
    for key, text in (
        ("guidance", metadata.get("guidance", "").rpartition(" ")[2]),
        ("strength", metadata.get("strength")),
    ):
        if (number := _number(text)) is not None:
            settings[key] = number
    inputs: dict[str, Any] = {"caption": metadata["prompt"]} if metadata.get("prompt") else {}
    if match := _CLASS.fullmatch(metadata.get("class_label", "")):
        inputs["class_label"] = _label(match, entry, "class_label")
    if "boxes" in metadata:
        inputs["boxes"] = _boxes(metadata, entry)
    names = [key for key in ("image", "mask", "segmentation", "embedding") if key in metadata]
    names += ["init_image"] if "strength" in metadata else []
    return {"inputs": inputs, "settings": settings, **({"left_out": names} if names else {})}


def _label(match: re.Match[str], entry: Entry | None, key: str) -> str | int:
    names = [] if entry is None else list(entry.class_names.get(key, ()))
    return match[1] if match[1] in names else int(match[2] or match[3])


def _boxes(metadata: Mapping[str, str], entry: Entry | None) -> list[dict[str, Any]]:
    try:
        rows = parse_json(metadata["boxes"], "boxes")
    except LDMError:
        return []
    labels = [_label(match, entry, "box_labels") for match in _CLASS.finditer(metadata.get("box_labels", ""))]
    if not isinstance(rows, list) or (labels and len(labels) != len(rows)):
        return []
    return [{"box": box, **({"class": labels[i]} if labels else {})} for i, box in enumerate(rows)]


def _number(text: str | None) -> float | None:
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if abs(found) < 1e6 else None


def _known(said: dict[str, Any], entry: Entry, recipe: Recipe, shelf: Shelf, limits: Limits) -> dict[str, Any]:
    """The same with keys of the model alone."""
    keys = {one["key"] for one in inputs_of(entry, recipe, shelf.catalog, limits)}
    settings = settings_of(recipe, shelf.catalog, limits)
    said["inputs"] = {key: value for key, value in said["inputs"].items() if key in keys}
    said["settings"] = {key: value for key, value in said["settings"].items() if key in settings}
    if said.get("preset") not in entry.presets:
        said.pop("preset", None)
    return said
