"""Schedulers of diffusers as schedule, parameterization, sampler and time grid, and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers_models import CATALOG, UNCONDITIONAL
from ldm_plugin_diffusers.scheduler.read import read_scheduler
from ldm_plugin_diffusers.scheduler.write import write_scheduler

from ldm_core.errors import ConfigError
from ldm_core.recipe.resolve import resolve

diffusers = pytest.importorskip("diffusers")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def read(scheduler: Any, *chosen: str) -> tuple[dict[str, Any], list[str]]:
    import json

    plain = json.loads(scheduler.to_json_string())
    return read_scheduler(plain, "scheduler", chosen)


def parts(keys: dict[str, Any]) -> tuple[Any, Any]:
    """(schedule, time grid) of recipe keys, built."""
    from ldm_core.contracts import Site
    from ldm_core.model.parts import make

    recipe = resolve({**UNCONDITIONAL, **keys}, CATALOG)
    site = Site(size=(32, 32))
    return make(recipe.schedule, site, CATALOG), make(recipe.time_grid, site, CATALOG)


@pytest.mark.parametrize(
    "table",
    [
        SD,
        {},
        {"beta_schedule": "squaredcos_cap_v2"},
        {**SD, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {**SD, "num_train_timesteps": 200},
    ],
    ids=["stable_diffusion", "linear", "cosine", "zero_terminal", "short"],
)
def test_the_table_is_theirs(table: dict[str, Any]) -> None:
    theirs = diffusers.DDIMScheduler(**table, clip_sample=False)
    keys, notes = read(theirs)
    schedule, _ = parts(keys)
    assert not notes
    assert (schedule.alphas_cumprod.float() - theirs.alphas_cumprod).abs().max().item() < 2e-6
    assert keys["parameterization"]["use"] == ("v" if "prediction_type" in table else "eps")


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_the_steps_are_theirs(kind: str, spacing: str) -> None:
    theirs = getattr(diffusers, kind)(**SD, clip_sample=False, timestep_spacing=spacing, steps_offset=1)
    theirs.set_timesteps(20)
    keys, _ = read(theirs)
    schedule, grid = parts(keys)
    assert (grid.times(schedule, 20)[:-1] - 1).tolist() == theirs.timesteps.tolist()
    assert grid.times(schedule, 20)[-1].item() == 0.0


SAMPLERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_large"}, {"use": "ddpm", "variance": "large"}),
    ("DDIMScheduler", {"clip_sample": False}, {"use": "ddim"}),
    ("PNDMScheduler", {"skip_prk_steps": True}, {"use": "plms"}),
    ("EulerDiscreteScheduler", {}, {"use": "euler"}),
    ("EulerAncestralDiscreteScheduler", {}, {"use": "euler_ancestral"}),
    ("HeunDiscreteScheduler", {}, {"use": "heun"}),
    ("DPMSolverMultistepScheduler", {}, {"use": "dpm_solver_pp_2m"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {"use": "dpm_solver_pp_2m_sde"}),
    ("UniPCMultistepScheduler", {"solver_order": 3}, {"use": "unipc", "order": 3}),
    ("UniPCMultistepScheduler", {"solver_type": "bh1"}, {"use": "unipc", "variant": "bh1"}),
    ("UniPCMultistepScheduler", {"lower_order_final": False}, {"use": "unipc", "lower_order_final": False}),
]


@pytest.mark.parametrize(("kind", "settings", "sampler"), SAMPLERS, ids=[row[2]["use"] for row in SAMPLERS])
def test_each_sampler_there_and_back(kind: str, settings: dict[str, Any], sampler: dict[str, Any]) -> None:
    """What their class says by itself is read; what we write is made by their class and read to the same recipe."""
    theirs = getattr(diffusers, kind)(**SD, **settings, timestep_spacing="trailing")
    keys, _ = read(theirs)
    assert keys["sampler"] == sampler
    recipe = resolve({**UNCONDITIONAL, **keys}, CATALOG).plain()
    config, notes = write_scheduler(recipe)
    assert not notes
    made = getattr(diffusers, config["_class_name"]).from_config(config)
    assert not [key for key in config if not key.startswith("_") and key not in made.config]
    again, _ = read(made)
    for key in ("schedule", "parameterization", "sampler", "time_grid"):
        assert resolve({**UNCONDITIONAL, **again}, CATALOG).plain()[key] == recipe[key], key


def test_linear_multistep_is_said() -> None:
    keys, notes = read(diffusers.LMSDiscreteScheduler(**SD))
    assert keys["sampler"] == {"use": "euler"}
    assert any("multistep" in note for note in notes)


def test_karras_levels() -> None:
    keys, notes = read(diffusers.EulerDiscreteScheduler(**SD, use_karras_sigmas=True))
    assert keys["time_grid"] == {"use": "karras"}
    assert any("karras" in note for note in notes)
    config, _ = write_scheduler(resolve({**UNCONDITIONAL, **keys}, CATALOG).plain())
    assert config["use_karras_sigmas"] is True


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"clip_sample": True}, "clip_sample is True"),
        ({"thresholding": True}, "thresholding is True"),
        ({"algorithm_type": "sde-dpmsolver++"}, "algorithm_type is 'sde-dpmsolver++'"),  # of another class
        ({"trained_betas": [0.1, 0.2]}, "trained_betas is [0.1, 0.2]"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'"),
        ({"num_train_timesteps": -3}, "num_train_timesteps is -3"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps is 1000000000"),
        ({"beta_start": "nan"}, "beta_start is 'nan'"),
        ({"beta_end": 0.0001}, "beta_start"),
        ({"timestep_spacing": "even"}, "timestep_spacing is 'even'"),
        ({"steps_offset": -1}, "steps_offset is -1"),
        ({"something_new": 3}, "unknown key something_new"),
        ({"_class_name": "EDMEulerScheduler"}, "_class_name is 'EDMEulerScheduler'"),
        ({"_class_name": ["a"]}, "_class_name is ['a']"),
    ],
)
def test_what_cannot_be_expressed_is_named(settings: dict[str, Any], named: str) -> None:
    plain = {"_class_name": "DDIMScheduler", **SD, "clip_sample": False, **settings}
    with pytest.raises(ConfigError, match="scheduler") as raised:
        read_scheduler(plain, "scheduler", ())
    said = str(raised.value)
    assert named.lower() in said.lower()


def test_a_sampler_of_ones_own_makes_clipping_a_note() -> None:
    plain = {"_class_name": "DDIMScheduler", **SD, "clip_sample": True}
    _, notes = read_scheduler(plain, "scheduler", ["sampler"])
    assert any("clip_sample" in note for note in notes)


def test_a_last_step_that_changes_nothing() -> None:
    """offset 0 and no data: their last step stays at the first entry; here it goes on to the data, and is said."""
    keys, notes = read(diffusers.DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False))
    assert keys["time_grid"] == {"use": "leading", "offset": 0, "final": "data"}
    assert any("set_alpha_to_one" in note for note in notes)
    keys, notes = read(diffusers.PNDMScheduler(**SD, skip_prk_steps=True, timestep_spacing="trailing"))
    assert keys["time_grid"] == {"use": "trailing"}
    assert any("set_alpha_to_one" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schedule": {"use": "vp", "kind": "sqrt"}}, "kind sqrt"),
        ({"sampler": "heun", "schedule": {"use": "vp", "zero_terminal": True}, "parameterization": "v"}, "heun"),
    ],
)
def test_what_their_schedulers_cannot_hold(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        write_scheduler(resolve({**UNCONDITIONAL, **change}, CATALOG).plain())


def test_numbers_survive_writing_to_the_bit() -> None:
    recipe = resolve({**UNCONDITIONAL, "schedule": {"use": "vp", "beta_start": 0.0015, "beta_end": 0.0205}}, CATALOG)
    keys, _ = read_scheduler(write_scheduler(recipe.plain())[0], "scheduler", ())
    assert torch.equal(parts(keys)[0].alphas_cumprod, parts({"schedule": recipe.plain()["schedule"]})[0].alphas_cumprod)
