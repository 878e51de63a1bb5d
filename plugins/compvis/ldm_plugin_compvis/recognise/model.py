"""The recipe of a whole model, put together from the answers on its parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core.contracts.codec import overlay
from ldm_plugin_compvis.recognise import parts
from ldm_plugin_compvis.recognise.evidence import Answer, Evidence
from ldm_plugin_compvis.recognise.found import Found
from ldm_plugin_compvis.recognise.given import conditioner_named
from ldm_plugin_compvis.shapes.conditioner import ConditionerShapes


def found_model(seen: Evidence) -> Found:
    """The model of a file with a U-Net: recipe, settings said by nothing, and notes."""
    stored = parts.stored_schedule(seen)
    if stored.value is not None:
        hints = {k: v for k, v in seen.hints.recipe.items() if k != "schedule"}
        seen = attrs.evolve(seen, hints=attrs.evolve(seen.hints, recipe=hints))
    conditioner = parts.conditioner(seen)
    prediction = parts.parameterization(seen)
    answers = {
        "denoiser": parts.denoiser(seen),
        "conditioners": parts.conditioners(seen, conditioner),
        "schedule": _joined(stored, Answer() if stored.value is not None else parts.schedule(seen)),
        "parameterization": prediction,
        "image_size": parts.image_size(seen, _settled("parameterization", prediction, seen)),
    }
    recipe: dict[str, Any] = {}
    if seen.stage is not None:
        recipe |= {"image_channels": seen.stage.image_channels, "first_stage": parts.stage_recipe(seen.stage)}
    recipe |= {k: answer.value for k, answer in answers.items() if answer.value is not None}
    if seen.row:
        recipe["objective"] = {"use": "simple", "loss": seen.row.loss}
    # conditioners of a configuration are in the recipe by now
    hints = {k: v for k, v in seen.hints.recipe.items() if k != "conditioners"}
    recipe = overlay(overlay(recipe, hints), seen.given)
    scale = parts.scale_factor(seen)
    unknown = {k: v for answer in (*answers.values(), scale) for k, v in answer.unknown.items()}
    if seen.stage is None:
        unknown = {k: v for k, v in unknown.items() if k.startswith("denoiser")}
        recipe.pop("conditioners", None)  # their weights are not here
    notes = (note for answer in (*answers.values(), scale) for note in answer.notes)
    return Found(
        file=seen.file,
        layout=seen.layout,
        shapes=seen.shapes,
        unet=seen.unet,
        stage=seen.stage,
        conditioner=conditioner,
        what=_what(seen, conditioner),
        recipe=_counted(recipe, conditioner),
        unknown={k: v for k, v in unknown.items() if not _said(seen.given, k) or _beside(seen.given, k, v)},
        scale_factor=scale.value,
        notes=(*_origin(seen), *notes, *seen.hints.notes),
        class_names=seen.hints.class_names,
        # a tensor of the file under this switch alone; files that this package wrote before hold one without
        scale_by_std="scale_factor" in seen.shapes and (seen.hints.scale_by_std or not seen.hints.where),
    )


def _joined(first: Answer, second: Answer) -> Answer:
    value = second.value if first.value is None else first.value
    return Answer(value, second.unknown, first.notes + second.notes)


def _settled(key: str, answer: Answer, seen: Evidence) -> Any:
    """A part of the recipe with the configuration and the user's settings on top."""
    known = {} if answer.value is None else {key: answer.value}
    return overlay(overlay(known, seen.hints.recipe), seen.given).get(key, "")


def _origin(seen: Evidence) -> list[str]:
    """Notes on the source of settings beyond shapes."""
    notes = []
    if seen.hints.where:
        notes.append(f"settings that shapes do not say come from {seen.hints.where}")
    elif seen.row:
        notes.append(f"settings that shapes do not say are those of: {seen.row.what}")
    return [*notes, seen.row.hint] if seen.row and seen.row.hint else notes


def _what(seen: Evidence, conditioner: ConditionerShapes | None) -> str:
    if seen.row is not None:
        return seen.row.what if seen.stage is not None else f"U-Net of: {seen.row.what}"
    kind = "latent diffusion model" if seen.stage is not None else "U-Net of a latent diffusion model"
    by = f", {conditioner.use}" if conditioner is not None else ""
    return f"{kind} ({seen.unet.fields['channels']} channels{by})"


def _beside(given: Mapping[str, Any], path: str, candidates: Sequence[Any]) -> bool:
    """True if the user named conditioners, and none of the candidates."""
    return path == "conditioners" and bool(candidates) and not set(conditioner_named(given)) & set(candidates)


def _said(given: Mapping[str, Any], path: str) -> bool:
    """True if the user gave the setting at `path`; one of heads and head_channels is enough."""
    keys = path.split(".")
    node: Any = given
    for key in keys[:-1]:
        if isinstance(node, list | tuple):
            node = next((m for m in node if isinstance(m, Mapping) and key in (m.get("name"), m.get("use"))), {})
        else:
            node = node.get(key, {}) if isinstance(node, Mapping) else {}
    if path == "conditioners":
        return bool(conditioner_named(given)) or given.get(path) == []
    words = {"heads": ("heads", "head_channels")}.get(keys[-1], (keys[-1],))
    return isinstance(node, Mapping) and any(word in node for word in words)


def _counted(recipe: dict[str, Any], conditioner: ConditionerShapes | None) -> dict[str, Any]:
    """`recipe` with the number of classes by the table's rows and the word on the null class."""
    if conditioner is None or conditioner.use != "class_label":
        return recipe
    rows = conditioner.fields["classes"] + conditioner.fields["null_class"]
    counted = [
        {**row, "classes": rows - bool(row.get("null_class", True))}
        if isinstance(row, Mapping) and row.get("use") == "class_label"
        else row
        for row in recipe.get("conditioners", [])
    ]
    return {**recipe, "conditioners": counted}
