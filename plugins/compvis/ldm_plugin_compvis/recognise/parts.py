"""The parts of a model's recipe, a function each: facts beyond shapes come from the evidence. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ldm_core.builtin.diffusion.config import VP_PRESETS
from ldm_plugin_compvis.layout import schedule_tables as schedules
from ldm_plugin_compvis.recognise.evidence import Answer, Evidence
from ldm_plugin_compvis.shapes import released
from ldm_plugin_compvis.shapes.autoencoder import AutoencoderShapes
from ldm_plugin_compvis.shapes.conditioner import ConditionerShapes

NAMES = {"clip_text": "text"}
"""Names of conditioners in a recipe, other than their component's."""
MASKED: Mapping[str, Any] = {"hole": 0.0, "outside": 0.0}
"""Settings of the masked picture read by Stable Diffusion's U-Net beside the text."""
RETRIEVED = "nix"
"""The condition in configurations of retrieval-augmented diffusion: vectors of length 1."""
_LONGEST_TABLE = 100_000
_SD2_PREDICTIONS = {"875000": "eps", "110000": "v"}
"""Predictions of the released Stable Diffusion 2.0 (base) and 2.1, by the training steps in their files."""


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` as a recipe file would hold them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def stage_recipe(stage: AutoencoderShapes) -> dict[str, Any]:
    """The first stage, by its preset if it is a released one."""
    return {"use": released.stage_row(stage) or stage.use, **plain(stage.fields)}


def denoiser(seen: Evidence) -> Answer:
    """The U-Net; shapes leave its attention heads open."""
    fields = dict(seen.unet.fields)
    said = seen.hints.recipe.get("denoiser", {})
    unknown = {}
    if seen.row is not None:
        config = seen.row.config
        fields |= {"attention": config.attention, "heads": config.heads, "head_channels": config.head_channels}
    elif not {"heads", "head_channels"} & set(said if isinstance(said, Mapping) else ()):
        unknown["denoiser.heads"] = seen.unet.possible_heads
    return Answer({"use": seen.row.unet if seen.row else "unet", **plain(fields)}, unknown)


def conditioner(seen: Evidence) -> ConditionerShapes | None:
    """The conditioner; of a U-Net with planes beside the latents and no conditioner's tensors, the released model's."""
    row, found = seen.row, seen.conditioner
    if found is None or row is None or seen.has_conditioner or seen.unet.crossattn:
        return found
    return ConditionerShapes(use=row.conditioner, fields=found.fields if "low" in row.conditioner else {})


def conditioners(seen: Evidence, found: ConditionerShapes | None) -> Answer:
    """The rows of the recipe's list, for the conditioner `found`."""
    unet, served = seen.unet, 0
    rows: list[Any] = []
    unknown: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if found is not None:
        row, unknown, notes = _conditioner_row(seen, found)
        rows.append(row)
        latent = unet.latent_channels
        if found.use == "clip_text" and unet.concat == latent + 1:
            rows.append({"use": "masked_image", "name": "masked_image", **MASKED})
            served = latent + 1
        else:
            served = _planes(found, latent)
    if unet.concat != served or unet.vector:
        what = f"{unet.concat} channels beside the latents" if unet.concat != served else "a vector"
        notes += (f"its U-Net reads {what}, which no conditioner that is installed with it gives",)
        unknown["conditioners"] = ()
    own = seen.hints.recipe.get("conditioners")
    return Answer(list(own), {}, notes) if isinstance(own, list) and own else Answer(rows, unknown, notes)


def _conditioner_row(
    seen: Evidence, found: ConditionerShapes
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The conditioner in the recipe, settings said by nothing, and notes."""
    fields = {**found.fields, **(seen.row.conditioning if seen.row else {})}
    if found.use == "clip_text":
        fields["train"] = False
    name = NAMES.get(found.use, found.use)
    row = {"use": found.use, "name": name, **plain(fields)}
    unknown: dict[str, Any] = {f"conditioners.{name}.{key}": values for key, values in found.asked.items()}
    if found.candidates:
        unknown["conditioners"] = found.candidates
    rows_of_table = found.fields.get("classes", 0) + found.fields.get("null_class", False)
    if found.use == "class_label" and rows_of_table not in (1000, 1001):
        unknown[f"conditioners.{name}.null_class"] = (True, False)
    if found.use != "embedding":
        return row, unknown, ()
    notes = ["the file has no encoder: the condition is given as vectors (conditioner embedding)"]
    if "normalize" not in row and seen.hints.cond_key == RETRIEVED:
        row["normalize"] = True
    elif "normalize" not in row:
        notes.append(
            "whether each vector is divided by its length is not known: it is taken as it is given; "
            "conditioners.embedding.normalize=true divides, as retrieval-augmented diffusion models have it"
        )
    return row, unknown, tuple(notes)


def _planes(found: ConditionerShapes, latent_channels: int) -> int:
    """Channels beside the latents given by a conditioner."""
    given = {
        "masked_image": latent_channels + 1,
        "low_resolution": found.fields.get("image_channels", 0),
        "semantic_map": found.fields.get("channels", 0),
    }
    return int(given.get(found.use, 0))


def stored_schedule(seen: Evidence) -> Answer:
    """The noise schedule of the file's own tables, preferred to a configuration beside it."""
    notes: tuple[str, ...] = ()
    for name, products in (("betas", False), ("alphas_cumprod", True)):
        shape = seen.shapes.get(name, ())
        if len(shape) == 1 and 0 < shape[0] <= _LONGEST_TABLE:
            table = [float(v) for v in seen.file.read(name).double().tolist()]
            if (found := schedules.schedule_of(table, products=products)) is not None:
                return Answer(found, notes=notes)
            notes += (f"no kind of schedule gives the stored {name}",)
    return Answer(notes=notes)


def schedule(seen: Evidence) -> Answer:
    """The noise schedule of a file without such tables."""
    if "schedule" in seen.hints.recipe:
        return Answer()
    return Answer(seen.row.schedule) if seen.row else Answer(unknown={"schedule": tuple(VP_PRESETS)})


def parameterization(seen: Evidence) -> Answer:
    """The network's prediction."""
    if "parameterization" in seen.hints.recipe:
        return Answer()
    if "v_pred" in seen.shapes:
        return Answer("v")
    if seen.row and seen.row.parameterization:
        return Answer(seen.row.parameterization)
    steps = seen.file.metadata.get("global_step", "")
    if seen.row and steps in _SD2_PREDICTIONS:
        known = _SD2_PREDICTIONS[steps]
        return Answer(known, notes=(f"step {steps} is that of the released model that predicts {known}",))
    return Answer(unknown={"parameterization": ("eps", "v") if seen.row else ("eps", "v", "x0")})


def image_size(seen: Evidence, prediction: Any) -> Answer:
    """Pixels of the images; `prediction`: the parameterization as far as it is known."""
    if "image_size" in seen.hints.recipe:
        return Answer()
    if seen.hints.latent_size and seen.stage is not None:
        size = [n * seen.stage.factor for n in seen.hints.latent_size]
        return Answer(size[0] if len(set(size)) == 1 else size)
    if seen.row and seen.row.image_size:
        return Answer(seen.row.image_size)
    if seen.row:  # Stable Diffusion 2: the model that predicts v was trained on larger pictures
        name = prediction.get("use", "") if isinstance(prediction, Mapping) else prediction
        return Answer(768 if name == "v" else 512)
    return Answer(unknown={"image_size": (256, 512, 768)})


def scale_factor(seen: Evidence) -> Answer:
    """The latents' factor."""
    if seen.config.scale_factor:
        return Answer(seen.config.scale_factor)
    said = seen.hints.scale_factor
    if seen.shapes.get("scale_factor") in ((), (1,)):
        value = float(seen.file.read("scale_factor").double().reshape(()).item())
        if said and math.isclose(said, value, rel_tol=1e-6):
            return Answer(said)  # the same number, and not rounded to single precision
        if 0 < value < math.inf:
            return Answer(value)
    if said:
        return Answer(said)
    if seen.row is not None:
        return Answer(seen.row.scale)
    if seen.stage is None:
        return Answer(1.0)
    if seen.stage.use == "vq_ae":
        return Answer(1.0, notes=("scale factor 1, as all released models on a codebook have",))
    return Answer(1.0, {"codec.scale_factor": (0.18215, 1.0)})
