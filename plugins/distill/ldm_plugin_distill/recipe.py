"""The recipe of a student: its teacher's, changed by the distillation. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ldm_core import storage
from ldm_core.api.run import Run
from ldm_core.catalog import Catalog
from ldm_core.errors import CheckpointError, ConfigError, quoted
from ldm_core.recipe import artifacts
from ldm_core.recipe.keys import use_of
from ldm_core.recipe.rows import by_name, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ldm_core.api.recipe import Recipe as Plain
    from ldm_core.recipe.recipe import Recipe

METHODS = ("consistency", "progressive", "adversarial")
LEVELS = 50
"""Levels of a consistency distillation."""
HALVINGS = 3
"""Halvings of a progressive distillation."""
SHARE = 4
"""The teacher's steps of training for each of the student's."""
RATE = 0.1
"""The student's learning rate, as a share of the teacher's; a low-rank part begins at 0 and learns at the teacher's."""
ADVERSARIAL_RATE = 0.2
"""The same of an adversarial distillation."""
PART = "few_steps"
"""The name of a low-rank student among the adapters, and of its file."""
INPUT = "guidance_scale"
"""The name among the adapters of the part that tells the network the scale."""
_AVERAGED = 0.02  # the length of the student's average, as a share of its training


def student(
    run: str | os.PathLike[str],
    *settings: str,
    steps: int = 4,
    method: Literal["consistency", "progressive", "adversarial"] = "consistency",
    rank: int | None = None,
    **parts: Any,
) -> Plain:
    """The recipe of a model of `steps` steps, to learn from the model of the run in the folder `run`.

    Architecture, data, schedule and parameterization are the teacher's, as are the first weights; its classifier-free
    guidance is folded in, its conditioners stay as they are. With a `rank` a low-rank change of the weights learns:
    the adapter `few_steps`, which has a file of its own. `settings` (``KEY=VALUE``) and `parts` (by key) go on top, as
    :meth:`ldm_core.Recipe.changed` takes them. With a range of scales among them the scale becomes an input of the
    network. ConfigError without a run, CheckpointError without a trained model.
    """
    from ldm_core.api.recipe import Recipe

    if method not in METHODS:
        raise ConfigError(f"method: expected one of {', '.join(METHODS)}, got {quoted(method)}")
    if steps < 1:
        raise ConfigError(f"steps: expected 1 or more, got {steps}")
    teacher = Run.open(run)
    url = storage.join(teacher.folder, artifacts.MODEL_FILE)
    if not storage.exists(url) or not storage.exists(storage.join(teacher.folder, artifacts.STAGE_FILE)):
        raise CheckpointError(
            f"{storage.shown(teacher.folder)}: its model is not trained to its end ({artifacts.MODEL_FILE} and "
            f"{artifacts.STAGE_FILE} are not both there), so there is nothing to distil; go on with that run first"
        )
    plain = teacher.recipe.values()
    scale = _scale(plain.get("guidance"))
    for key in ("stage_objective", "auxiliary_losses", "first_stage_trainer", "guides"):
        plain.pop(key, None)  # of the first stage's training; of sampling with guidance
    sampling = _sampling(method, steps)
    objective = {"use": method, "teacher": teacher.folder, "scale": scale, **sampling.pop("objective")}
    rates = plain.get("trainer") or {}
    rate = ADVERSARIAL_RATE if method == "adversarial" else RATE
    trainer = {**_trainer(rates, teacher.folder, rate), **sampling.pop("trainer", {})}
    stage = {"weights": teacher.folder}
    plain.update(sampling, objective=objective, trainer=trainer, guidance="none", first_stage=stage)
    plain["conditioners"] = [{**_row(row), "train": False, "dropout": 0.0} for row in plain.get("conditioners") or ()]
    plain["sample"] = {**(plain.get("sample") or {}), "steps": steps}
    if rank is not None:
        fixed = [{**_row(row), "train": False} for row in _adapters(plain)]
        plain["adapters"] = [*fixed, {"use": "low_rank", "name": PART, "rank": rank}]
        own = {key: value for key, value in rates.items() if key == "lr"}
        plain["trainer"] = {**plain["trainer"], "train": "adapters", **own}
    made = Recipe(plain).changed(*settings, **parts)
    free = {"time_grid", "sampler", "guidance"} - {*parts, *map(_key, settings)}
    return made.changed(**_fitting(made.values(), free), **_with_input(made.values(), free, scale))


def _key(setting: str) -> str:
    return setting.partition("=")[0].partition(".")[0].strip()


def _fitting(plain: Mapping[str, Any], free: Collection[str]) -> dict[str, Any]:
    """The levels and the boundary of the objective for the parts of sampling left `free` by the user."""
    objective = plain["objective"]
    levels = {"use": "lcm", "levels": objective.get("levels", LEVELS)}
    lcm = {
        "time_grid": levels,
        "sampler": {"use": "lcm", **({k: objective[k] for k in ("boundary",) if k in objective})},
    }
    return {key: part for key, part in lcm.items() if key in free and objective.get("use") == "consistency"}


def _with_input(plain: Mapping[str, Any], free: Collection[str], usual: float) -> dict[str, Any]:
    """For a range of scales, unless the guidance is the user's: the scale as an input, and the guidance that says it,
    the teacher's `usual` one if that is in the range."""
    scale = plain["objective"].get("scale", 1.0)
    if "guidance" not in free or not isinstance(scale, list | tuple) or len(scale) != 2:
        return {}
    low, high = scale
    said = usual if low <= usual <= high else (low + high) / 2
    guidance = {"use": "embedded", "scale": said, "trained": [low, high]}
    return {"guidance": guidance, "adapters": [*_adapters(plain), {"use": "scale_input", "name": INPUT}]}


def _adapters(plain: Mapping[str, Any]) -> list[Any]:
    own = plain.get("adapters") or []
    return rows_of(own) if by_name(own) else list(own)


def distil(
    run: str | os.PathLike[str],
    *settings: str,
    out: str | os.PathLike[str] | None = None,
    callback: Callable[..., bool | None] | None = None,
    **asked: Any,
) -> Run:
    """Distil a trained run, or go on with a distillation, and return the student's run.

    ``distil("runs/demo", "trainer.steps=2000", steps=4, out="runs/demo4").pipeline().sample(...)``; `settings` and
    `asked` (`steps`, `method`, `rank`, parts by key) as :func:`student` takes them, all else as :func:`ldm_core.train`.
    """
    from ldm_core import train
    from ldm_core.training import workflow

    catalog = Catalog.discover()
    made = student(run, *settings, **asked)
    recipe, _ = workflow.prepare(made.values(), catalog)
    latents = with_latents(recipe, catalog, os.fspath(run)).trainer.latents
    return train(made.changed(trainer={"latents": latents}), out=out, callback=callback)


def with_latents(recipe: Recipe, catalog: Catalog, run: str) -> Recipe:
    """`recipe` with the encoded images of the run in the folder `run`, if they are its own: by stage, data and form."""
    if recipe.trainer.latents or not recipe.trainer.cache_latents:
        return recipe
    from ldm_core.model.parts import make_dataset
    from ldm_core.training.checkpoints.identities import Identities
    from ldm_core.training.feed.examples import paired
    from ldm_core.training.latents import cache, shards

    known = (Run.open(run).recipe.values().get("trainer") or {}).get("latents") or storage.join(run, "latents")
    there = attrs.evolve(recipe, trainer=attrs.evolve(recipe.trainer, latents=known))
    if cache.obstacle(recipe) or not storage.is_folder(known):
        return recipe
    dataset = make_dataset(there, catalog)
    prints = Identities(there, there, run, lambda: dataset).fingerprints(paired(dataset, there))
    folder, source = cache.place_of(there, run, recipe.first_stage.sha256, prints)
    try:
        return recipe if shards.read_manifest(folder, source) is None else there
    except CheckpointError:  # damaged, or of something else: the student's run encodes its own
        return recipe


def _scale(guidance: object) -> float:
    """The scale of classifier-free guidance of a recipe; 1 where it has another guidance, or none."""
    found = guidance.get("scale", 1.0) if isinstance(guidance, Mapping) and use_of(guidance) == "cfg" else 1.0
    return float(found)


def _sampling(method: str, steps: int) -> dict[str, Any]:
    """Sampler and time grid of the student, and the settings of its objective beside them."""
    if method == "consistency":
        return {"objective": {"levels": max(LEVELS, steps)}}
    if method == "adversarial":
        return {
            "sampler": {"use": "lcm", "boundary": 0.0},
            "time_grid": "trailing",
            "objective": {"steps": steps},
            "trainer": {"betas": [0.5, 0.99], "clip": 0.0},
        }
    return {
        "sampler": {"use": "ddim", "eta": 0.0},
        "time_grid": "trailing",
        "objective": {"begin": steps << HALVINGS, "steps": steps},
    }


def _row(row: object) -> Mapping[str, Any]:
    return row if isinstance(row, Mapping) else {"use": row}


def _trainer(own: Mapping[str, Any], run: str, share: float) -> dict[str, Any]:
    """The teacher's settings of training, for a shorter one at a lower rate."""
    steps = max(1, int(own.get("steps", SHARE)) // SHARE)
    average = max(0.0, 1 - 1 / max(2, round(_AVERAGED * steps)))
    fixed = {"train": "all", "init_from": run, "joint_dropout": 0.0, "steps": steps, "ema": average}
    dropped = ("init_sha256", "latents", "decay_start", "decay_end", "ema_power", "keep_best")
    kept = {key: value for key, value in own.items() if key not in dropped}
    rate = {"lr": share * own["lr"]} if "lr" in own else {}
    return {**kept, **fixed, **rate, "warmup_steps": min(int(own.get("warmup_steps", 0)), steps // 10)}
