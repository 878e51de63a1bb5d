"""Training from Python, by the workflow of the command line: the same recipe ends with the same bits."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from ldm_core.api import own_data
from ldm_core.api.recipe import Recipe
from ldm_core.api.run import Run
from ldm_core.catalog import Catalog, hookimpl
from ldm_core.data.records.guess import guess_reader, kept_settings
from ldm_core.errors import ConfigError, Interrupted
from ldm_core.recipe import shipped
from ldm_core.recipe.continuation import default_out
from ldm_core.training.folder.metrics import EVALUATION, VALIDATION

_LOG = logging.getLogger("ldm_core")
Stage: TypeAlias = Literal["first_stage", "latents", "denoiser", "samples"]


@attrs.frozen
class TrainingProgress:
    """The progress of a training: `step` (from 1) of `steps` of a `stage` is done; `logs` holds its numbers, empty
    between logging intervals. Validation is a stage of its own, ``denoiser_validation``, and so are the metrics of
    samples, ``denoiser_metrics``."""

    stage: str
    step: int
    steps: int
    logs: Mapping[str, float]

    def __str__(self) -> str:
        numbers = "".join(f" {name}={value:.4g}" for name, value in self.logs.items())
        return f"{self.stage} {self.step}/{self.steps}{numbers}"


Callback: TypeAlias = Callable[[TrainingProgress], "bool | None"]


def train(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    data: Any = None,
    out: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
    until: Stage = "denoiser",
    catalog: Catalog | None = None,
    **parts: Any,
) -> Run:
    """Train a first stage and a denoiser, or go on with a run, and return it.

    * `recipe` is a :class:`Recipe`, a mapping, a shipped recipe's name or a file's path or URL; without one, the recipe
      ``laptop``, with the observers that are for such runs by their descriptors, and for another first stage the
      objective that trains it. `parts` are its keys: ``first_stage="vq_f4"``, ``conditioners=["class_label"]``,
      ``trainer={"steps": 100}``; see :meth:`Recipe.changed`.
    * `data` takes the place of the recipe's: a path or URL, a data set by name or as in a recipe, a list of these to be
      mixed, or one's own examples: a list or a map-style ``torch.utils.data.Dataset`` of mappings (``image``: PIL,
      uint8 (H, W, c) or (c, H, W), or floats in [0, 1]; ``caption``, ``class``, ``boxes``, ...) or of pairs of a
      picture and a class or caption. All of one's own are read before the training, and hashed: a run knows its data by
      the hash.
    * `out` is the run's folder, ``runs/NAME`` by default. The same call goes on from the last checkpoint, bit for bit,
      as the command line does in the same folder; a finished run is returned as it is.
    * `callback` is told of each step. Where it returns False, the run writes a checkpoint and is returned unfinished.
    * `until` is the last stage: ``samples`` draws the recipe's own samples too.

    Remarks go to the logger ``ldm_core``. The process stays as it was: signals, environment, random generators. Under
    torchrun every process calls it, with equal data. Raises LDMErrors for mistakes, before anything is trained;
    :class:`Interrupted` after a checkpoint at Ctrl-C, SIGTERM and the time limit.
    """
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback={callback!r}: expected a function of the progress")
    catalog = catalog or Catalog.discover()
    plain = _with_data(_values(recipe, parts, catalog), data, catalog)
    return Run.open(_train(plain, catalog, out, callback, until), catalog=catalog)


def _values(
    recipe: Recipe | Mapping[str, object] | str | os.PathLike[str] | None, parts: Mapping[str, object], catalog: Catalog
) -> dict[str, Any]:
    """The caller's recipe, or the shipped default for the caller's first stage, with `parts` on top."""
    if recipe is not None:
        return Recipe.of(recipe).changed(**parts).values()
    plain = shipped.default(catalog)
    stage = Recipe(plain).changed(**parts).values().get("first_stage")
    return Recipe(shipped.suited(plain, stage, catalog)).changed(**parts).values()


def _train(plain: Mapping[str, Any], catalog: Catalog, out: Any, callback: Callback | None, until: str) -> str:
    """Check the recipe and do the stages of its run; the folder."""
    from ldm_core.api.undisturbed import undisturbed
    from ldm_core.training import workflow
    from ldm_core.training.engine import world
    from ldm_core.training.folder.stopping import Stop

    if until not in workflow.STAGES:
        raise ConfigError(f"until={until!r}: expected one of {', '.join(workflow.STAGES)}")
    stop = Stop()
    watch = _Watch(callback, stop)
    with undisturbed():
        recipe, info = workflow.prepare(plain, catalog)
        folder = default_out(recipe) if out is None else os.fspath(out)
        here = world.start()
        if len({*here.gather(recipe.identity())}) > 1:
            raise ConfigError("data: the processes of this run were given different examples")
        catalog.manager.register(watch)
        try:
            stages = workflow.STAGES[: workflow.STAGES.index(until) + 1]
            workflow.run(recipe, info, catalog, folder, stages=stages, stop=stop)
        except Interrupted:
            if not here.any(watch.stopped):
                raise
        finally:
            catalog.manager.unregister(watch)
    return folder


def _with_data(plain: dict[str, Any], data: Any, catalog: Catalog) -> dict[str, Any]:
    """The recipe's values with the caller's data in place of its own."""
    before = plain.get("dataset")
    if data is None:
        if isinstance(before, Mapping) and before.get("use") == own_data.NAME:
            raise ConfigError("data: this recipe's examples were handed over in Python; give the same ones again")
        return plain
    if isinstance(data, str | os.PathLike | Mapping):
        return {**plain, "dataset": _named(data, before, catalog)}
    if isinstance(data, Sequence) and data and all(map(_is_named, data)):
        return {**plain, "dataset": [_named(each, before, catalog) for each in data]}
    _require_copies(data, plain.get("data"))
    component, values = own_data.component_of(data)
    catalog.register(component)
    return {**plain, "dataset": values}


def _require_copies(data: Any, settings: Any) -> None:
    """ConfigError where the worker processes that read `data` could not be handed its class."""
    workers = settings.get("workers") if isinstance(settings, Mapping) else 0
    kind, main = type(data), sys.modules["__main__"]
    interactive = kind.__module__ == "__main__" and "__file__" not in vars(main)
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if workers and interactive and method != "fork":
        raise ConfigError(
            f"data.workers={workers}: processes are spawned here, and know no class of a notebook ({kind.__name__}); "
            "put it into a module, or set data.workers=0"
        )


def _is_named(data: Any) -> bool:
    """Tell a data set of a recipe from an example."""
    return "use" in data or "url" in data if isinstance(data, Mapping) else isinstance(data, str | os.PathLike)


def _named(data: Any, before: Any, catalog: Catalog) -> Any:
    if isinstance(data, Mapping) or data in catalog.names("dataset"):
        return data
    url = os.fspath(data)
    use = guess_reader(url, catalog)
    return {**kept_settings(before, use), "use": use, "url": url}


class _Watch:
    """The observer that tells the caller of the run, and asks it to leave for them."""

    def __init__(self, callback: Callback | None, stop: Any) -> None:
        self._callback, self._stop = callback, stop
        self._steps: dict[str, int] = {}
        self.stopped = False

    @hookimpl
    def ldm_stage_start(self, stage: str, steps: int, start: int) -> None:
        """See :mod:`ldm_core.catalog.hookspecs`."""
        self._steps[stage] = steps

    @hookimpl
    def ldm_step(self, stage: str, step: int, logs: Mapping[str, float]) -> None:
        """See :mod:`ldm_core.catalog.hookspecs`."""
        steps = self._steps.get(stage.removesuffix(VALIDATION).removesuffix(EVALUATION), step)
        if self._callback is None or self.stopped:
            return
        if self._callback(TrainingProgress(stage, step, steps, dict(logs))) is False:
            self.stopped, self._stop.asked = True, "callback"

    @hookimpl
    def ldm_message(self, text: str, level: str) -> None:
        """See :mod:`ldm_core.catalog.hookspecs`."""
        _LOG.log(logging.WARNING if level == "warning" else logging.INFO, "%s", text)
