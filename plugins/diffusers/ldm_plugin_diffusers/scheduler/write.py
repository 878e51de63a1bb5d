"""The schedule, parameterization, sampler and time grid of a recipe as scheduler_config.json."""

from __future__ import annotations

from typing import Any

from ldm_core.errors import ConfigError
from ldm_plugin_diffusers.scheduler.keys import BETAS, CLASSES, OPTIONS, PLMS_MEANS, PREDICTIONS
from ldm_plugin_diffusers.values import Plain


def write_scheduler(recipe: Plain) -> tuple[dict[str, Any], list[str]]:
    """(scheduler_config.json, notes) of a complete recipe. ConfigError for a table or prediction without a name."""
    schedule, prediction = recipe["schedule"], recipe["parameterization"]["use"]
    kinds = {ours: theirs for theirs, ours in BETAS.items()}
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    problems = []
    if schedule["use"] != "vp" or schedule["kind"] not in kinds:
        what = f"schedule '{schedule['use']}'" + (f" of kind {schedule['kind']}" if "kind" in schedule else "")
        problems.append(f"{what} has no counterpart in diffusers; it can hold: vp of kind {', '.join(kinds)}")
    if prediction not in predictions:
        problems.append(
            f"parameterization '{prediction}' has no counterpart in diffusers; it can hold: {', '.join(predictions)}"
        )
    if problems:
        raise ConfigError(problems)
    notes: list[str] = []
    use = recipe["sampler"]["use"]
    names = {kind.sampler: name for name, kind in reversed(list(CLASSES.items()))}
    names["dpm_solver_pp_2m_sde"] = names["dpm_solver_pp_2m"]
    if use not in names:
        notes.append(f"sampler '{use}' is not among diffusers' schedulers; DDIMScheduler stands in its place")
    name = names.get(use, "DDIMScheduler")
    if name == "PNDMScheduler" and prediction != "eps":
        notes.append(f"sampler plms: {PLMS_MEANS}")
    has_rescaling = name not in ("HeunDiscreteScheduler", "PNDMScheduler", "LMSDiscreteScheduler")
    if schedule["zero_terminal"] and not has_rescaling:
        raise ConfigError(f"sampler {use} with schedule.zero_terminal: {name} has no such table; use ddim")
    return {
        "_class_name": name,
        "beta_start": schedule["beta_start"],
        "beta_end": schedule["beta_end"],
        "beta_schedule": kinds[schedule["kind"]],
        "num_train_timesteps": schedule["steps"],
        "prediction_type": predictions[prediction],
        "trained_betas": None,
        **({"rescale_betas_zero_snr": schedule["zero_terminal"]} if has_rescaling else {}),
        **_options(recipe["sampler"], name),
        **_grid(recipe["time_grid"], name, notes),
    }, notes


def _options(sampler: Plain, name: str) -> dict[str, Any]:
    kind = CLASSES[name]
    needed = {
        key: value
        for use, key, value, ours in reversed(OPTIONS)
        if use == kind.sampler and ours.items() <= sampler.items()
    }
    return {**kind.written, **needed}


def _grid(grid: Plain, name: str, notes: list[str]) -> dict[str, Any]:
    use = grid["use"]
    final = CLASSES[name].final
    if use in ("leading", "legacy"):
        first = use == "legacy" or grid["final"] == "first"
        if first and not final:
            notes.append(f"time_grid: {name} ends at data, and not at the table's first entry")
        offset = 1 if use == "legacy" else grid["offset"]
        return {"timestep_spacing": "leading", "steps_offset": offset, **({final: not first} if final else {})}
    out = {"steps_offset": 0, **({final: True} if final else {})}
    if use == "karras" and name not in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"):
        return {**out, "use_karras_sigmas": True, "timestep_spacing": "linspace"}
    if use == "linspace":
        notes.append(f"time_grid: of linspace {name} makes other steps than this package, for lack of whole numbers")
    elif use != "trailing":
        notes.append(f"time_grid '{use}' is not among {name}'s spacings; trailing stands in its place")
    return {**out, "timestep_spacing": use if use in ("trailing", "linspace") else "trailing"}
