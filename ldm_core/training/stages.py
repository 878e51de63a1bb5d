"""The stages of a run, each skipped where its result is there already under the same recipe and data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from ldm_core import artifacts, images, storage
from ldm_core.batch import to_images
from ldm_core.build import make_dataset, make_first_stage, make_model, make_objective, sampling_site
from ldm_core.catalog import Catalog
from ldm_core.config import unstructure
from ldm_core.contracts import DataInfo, FirstStage
from ldm_core.errors import CheckpointError, DataError
from ldm_core.pipeline import load_stage, reconstruct
from ldm_core.recipe import Recipe, digest, versions
from ldm_core.streams import mix_seed
from ldm_core.training import engine, final_samples, latents
from ldm_core.training.denoiser_task import DenoiserTask
from ldm_core.training.first_stage_task import FirstStageTask, fit_normalization
from ldm_core.training.loader import Examples, Loader
from ldm_core.training.loop import Run, Stop, train
from ldm_core.training.metrics_file import MetricsFile, draw_curves
from ldm_core.training.reconstruction_metrics import quality

_HELD_OUT = 256
_SHOWN = 16


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
    ) -> None:
        self.recipe, self.info, self.catalog, self.out = recipe, info, catalog, out
        self._examples, self._strict = examples, strict
        world = engine.start()
        metrics = MetricsFile(storage.join(out, "metrics.jsonl"), active=world.main)
        self.run = Run(out, world, catalog.manager.hook, Stop(), metrics)
        self.numbers: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.model_url = storage.join(out, artifacts.MODEL_FILE)
        self.stage_url = storage.join(out, artifacts.STAGE_FILE)
        self.samples_url = storage.join(out, "samples.png")
        self._dataset: Any = None
        self._stage: FirstStage | None = None

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
        """Held-out data with `keys`, and whether it is: a data set without such a split gives its training data."""
        if hasattr(self.recipe.dataset.config, "split"):
            try:
                data = make_dataset(self.recipe, self.catalog, split="val")
                data.select(keys)
                return data, True
            except DataError:
                pass
        return self.dataset, False

    def _identity(self, own: str) -> str:
        return digest([own, self.dataset.fingerprint()])

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
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
        return header if header.extra.get("identity") == identity else None

    def _picture(self, stage: str, step: int, name: str, data: bytes | None) -> None:
        if data is not None and self.run.world.main:
            url = storage.join(self.out, name)
            storage.atomic_write(url, data)
            self.run.hook.ldm_images(stage=stage, step=step, name=name, url=url)

    # ------------------------------------------------------------------------------------------- first stage

    def first_stage(self) -> None:
        """Train the first stage, or take the trained one that the recipe names."""
        with self._timed("first_stage"):
            part = self.recipe.first_stage
            if part.weights:
                source = artifacts.find(part.weights, artifacts.STAGE_FILE)
                self.run.say(f"first stage: '{part.use}' from {source}, frozen")
                if self.run.world.main and (
                    not storage.exists(self.stage_url) or artifacts.sha256(self.stage_url) != part.sha256
                ):
                    storage.atomic_write(self.stage_url, storage.read_bytes(source))
                self.run.world.barrier()
                self._end("first_stage", "skipped")
                return
            identity = self._identity(self.recipe.first_stage_identity())
            if header := self._finished(self.stage_url, "first_stage", identity):
                self.numbers.update(header.extra.get("numbers", {}))
                self._end("first_stage", "skipped")
                return
            self._train_first_stage(identity)
            self._end("first_stage", "done")

    def _train_first_stage(self, identity: str) -> None:
        recipe, settings, world = self.recipe, self.recipe.first_stage_trainer, self.run.world
        world.barrier()  # before anyone writes, all have seen that there is nothing yet
        examples = Examples(self.dataset, recipe.image_size, recipe.data, ["image"])
        stage: Any = make_first_stage(recipe, self.catalog)
        stage.to(world.device)
        if any(p.requires_grad for p in stage.parameters()):
            if not settings.lpips:
                self.run.say(
                    "first stage: trained without LPIPS, as the recipe gives no weights for it "
                    "(first_stage_trainer.lpips=PATH_OR_URL)"
                )
            loader = Loader(
                examples.__getitem__,
                len(examples),
                examples.keys,
                images_per_step=settings.images_per_step,
                accumulate=settings.accumulate,
                steps=settings.steps,
                world=world,
                seed=mix_seed(recipe.seed, "first_stage"),
                flip=recipe.data.flip,
                workers=recipe.data.workers,
            )
            task = FirstStageTask(
                stage, recipe, world, lambda: self._images(examples, settings.codebook_init_images)
            )
            folder = storage.join(self.out, "checkpoints", "first_stage")
            train(task, loader, settings, self.run, folder=folder, identity=identity)
        stage.eval().requires_grad_(False)
        few = min(settings.statistics_images, len(examples))
        seeds = [mix_seed(recipe.seed, "statistics", i) for i in range(few)]
        batches = self._images(examples, few)
        fit_normalization(stage, ((x, seeds[i * 32 : i * 32 + len(x)]) for i, x in enumerate(batches)))
        self._stage = stage
        self._evaluate(stage)
        self._bad(examples)
        if world.main:
            meta = artifacts.metadata(
                "first_stage",
                recipe.first_stage.use,
                unstructure(recipe.first_stage.config),
                versions(recipe, self.catalog),
                identity=identity,
                image_channels=recipe.image_channels,
                image_size=list(recipe.image_size),
                numbers=self.numbers,
            )
            state = {k: v.detach().cpu().contiguous() for k, v in stage.state_dict().items()}
            storage.atomic_write(self.stage_url, save(state, metadata=meta))
            self._picture(
                "first_stage",
                settings.steps,
                "first_stage_loss.png",
                draw_curves(self.run.metrics.read(), "first_stage"),
            )
        world.barrier()

    def _images(self, examples: Examples, count: int) -> Iterator[torch.Tensor]:
        count = min(count, len(examples))
        for start in range(0, count, 32):
            batch = [examples[i]["image"] for i in range(start, min(start + 32, count))]
            yield to_images(np.stack(batch)).to(self.run.world.device)

    def _evaluate(self, stage: FirstStage) -> None:
        dataset, held_out = self.held_out()
        examples = Examples(dataset, self.recipe.image_size, self.recipe.data, ["image"])
        originals = np.stack([e["image"] for e in examples.first(_HELD_OUT)])
        again = reconstruct(stage, originals, self.run.world.device)
        scores = quality(torch.from_numpy(originals), torch.from_numpy(again))
        self.numbers.update(scores, evaluated_images=float(len(originals)), held_out=float(held_out))
        shown = [x for pair in zip(originals[:_SHOWN], again[:_SHOWN], strict=True) for x in pair]
        sheet = images.grid(shown, columns=8, cell=96)
        self._picture("first_stage", 0, "reconstructions.png", images.png_bytes(sheet))
        self.run.metrics.write(stage="first_stage_evaluation", step=0, **self.numbers)
        kind = "held-out" if held_out else "training"
        self.run.say(
            f"first stage: PSNR {scores['psnr']:.2f} dB"
            + (f", SSIM {scores['ssim']:.3f}" if "ssim" in scores else "")
            + f" on {len(originals)} {kind} images"
        )

    def _bad(self, examples: Examples) -> None:
        if examples.dataset.bad:
            few = ", ".join(list(examples.dataset.bad)[:3])
            self.run.say(f"data: {len(examples.dataset.bad)} unreadable example(s) passed over ({few})", "warning")

    def stage(self) -> FirstStage:
        """The finished first stage, frozen."""
        if self._stage is None:
            self._stage = load_stage(self.recipe, self.catalog, self.stage_url, self.run.world.device)
        return self._stage

    # ----------------------------------------------------------------------------------------------- latents

    def latents(self) -> None:
        """Encode the images once."""
        if not self.recipe.trainer.cache_latents or self._finished(self.model_url, "model", self._model_identity()):
            return
        with self._timed("latents"):
            url, key = self._moments_key()
            if latents.fits(url, key):
                self._end("latents", "skipped")
                return
            self.run.world.barrier()  # before anyone writes, all have seen that there is nothing yet
            examples = Examples(self.paired(), self.recipe.image_size, self.recipe.data, ["image"])
            made = latents.encode(self.stage(), examples, self.run, flip=self.recipe.data.flip, url=url, key=key)
            self._bad(examples)
            if made is None:
                self.run.say("latents: too many to keep; images are encoded at each step")
            self.run.world.barrier()
            self._end("latents", "done")

    def _moments_key(self) -> tuple[str, str]:
        recipe = self.recipe
        key = latents.key_of(
            artifacts.sha256(self.stage_url),
            self.paired().fingerprint(),
            recipe.image_size,
            recipe.data.fit,
            recipe.data.flip,
        )
        return storage.join(self.out, "latents", "moments.safetensors"), key

    # ---------------------------------------------------------------------------------------------- denoiser

    def _model_identity(self) -> str:
        return self._identity(digest([self.recipe.identity(), artifacts.sha256(self.stage_url)]))

    def denoiser(self) -> None:
        """Train denoiser and conditioners."""
        with self._timed("denoiser"):
            identity = self._model_identity()
            if self._finished(self.model_url, "model", identity):
                self._end("denoiser", "skipped")
                return
            self._train_denoiser(identity)
            self._end("denoiser", "done")

    def _train_denoiser(self, identity: str) -> None:
        recipe, settings, world, stage = self.recipe, self.recipe.trainer, self.run.world, self.stage()
        model = make_model(recipe, self.catalog, stage)
        self._fit_conditioners(model)
        made = latents.cached(*self._moments_key()) if settings.cache_latents else None
        fetch: Any
        data, keys = self.paired(), recipe.reads
        if made is None:
            examples = Examples(data, recipe.image_size, recipe.data, ["image", *keys])
            fetch, geometry = examples.__getitem__, examples.keys
            count = len(examples)
        else:
            beside = Examples(data, recipe.image_size, recipe.data, keys) if keys else None
            fetch = latents.LatentExamples(made, beside)
            geometry, count = fetch.keys, made.tensor.shape[1]
        loader = Loader(
            fetch,
            count,
            geometry,
            images_per_step=settings.images_per_step,
            accumulate=settings.accumulate,
            steps=settings.steps,
            world=world,
            seed=mix_seed(recipe.seed, "denoiser"),
            flip=recipe.data.flip,
            workers=recipe.data.workers,
        )
        model.to(world.device)
        objective = make_objective(recipe, self.catalog, sampling_site(recipe, stage))
        task = DenoiserTask(model, objective, stage, recipe, world)
        folder = storage.join(self.out, "checkpoints", "denoiser")
        train(task, loader, settings, self.run, folder=folder, identity=identity)
        weights = {k: v.contiguous() for k, v in task.weights().items()}
        if world.main:
            meta = artifacts.metadata(
                "model",
                recipe.denoiser.use,
                recipe.carried(),
                versions(recipe, self.catalog),
                identity=identity,
                first_stage_sha256=artifacts.sha256(self.stage_url),
                class_names={k: list(v) for k, v in self.info.class_names.items()},
                averaged=task.ema is not None,
            )
            storage.atomic_write(self.model_url, save(weights, metadata=meta))
            curves = draw_curves(self.run.metrics.read(), "denoiser")
            self._picture("denoiser", settings.steps, "denoiser_loss.png", curves)
        world.barrier()

    def _fit_conditioners(self, model: Any) -> None:
        """Let conditioners learn from the annotations (a tokenizer), where nothing was learned yet."""
        for part in self.recipe.conditioners:
            fit = getattr(model.conditioners[part.name], "fit", None)
            if fit is not None:
                view = Examples(self.paired(), self.recipe.image_size, self.recipe.data, part.config.reads).dataset
                fit(view[i] for i in range(len(view)))

    # ----------------------------------------------------------------------------------------------- samples

    def samples(self) -> None:
        """Sample what was asked for, or what held-out data asks for; the main process does, the others wait."""
        with self._timed("samples"):
            if self.run.world.main:
                final_samples.draw(
                    self.recipe, self.info, self.catalog, self.run, self.held_out, self._examples, strict=self._strict
                )
            self.run.world.barrier()
            self._end("samples", "done")
