"""The stages of a run, each skipped where its result is there already under the same recipe and data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.config.structure import digest
from ldm_core.contracts import DataInfo, FirstStage
from ldm_core.data.unreadable import TooManyBad, printable
from ldm_core.errors import CheckpointError, ConfigError, DataError
from ldm_core.model.conformance.first_stage import held_stage
from ldm_core.model.parts import held_out_data, make_dataset
from ldm_core.model.trained import load_stage
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.denoiser.fit import fit_early
from ldm_core.training.denoiser.train import train_denoiser
from ldm_core.training.engine import world
from ldm_core.training.feed.examples import Examples
from ldm_core.training.first_stage.train import train_first_stage
from ldm_core.training.folder import known_data, own_files
from ldm_core.training.folder.metrics import MetricsFile
from ldm_core.training.folder.own_files import OwnFiles
from ldm_core.training.folder.stopping import Run, Stop
from ldm_core.training.latents import cache as latent_cache
from ldm_core.training.latents import encode
from ldm_core.training.latents.cache import Cache
from ldm_core.training.latents.shards import Source
from ldm_core.training.samples import final
from ldm_core.weights.convert import finder

BAD_FILE = own_files.BAD
"""Names and reasons of the examples that a run could not read, in its folder."""


class Stages:
    """One run's work. Each stage leaves files in `out`; `numbers` and `seconds` hold what was measured."""

    def __init__(
        self,
        recipe: Recipe,
        info: DataInfo,
        catalog: Catalog,
        out: str,
        *,
        examples: Sequence[Mapping[str, Any]] | None,
        strict: bool,
        known_as: Recipe | None = None,
    ) -> None:
        self.known_as = known_as or recipe
        """The recipe that the run was begun with, which its identities are made of."""
        self._fingerprints: Callable[[Any], str] | None = None
        self.recipe, self.info, self.catalog, self.out = recipe, info, catalog, out
        self.examples, self.strict = examples, strict
        self.fitted: dict[str, dict[str, Any]] = {}
        """What conditioners learned before anything was trained, by name."""
        self.started: dict[str, dict[str, Any]] = {}
        """What a stage took of the weights that it starts from."""
        here = world.start()
        metrics = MetricsFile(storage.join(out, "metrics.jsonl"), active=here.main)
        self.run = Run(out, here, catalog.manager.hook, Stop(), metrics)
        self.numbers: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.model_url = storage.join(out, artifacts.MODEL_FILE)
        self.stage_url = storage.join(out, artifacts.STAGE_FILE)
        self.samples_url = storage.join(out, final.SHEET)
        self._dataset: Any = None
        self._held_out: tuple[Any] | None = None
        self.without = ""
        """Why training data stands in for held-out data, where it does."""
        self._stage: FirstStage | None = None
        self._own: OwnFiles | None = None

    @property
    def own(self) -> OwnFiles:
        """The list of the run's files, for the main process, which alone writes."""
        if self._own is None:
            self._own = OwnFiles.read(self.out)
        return self._own

    @property
    def dataset(self) -> Any:
        """The training data."""
        if self._dataset is None:
            self._dataset = make_dataset(self.recipe, self.catalog)
            if (describe := getattr(self._dataset, "describe", None)) is not None:
                self.run.say(f"data: {describe()}")
        return self._dataset

    def paired(self) -> Any:
        """The data that the model is trained on: examples with an image and all that the conditioners read."""
        return self.dataset.select(dict.fromkeys(["image", *self.recipe.reads]))

    def held_out(self, keys: Sequence[str] = ("image",)) -> tuple[Any, bool]:
        """Held-out data with `keys`, and whether it is: where there is none, or some of it lacks a key, the training
        data stands in, and `without` says why. DataError where it is there and cannot be read."""
        if self._held_out is None:
            self._held_out = (held_out_data(self.recipe, self.catalog, self.info),)
        (data,) = self._held_out
        self.without = "the data has no held-out ones"
        if data is not None:
            try:
                data.select(keys)
                return data, True
            except DataError as error:
                self.without = f"the held-out ones do not do: {error}"
        return self.dataset, False

    def prepare(self, stages: Sequence[str]) -> None:
        """What the named stages need before the first of them: mistakes that it finds would come late otherwise."""
        fit_early(self, stages)

    def fingerprint(self, data: Any) -> str:
        """The fingerprint of `data`, made as the run was begun with: 0.1.0 also counted files that nothing reads."""
        if self._fingerprints is None:
            ways = known_data.ways(self.dataset)
            stored = known_data.identities(self.recipe, self.out) if len(ways) > 1 else frozenset()
            own = self._own_identities()
            match = (way for way in ways if any(digest([each, way(self.dataset)]) in stored for each in own))
            self._fingerprints = next(match, ways[0])
        return self._fingerprints(data)

    def hold_same_data(self) -> None:
        """ConfigError where the data is not what the run in the folder was begun with, in another place."""
        stored = known_data.identities(self.recipe, self.out)
        prints = [way(self.dataset) for way in known_data.ways(self.dataset)]
        mine = {digest([own, each]) for own in self._own_identities() for each in prints}
        if stored and not stored & mine:
            raise ConfigError(
                f"{self.out} holds a run of other data: what was read from "
                f"{known_data.places(self.known_as)} is not what {known_data.places(self.recipe)} holds now; give "
                "another folder with --out, or that data"
            )

    def _own_identities(self) -> list[str]:
        """What a stage's identity is made of beside the data."""
        known = [] if self.recipe.first_stage.weights else [self._first_stage_identity()]
        if storage.exists(self.stage_url):
            known.append(digest([self.known_as.identity(), artifacts.sha256(self.stage_url)]))
        return known

    def _identity(self, own: str) -> str:
        return digest([own, self.fingerprint(self.dataset)])

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        except TooManyBad as error:
            self._list_bad(error.bad)
            raise
        finally:
            self.seconds[name] = round(time.perf_counter() - begun, 2)

    def _end(self, name: str, status: str) -> None:
        if self.run.world.main:
            self.run.hook.ldm_stage_end(stage=name, status=status)

    def _finished(self, url: str, kind: str, identity: str) -> artifacts.Header | None:
        """The header of a finished stage's file, where it was made under this very recipe and data."""
        if not storage.exists(url):
            return None
        try:
            header = artifacts.read_header(url, kind)
        except CheckpointError as error:
            self.run.say(f"{error}; it is made again", "warning")
            return None
        section = "trainer" if kind == "model" else "first_stage_trainer"
        steps = header.extra.get("steps", getattr(self.known_as, section).steps)  # 0.1.0 did not say
        whole = steps == getattr(self.recipe, section).steps
        return header if header.extra.get("identity") == identity and whole else None

    def is_finished(self, kind: str) -> bool:
        """Whether the file of a stage (``first_stage`` or ``model``) is there, of this very recipe and data."""
        part = self.recipe.first_stage
        if kind == "first_stage" and part.weights:
            return storage.exists(self.stage_url) and artifacts.sha256(self.stage_url) == part.sha256
        if kind == "first_stage":
            identity = self._identity(self._first_stage_identity())
            return self._finished(self.stage_url, kind, identity) is not None
        stage = storage.exists(self.stage_url)
        return stage and self._finished(self.model_url, kind, self._model_identity()) is not None

    def picture(self, stage: str, step: int, name: str, data: bytes | None) -> None:
        """Write a PNG into the run's folder and tell the observers; nothing where there is none."""
        if data is not None and self.run.world.main:
            url = self.own.write(name, data)
            self.run.hook.ldm_images(stage=stage, step=step, name=name, url=url)

    # ------------------------------------------------------------------------------------------- first stage

    def first_stage(self) -> None:
        """Train the first stage, or take the trained one that the recipe names."""
        with self._timed("first_stage"):
            part = self.recipe.first_stage
            if part.weights:
                source = finder(self.catalog)(part.weights, artifacts.STAGE_FILE)
                self.run.say(f"first stage: '{part.use}' from {source}, frozen")
                if self.run.world.main and (
                    not storage.exists(self.stage_url) or artifacts.sha256(self.stage_url) != part.sha256
                ):
                    self.own.write(artifacts.STAGE_FILE, storage.read_bytes(source))
                self.run.world.barrier()
                self._end("first_stage", "skipped")
                return
            identity = self._identity(self._first_stage_identity())
            if header := self._finished(self.stage_url, "first_stage", identity):
                self.numbers.update(header.extra.get("numbers", {}))
                self._end("first_stage", "skipped")
                return
            train_first_stage(self, identity)
            self._end("first_stage", "done")

    def _first_stage_identity(self) -> str:
        """The recipe's, with the content of the LPIPS weights that it is trained with, wherever they lie."""
        own, lpips = self.known_as.first_stage_identity(), self.recipe.first_stage_trainer.lpips
        return digest([own, *map(artifacts.sha256, lpips.split(","))]) if lpips else own

    def report_bad(self, examples: Examples) -> None:
        """Say which examples could not be read."""
        if bad := examples.dataset.bad:
            few = ", ".join(printable(name) for name in list(bad)[:3])
            self.run.say(
                f"data: {len(bad)} unreadable example(s) passed over ({few}); all of them are in {BAD_FILE}", "warning"
            )
            self._list_bad(bad)

    def _list_bad(self, bad: Mapping[str, str]) -> None:
        """Put unreadable examples down in the run's folder, one a line, beside those of earlier stages and runs."""
        if self.run.world.main:
            url = storage.join(self.out, BAD_FILE)
            known = storage.read_text(url).splitlines() if storage.exists(url) else []
            lines = [f"{printable(name)}\t{printable(why)}" for name, why in bad.items()]
            self.own.write(BAD_FILE, "".join(f"{line}\n" for line in dict.fromkeys([*known, *lines])))

    def use_stage(self, stage: FirstStage) -> None:
        """Take a stage that was just trained; it need not be read again."""
        self._stage = stage

    def stage(self) -> FirstStage:
        """The finished first stage, frozen."""
        if self._stage is None:
            self._stage = load_stage(self.recipe, self.catalog, self.stage_url, self.run.world.device)
        return self._stage

    # ----------------------------------------------------------------------------------------------- latents

    def latents(self) -> None:
        """Encode the images once, or what is missing of them."""
        recipe = self.recipe
        if not recipe.trainer.cache_latents or self._finished(self.model_url, "model", self._model_identity()):
            return
        with self._timed("latents"):
            if why := latent_cache.obstacle(recipe):
                self.run.say(f"latents: not kept, as {why}; images are encoded at each step")
                return
            examples = Examples(self.paired(), recipe.image_size, recipe.data, ["image"])
            folder, source = self.moments_place()
            ensured = encode.ensure(
                lambda: held_stage(self.stage(), recipe, self.catalog, self.run.world.device),
                examples,
                self.run,
                folder,
                source,
                keep=recipe.data.keep,
                workers=recipe.data.workers,
            )
            self.report_bad(examples)
            self._end("latents", "done" if ensured.made else "skipped")

    def moments_place(self) -> tuple[str, Source]:
        """The folder of this run's moments, and what they are made from."""
        data = self.paired()
        prints = [self.fingerprint(data), *(way(data) for way in known_data.ways(data))]
        return latent_cache.place_of(self.recipe, self.out, artifacts.sha256(self.stage_url), prints)

    def moments(self) -> Cache | None:
        """The encoded images, None where they are not kept."""
        if not self.recipe.trainer.cache_latents or latent_cache.obstacle(self.recipe):
            return None
        folder, source = self.moments_place()
        return latent_cache.Cache.find(folder, source, self.recipe.data.keep)

    # ---------------------------------------------------------------------------------------------- denoiser

    def _model_identity(self) -> str:
        return self._identity(digest([self.known_as.identity(), artifacts.sha256(self.stage_url)]))

    def denoiser(self) -> None:
        """Train denoiser and conditioners."""
        with self._timed("denoiser"):
            identity = self._model_identity()
            if self._finished(self.model_url, "model", identity):
                self._end("denoiser", "skipped")
                return
            train_denoiser(self, identity)
            self._end("denoiser", "done")

    # ----------------------------------------------------------------------------------------------- samples

    def samples(self) -> None:
        """Sample what was asked for, or what held-out data asks for: each process its share."""
        with self._timed("samples"):
            final.draw(self, strict=self.strict)
            self.run.world.barrier()
            self._end("samples", "done")
