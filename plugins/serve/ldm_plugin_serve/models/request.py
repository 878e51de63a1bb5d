"""A client's request to sample -> arguments of the sampler, checked. No torch."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from ldm_core.cli.inputs import name_classes
from ldm_core.config.structure import unstructure
from ldm_core.contracts import GuidanceConfig
from ldm_core.contracts.configs import of
from ldm_core.data.class_names import counts_of
from ldm_core.data.inputs.fitted import fit_all
from ldm_core.data.inputs.forms import geometries
from ldm_core.data.inputs.masks import holes
from ldm_core.errors import LDMError, suggest
from ldm_core.recipe.check import model_misfits, sampling_misfits
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.sizes import image_misfits
from ldm_core.sampling import settings as sampling
from ldm_core.sampling.inputs import negative_rows, rows_of
from ldm_core.sampling.pieces.enlarged import Enlarger
from ldm_plugin_serve.faults import Fault, of_error
from ldm_plugin_serve.limits import Limits
from ldm_plugin_serve.models import values
from ldm_plugin_serve.models.description import START, fills_holes, form_name, inputs_of, settings_of
from ldm_plugin_serve.models.shelf import Entry, Shelf

REQUEST = "request"
"""The key of a picture's request in its metadata."""
KEYS = ("model", "inputs", "settings", "preset", "format")
"""Keys of a request."""


@attrs.frozen(eq=False)
class Asked:
    """A checked request: images of one model with the inputs `row`, one for each of `seeds`."""

    entry: Entry
    row: Mapping[str, Any]
    seeds: list[int]
    steps: int
    guidance: float | None
    negative: str | None
    size: tuple[int, int]
    preset: str
    changes: Mapping[str, Any]
    """Settings of sampling other than the model's own."""
    start: np.ndarray | None
    strength: float
    whole: tuple[int, int] | None
    """The size of a picture to be enlarged whole, beyond the model's own."""
    rows: int
    """Rows of the network for an image at each step: two of a guidance with and without a condition."""
    said: Mapping[str, Any]
    """All settings as they are told to the client."""
    inputs: Mapping[str, Any]
    """The inputs as they came, for the metadata of pictures."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Requests of one key may be sampled together."""
        begun = None if self.start is None else self.strength
        same = (self.entry.id, id(self.entry), self.size, self.preset, repr(sorted(self.changes.items())))
        return (*same, self.whole, self.steps, self.guidance, self.negative is None, begun)


def asked(body: Any, shelf: Shelf, limits: Limits) -> Asked:
    """Check a request; :class:`Fault` names the first mistake, its place, the allowed values and the remedy."""
    body = _mapping(body, "", KEYS)
    entry, recipe = shelf.model(body.get("model", next(iter(shelf.entries)) if len(shelf.entries) == 1 else None))
    known = settings_of(recipe, shelf.catalog, limits)
    said = _mapping(body.get("settings"), "settings", known)
    if said.get("whole") is True:  # such a picture has a size of its own
        said.pop("size", None)
    keys = [one["key"] for one in inputs_of(entry, recipe, shelf.catalog, limits)]
    given = _mapping(body.get("inputs"), "inputs", keys)
    given = {key: value for key, value in given.items() if value is not None}
    preset = _preset(body.get("preset"), entry)
    if "mask" in given and START not in given and fills_holes(recipe, shelf.catalog):
        raise Fault("is painted over a picture, and none is given", "inputs.mask", fix=f"give inputs.{START}")
    filled = START in given and "mask" in given and fills_holes(recipe, shelf.catalog)
    changes = _changes(said, known, preset, filling=filled)
    try:
        chosen = sampling.with_settings(recipe, entry.presets[preset].settings, shelf.catalog) if preset else recipe
        if filled:
            changes["guides"] = {"blend": {}}
        chosen = sampling.with_settings(chosen, changes, shelf.catalog) if changes else chosen
        guidance = _number(said, "guidance", known)
        scaled = sampling.chosen(chosen, guidance, shelf.catalog)
        steps = _whole(said, "steps", known, min(chosen.sample.steps, limits.steps))
        sampling.require_steps(scaled, steps)
        sized = _sized(chosen, _size(said, recipe, limits))
    except LDMError as error:
        raise of_error(error, "settings") from None
    row, start, whole = _row(given, entry, sized, limits, whole=_whole_picture(said, known))
    if "guides" in changes and said.get("strength") is None:
        start = None  # the guidance keeps the known pixels; the hole is sampled from noise
    seeds = _seeds(said, known, limits)
    negative = None if said.get("negative") is None else values.text(said["negative"], "settings.negative", limits)
    _held(scaled, sized, row, negative)
    strength = _strength(said, known, steps, begun=start is not None)
    told = {
        "sampler": chosen.sampler.use, "grid": chosen.time_grid.use, "steps": steps,
        "guidance": of(GuidanceConfig, scaled.guidance.config).scale,
        "seed": seeds[0], "images": len(seeds), "size": list(whole or sized.image_size), "negative": negative,
        "strength": strength if start is not None else None, **({"whole": True} if whole else {}),
    }  # fmt: skip
    return Asked(
        entry=entry, row=row, seeds=seeds, steps=steps, guidance=guidance, negative=negative, size=sized.image_size,
        preset=preset, changes=changes, start=start, strength=strength, whole=whole, rows=_rows(scaled), said=told,
        inputs=given,
    )  # fmt: skip


def _rows(recipe: Recipe) -> int:
    """See :attr:`Asked.rows`."""
    config = recipe.guidance.config
    some_steps = unstructure(config).get("interval") is not None
    return 2 if of(GuidanceConfig, config).needs_null and not some_steps else 1


def _mapping(value: Any, where: str, known: Any) -> dict[str, Any]:
    """An object with known keys alone; none is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Fault("expected an object of keys and values", where or "body")
    for key in value:
        if key not in known:
            place = f"{where}.{key}" if where else str(key)
            raise Fault(f"unknown key{suggest(str(key), known)}", place, allowed=known)
    return dict(value)


def _preset(name: Any, entry: Entry) -> str:
    if name in (None, ""):
        return ""
    if not isinstance(name, str) or name not in entry.presets:
        raise Fault("this model has no such preset", "preset", allowed=entry.presets)
    return name


def _changes(said: Mapping[str, Any], known: Mapping[str, Any], preset: str, *, filling: bool) -> dict[str, Any]:
    """The sampler and the grid, if they are not the model's own; more of them where a hole is to be filled."""
    changes = {}
    for key, kind in (("sampler", "sampler"), ("grid", "time_grid")):
        value = said.get(key)
        if value is None:
            continue
        choices = [*known[key]["choices"], *(known[key].get("filling", ()) if filling else ())]
        if value not in choices:
            fix = f"give inputs.{START} and inputs.mask" if value in known[key].get("filling", ()) else ""
            raise Fault("is none of the choices", f"settings.{key}", allowed=choices, fix=fix)
        if preset or value != known[key]["default"]:
            changes[kind] = value
    return changes


def _whole(said: Mapping[str, Any], key: str, known: Mapping[str, Any], default: int) -> int:
    value = said.get(key)
    value = default if value is None else value
    low, high = known[key]["min"], known[key]["max"]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Fault(f"expected a whole number from {low} to {high}", f"settings.{key}", allowed=[low, high])
    return value


def _number(said: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> float | None:
    value = said.get(key)
    if value is None:
        return None
    low, high = known[key]["min"], known[key]["max"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Fault(f"expected a number from {low:g} to {high:g}", f"settings.{key}", allowed=[low, high])
    return float(value)


def _strength(said: Mapping[str, Any], known: Mapping[str, Any], steps: int, *, begun: bool) -> float:
    """The strength of a run from a picture; 1 without one."""
    strength = _number(said, "strength", known)
    if strength is not None and not begun:
        raise Fault("strength is for a picture to begin from", "settings.strength", fix=f"give inputs.{START}")
    if not begun:
        return 1.0
    strength = float(known["strength"]["default"]) if strength is None else strength
    if int(strength * steps) < 1:
        raise Fault(f"none of {steps} steps is left", "settings.strength", fix=f"give {1 / steps:.3g} or more")
    return strength


def _seeds(said: Mapping[str, Any], known: Mapping[str, Any], limits: Limits) -> list[int]:
    """The seed of each image: of a list, counted up from a number, or drawn."""
    given, most = said.get("seed"), known["seed"]["max"]
    listed = given if isinstance(given, list) else [] if given is None else [given]
    if any(isinstance(one, bool) or not isinstance(one, int) or not 0 <= one <= most for one in listed):
        raise Fault(f"expected a whole number from 0 to {most}, or a list of them", "settings.seed", allowed=[0, most])
    if isinstance(given, list):
        if not 0 < len(given) <= limits.images or said.get("images") not in (None, len(given)):
            raise Fault("expected one seed an image", "settings.seed", allowed=[1, limits.images])
        return listed
    count = _whole(said, "images", known, known["images"]["default"])
    first = listed[0] if listed else secrets.randbelow(1 << 31)
    return [(first + i) % (most + 1) for i in range(count)]


def _size(said: Mapping[str, Any], recipe: Recipe, limits: Limits) -> tuple[int, int]:
    value = said.get("size")
    value = list(recipe.image_size) if value is None else [value, value] if isinstance(value, int) else value
    fine = isinstance(value, list) and len(value) == 2
    if not fine or any(isinstance(n, bool) or not isinstance(n, int) or not 0 < n < 1 << 16 for n in value):
        raise Fault("expected [height, width] in pixels", "settings.size")
    if value[0] * value[1] > limits.pixels:
        raise Fault(f"more than {limits.pixels:,} pixels", "settings.size", fix="ask for a smaller picture")
    return value[0], value[1]


def _sized(recipe: Recipe, size: tuple[int, int]) -> Recipe:
    if size == recipe.image_size:
        return recipe
    made = attrs.evolve(recipe, image_size=size)
    if problems := [*model_misfits(made), *sampling_misfits(made), *image_misfits(made)]:
        raise Fault("; ".join(problems[:3]), "settings.size")
    return made


def _whole_picture(said: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """True if a picture to enlarge of another size than the model's is enlarged whole, and not fitted."""
    value = said.get("whole", "whole" in known and said.get("size") is None)
    if not isinstance(value, bool | None):
        raise Fault("expected true or false", "settings.whole", allowed=[True, False])
    return bool(value)


def _row(
    given: Mapping[str, Any], entry: Entry, recipe: Recipe, limits: Limits, *, whole: bool
) -> tuple[dict[str, Any], np.ndarray | None, tuple[int, int] | None]:
    """The inputs of an image, at the model's size unless one is enlarged `whole`; the picture to begin from; the size
    of an enlarged one."""
    kinds, row = geometries(recipe), dict[str, Any]()
    start = None
    if START in given and START not in recipe.inputs:
        start = values.picture(given[START], f"inputs.{START}", recipe.image_channels, limits)
    for key, value in given.items():
        if key not in (START, "mask") or (key == START and start is None):
            row |= _value(key, value, form_name(key, kinds.get(key, "")), recipe, limits)
    if "mask" in given:
        row |= _masked(given["mask"], row.get("image", start), recipe, limits)
        if start is not None and "image" not in row:
            row["image"] = start
    try:
        row = name_classes(row, entry.class_names, counts_of(recipe), entry.palettes)
        enlarger = Enlarger.of(recipe) if whole else None
        if enlarger is not None and enlarger.wants(row):
            way = enlarger.way(tuple(row[enlarger.key].shape[1:]))
            if way.size[0] * way.size[1] > limits.pixels:
                raise Fault(f"would become more than {limits.pixels:,} pixels", f"inputs.{enlarger.key}", status=413)
            return row, start, way.result
        return fit_all(row, recipe, kinds)[0], start, None
    except LDMError as error:
        raise of_error(error, "inputs", keys=recipe.inputs) from None


def _value(key: str, value: Any, form: str, recipe: Recipe, limits: Limits) -> dict[str, Any]:
    """The rows of one key by its form."""
    where = f"inputs.{key}"
    if form == "text":
        return {key: values.text(value, where, limits)}
    if form == "class":
        return {key: values.label(value, where)}
    if form == "boxes":
        return values.boxes(value, where, limits, labelled="box_labels" in recipe.inputs)
    if form == "image":
        return {key: values.picture(value, where, recipe.image_channels, limits)}
    if form == "label_map":
        return {key: values.label_map(value, where, recipe.image_size, limits)}
    return {key: values.numbers(value, where)}


def _masked(value: Any, picture: Any, recipe: Recipe, limits: Limits) -> dict[str, Any]:
    """The mask of a picture, of its size and with a hole."""
    size = recipe.image_size if picture is None else tuple(picture.shape[-2:])
    found = values.mask(value, "inputs.mask", size, limits)
    if found.shape[-2:] != size:
        raise Fault(
            f"the mask is {found.shape[-2]}x{found.shape[-1]} and the picture {size[0]}x{size[1]} (height x width)",
            "inputs.mask", fix="give both at one size",
        )  # fmt: skip
    if not holes(found).any():
        raise Fault("is empty, so that nothing is to be filled", "inputs.mask", fix="holes are white, 128 and above")
    return {"mask": found}


def _held(recipe: Recipe, sized: Recipe, row: Mapping[str, Any], negative: str | None) -> None:
    """Hold the inputs to the model's keys, as the library does."""
    made = attrs.evolve(recipe, image_size=sized.image_size)
    try:
        rows = rows_of(made, None, [row] if row else None, 1)
    except LDMError as error:
        raise of_error(error, "inputs", keys=recipe.inputs) from None
    if negative is not None:
        try:
            negative_rows(made, rows, negative)
        except LDMError as error:
            raise of_error(error, "settings.negative") from None
