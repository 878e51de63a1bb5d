"""scheduler_config.json: schedule, parameterization, sampler and time grid of a recipe, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from ldm_core.errors import ConfigError
from ldm_plugin_diffusers.values import Values, shown

_BETAS = {"linear": "sqrt_linear", "scaled_linear": "linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
TABLE = 100_000
"""Steps of the longest table that is read; published ones have 1000."""


@attrs.frozen(kw_only=True)
class _Kind:
    """A scheduler's class: our sampler, the defaults of its config, and whether it ends at data whatever is said."""

    sampler: str
    betas: tuple[float, float] = (0.0001, 0.02)
    spacing: str = "leading"
    clips: bool = False
    final: str = ""
    """The key that says where it ends; none: at data."""
    note: str = ""


_ABOUT_FLOAT = "its steps lie between the table's entries or at entries of their own; ours are rounded to entries"
_MEANS = "PNDMScheduler averages what the network predicts, this package's plms the eps that it means: other images"
_KINDS: Mapping[str, _Kind] = {
    "DDPMScheduler": _Kind(sampler="ddpm", clips=True),
    "DDIMScheduler": _Kind(sampler="ddim", clips=True, final="set_alpha_to_one"),
    "PNDMScheduler": _Kind(sampler="plms", final="set_alpha_to_one"),
    "EulerDiscreteScheduler": _Kind(sampler="euler", spacing="linspace"),
    "EulerAncestralDiscreteScheduler": _Kind(sampler="euler_ancestral", spacing="linspace"),
    "HeunDiscreteScheduler": _Kind(sampler="heun", betas=(0.00085, 0.012), spacing="linspace"),
    "DPMSolverMultistepScheduler": _Kind(sampler="dpm_solver_pp_2m", spacing="linspace"),
    "UniPCMultistepScheduler": _Kind(sampler="unipc", spacing="linspace"),
    "LMSDiscreteScheduler": _Kind(
        sampler="euler", spacing="linspace", note="linear multistep is not among this package's samplers"
    ),
}
# Keys that say how a scheduler samples, with the values that our samplers stand for; others are said.
_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    "thresholding": (False,),
    "algorithm_type": ("dpmsolver++",),
    "solver_type": ("midpoint", "bh2"),
    "solver_order": (2,),
    "variance_type": ("fixed_small", "fixed_small_log"),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "use_flow_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "euler_at_final": (False,),
    "final_sigmas_type": ("zero",),
    "lambda_min_clipped": (float("-inf"), "-Infinity", "-inf"),
    "disable_corrector": ([],),
    "predict_x0": (True,),
    "lower_order_final": (True,),
    "sigma_min": (None,),
    "sigma_max": (None,),
}
_IDLE = (
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "rho",
    "flow_shift",
    "time_shift_type",
    "solver_p",
    "timestep_values",
    "tensor_format",
    "clip_sample_coeff",
    "shift_terminal",
)


def read_scheduler(plain: Mapping[str, Any], where: str, chosen: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """(recipe keys, notes) of a scheduler. `chosen`: keys that the user gave, for which the scheduler is not asked.

    ConfigError where schedule or prediction cannot be expressed, or the way of sampling, unless a sampler was chosen.
    """
    name = plain.get("_class_name")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(
            f"{where}: _class_name is {shown(name)}; this package's parts can express: {', '.join(_KINDS)}"
        )
    values = Values(plain, where)
    out: dict[str, Any] = {"schedule": _schedule(values, kind)}
    prediction = values.choice("prediction_type", "epsilon", list(_PREDICTIONS))
    out["parameterization"] = {"use": _PREDICTIONS[prediction]}
    notes = [f"{where}: {kind.note}; {kind.sampler} stands in its place"] if kind.note else []
    if kind.sampler == "plms" and prediction != "epsilon":
        notes.append(f"{where}: {_MEANS}")
    bad: list[str] = []
    out["sampler"] = _sampler(values, kind, bad)
    out["time_grid"] = _grid(values, kind, bad, notes)
    values.ignore(*_IDLE)
    if bad and "sampler" not in chosen:
        values.problems += [f"{line}; or choose a sampler yourself: sampler=ddim" for line in bad]
    elif bad:
        notes += bad
    values.finish()
    return out, notes


def _schedule(values: Values, kind: _Kind) -> dict[str, Any]:
    how = values.choice("beta_schedule", "linear", list(_BETAS))
    start, end = (
        values.number(key, default) for key, default in zip(("beta_start", "beta_end"), kind.betas, strict=True)
    )
    values.only(trained_betas=None)
    out: dict[str, Any] = {"use": "vp", "kind": _BETAS[how]}
    if not 0 < start <= end < 1:
        values.say("beta_start", f"expected 0 < beta_start <= beta_end < 1; beta_end is {end}")
    elif how != "squaredcos_cap_v2":  # which reads neither
        out |= {"beta_start": start, "beta_end": end}
    out["steps"] = values.whole("num_train_timesteps", 1000, most=TABLE)
    out["zero_terminal"] = values.flag("rescale_betas_zero_snr", False)
    return out


def _sampler(values: Values, kind: _Kind, bad: list[str]) -> dict[str, Any]:
    if values.flag("clip_sample", kind.clips):
        bad.append(f"{values.where}: clip_sample is true; this package's samplers can express: false")
    out: dict[str, Any] = {"use": kind.sampler}
    if kind.sampler == "plms" and not values.flag("skip_prk_steps", False):
        bad.append(f"{values.where}: skip_prk_steps is false; this package's plms begins as if it were true")
    for key, allowed in _SAMPLING.items():
        value = values.get(key)
        if value is None or value in allowed:
            continue
        if key == "variance_type" and value in ("fixed_large", "fixed_large_log") and kind.sampler == "ddpm":
            out["variance"] = "large"
        elif key == "algorithm_type" and value == "sde-dpmsolver++":
            out["use"] = "dpm_solver_pp_2m_sde"
        elif key == "solver_order" and kind.sampler == "unipc" and value in (1, 3):
            out["order"] = value
        elif key == "solver_type" and kind.sampler == "unipc" and value == "bh1":
            out["variant"] = "bh1"
        elif key == "lower_order_final" and kind.sampler == "unipc" and value is False:
            out["lower_order_final"] = False
        else:
            words = ", ".join("null" if v is None else str(v) for v in allowed)
            bad.append(f"{values.where}: {key} is {shown(value)}; this package's samplers can express: {words}")
    return out


def _grid(values: Values, kind: _Kind, bad: list[str], notes: list[str]) -> dict[str, Any]:
    spacing = values.choice("timestep_spacing", kind.spacing, ("leading", "trailing", "linspace"))
    offset = values.whole("steps_offset", 0, least=0, most=TABLE)
    default = {"PNDMScheduler": False}.get(str(values.plain.get("_class_name")), True)
    at_data = values.flag(kind.final, default) if kind.final else True
    values.ignore("set_alpha_to_one")
    if values.flag("use_karras_sigmas", False):
        notes.append(f"{values.where}: use_karras_sigmas: the grid karras, whose ends are the table's")
        return {"use": "karras"}
    if spacing == "leading" and not offset and not at_data:
        notes.append(
            f"{values.where}: set_alpha_to_one is false with steps_offset 0: the last of its steps changes nothing; "
            "ours goes on to the data"
        )
        at_data = True
    if spacing == "leading":
        return {"use": "leading", "offset": offset, "final": "data" if at_data else "first"}
    if not at_data:
        notes.append(
            f"{values.where}: set_alpha_to_one is false with timestep_spacing {spacing}; ours ends at the data"
        )
    if spacing == "linspace":
        notes.append(f"{values.where}: timestep_spacing linspace: {_ABOUT_FLOAT}")
    return {"use": spacing}


# ------------------------------------------------------------------------------------------------- and out


def write_scheduler(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(scheduler_config.json, notes) of a complete recipe. ConfigError where table or prediction cannot be held."""
    schedule, prediction = recipe["schedule"], recipe["parameterization"]["use"]
    problems = []
    kinds = {ours: theirs for theirs, ours in _BETAS.items()}
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    if schedule["use"] != "vp" or schedule["kind"] not in kinds:
        what = f"schedule '{schedule['use']}'" + (f" of kind {schedule['kind']}" if "kind" in schedule else "")
        problems.append(f"{what} has no counterpart in diffusers; it can hold: vp of kind {', '.join(kinds)}")
    if prediction not in predictions:
        problems.append(
            f"parameterization '{prediction}' has no counterpart in diffusers; it can hold: {', '.join(predictions)}"
        )
    if problems:
        raise ConfigError(problems)
    use = recipe["sampler"]["use"]
    names = {kind.sampler: name for name, kind in reversed(list(_KINDS.items()))}
    names["dpm_solver_pp_2m_sde"] = names["dpm_solver_pp_2m"]
    notes = []
    if use not in names:
        notes.append(f"sampler '{use}' is not among diffusers' schedulers; DDIMScheduler stands in its place")
    name = names.get(use, "DDIMScheduler")
    if name == "PNDMScheduler" and prediction != "eps":
        notes.append(f"sampler plms: {_MEANS}")
    if name == "HeunDiscreteScheduler" and schedule["zero_terminal"]:
        raise ConfigError("sampler heun with schedule.zero_terminal: HeunDiscreteScheduler has no such table; use ddim")
    config: dict[str, Any] = {
        "_class_name": name,
        "beta_start": schedule["beta_start"],
        "beta_end": schedule["beta_end"],
        "beta_schedule": kinds[schedule["kind"]],
        "num_train_timesteps": schedule["steps"],
        "prediction_type": predictions[prediction],
        "trained_betas": None,
    }
    if name != "HeunDiscreteScheduler":
        config["rescale_betas_zero_snr"] = schedule["zero_terminal"]
    if name in ("PNDMScheduler", "LMSDiscreteScheduler") and config.pop("rescale_betas_zero_snr"):
        raise ConfigError(f"sampler {use} with schedule.zero_terminal: {name} has no such table; use ddim")
    config |= _words_of(recipe["sampler"], name)
    _write_grid(recipe["time_grid"], name, config, notes)
    return config, notes


def _words_of(sampler: Mapping[str, Any], name: str) -> dict[str, Any]:
    if name in ("DDIMScheduler", "DDPMScheduler"):
        out: dict[str, Any] = {"clip_sample": False, "thresholding": False}
        if name == "DDPMScheduler":
            out["variance_type"] = "fixed_large" if sampler.get("variance") == "large" else "fixed_small"
        return out
    if name == "PNDMScheduler":
        return {"skip_prk_steps": True}
    if name == "DPMSolverMultistepScheduler":
        kind = "sde-dpmsolver++" if sampler["use"].endswith("_sde") else "dpmsolver++"
        return {"algorithm_type": kind, "solver_order": 2, "solver_type": "midpoint"}
    if name == "UniPCMultistepScheduler":
        return {"solver_order": sampler.get("order", 2), "solver_type": sampler.get("variant", "bh2")}
    return {}


def _write_grid(grid: Mapping[str, Any], name: str, config: dict[str, Any], notes: list[str]) -> None:
    use = grid["use"]
    final = _KINDS[name].final
    if use in ("leading", "legacy"):
        first = use == "legacy" or grid["final"] == "first"
        config |= {"timestep_spacing": "leading", "steps_offset": 1 if use == "legacy" else grid["offset"]}
        if final:
            config[final] = not first
        elif first:
            notes.append(f"time_grid: {name} ends at data, and not at the table's first entry")
        return
    if final:
        config[final] = True
    config["steps_offset"] = 0
    if use == "karras" and name not in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"):
        config |= {"use_karras_sigmas": True, "timestep_spacing": "linspace"}
        return
    config["timestep_spacing"] = use if use in ("trailing", "linspace") else "trailing"
    if use not in ("trailing", "linspace"):
        notes.append(f"time_grid '{use}' is not among {name}'s spacings; trailing stands in its place")
    elif use == "linspace":
        notes.append(f"time_grid: of linspace {name} makes other steps than this package, for lack of whole numbers")
