"""The context of a run: its recipe, data, folder and first stage, and the results of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import DataInfo, DatasetAnswers, FirstStage
from ldm_core.contracts.configs import of
from ldm_core.contracts.streams import mix_seed
from ldm_core.data import sizes
from ldm_core.data.inputs.forms import geometries
from ldm_core.data.unreadable import SkipBad, printable
from ldm_core.errors import ComponentError, DataError, quoted
from ldm_core.model.degraded import Degraded
from ldm_core.model.parts import held_out_data, make_dataset
from ldm_core.model.trained import load_stage
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.checkpoints.identities import Identities
from ldm_core.training.engine import world
from ldm_core.training.feed.examples import Examples, balance_in_words, paired
from ldm_core.training.feed.loader import Loader
from ldm_core.training.feed.order import Arrangement, Place
from ldm_core.training.folder import own_files
from ldm_core.training.folder.metrics import MetricsFile
from ldm_core.training.folder.own_files import OwnFiles
from ldm_core.training.folder.stopping import Run, Stop
from ldm_core.training.latents import cache as latent_cache
from ldm_core.training.latents.cache import Cache
from ldm_core.training.latents.shards import Source
from ldm_core.training.samples.inputs import SampleInputs

SHEET = "samples.png"
"""The run's sheet of samples, in its folder."""


@attrs.frozen
class Results:
    """The results of the stages, each under names of its own."""

    numbers: dict[str, float] = attrs.field(factory=dict)
    """The first stage's scores on held-out images."""
    seconds: dict[str, float] = attrs.field(factory=dict)
    """Seconds of each stage."""
    started: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """Starting weights taken over by a stage."""


class RunContext:
    """A run as its stages see it; `run` holds this process, the observers, the stop flags and the metrics.

    `inputs`: those of its samples; `known_as`: the recipe at the begin of the run, the source of its identities.
    """

    def __init__(
        self,
        recipe: Recipe,
        info: DataInfo,
        catalog: Catalog,
        out: str,
        *,
        inputs: SampleInputs | None = None,
        known_as: Recipe | None = None,
    ) -> None:
        self.recipe, self.info, self.catalog, self.out = recipe, info, catalog, out
        self.inputs = inputs or SampleInputs()
        here = world.start()
        metrics = MetricsFile(storage.join(out, own_files.METRICS), active=here.main)
        self.run = Run(out, here, catalog.manager.hook, Stop(), metrics, recipe=(known_as or recipe).public())
        self.results = Results()
        self.identities = Identities(recipe, known_as or recipe, out, lambda: self.dataset)
        self.model_url = storage.join(out, artifacts.MODEL_FILE)
        self.stage_url = storage.join(out, artifacts.STAGE_FILE)
        self.samples_url = storage.join(out, SHEET)
        self._stage: FirstStage | None = None

    # ----------------------------------------------------------------------------------------------------- data

    @cached_property
    def dataset(self) -> Any:
        """The training data."""
        dataset: Any = make_dataset(self.recipe, self.catalog)
        if line := of(DatasetAnswers, dataset).describe():
            self.run.say(f"data: {line}")
        return dataset

    def paired(self) -> Any:
        """The training data of the model; see :func:`~ldm_core.training.feed.examples.paired`."""
        return paired(self.dataset, self.recipe)

    @cached_property
    def degraded(self) -> Degraded | None:
        """The recipe's degradations; None without one."""
        return Degraded.of(self.recipe, self.catalog)

    @property
    def shown(self) -> DataInfo:
        """:attr:`info`, with the geometry of inputs that the data lacks: of made ones, and of those given by hand."""
        made = {} if self.degraded is None else self.degraded.keys
        return attrs.evolve(self.info, keys={**geometries(self.recipe), **made, **self.info.keys})

    @cached_property
    def _held_out(self) -> Any:
        return held_out_data(self.recipe, self.catalog, self.info)

    def held_out(self, keys: Sequence[str] = ("image",)) -> tuple[Any, str]:
        """Held-out data with `keys`, and "". If there is none, or it lacks a key: the training data, and why.

        Raises DataError if held-out data is there and cannot be read.
        """
        if self._held_out is None:
            return self.dataset, "the data has no held-out ones"
        try:
            offered = self._held_out.keys
            sizes.select(self._held_out, [key for key in keys if key in offered or key not in self.recipe.made])
        except DataError as error:
            return self.dataset, f"the held-out ones do not do: {error}"
        return self._held_out, ""

    def loader(
        self, stage: str, fetch: Callable[[Place], Any], arrangement: Arrangement, keys: Any, bad: SkipBad | None
    ) -> Loader:
        """The batches of a stage's training: examples by `fetch`, in the order of the recipe's seed."""
        settings = self.recipe.trainer if stage == "denoiser" else self.recipe.first_stage_trainer
        if arrangement.groups is not None:
            words = balance_in_words(arrangement.groups, self.recipe.data.balance)
            self.run.say(f"{stage.replace('_', ' ')}: {words}")
        return Loader(
            fetch,
            arrangement,
            keys,
            images_per_step=settings.images_per_step,
            accumulate=settings.accumulate,
            steps=settings.steps,
            world=self.run.world,
            seed=mix_seed(self.recipe.seed, stage),
            workers=self.recipe.data.workers,
            bad=bad,
        )

    def report_bad(self, examples: Examples) -> None:
        """Name the unreadable examples, and list them in the run's folder."""
        if bad := examples.dataset.bad:
            few = ", ".join(printable(name) for name in list(bad)[:3])
            self.run.say(
                f"data: {len(bad)} unreadable example(s) passed over ({few}); all of them are in {own_files.BAD}",
                "warning",
            )
            self.list_bad(bad)

    def list_bad(self, bad: Mapping[str, str]) -> None:
        """Put unreadable examples down in the run's folder, one a line, beside those of earlier stages and runs."""
        if self.run.world.main:
            url = storage.join(self.out, own_files.BAD)
            known = storage.read_text(url).splitlines() if storage.exists(url) else []
            lines = [f"{printable(name)}\t{printable(why)}" for name, why in bad.items()]
            self.own.write(own_files.BAD, "".join(f"{line}\n" for line in dict.fromkeys([*known, *lines])))

    # --------------------------------------------------------------------------------------------------- folder

    @cached_property
    def own(self) -> OwnFiles:
        """The list of the run's files, for the main process, the only writer."""
        return OwnFiles.read(self.out)

    def picture(self, stage: str, step: int, name: str, data: bytes | None) -> None:
        """Write a PNG into the run's folder and tell the observers; nothing without one."""
        if data is not None and self.run.world.main:
            url = self.own.write(name, data)
            self.run.hook.ldm_images(stage=stage, step=step, name=name, url=url)

    def write_trained(self, stage: str, name: str, file: bytes, steps: int) -> None:
        """Write a trained stage's weights `file` into the run's folder, and the observers' pictures of its training;
        for the main process."""
        self.own.write(name, file)
        for drawn in self.run.hook.ldm_stage_pictures(stage=stage, rows=self.run.metrics.read()):
            for word, data in drawn.items():
                picture = f"{stage}_{word}.png"
                if not own_files.is_stage_picture(picture):
                    raise ComponentError(f"an observer's picture is called {quoted(word)}: lower-case letters alone")
                self.picture(stage, steps, picture, data)

    def checkpoints_of(self, stage: str) -> str:
        """The folder of a stage's checkpoints."""
        return storage.join(self.out, "checkpoints", stage)

    def finished_first_stage(self) -> artifacts.Header | None:
        """The header of the first stage's file, if trained under this very recipe and data."""
        return self.identities.header_of(self.stage_url, "first_stage", self.identities.first_stage(), self.run.say)

    def finished_model(self) -> artifacts.Header | None:
        """The header of the model's file, if trained under this very recipe, data and first stage."""
        return self.identities.header_of(self.model_url, "model", self.identities.model(), self.run.say)

    def is_finished(self, kind: str) -> bool:
        """Say whether the file of a stage (``first_stage`` or ``model``) is there, of this very recipe and data."""
        part = self.recipe.first_stage
        if kind == "model":
            return storage.exists(self.stage_url) and self.finished_model() is not None
        if part.weights:
            return storage.exists(self.stage_url) and artifacts.sha256(self.stage_url) == part.sha256
        return self.finished_first_stage() is not None

    # -------------------------------------------------------------------------------- first stage and its latents

    def use_stage(self, stage: FirstStage) -> None:
        """Take a newly trained stage; it need not be read again."""
        self._stage = stage

    def stage(self) -> FirstStage:
        """The finished first stage, frozen."""
        if self._stage is None:
            self._stage = load_stage(self.recipe, self.catalog, self.stage_url, self.run.world.device)
        return self._stage

    def moments_place(self) -> tuple[str, Source]:
        """The folder of this run's moments, and their source."""
        data = self.paired()
        prints = self.identities.fingerprints(data)
        return latent_cache.place_of(self.recipe, self.out, artifacts.sha256(self.stage_url), prints)

    def moments(self) -> Cache | None:
        """The encoded images, None if they are not kept."""
        if not self.recipe.trainer.cache_latents or latent_cache.obstacle(self.recipe):
            return None
        folder, source = self.moments_place()
        return latent_cache.Cache.find(folder, source, self.recipe.data.keep)
