"""scheduler_config.json as the schedule, parameterization, sampler and time grid of a recipe."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ldm_core.errors import ConfigError
from ldm_plugin_diffusers.scheduler.keys import (
    BETAS,
    CLASSES,
    EXPRESSED,
    IDLE,
    OPTIONS,
    PLMS_MEANS,
    PREDICTIONS,
    Scheduler,
)
from ldm_plugin_diffusers.values import Plain, Values, shown

TABLE = 100_000
"""Steps of the longest table read; published ones have 1000."""


def read_scheduler(plain: Plain, where: str, chosen: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """(recipe keys, notes) of a scheduler. `chosen`: keys from the user, with precedence over the scheduler's.

    ConfigError for an unknown schedule or prediction; for a way to sample, unless a sampler was chosen.
    """
    name = plain.get("_class_name")
    kind = CLASSES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(
            f"{where}: _class_name is {shown(name)}; this package's parts can express: {', '.join(CLASSES)}"
        )
    values = Values(plain, where)
    out: dict[str, Any] = {"schedule": _schedule(values, kind)}
    prediction = values.choice("prediction_type", "epsilon", list(PREDICTIONS))
    out["parameterization"] = {"use": PREDICTIONS[prediction]}
    notes = [f"{where}: {kind.note}; {kind.sampler} stands in its place"] if kind.note else []
    if kind.sampler == "plms" and prediction != "epsilon":
        notes.append(f"{where}: {PLMS_MEANS}")
    bad: list[str] = []
    out["sampler"] = _sampler(values, kind, bad)
    out["time_grid"] = _grid(values, kind, notes)
    values.ignore(*IDLE)
    if "sampler" in chosen:
        notes += bad
    else:
        values.problems += [f"{line}; or choose a sampler yourself: sampler=ddim" for line in bad]
    values.finish()
    return out, notes


def _schedule(values: Values, kind: Scheduler) -> dict[str, Any]:
    how = values.choice("beta_schedule", "linear", list(BETAS))
    start, end = (
        values.number(key, default) for key, default in zip(("beta_start", "beta_end"), kind.betas, strict=True)
    )
    values.only(trained_betas=None)
    out: dict[str, Any] = {"use": "vp", "kind": BETAS[how]}
    if not 0 < start <= end < 1:
        values.say("beta_start", f"expected 0 < beta_start <= beta_end < 1; beta_end is {end}")
    elif out["kind"] != "cosine":  # a cosine table reads neither
        out |= {"beta_start": start, "beta_end": end}
    out["steps"] = values.whole("num_train_timesteps", 1000, most=TABLE)
    out["zero_terminal"] = values.flag("rescale_betas_zero_snr", False)
    return out


def _sampler(values: Values, kind: Scheduler, bad: list[str]) -> dict[str, Any]:
    if values.flag("clip_sample", kind.clips):
        bad.append(f"{values.where}: clip_sample is true; this package's samplers can express: false")
    out: dict[str, Any] = {"use": kind.sampler}
    if kind.sampler == "plms" and not values.flag("skip_prk_steps", False):
        bad.append(f"{values.where}: skip_prk_steps is false; this package's plms begins as if it were true")
    for key, allowed in EXPRESSED.items():
        value = values.get(key)
        if value is None or value in allowed:
            continue
        options = (ours for use, option, its, ours in OPTIONS if (use, option) == (kind.sampler, key) and its == value)
        ours = next(options, None)
        if ours is not None:
            out |= ours
        else:
            words = ", ".join("null" if v is None else str(v) for v in allowed)
            bad.append(f"{values.where}: {key} is {shown(value)}; this package's samplers can express: {words}")
    return out


def _grid(values: Values, kind: Scheduler, notes: list[str]) -> dict[str, Any]:
    where = values.where
    spacing = values.choice("timestep_spacing", kind.spacing, ("leading", "trailing", "linspace"))
    offset = values.whole("steps_offset", 0, least=0, most=TABLE)
    at_data = values.flag(kind.final, kind.ends_at_data) if kind.final else True
    values.ignore("set_alpha_to_one")
    if values.flag("use_karras_sigmas", False):
        notes.append(f"{where}: use_karras_sigmas: the grid karras, whose ends are the table's")
        return {"use": "karras"}
    if spacing == "leading" and not offset and not at_data:
        notes.append(
            f"{where}: set_alpha_to_one is false with steps_offset 0: the last of its steps changes nothing; "
            "ours goes on to the data"
        )
        at_data = True
    if spacing == "leading":
        return {"use": "leading", "offset": offset, "final": "data" if at_data else "first"}
    if not at_data:
        notes.append(f"{where}: set_alpha_to_one is false with timestep_spacing {spacing}; ours ends at the data")
    if spacing == "linspace":
        notes.append(
            f"{where}: timestep_spacing linspace: its steps lie between the table's entries or at entries of their "
            "own; ours are rounded to entries"
        )
    return {"use": spacing}
