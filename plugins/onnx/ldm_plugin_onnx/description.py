"""The words and numbers in ``model.json``: all facts for a loop around the networks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldm_core.catalog import Catalog
from ldm_core.config.structure import unstructure
from ldm_core.contracts import Cond, FirstStage, grid_times
from ldm_core.contracts.answers import ScheduleAnswers
from ldm_core.contracts.configs import of
from ldm_core.data.inputs.forms import form_of
from ldm_core.model.build import make_sampling, sampling_site
from ldm_core.model.diffusion import Model
from ldm_core.recipe.recipe import Part, Recipe
from ldm_plugin_onnx.inner import Inner

_CONTINUOUS = 1000  # points of the table of a schedule that is none
_LIST, _BREAK = re.compile(r"\[\n[^\[\]{}]*?\n\s*\]"), re.compile(r"\n\s*")  # no string holds a line's end
_SHOWN = 128  # numbers of an example
_MEANING = {
    "x_t": "alpha x0 + sigma eps; eps is standard normal",
    "x0": "c_skip x_t + c_out f, with f = denoiser(x = c_in x_t, noise_level, conditions) and its first channels alone",
    "start": "standard normal numbers times sqrt(alpha² + sigma²) at the first of `times`",
}


def as_json(plain: Mapping[str, Any]) -> bytes:
    """A JSON file, lists of numbers and words on one line each."""
    text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=False)
    return (
        _LIST.sub(lambda found: _BREAK.sub(" ", found[0]).replace("[ ", "[").replace(" ]", "]"), text) + "\n"
    ).encode()


def of_stage(recipe: Recipe, stage: FirstStage) -> dict[str, Any]:
    """The facts on a first stage."""
    state = {k: v for k, v in stage.state_dict().items() if k in ("latent_mean", "latent_std")}  # type: ignore[attr-defined]
    return {
        "format": "ldm-onnx 1",
        "pictures": {"channels": recipe.image_channels, "size": list(recipe.image_size), "range": [-1, 1]},
        "latents": {
            "channels": stage.latent.channels,
            "stride": list(stage.latent.stride),
            "size": list(stage.latent.shape(recipe.image_size)),
            "normalisation": "inside of encoder and decoder: (raw - mean) / std",
            **{name.removeprefix("latent_"): _numbers(value) for name, value in state.items()},
        },
        "recipe": recipe.carried(),
    }


def of_model(recipe: Recipe, stage: FirstStage, model: Model, catalog: Catalog) -> dict[str, Any]:
    """The facts on a whole model but its conditioners."""
    parts = make_sampling(recipe, catalog, sampling_site(recipe, stage))
    shape = recipe.first_stage.config.latent.shape(recipe.image_size)
    times = grid_times(parts.time_grid, model.schedule, recipe.sample.steps, shape)
    table = of(ScheduleAnswers, model.schedule).table_steps
    every = torch.arange(1, table + 1) if table else torch.linspace(0, 1, _CONTINUOUS + 1)[1:] * model.schedule.t_max
    return {
        **of_stage(recipe, stage),
        "schedule": _named(recipe.schedule),
        "parameterization": _named(recipe.parameterization),
        "guidance": [_named(part) for part in recipe.guidances],
        "sampler": {**_named(recipe.sampler), "steps": recipe.sample.steps},
        "meaning": _MEANING,
        "times": _coefficients(model, times),
        "table": _coefficients(model, every),
        "conditioners": {},
    }


def of_graph(file: str, graph: Any) -> dict[str, Any]:
    """File, arguments and results of a network, with the sizes of their axes, or the names of open ones."""
    puts = {"inputs": graph.graph.input, "outputs": graph.graph.output}
    rows = {what: {put.name: _form(put.type.tensor_type) for put in found} for what, found in puts.items()}
    return {"file": file, **rows}


def of_conditioner(recipe: Recipe, name: str, module: nn.Module, cond: Cond, inner: Inner | None) -> dict[str, Any]:
    """The inputs and results of a conditioner, and its work outside of any network."""
    (part,) = (each for each in recipe.conditioners if each.name == name)
    forms = {key: form_of(recipe, key) for key in part.config.reads}
    row: dict[str, Any] = {
        "use": part.use,
        "reads": {key: form.words for key, form in forms.items()},
        "writes": {key: list(value.shape[1:]) for key, value in cond.flat().items()},
        "settings": unstructure(part.config),
    }
    keys = ", ".join(part.config.reads)
    if inner is None:
        made = f"{', '.join(cond.flat())} is to be made of {keys} outside"
        learned = any(True for _ in module.parameters())
        row["outside"] = f"its network is no single call of tensors; {made}" if learned else f"has no network; {made}"
        return row
    row["network"] = f"conditioner_{name}"
    row["outside"] = f"{', '.join(inner.arguments)} of its network is to be made of {keys} outside"
    row["shape"] = [inner.part, *inner.shape]
    if all(value.numel() <= _SHOWN for value in inner.arguments.values()):
        shown = {key: form.example for key, form in forms.items()}
        row["example"] = {"of": shown, **{key: value[0].tolist() for key, value in inner.arguments.items()}}
    return row


def joins(recipe: Recipe) -> str:
    """The way in which the bundles of several conditioners become one."""
    specs = [part.config.spec(recipe.first_stage.config.latent) for part in recipe.conditioners]
    if any(spec.crossattn and (spec.join != "length" or spec.pad_to) for spec in specs):
        return "tokens that join by width stand side by side along the last axis, with zeros up to pad_to; see settings"
    return "crossattn, vector and concat of all follow each other along axis 1, in this order"


def _named(part: Part) -> dict[str, Any]:
    return {"use": part.use, **unstructure(part.config)}


def _coefficients(model: Model, times: Tensor) -> dict[str, list[float | None]]:
    """Everything at each of `times`, in columns."""
    t = times.double()
    c_skip, c_out, c_in = model.coefficients(t)
    columns: Mapping[str, Tensor] = {
        "t": t,
        "alpha": model.schedule.alpha(t),
        "sigma": model.schedule.sigma(t),
        "noise_level": model.schedule.noise_level(t),
        "c_skip": c_skip,
        "c_out": c_out,
        "c_in": c_in,
    }
    return {name: _numbers(column) for name, column in columns.items()}


def _numbers(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.double().flatten().tolist()]


_TYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 11: "float64"}
"""ONNX's numbers of types."""


def _form(kind: Any) -> dict[str, Any]:
    shape = [axis.dim_param or axis.dim_value for axis in kind.shape.dim]
    return {"type": _TYPES.get(kind.elem_type, kind.elem_type), "shape": shape}
