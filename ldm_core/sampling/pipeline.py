"""A trained model as one object: load it, sample from it, reconstruct with its first stage.

Importing this imports torch, but neither deepspeed nor timm; s3fs only for an s3 URL.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import TYPE_CHECKING, Any, Unpack

import attrs
import numpy as np
import torch
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage, NoiseSchedule
from ldm_core.contracts.conditioning import Conditions
from ldm_core.contracts.configs import GuidanceConfig, of
from ldm_core.contracts.values import Precision
from ldm_core.data import class_names
from ldm_core.data.collate import collate, to_device
from ldm_core.data.palettes import Palette, with_classes
from ldm_core.errors import PromptWarning
from ldm_core.model.adapters import with_adapters
from ldm_core.model.build import SamplingParts, make_sampling, sampling_site
from ldm_core.model.conformance.breaches import inside, named
from ldm_core.model.conformance.first_stage import hold_start
from ldm_core.model.diffusion import Model
from ldm_core.model.tiles.tiling import Tiling, tiled
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling import conventions
from ldm_core.sampling import load as load_
from ldm_core.sampling import settings as sampling
from ldm_core.sampling.arguments import SampleArguments, require_arguments, require_names, spelled_out
from ldm_core.sampling.finite import finite_rows, not_finite, seeds_in_errors
from ldm_core.sampling.grids.grid import GridMethods
from ldm_core.sampling.image_to_image import Start
from ldm_core.sampling.image_to_image import passage as passage_of
from ldm_core.sampling.inputs import (
    as_data,
    count_of,
    negative_rows,
    rows_of,
    seeds_of,
    truncations,
)
from ldm_core.sampling.pieces.finish import finished
from ldm_core.sampling.pieces.first_stage import StageMethods
from ldm_core.sampling.pieces.loop import Loop, begun_loop
from ldm_core.sampling.pieces.plan import Plan
from ldm_core.sampling.pieces.presets import PresetMethods
from ldm_core.sampling.pieces.whole import SizeMethods
from ldm_core.sampling.result import Callback, Progress, Sampled
from ldm_core.sampling.run import Watch, conditions_of, decoded, sample_latents

if TYPE_CHECKING:
    from ldm_core.weights.open import Wanted


class Pipeline(StageMethods, GridMethods, SizeMethods, PresetMethods):
    """First stage, model and sampler of a trained recipe. Safe to call from several threads at once.

    Assemble one from parts with ``Pipeline(recipe, stage, model, catalog)``, or :meth:`load` a run. `weights` and
    `first_stage` are the hashes of their files.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: FirstStage,
        model: Model,
        catalog: Catalog,
        *,
        weights: str = "",
        first_stage: str = "",
        class_names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.recipe, self.stage, self.model, self.catalog = recipe, stage, model.eval(), catalog
        self.weights = weights
        self.class_names: Mapping[str, Sequence[str]] = class_names or {}
        self.palettes: Mapping[str, Palette] = {}  # colours of label maps that it was trained on, by key
        self._site = attrs.evolve(sampling_site(recipe, stage), first_stage=first_stage)
        self._loaded = recipe.adapters, self.model
        self._trained = {key: getattr(recipe, key) for key in sampling.CHOICES}
        self._made: tuple[Any, SamplingParts] | None = None
        self.conventions, self.made_by = "", ""  # made_by: the codec of another program's weights
        self._decoders, self._computed = {}, {}

    @classmethod
    def load(
        cls,
        url: str | os.PathLike[str],
        *,
        device: str | None = None,
        catalog: Catalog | None = None,
        wanted: Wanted | None = None,
        precision: Precision = "fp32",
    ) -> Pipeline:
        """Load a run's folder, its ``model.safetensors`` (its first stage lies beside it), or weights of another
        program, as an installed codec reads them; see :func:`ldm_core.sampling.load.load`."""
        loaded = load_.load(os.fspath(url), catalog or Catalog.discover(), wanted, device=device, precision=precision)
        return cls.of(loaded)

    @classmethod
    def of(cls, loaded: load_.Loaded) -> Pipeline:
        """The pipeline of loaded parts."""
        made = cls(
            loaded.recipe,
            loaded.stage,
            loaded.model,
            loaded.catalog,
            weights=loaded.weights,
            first_stage=loaded.first_stage,
            class_names=loaded.class_names,
        )
        made.palettes, made.made_by, made.folder = loaded.palettes, loaded.made_by, loaded.folder
        made.presets_text = loaded.presets
        return made

    @property
    def schedule(self) -> NoiseSchedule:
        """The forward process that the model was trained on."""
        return self.model.schedule

    def __repr__(self) -> str:
        recipe = self.recipe
        scale = of(GuidanceConfig, recipe.guidance.config).scale
        guidance = recipe.guidance.use + (f" {scale:g}" if scale is not None else "")
        parts = [recipe.first_stage.use, *(c.name for c in recipe.conditioners), recipe.denoiser.use]
        size = "x".join(map(str, recipe.image_size))
        return f"Pipeline({', '.join([*parts, recipe.sampler.use, guidance, size, str(self.device)])})"

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys of the conditioners and guidances: the inputs that `sample` must have, but for sizes of pictures."""
        return self.recipe.inputs

    def truncations(self, prompts: Sequence[str]) -> list[str]:
        """Quote the part beyond a conditioner's context, a line for each such prompt."""
        return truncations(dict(self.model.conditioners.items()), prompts)

    def like(self, name: str) -> Pipeline:
        """The same model, sampled as another program's scripts do by default: ``like("compvis")`` takes their sampler,
        time grid, steps, guidance and rounding. :class:`ConfigError` for an unknown program."""
        made = self.with_recipe(conventions.like(self.recipe, name, self.catalog))
        made.conventions = name
        return made

    def with_recipe(self, recipe: Recipe) -> Pipeline:
        """The same model, sampled as `recipe` says, of the same parts save adapters. Weights are shared."""
        made = copy(self)
        made.recipe, made.preset, made._said = recipe, "", ()
        if recipe.adapters != self.recipe.adapters:
            loaded, model = self._loaded
            again = recipe.adapters == loaded
            made.model = model if again else with_adapters(self.model, self.recipe, recipe, self._site, self.catalog)
        return made

    def _parts(self, recipe: Recipe) -> SamplingParts:
        # kept from call to call, since a guidance may bring a second model; one assignment, for the sake of threads
        key = (recipe.sampler, recipe.guidances, recipe.time_grid, recipe.sample.latent_scale, self.model.precision)
        made = self._made
        if made is None or made[0] != key:
            site = attrs.evolve(self._site, precision=self.model.precision)
            made = self._made = key, make_sampling(recipe, self.catalog, site)
        return made[1]

    @spelled_out
    def sample(self, prompts: str | Sequence[str] | None = None, **arguments: Unpack[SampleArguments]) -> list[Sampled]:
        """Sample images; image i is a function of its seed and its inputs alone, for any `batch`.

        * `prompts`, one or several, are the inputs ``caption``; `inputs` gives any key of a conditioner, the same for
          all images, or a list with one mapping an image. A class is given by its name or, if no class is called by a
          number, its index (:mod:`ldm_core.data.class_names`). `images` is how many in all, prompts in turn.
        * `negative`, captions in turn or a mapping as `inputs`, takes the place of no condition in the guidance.
        * `steps` are the sampler's; `guidance` is the scale, or another guidance by name. :meth:`with_settings` sets
          all else: the sampler, the time grid, ``{"sample": {"project_x0": True}}``.
        * `preset` is the name of one of the weights' :attr:`presets`; `steps` and `guidance` beside it win.
        * `start` is a picture or latents to begin from, and a level to end at: ``Start.image(picture, strength=0.6)``,
          ``Start.latents(latents, strength=0.4)``, ``Start.noise(stop=0.4)``; see :class:`Start`.
        * `whole`: the model enlarges pictures of any size in `inputs`, in windows, and keeps their coarse colours.
        * Image i has the seed ``seed + i``, or ``seed[i]`` of a list. Sums of other sizes are rounded otherwise: with
          another `batch` single pixels may differ by 1/255.
        * `callback` sees the progress at each step; it cancels the run by returning False (:class:`Interrupted`) or by
          raising.

        Raises DataError for a missing input, ConfigError for impossible numbers, TypeError for an unknown argument.
        Warns (:class:`PromptWarning`) of an input that a conditioner cuts off;
        ``warnings.simplefilter("error", PromptWarning)`` makes an error of it.
        """
        require_names("sample", arguments)
        own, made = self._by(arguments), list[Sampled]()
        for batch in (own._whole if arguments.get("whole") else own._fitted)(prompts, arguments, made):
            made += batch
        return made

    @spelled_out
    def stream(
        self, prompts: str | Sequence[str] | None = None, **arguments: Unpack[SampleArguments]
    ) -> Iterator[list[Sampled]]:
        """Give the images of :meth:`sample` batch by batch, in order, as soon as each is done.

        What is wrong with the arguments is raised at once, and not at the first batch.
        """
        require_names("stream", arguments)
        own = self._by(arguments)
        return (own._whole if arguments.get("whole") else own._fitted)(prompts, arguments)

    def _plan(self, prompts: str | Sequence[str] | None, given: SampleArguments) -> Plan:
        """Check the arguments of :meth:`sample`, and make them the plan of a run."""
        require_arguments({"prompts": prompts, **given})
        self.require_decoders()
        stage = self.computed.stage
        recipe = sampling.chosen(self.recipe, given.get("guidance"), self.catalog)
        steps, batch = given.get("steps") or recipe.sample.steps, given.get("batch") or recipe.sample.batch
        with inside(part := named(recipe.first_stage, self.catalog), "encode_moments or latents"):
            begun = passage_of(given.get("start") or Start(), recipe, stage, self.model.device, batch)
        hold_start(part, begun.latents, recipe.first_stage.config.latent.shape(recipe.image_size))
        inputs, seed, negative = given.get("inputs"), given.get("seed"), given.get("negative")
        images = count_of(given.get("images"), seed)
        if images is None and begun.latents is not None and not prompts and (not inputs or isinstance(inputs, Mapping)):
            images = len(begun.latents)
        rows = [self._named(row) for row in rows_of(recipe, prompts, inputs, images)]
        avoided = [] if negative is None else [self._named(row) for row in negative_rows(recipe, rows, negative)]
        plan = Plan(recipe, int(steps), int(batch), rows, avoided, seeds_of(recipe, rows, seed), begun)
        for line in plan.cut_off(self.model):
            warnings.warn(line, PromptWarning, stacklevel=4)
        return plan

    def _draw(self, plan: Plan, callback: Callback | None, before: Sequence[Sampled] = ()) -> Iterator[list[Sampled]]:
        """Check the plan, then sample its batches, one after the other; `before`: the images of finished ones."""
        return self._drawn(plan, *self._counted(plan), callback, before)

    def _counted(self, plan: Plan) -> tuple[SamplingParts, int]:
        """The parts of a plan's run, and its number of steps; ConfigError where the grid cannot make them."""
        sampling.require_steps(plan.recipe, plan.steps)
        parts = self._parts(plan.recipe)
        return parts, plan.intervals(self.model, parts)

    def _drawn(
        self, plan: Plan, parts: SamplingParts, intervals: int, callback: Callback | None, before: Sequence[Sampled]
    ) -> Iterator[list[Sampled]]:
        model, shape = self.computed.model, plan.shape
        if model.contracts is not None:
            model.contracts.open(shape[1:])
        for number, chunk in enumerate(plan.chunks):
            begun = Progress(number * intervals, len(plan.chunks) * intervals, chunk.start, len(plan.rows))
            watch, seeds = Watch(callback, begun, self.preview), plan.seeds_of(chunk)
            with torch.no_grad(), seeds_in_errors(seeds, plan.recipe, model.precision, before):
                conditions = self._conditions(plan, chunk)
                options = plan.options(chunk, self.stage, watch)
                z = sample_latents(model, parts, conditions, shape, seeds, plan.steps, options)
            if model.contracts is not None:
                model.contracts.close()
            x0 = z if watch.x0 is None or not plan.begun.stop else watch.x0
            sound = finite_rows(z)
            made, fine = self._pictures(plan, chunk, x0, z.float().cpu().numpy(), sound, parts.guidances)
            yield made
            if bad := [plan.seeds[i] for i, one in zip(chunk, (fine & sound).tolist(), strict=True) if not one]:
                what = "pictures" if sound.all() else "latents"
                raise not_finite(bad, what, plan.recipe, model.precision, before)

    def _conditions(self, plan: Plan, chunk: range) -> Conditions:
        given = self._batch([plan.rows[i] for i in chunk], plan.recipe.inputs)
        negative = self._batch([plan.avoided[i] for i in chunk], tuple(plan.avoided[0])) if plan.avoided else {}
        with tiled(Tiling.of(plan.recipe.sample)):
            seeds, options = plan.seeds_of(chunk), plan.recipe.accepted_options
            return conditions_of(self.model, given, negative, seeds, options=options)

    def _pictures(
        self,
        plan: Plan,
        chunk: range,
        x0: Tensor,
        ends: np.ndarray,
        sound: Tensor,
        guidances: Mapping[str, object],
    ) -> tuple[list[Sampled], Tensor]:
        """Decode `x0` to the pictures of the rows that are `sound` and finite; also (B,) bool, the finite ones."""
        settings = plan.recipe.sample
        parts: dict[str, object] = dict(self.model.conditioners.items() if settings.paste_known else ())
        parts.update({f"guidance {name}": guidance for name, guidance in guidances.items()})
        shown, fine = decoded(self.as_images, x0, self.model.runs_in("first_stage"), levels=settings.levels)
        pictures, more = finished(plan.recipe, parts, [plan.rows[i] for i in chunk], shown.numpy())
        made, told = [], {**self.decoder_in_words(), **self.computed.words}
        for i, pixels, end, whole in zip(chunk, pictures, ends, (fine & sound).tolist(), strict=True):
            if whole:
                about = plan.described(i, self.class_names, self.conventions) | {"weights_sha256": self.weights}
                about |= self._preset_in_words(plan)
                made.append(Sampled(pixels, plan.prompt(i), plan.seeds[i], about | more | told, end))
        return made, fine

    def begin(
        self, prompts: str | Sequence[str] | None = None, **arguments: Unpack[SampleArguments]
    ) -> AbstractContextManager[Loop]:
        """Prepare a run for a loop of one's own, with the arguments of :meth:`sample`: all of its images at once.

        ``with pipeline.begin("a red circle", steps=20, seed=5) as run`` gives a :class:`Loop`: ``run.x`` at
        ``run.times[0]``, and ``run.denoise(x, t)``, through which gradients pass to x.
        Errors of the arguments are raised at once, and not by ``with``.
        """
        require_names("begin", arguments)
        own = self._by(arguments)
        plan = own._planned(prompts, arguments)
        rows, (parts, _) = range(len(plan.rows)), own._counted(plan)
        with torch.no_grad():
            conditions = own._conditions(plan, rows)
        return begun_loop(own.computed.model, parts, conditions, plan, plan.options(rows, self.stage))

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        if (row := with_classes(row, self.palettes)).keys().isdisjoint(class_names.KEYS):
            return row
        return class_names.indices(row, self.class_names, class_names.counts_of(self.recipe))

    def _batch(self, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
        if not keys:
            return {}
        return to_device(collate([{k: as_data(r[k], k) for k in keys} for r in rows]), self.model.device)
