"""A whole trade-off study: denoisers, estimate, cells, speed, results."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents
from ldm_core.config.overrides import apply_overrides
from ldm_core.contracts import MetricAnswers, Site
from ldm_core.contracts.configs import of
from ldm_core.data.records.guess import guess_reader
from ldm_core.errors import ConfigError, NoSplit
from ldm_core.model.fill import device_named
from ldm_core.model.parts import data_info, make, make_dataset
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve, use_storage
from ldm_core.weights.convert import finder
from ldm_plugin_study.bench.measure import measure
from ldm_plugin_study.bench.result.choice import Choice
from ldm_plugin_study.bench.result.machine import machine
from ldm_plugin_study.bench.result.table import counted, machine_in_words
from ldm_plugin_study.bench.source import source
from ldm_plugin_study.study import quality, speed
from ldm_plugin_study.study.quality import Figure
from ldm_plugin_study.tradeoff import parallel, work
from ldm_plugin_study.tradeoff.estimate import estimate, lines
from ldm_plugin_study.tradeoff.parameters import Fitted, fitted, own
from ldm_plugin_study.tradeoff.plan import Plan, recipe_of
from ldm_plugin_study.tradeoff.results import CellResult, Point, Results


def run(plan: Plan, devices: Sequence[str], catalog: Catalog, say: work.Tell, *, batch: int, rounds: int) -> Results:
    """Do the study, or the rest of it; `devices`: one process for each, none: all in this one. Raises LDMErrors,
    for mistakes in the devices and in any cell's recipe before the first one begins."""
    parallel.environments(devices)
    recipes = {cell: _recipe(plan, cell, catalog) for cell in plan.cells}
    _hold_metrics(plan, next(iter(recipes.values())), catalog)
    _hold_against(plan, next(iter(recipes.values())), catalog)
    if not plan.steps:
        plan = attrs.evolve(plan, steps=next(iter(recipes.values())).trainer.steps)
    denoisers = _denoisers(plan, recipes, catalog, say)
    here = device_named(devices[0] if devices else None)
    for line in lines([estimate(plan, c, denoisers[c].plain, catalog, here) for c in plan.cells], len(devices) or 1):
        say(line)
    jobs = [work.Job(plan=plan, cell=cell, denoiser=dict(denoisers[cell].plain)) for cell in plan.cells]
    if devices:
        parallel.run(jobs, devices, say)
    else:
        for job in jobs:
            work.do(job, catalog, say)
    seconds = _seconds(plan, here, Choice(rounds=rounds, least=0.0), batch, say)
    return _results(plan, recipes, denoisers, seconds, here)


def steps_of(plan: Plan, epochs: float, catalog: Catalog) -> int:
    """The training steps of so many epochs of the data."""
    recipe = _recipe(plan, plan.cells[0], catalog)
    return max(1, round(epochs * len(make_dataset(recipe, catalog)) / recipe.trainer.images_per_step))


def memories(plan: Plan, devices: Sequence[str], say: work.Tell, *, batch: int) -> dict[str, int | None]:
    """The bytes that decoding a batch takes in every cell, beyond the weights; None where the system tells none."""
    here, found = device_named(devices[0] if devices else None), dict[str, int | None]()
    for cell in plan.cells:
        say(f"{cell}: memory of decoding")
        what = source(_model(plan, cell), (), (), here, batch)
        rows = measure(what, Choice(components=("decode",), rounds=1, least=0.0, sizes=(64,))).rows
        found[cell] = rows[0].memory if rows else None
    return found


def _model(plan: Plan, cell: str) -> str:
    """The folder of a cell's last weights."""
    return plan.place(cell, work.MARKS, str(work.marks(plan, cell)[-1]))


def _recipe(plan: Plan, cell: str, catalog: Catalog) -> Recipe:
    """A cell's recipe with the data's numbers, not checked yet: its denoiser may not fit its latents."""
    plain, find = recipe_of(plan, cell, catalog), finder(catalog)
    use_storage(plain)
    recipe = resolve(plain, catalog, find=find)
    return resolve(plain, catalog, data_info(make_dataset(recipe, catalog)), find=find)


def _hold_metrics(plan: Plan, recipe: Recipe, catalog: Catalog) -> None:
    """Make the metrics once, before hours of training; ConfigError for unknown ones, for settings and weights that are
    not there, and for too few images."""
    site = Site(size=recipe.image_size, channels=recipe.image_channels)
    for name in (name.strip() for name in f"{plan.metrics},{plan.reconstruction}".split(",") if name.strip()):
        word, _, use = name.partition(":")
        plain: dict[str, Any] = {word: {"use": use or word}}
        try:
            apply_overrides(plain, work.settings_of(plan, word), [word])
            (part,) = resolve({"metrics": [plain[word]]}, catalog, find=finder(catalog)).metrics
            least = of(MetricAnswers, make(part, site, catalog)).least
        except ConfigError as error:
            raise ConfigError([f"{word}: {line}" for line in error.problems]) from None
        if plan.images < least:
            raise ConfigError(f"images: {word} needs {least:,} pictures; give as many, or a setting for fewer")


def _hold_against(plan: Plan, recipe: Recipe, catalog: Catalog) -> None:
    """Look for the pictures of `against` before hours of training; an error of the user's kind if they are not there.
    The evaluations open them."""
    place = plan.against
    if place in ("", "run") or place in catalog.names("dataset"):
        return
    if place.lower().endswith((".npz", ".npy")):
        if not storage.exists(place):
            raise ConfigError(f"against: {storage.shown(place)} is not there")
        return
    row = {"dataset": {"use": guess_reader(place), "url": place}}
    apply_overrides(
        row, [f"dataset.{line.partition('.')[2]}" for line in work.settings_of(plan, "against")], ["dataset"]
    )
    with contextlib.suppress(NoSplit):  # of which there may be another one
        make_dataset(resolve({**row, "image_size": list(recipe.image_size)}, catalog), catalog)


def _denoisers(plan: Plan, recipes: Mapping[str, Recipe], catalog: Catalog, say: work.Tell) -> dict[str, Fitted]:
    wanted = plan.parameters or own(next(iter(recipes.values())), catalog).count
    found = {cell: fitted(recipe, wanted, catalog) for cell, recipe in recipes.items()}
    for cell, each in found.items():
        width = f", {each.plain['channels']} channels" if "channels" in each.plain else ""
        say(f"{cell}: denoiser of {each.count:,} parameters{width}")
    return found


def _seconds(
    plan: Plan, device: torch.device, choice: Choice, batch: int, say: work.Tell
) -> dict[tuple[str, int], tuple[float, ...]]:
    """The seconds an image of every cell at all steps of the sampler, the cells in turn."""
    made = {}
    for cell in plan.cells:
        what = source(_model(plan, cell), (), (), device, batch)
        for case, sampling in speed.cases(what, [work.Sampling(steps=n) for n in plan.sample_steps]):
            made[case] = (cell, sampling.steps or 0)
    return speed.timed(made, device, choice, say)


def _results(
    plan: Plan,
    recipes: Mapping[str, Recipe],
    denoisers: Mapping[str, Fitted],
    seconds: Mapping[tuple[str, int], tuple[float, ...]],
    device: torch.device,
) -> Results:
    cells: list[CellResult] = []
    reconstructed: dict[str, bool] = {}
    shown: Figure | None = None
    for cell in plan.cells:
        points, values = [], {}
        for question, sampling, folder in work.questions(plan, cell):
            if sampling.steps is None:
                found = _values(folder)
                values = {name: value for name, (value, _) in found.items()}
                reconstructed |= {name: higher for name, (_, higher) in found.items()}
                continue
            shown = quality.figure(question, folder)
            trained = int(storage.base_name(question.run))
            own_bounds = {"low": shown.low, "high": shown.high}
            points.append(Point(trained=trained, steps=sampling.steps, quality=shown.value, **own_bounds))
        recipe = recipes[cell]
        cells.append(
            CellResult(
                name=cell,
                factor=max(recipe.first_stage.config.latent.stride),
                given=plan.stages.get(cell, ""),
                parameters=denoisers[cell].count,
                step_seconds=work.read_pace(plan, cell).get("seconds", 0.0),
                images_per_step=recipe.trainer.images_per_step,
                image_seconds={n: seconds[cell, n] for n in plan.sample_steps},
                reconstruction=values,
                points=tuple(points),
            )
        )
    assert shown is not None
    budget = f"{plan.minutes:g} minutes" if plan.minutes else counted(plan.steps, "step")
    return Results(
        cells=tuple(cells),
        figure=shown,
        reconstructed=reconstructed,
        budget=f"{budget} of training, {counted(plan.images, 'image')} a figure",
        machine=machine_in_words(machine(device)),
    )


def _values(folder: str) -> dict[str, tuple[float, bool]]:
    """The values of a record, and if higher is better."""
    url = storage.join(folder, quality.RECORD)
    record = documents.parse_json(storage.read_text(url), url)
    return {
        name: (float(value["value"]), bool(value["higher_is_better"]))
        for row in record["metrics"]
        for name, value in row["values"].items()
    }
