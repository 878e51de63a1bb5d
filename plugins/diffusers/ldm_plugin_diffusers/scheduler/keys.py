"""Schedulers under both names: classes, tables, predictions, and the options of each sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_plugin_diffusers.values import Plain

BETAS = {"linear": "sqrt_linear", "scaled_linear": "linear", "squaredcos_cap_v2": "cosine"}
"""Their beta_schedule -> the kind of our schedule `vp`."""
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
"""Their prediction_type -> our parameterization."""


@attrs.frozen(kw_only=True)
class Scheduler:
    """A scheduler's class: our `sampler` and the defaults of its config.

    `final` is the key for where it ends; a class without one ends at data. `written`: options of a config for our
    sampler's defaults. `note`: for the user.
    """

    sampler: str
    betas: tuple[float, float] = (0.0001, 0.02)
    spacing: str = "leading"
    clips: bool = False
    final: str = ""
    ends_at_data: bool = True
    written: Plain = attrs.field(factory=dict)
    note: str = ""


_UNCLIPPED = {"clip_sample": False, "thresholding": False}
CLASSES: Mapping[str, Scheduler] = {
    "DDPMScheduler": Scheduler(sampler="ddpm", clips=True, written={**_UNCLIPPED, "variance_type": "fixed_small"}),
    "DDIMScheduler": Scheduler(sampler="ddim", clips=True, final="set_alpha_to_one", written=_UNCLIPPED),
    "PNDMScheduler": Scheduler(
        sampler="plms", final="set_alpha_to_one", ends_at_data=False, written={"skip_prk_steps": True}
    ),
    "EulerDiscreteScheduler": Scheduler(sampler="euler", spacing="linspace"),
    "EulerAncestralDiscreteScheduler": Scheduler(sampler="euler_ancestral", spacing="linspace"),
    "HeunDiscreteScheduler": Scheduler(sampler="heun", betas=(0.00085, 0.012), spacing="linspace"),
    "DPMSolverMultistepScheduler": Scheduler(
        sampler="dpm_solver_pp_2m",
        spacing="linspace",
        written={"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"},
    ),
    "UniPCMultistepScheduler": Scheduler(
        sampler="unipc", spacing="linspace", written={"solver_order": 2, "solver_type": "bh2"}
    ),
    "LMSDiscreteScheduler": Scheduler(
        sampler="euler", spacing="linspace", note="linear multistep is not among this package's samplers"
    ),
}

PLMS_MEANS = "PNDMScheduler averages what the network predicts, this package's plms the eps that it means: other images"

OPTIONS: Sequence[tuple[str, str, Any, Plain]] = (
    ("ddpm", "variance_type", "fixed_large", {"variance": "large"}),
    ("ddpm", "variance_type", "fixed_large_log", {"variance": "large"}),
    ("dpm_solver_pp_2m", "algorithm_type", "sde-dpmsolver++", {"use": "dpm_solver_pp_2m_sde"}),
    ("unipc", "solver_order", 1, {"order": 1}),
    ("unipc", "solver_order", 3, {"order": 3}),
    ("unipc", "solver_type", "bh1", {"variant": "bh1"}),
    ("unipc", "lower_order_final", False, {"lower_order_final": False}),
)
"""(our sampler, their key, their value, our settings): values that need a setting of ours."""

EXPRESSED: Mapping[str, Sequence[Any]] = {
    **dict.fromkeys(("thresholding", "euler_at_final", "use_dynamic_shifting", "use_exponential_sigmas"), (False,)),
    **dict.fromkeys(("use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"), (False,)),
    "algorithm_type": ("dpmsolver++",),
    "solver_type": ("midpoint", "bh2"),
    "solver_order": (2,),
    "variance_type": ("fixed_small", "fixed_small_log"),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "final_sigmas_type": ("zero",),
    "lambda_min_clipped": (float("-inf"), "-Infinity", "-inf"),
    "disable_corrector": ([],),
    "predict_x0": (True,),
    "lower_order_final": (True,),
    "sigma_min": (None,),
    "sigma_max": (None,),
}
"""Keys for how a scheduler samples, with the values of our samplers."""

IDLE = (
    *("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "rho", "flow_shift", "time_shift_type"),
    *("solver_p", "timestep_values", "tensor_format", "clip_sample_coeff", "shift_terminal"),
)
"""Keys without influence while the others have the values above."""
