"""Does a run's folder hold this recipe's run? The same data in another place, and more steps, are the same run.

A run is known by its first recipe, the source of its identities. If ``recipe.yaml`` differs from it by now,
``begun.yaml`` keeps it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.config import documents
from ldm_core.contracts import DatasetConfig, StageObjectiveConfig, configs
from ldm_core.errors import ConfigError, LDMError, quoted
from ldm_core.recipe import artifacts
from ldm_core.recipe.keys import SAMPLING_KEYS, Plain, without_same
from ldm_core.recipe.recipe import AdapterPart, MixturePart, Part, Recipe

RECIPE_FILE = "recipe.yaml"
BEGUN_FILE = "begun.yaml"
MANIFEST = "manifest.json"
"""The file of a checkpoint that says what it is, written last."""
_MADE = (artifacts.STAGE_FILE, artifacts.MODEL_FILE, "checkpoints", "latents")
_TRAINERS = {"first_stage_trainer": "first_stage", "trainer": "denoiser"}


@attrs.frozen
class Continuation:
    """A recipe in a folder: `known_as`, the recipe its run is known by; `moved`, True if its data lies elsewhere there
    and is to be compared; `begun`, the text to keep as ``begun.yaml`` ("" for nothing)."""

    known_as: Recipe
    moved: bool = False
    begun: str = ""


def continuation(recipe: Recipe, out: str) -> Continuation:
    """The run in `out` for `recipe` to go on with. :class:`ConfigError` if the folder holds another recipe's run, or
    one not trainable for as many steps.

    A recipe alone, of a run that failed before it made anything, is no run: the corrected recipe takes its place.
    """
    url = storage.join(out, RECIPE_FILE)
    if not storage.exists(url) or not any(storage.exists(storage.join(out, name)) for name in _MADE):
        return Continuation(recipe)
    text, first = storage.read_text(url), storage.join(out, BEGUN_FILE)
    before = documents.parse_yaml(text, url)
    begun = documents.parse_yaml(storage.read_text(first), first) if storage.exists(first) else before
    begun = kept_recipe(out) or begun
    known, moved = recipe, False
    if isinstance(before, dict) and isinstance(begun, dict):
        known, moved = _with_places(recipe, begun)
        for section in _TRAINERS:
            known = _with_length(known, section, before, begun, out)
    changed = differences(begun, known)
    if changed:
        raise ConfigError(_another(recipe, out, before, changed))
    another = known is not recipe and not storage.exists(first)
    if another and begun is not before and differences(before, known):  # recipe.yaml was edited by hand
        text = documents.dump_yaml(begun)
    return Continuation(known, moved, text if another else "")


def _another(recipe: Recipe, out: str, before: object, changed: Sequence[str]) -> str:
    """The line on a folder with another recipe's run."""
    url = storage.join(out, RECIPE_FILE)
    few = "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")
    if differences(before, recipe):
        return (
            f"{out} holds a run of another recipe ({few}); give another folder with `out`, or the old recipe: "
            f"`recipe={url}`"
        )
    return (
        f"{url} was edited since the run in {out} began ({few}), and its training cannot go on so; set that back in "
        "the file, or give another folder with `out`"
    )


def kept_recipe(out: str) -> dict[str, object]:
    """The first recipe of the run in `out` as its newest checkpoint keeps it; empty without one, or of an older
    version. An edited ``recipe.yaml`` is told by it."""
    for stage in reversed(_TRAINERS.values()):
        folder = storage.join(out, "checkpoints", stage)
        there = storage.list_files(folder, recursive=True) if storage.is_folder(folder) else []
        for url in sorted((f.url for f in there if storage.base_name(f.url) == MANIFEST), reverse=True):
            with contextlib.suppress(LDMError, ValueError):  # a damaged one is passed over by the training as well
                manifest = documents.parse_json(storage.read_text(url), url)
                found = manifest.get("recipe") if isinstance(manifest, dict) else None
                if isinstance(found, dict):
                    return found
    return {}


def differences(before: Any, recipe: Recipe) -> list[str]:
    """The differences of `recipe` from a stored one in its training, one line each."""
    if not isinstance(before, dict):
        return [f"it is {quoted(before)}"]
    now = recipe.public()
    before = recipe.decisive({**before, **_with_own_places(recipe, now, before)})
    now = recipe.decisive(now)
    return [line for k, v in now.items() if k not in SAMPLING_KEYS for line in _differ(k, before.get(k), v)]


def unlike(before: Plain, now: Plain) -> list[str]:
    """The differences of two recipes' plain values that matter to their training, one line each."""
    return [line for k in {**before, **now} if k not in SAMPLING_KEYS for line in _differ(k, before.get(k), now.get(k))]


def _with_own_places(recipe: Recipe, now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, object]:
    """The conditioners and adapters of a stored recipe, with today's places of files known by their content."""
    found: dict[str, object] = {}
    for key, parts in (("conditioners", recipe.conditioners), ("adapters", recipe.adapters)):
        rows = before.get(key)
        if isinstance(rows, list) and len(rows) == len(parts):
            found[key] = [_with_own_files(*each) for each in zip(parts, now[key], rows, strict=True)]
    return found


def _with_own_files(part: Part, own: Mapping[str, object], row: object) -> object:
    if not isinstance(row, dict):
        return row
    fields = attrs.fields(type(part.config)) if attrs.has(type(part.config)) else ()
    held = {f.name: f.metadata["sha256"] for f in fields if "sha256" in f.metadata}
    held |= {"weights": "sha256"} if isinstance(part, AdapterPart) and part.weights else {}
    return {**row, **{n: own[n] for n, hash_ in held.items() if own.get(hash_) == row.get(hash_)}}


def _differ(path: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        before, now = without_same(path, before), without_same(path, now)
        if path == "first_stage" and now.get("sha256"):  # trained weights are known by their content
            before, now = ({k: v for k, v in each.items() if k != "weights"} for each in (before, now))
        return [line for k in {**before, **now} for line in _differ(f"{path}.{k}", before.get(k), now.get(k))]
    return [] if before == now else [f"{path}: {quoted(before)} there, {quoted(now)} now"]


# ------------------------------------------------------------------------------------------------ the data's place


def _with_places(recipe: Recipe, begun: Mapping[str, Any]) -> tuple[Recipe, bool]:
    """`recipe` with its data at the run's first place, if only this differs; and True if it does."""
    rows = begun.get("dataset")
    rows = rows if isinstance(rows, list) else [rows]
    parts = list(recipe.datasets)
    if len(rows) != len(parts) or not all(isinstance(row, dict) for row in rows):
        return recipe, False
    moved = [_moved(part, row) for part, row in zip(parts, rows, strict=True)]
    if all(a is b for a, b in zip(moved, parts, strict=True)):
        return recipe, False
    whole = recipe.dataset
    dataset = attrs.evolve(whole, members=tuple(moved)) if isinstance(whole, MixturePart) else moved[0]
    return attrs.evolve(recipe, dataset=dataset), True


def _moved(part: Part, row: Mapping[str, Any]) -> Part:
    place = row.get("url")
    own = configs.of(DatasetConfig, part.config).url
    if row.get("use") != part.use or not isinstance(place, str) or not own:
        return part
    if not place.strip() or storage.shown(own) == place:
        return part
    return attrs.evolve(part, config=attrs.evolve(part.config, url=place))


def default_out(recipe: Recipe) -> str:
    """The folder of a run without a named one: by its name, or that of the same run with its data spelt otherwise."""
    own = f"runs/{recipe.name}"
    if storage.exists(own):
        return own
    return next((out for out, known in _goes_on(recipe) if _same_steps(recipe, known)), own)


def shorter_run(recipe: Recipe) -> str:
    """A line on the run without a name for a recipe with more steps to go on from; empty if there is none."""
    if storage.exists(f"runs/{recipe.name}"):
        return ""
    found = next((out for out, known in _goes_on(recipe) if not _same_steps(recipe, known)), "")
    return f"{found} holds this run with fewer steps; to go on from there, say `out={found}`" if found else ""


def _goes_on(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The runs without a name for `recipe` to go on with, its data at the old place, and their known recipes."""
    folder = Path("runs")
    beginning = recipe.name.rpartition("-")[0]
    for path in sorted(folder.glob(f"*/{RECIPE_FILE}")) if folder.is_dir() else ():
        out = f"{folder}/{path.parent.name}"
        if path.parent.name.startswith(beginning):
            with contextlib.suppress(LDMError):
                known = continuation(recipe, out).known_as
                if known is not recipe and _one_place(recipe, known):
                    yield out, known


def _same_steps(one: Recipe, other: Recipe) -> bool:
    return all(getattr(one, name).steps == getattr(other, name).steps for name in _TRAINERS)


def _one_place(one: Recipe, other: Recipe) -> bool:
    """True if two recipes' data sets lie at the same places, links followed."""
    places = []
    for recipe in (one, other):
        urls = [configs.of(DatasetConfig, part.config).url for part in recipe.datasets]
        paths = [storage.local_path(url) if isinstance(url, str) else None for url in urls]
        places.append([url if path is None else os.path.realpath(path) for url, path in zip(urls, paths, strict=True)])
    return places[0] == places[1]


# ------------------------------------------------------------------------------------------------------- more steps


def _with_length(recipe: Recipe, section: str, before: Mapping[str, Any], begun: Mapping[str, Any], out: str) -> Recipe:
    """`recipe` with the run's first number of steps, if it may go on to those of `section`; ConfigError if not."""
    now = getattr(recipe, section)
    last, first = (_section(each, section) for each in (before, begun))
    steps = first.get("steps")
    reached = max((s for s in (steps, last.get("steps")) if isinstance(s, int)), default=0)
    if not isinstance(steps, int) or (now.steps == reached == steps):
        return recipe
    stage = _TRAINERS[section]
    weights = artifacts.MODEL_FILE if stage == "denoiser" else artifacts.STAGE_FILE
    if now.steps < reached:
        raise ConfigError(
            f"{section}.steps: the run in {out} is one of {reached} steps, and {now.steps} were asked for; a run gets "
            f"longer, not shorter: set {section}.steps={reached} or more, or give another folder with `out`"
        )
    if now.steps > steps and (why := _bound_to_length(recipe, section, steps, first, out)):
        raise ConfigError(f"{section}.steps: {why}")
    held = storage.exists(storage.join(out, weights))
    if now.steps > reached and held and not storage.exists(storage.join(out, "checkpoints", stage)):
        raise ConfigError(
            f"{section}.steps: {out} has no checkpoint of its {reached} steps to go on from; start another run from "
            f"its weights: {_from_weights(section, out, now.steps - reached)}"
        )
    end = first.get("decay_end", 0)
    same_end = {"decay_end": end} if _end(now) == (end or steps) else {}
    return attrs.evolve(recipe, **{section: attrs.evolve(now, steps=steps, **same_end)})


def _section(plain: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = plain.get(name)
    return value if isinstance(value, dict) else {}


def _end(settings: Any) -> int:
    """The step at the end of the rate's change."""
    return int(settings.decay_end or settings.steps)


def _from_weights(section: str, out: str, steps: int) -> str:
    start = f"`trainer.init_from={out}`"
    if section != "trainer":
        start = f"`recipe={storage.join(out, RECIPE_FILE)}` first_stage_trainer.init_from={out}"
    return f"`workflow.run` {start} `out=NEW` {section}.steps={steps}"


def _bound_to_length(recipe: Recipe, section: str, steps: int, first: Mapping[str, Any], out: str) -> str:
    """The reason why a training begun with `steps` steps would have been another with more; empty if there is none."""
    now = getattr(recipe, section)
    end = first.get("decay_end") or steps
    if now.schedule in ("cosine", "linear") and _end(now) != end:
        weights = artifacts.MODEL_FILE if section == "trainer" else artifacts.STAGE_FILE
        ended = storage.exists(storage.join(out, weights))
        return (
            f"the rate of the run in {out} falls to its end at step {end} (schedule={now.schedule}), so that one of "
            f"{now.steps} steps is another run; "
            + (f"to go on at the last rate add {section}.decay_end={end}, or " if now.final_lr else "")
            + ("" if ended else f"let it end with {section}.steps={steps}, and then ")
            + f"start one from its weights: {_from_weights(section, out, now.steps - steps)}"
        )
    if section == "trainer":
        return ""
    if any(storage.exists(storage.join(out, name)) for name in (artifacts.MODEL_FILE, "checkpoints/denoiser")):
        return (
            f"the denoiser in {out} was trained on the latents of its first stage, which more steps would change; "
            f"start another run from that stage: {_from_weights(section, out, now.steps - steps)}"
        )
    objective = configs.of(StageObjectiveConfig, recipe.stage_objective.config)
    if why := objective.longer(recipe.first_stage.config, steps, now.steps):
        return f"{why}; start another run from the weights in {out}: {_from_weights(section, out, now.steps - steps)}"
    return ""
