"""A whole run: look into the data, check, first stage, latents, denoiser, samples. Imports torch only when it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config import documents
from ldm_core.contracts import DataInfo, DatasetAnswers
from ldm_core.contracts.configs import of
from ldm_core.data.sizes import paired
from ldm_core.errors import ConfigError, Interrupted, StorageError
from ldm_core.recipe import sizes, sources
from ldm_core.recipe.check import check, site_of
from ldm_core.recipe.continuation import BEGUN_FILE, RECIPE_FILE, continuation
from ldm_core.recipe.places import handed_on
from ldm_core.recipe.recipe import Recipe
from ldm_core.recipe.resolve import resolve, use_storage
from ldm_core.training.folder import own_files
from ldm_core.training.folder.own_files import OwnFiles
from ldm_core.weights.convert import finder

if TYPE_CHECKING:
    from ldm_core.training.context import RunContext
    from ldm_core.training.folder.stopping import Stop
    from ldm_core.training.samples.inputs import SampleInputs

STAGES = ("first_stage", "latents", "denoiser", "samples")


@attrs.frozen
class RunResult:
    """The result of a run: its folder, URLs of the model and the sample grid, numbers of the first stage, seconds by
    stage. Only the main process fills the fields after the status; the others leave them empty."""

    out: str
    model: str
    samples: str
    first_stage: Mapping[str, float]
    seconds: Mapping[str, float]
    status: str
    started: Mapping[str, Any] = attrs.field(factory=dict)
    """Starting weights taken over from the recipe's source, by stage."""
    trained: Mapping[str, Mapping[str, float]] = attrs.field(factory=dict)
    """Numbers of each stage trained in the folder, now or before; see :func:`.folder.metrics.summarize`."""
    bad_examples: int = 0
    """Number of unreadable examples; their names are in ``bad_examples.txt``."""
    files: tuple[str, ...] = ()
    """Names of the pictures and texts in the folder."""


def prepare(plain: Mapping[str, Any], catalog: Catalog) -> tuple[Recipe, DataInfo]:
    """Plain values -> a recipe, checked against its parts and its data.

    The data is looked into first, as class counts come from it. Raises LDMErrors with every mistake found.
    """
    from ldm_core.model.conformance.dataset import hold_data
    from ldm_core.model.parts import data_info, make_dataset
    from ldm_core.training.feed.first_look import look, look_at_held_out

    find = finder(catalog)
    use_storage(plain)  # the user's own recipe: trained weights are read while it is resolved
    recipe = resolve(plain, catalog, find=find)
    dataset = make_dataset(recipe, catalog)
    info = data_info(dataset)
    recipe = resolve(plain, catalog, info, find=find)
    check(recipe, info)
    if problems := list(sources.misfits(recipe, find)):
        raise ConfigError(problems)
    require_room(recipe, catalog)
    hold_data(dataset, recipe, catalog)
    # Examples without a key, and unreadable ones, are found now, not hours later.
    look(paired(dataset, recipe.asked(dataset.keys)), recipe)
    look_at_held_out(recipe, catalog, info)
    remarks = of(DatasetAnswers, dataset).remarks()
    return recipe, attrs.evolve(info, remarks=remarks) if remarks else info


def require_room(recipe: Recipe, catalog: Catalog) -> None:
    """:class:`ConfigError` if the recipe's networks, or one of its images, are larger than this machine's memory.

    Sizes of published models are not counted, and torch is not imported for them.
    """
    if problems := list(sizes.image_misfits(recipe)):
        raise ConfigError(problems)
    if sizes.large(recipe):
        from ldm_core.model import build

        build.require_room(recipe, catalog, sizes.memory())


def claim(recipe: Recipe, out: str, begun: str = "", own: OwnFiles | None = None) -> None:
    """Make the run's folder and write its recipe, and before it the text of its first recipe, `begun`. `own`: the list
    of the run's files."""
    own = own or OwnFiles.read(out)
    storage.make_folder(out)
    if begun:
        own.write(BEGUN_FILE, begun)
    url = storage.join(out, RECIPE_FILE)
    if not (storage.exists(url) and own_files.says(url, recipe)):
        own.write(RECIPE_FILE, documents.dump_yaml(recipe.public()))
    own.note({own_files.METRICS: None})


def take_over(recipe: Recipe, out: str) -> None:
    """Let a run of this recipe overwrite the files in `out` with names of its own."""
    continuation(recipe, out)
    if storage.is_folder(out):
        OwnFiles.read(out).adopt()


def run(
    recipe: Recipe,
    info: DataInfo,
    catalog: Catalog,
    out: str,
    *,
    stages: Sequence[str] = STAGES,
    inputs: SampleInputs | None = None,
    stop: Stop | None = None,
) -> RunResult:
    """Do the named stages of a run in the folder `out`; finished ones of the same recipe are skipped.

    `inputs`: those of its samples. `stop`: the caller's own, through which it asks the run to leave. Raises
    :class:`~ldm_core.errors.Interrupted` after a checkpoint when asked to stop.
    """
    from ldm_core.model.parts import factory_of, make
    from ldm_core.training.checkpoints import threads
    from ldm_core.training.checkpoints.files import clean_parts
    from ldm_core.training.context import RunContext
    from ldm_core.training.engine import world
    from ldm_core.training.engine.collective import from_main
    from ldm_core.training.engine.part import require_machine
    from ldm_core.training.folder import lock
    from ldm_core.training.folder.places import require_free

    for part in recipe.parts():  # before hours of training, also those for the samples alone
        factory_of(part, catalog)

    observers = [make(part, site_of(recipe), catalog) for part in recipe.observers]
    hook = catalog.manager.hook
    here = world.start()
    for name in ("first_stage_trainer", "trainer"):
        if name == "trainer" or not recipe.first_stage.weights:
            require_machine(getattr(recipe, name), here.device, name)
    with lock.held(out, here, lambda text: hook.ldm_message(text=text, level="warning")) as held:
        if held is not None:
            clean_parts(out)
        found = continuation(recipe, out)
        context = RunContext(recipe, info, catalog, out, inputs=inputs, known_as=found.known_as)
        if found.moved:
            context.identities.require_same_data()
        context.run = attrs.evolve(context.run, lock=held, stop=stop or context.run.stop)

        def begin() -> None:
            require_free(context, stages)
            claim(recipe, out, found.begun, context.own)

        from_main(here, begin)
        threads.hold(context)
        return _do(context, stages, observers)


def _do(context: RunContext, stages: Sequence[str], observers: Sequence[Any]) -> RunResult:
    """The stages of a run, in its locked and claimed folder."""
    from ldm_core.training.engine.world import ending
    from ldm_core.training.stages import Stages

    catalog, hook = context.catalog, context.run.hook
    status = "failed"
    for observer in observers:
        catalog.manager.register(observer)
    try:
        if context.run.world.main:
            hook.ldm_run_start(recipe=handed_on(context.recipe.public()), out=context.out)
        with ending(context.run.world), context.run.stop:
            plan = Stages(context)
            plan.prepare(stages)
            steps = (plan.first_stage, plan.latents, plan.denoiser, plan.samples)
            for name, step in zip(STAGES, steps, strict=True):
                if name in stages:
                    step()
        status = "done"
    except Interrupted:
        status = "interrupted"
        raise
    finally:
        try:
            context.run.metrics.close()
        finally:
            if context.run.world.main:
                hook.ldm_run_end(status=status)
            for observer in observers:
                catalog.manager.unregister(observer)
    return RunResult(
        out=context.out,
        model=context.model_url,
        samples=context.samples_url,
        first_stage=context.results.numbers,
        seconds=context.results.seconds,
        status=status,
        started=context.results.started,
        **(_left(context) if context.run.world.main else {}),
    )


def _left(context: RunContext) -> dict[str, Any]:
    """Read the fields of the run's result from its folder; a failure of storage is no failure now."""
    from ldm_core.training.folder.metrics import summarize

    found: dict[str, Any] = {}
    with contextlib.suppress(StorageError):
        found["trained"] = summarize(context.run.metrics.read())
        names = [storage.base_name(f.url) for f in storage.list_files(context.out)]
        found["files"] = tuple(n for n in names if n.endswith((".png", ".jsonl", ".yaml", ".txt", ".html")))
        if own_files.BAD in names:
            found["bad_examples"] = len(storage.read_text(storage.join(context.out, own_files.BAD)).splitlines())
    return found
