"""The four stages of a run in their order, each skipped if its result is there under the same recipe and data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ldm_core import storage
from ldm_core.data.unreadable import TooManyBad
from ldm_core.model.conformance.first_stage import held_stage
from ldm_core.recipe import artifacts
from ldm_core.training.context import RunContext
from ldm_core.training.denoiser.evaluation import Evaluation
from ldm_core.training.denoiser.fit import fit_early
from ldm_core.training.denoiser.train import train_denoiser
from ldm_core.training.engine.deepspeed_patches import own_linear
from ldm_core.training.feed.examples import Examples
from ldm_core.training.first_stage.train import train_first_stage
from ldm_core.training.latents import cache as latent_cache
from ldm_core.training.latents import encode
from ldm_core.training.samples import final
from ldm_core.weights.convert import finder


class Stages:
    """The stages of one run; each leaves files in its folder and its results in ``context.results``."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self._evaluation: Evaluation | None = None
        self._fitted: dict[str, dict[str, Any]] = {}
        """The state learned by conditioners before any training, by name."""

    def prepare(self, stages: Sequence[str]) -> None:
        """Prepare the named stages before the first of them: mistakes found here would come late otherwise."""
        self._fitted = fit_early(self.context, stages)
        asked = "denoiser" in stages and self.context.recipe.trainer.evaluate_every
        if asked and not self.context.is_finished("model"):
            self._evaluation = Evaluation(self.context)

    def first_stage(self) -> None:
        """Train the first stage, or take the trained one named by the recipe."""
        context = self.context
        with self._timed("first_stage"):
            if context.recipe.first_stage.weights:
                self._take_trained_stage()
                self._end("first_stage", "skipped")
            elif header := context.finished_first_stage():
                context.results.numbers.update(header.extra.get("numbers", {}))
                self._end("first_stage", "skipped")
            else:
                train_first_stage(context, context.identities.first_stage())
                self._end("first_stage", "done")

    def _take_trained_stage(self) -> None:
        context, part = self.context, self.context.recipe.first_stage
        source = finder(context.catalog)(part.weights, artifacts.STAGE_FILE)
        context.run.say(f"first stage: '{part.use}' from {source}, frozen")
        if context.run.world.main and not context.is_finished("first_stage"):
            context.own.write(artifacts.STAGE_FILE, storage.read_bytes(source))
        context.run.world.barrier()

    def latents(self) -> None:
        """Encode the images once, or the missing ones."""
        context, recipe = self.context, self.context.recipe
        if not recipe.trainer.cache_latents or context.finished_model():
            return
        with self._timed("latents"):
            if why := latent_cache.obstacle(recipe):
                context.run.say(f"latents: not kept, as {why}; images are encoded at each step")
                return
            examples = Examples(context.paired(), recipe.image_size, recipe.data, ["image"])
            folder, source = context.moments_place()
            ensured = encode.ensure(
                lambda: held_stage(context.stage(), recipe, context.catalog, context.run.world.device),
                examples,
                context.run,
                folder,
                source,
                keep=recipe.data.keep,
                workers=recipe.data.workers,
            )
            context.report_bad(examples)
            self._end("latents", "done" if ensured.made else "skipped")

    def denoiser(self) -> None:
        """Train denoiser and conditioners."""
        context = self.context
        with self._timed("denoiser"):
            if context.finished_model():
                self._end("denoiser", "skipped")
            else:
                train_denoiser(context, context.identities.model(), self._fitted, self._evaluation)
                self._end("denoiser", "done")

    def samples(self) -> None:
        """Sample the inputs asked for, or those of held-out data: each process its share."""
        with self._timed("samples"):
            final.draw(self.context)
            self.context.run.world.barrier()
            self._end("samples", "done")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            with own_linear():
                yield
        except TooManyBad as error:
            self.context.list_bad(error.bad)
            raise
        finally:
            self.context.results.seconds[name] = round(time.perf_counter() - begun, 2)

    def _end(self, name: str, status: str) -> None:
        run = self.context.run
        if run.world.main:
            run.hook.ldm_stage_end(stage=name, status=status)
