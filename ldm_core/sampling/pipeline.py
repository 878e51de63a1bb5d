"""A trained model as one object: load it, sample from it, reconstruct with its first stage.

Importing this imports torch, but neither deepspeed nor timm; s3fs only for an s3 URL.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.contracts import FirstStage, known_pixels
from ldm_core.contracts.values import Precision
from ldm_core.data import class_names
from ldm_core.data.collate import collate, to_device, to_images
from ldm_core.errors import ConfigError, DataError, Interrupted, NotFiniteError
from ldm_core.model.build import SamplingParts, make_sampling, sampling_site
from ldm_core.model.conformance.breaches import inside, named
from ldm_core.model.conformance.first_stage import hold_pictures, hold_start
from ldm_core.model.diffusion import Model
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling import conventions
from ldm_core.sampling import load as load_
from ldm_core.sampling import settings as sampling
from ldm_core.sampling.arguments import require_arguments
from ldm_core.sampling.finite import finite_rows, not_finite, told_with_seeds
from ldm_core.sampling.image_to_image import passage as passage_of
from ldm_core.sampling.inputs import Negative, as_data, in_words, negative_rows, rows_of, seeds_of
from ldm_core.sampling.made_from import described
from ldm_core.sampling.result import Callback, Progress, Sampled
from ldm_core.sampling.run import conditions_of, decoded, omissions, sample_latents, truncations

if TYPE_CHECKING:
    from ldm_core.weights.open import Wanted


class Pipeline:
    """First stage, model and sampler of a trained recipe. Safe to call from several threads at once.

    Assemble one from parts with ``Pipeline(recipe, stage, model, catalog)``, or :meth:`load` a run. `weights` and
    `first_stage`: the hashes of their files.
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
        self._site = attrs.evolve(sampling_site(recipe, stage), first_stage=first_stage)
        self._made: tuple[Any, SamplingParts] | None = None
        self.conventions = ""
        self.made_by = ""  # the codec that read it, where that is not our own

    @classmethod
    def load(
        cls,
        url: str,
        *,
        device: str | None = None,
        catalog: Catalog | None = None,
        wanted: Wanted | None = None,
        precision: Precision = "fp32",
    ) -> Pipeline:
        """Load a run's folder, its ``model.safetensors`` (its first stage lies beside it), or weights of another
        program that an installed codec knows; see :func:`ldm_core.sampling.load.load`."""
        loaded = load_.load(str(url), catalog or Catalog.discover(), wanted, device=device, precision=precision)
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
        made.made_by = loaded.made_by
        return made

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys that the model's conditioners read: what `sample` must be given."""
        return self.recipe.reads

    def truncations(self, prompts: Sequence[str]) -> list[str]:
        """For each prompt that is longer than a conditioner's context, a line that quotes what is cut."""
        return truncations(dict(self.model.conditioners.items()), prompts)

    def with_settings(self, settings: Mapping[str, Any] | Iterable[str]) -> Pipeline:
        """The same model, sampled otherwise: ``{"guidance": {"use": "cfg", "rescale": 0.7}, "sampler": "ddpm"}``, or
        the command line's ``["guidance.rescale=0.7"]``. Weights are shared; :class:`ConfigError` says what is allowed.
        """
        return self._like(sampling.with_settings(self.recipe, settings, self.catalog))

    def like(self, name: str) -> Pipeline:
        """The same model, sampled as another program's scripts do by default: ``like("compvis")`` takes their sampler,
        time grid, steps, guidance and rounding. :class:`ConfigError` where nothing installed knows them."""
        made = self._like(conventions.like(self.recipe, name, self.catalog))
        made.conventions = name
        return made

    def _like(self, recipe: Recipe) -> Pipeline:
        made = copy(self)
        made.recipe = recipe
        return made

    def _parts(self, recipe: Recipe) -> SamplingParts:
        # kept from call to call, since a guidance may bring a second model; one assignment, for the sake of threads
        key = (recipe.sampler, recipe.guidance, recipe.time_grid, self.model.precision)
        made = self._made
        if made is None or made[0] != key:
            site = attrs.evolve(self._site, precision=self.model.precision)
            made = self._made = key, make_sampling(recipe, self.catalog, site)
        return made[1]

    def sample(  # noqa: C901, PLR0913
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        examples: Sequence[Mapping[str, Any]] | None = None,
        images: int | None = None,
        steps: int | None = None,
        guidance: float | str | None = None,
        sampler: str | None = None,
        time_grid: str | None = None,
        project_x0: bool | None = None,
        negative: Negative | None = None,
        image: Any = None,
        latents: Any = None,
        strength: float | None = None,
        stop: float | None = None,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        batch: int | None = None,
        strict: bool = False,
        callback: Callback | None = None,
        done: Callable[[list[Sampled]], object] | None = None,
    ) -> list[Sampled]:
        """Sample images.

        `prompts`, one or several, are the inputs ``caption``; `inputs` gives any key that a conditioner reads, the
        same for all images; `examples` gives one mapping an image. A class is given by its name or, where no class is
        called by a number, its index (:mod:`ldm_core.data.class_names`). `images`: how many in all (prompts are gone
        through in turn). Image i has seed ``seed + i`` or ``seeds[i]``, and is a function of its seed and inputs
        alone, whatever `batch` is. `guidance` is the scale, or another guidance by name (:meth:`with_settings` for all
        else), `sampler` and `time_grid` other ones by name, `project_x0` lets the first stage quantise each estimate.
        `negative`, captions (gone through in turn) or a mapping as `inputs`, is what guidance moves away from,
        in place of no condition.

        `image`, a picture (PIL, or uint8 (c, H, W)) or several, is what to begin from in place of noise: fitted and
        encoded, and noised so that the share `strength` (0.75) of the steps remains. With `stop` that share of the
        steps is left out at the end: ``latents`` of what comes out are at that level, its picture is what the model
        makes of them, and a run with these `latents` and that number as `strength` goes on from there.

        Sums of other sizes are rounded otherwise: with another `batch` single pixels may differ by 1/255.

        `callback` is told of each step; it cancels the run by returning False
        (:class:`Interrupted`) or by raising. `done` is handed the images of each batch when they are finished, in
        order; nothing is kept then, and the list that comes back is empty.

        Raises DataError where a conditioner lacks its input, ConfigError for numbers that cannot be; with `strict`
        also for prompts that are longer than the context, which otherwise only warn.
        """
        require_arguments(locals())
        recipe = sampling.chosen(
            self.recipe, guidance, sampler, self.catalog, time_grid=time_grid, project_x0=project_x0
        )
        settings = recipe.sample
        steps, batch = steps or settings.steps, batch or settings.batch
        shape = recipe.first_stage.config.latent.shape(recipe.image_size)
        with inside(stage := named(recipe.first_stage, self.catalog), "encode_moments or latents"):
            begun = passage_of(recipe, self.stage, self.model.device, image, latents, strength, stop, batch)
        hold_start(stage, begun.latents, shape)
        count = images if seeds is None or images else len(seeds)
        if count is None and begun.latents is not None and not prompts and not examples:
            count = len(begun.latents)
        rows = [self._named(row) for row in rows_of(recipe, prompts, inputs, examples, count)]
        avoided = [] if negative is None else [self._named(row) for row in negative_rows(recipe, rows, negative)]
        all_seeds = seeds_of(recipe, rows, seed, seeds)
        for line in self.truncations([str(r["caption"]) for r in (*rows, *avoided) if "caption" in r]):
            if strict:
                raise DataError(line + "; shorten it, or leave --strict out")
            warnings.warn(line, stacklevel=2)
        for line in omissions(dict(self.model.conditioners.items()), rows):
            if strict:
                raise DataError(line + "; give less, or leave --strict out")
            warnings.warn(line, stacklevel=2)
        sampling.require_steps(recipe, steps)
        parts = self._parts(recipe)
        try:
            intervals = len(begun.times(parts.time_grid.times(self.model.schedule, steps))) - 1
        except ValueError as error:  # a rule that cannot make that number of steps
            raise ConfigError(f"steps={steps}: {error}") from None
        chunks = [range(i, min(i + batch, len(rows))) for i in range(0, len(rows), batch)]
        out: list[Sampled] = []
        for number, chunk in enumerate(chunks):
            estimates: list[Tensor] = []

            def on_step(
                i: int, t: Tensor, x: Tensor, x0: Tensor, number: int = number, chunk: range = chunk,
                estimates: list[Tensor] = estimates,
            ) -> None:  # fmt: skip
                estimates[:] = [x0]
                if callback is not None:
                    progress = Progress(number * intervals + i + 1, len(chunks) * intervals, chunk.start, len(rows))
                    if callback(progress) is False:
                        raise Interrupted("sampling was cancelled")

            if self.model.contracts is not None and not number:
                self.model.contracts.open(shape[1:])
            own = [all_seeds[i] for i in chunk]
            with torch.no_grad(), told_with_seeds(own, recipe, self.model.precision, out):
                given = self._batch([rows[i] for i in chunk], self.reads)
                away = self._batch([avoided[i] for i in chunk], tuple(avoided[0])) if avoided else None
                conditions = conditions_of(self.model, given, away)
                z = sample_latents(
                    self.model,
                    parts,
                    conditions,
                    shape,
                    own,
                    steps,
                    project=self.stage.project if settings.project_x0 or settings.quantize_x0 else None,
                    keep_eps=settings.quantize_x0,
                    together=settings.branches == "together",
                    on_step=on_step,
                    passage=begun.of(chunk),
                )
            made: list[Sampled] = []
            if self.model.contracts is not None:
                self.model.contracts.close()
            x0 = estimates[0] if begun.stop else z
            shown, fine = decoded(self.stage, x0, self.model.precision, decode=self._as_images, levels=settings.levels)
            sound = finite_rows(z)
            pictures, parts_of = shown.numpy(), dict(self.model.conditioners.items())
            if settings.paste_known:
                pictures = known_pixels.pasted(parts_of, [rows[i] for i in chunk], pictures)
            for i, pixels, end in zip(chunk, pictures, z.float().cpu().numpy(), strict=True):
                if not (fine & sound)[i - chunk[0]]:
                    continue
                prompt = str(rows[i].get("caption", ""))
                about = described(rows[i], self.class_names, self.reads)
                about |= self._metadata(prompt, all_seeds[i], steps, recipe)
                if avoided:
                    about["negative"] = in_words(avoided[i])
                about |= begun.described()
                about |= known_pixels.described(parts_of) if settings.paste_known else {}
                made.append(Sampled(pixels, prompt, all_seeds[i], about, end))
            if done is None:
                out += made
            else:
                done(made)
            if bad := [all_seeds[i] for i in chunk if not (fine & sound)[i - chunk[0]]]:
                what = "pictures" if sound.all() else "latents"
                raise not_finite(bad, what, recipe, self.model.precision, out)
        return out

    def reconstruct(self, images: np.ndarray, *, batch: int = 16) -> np.ndarray:
        """uint8 images (B, c, H, W) -> their reconstructions through the first stage, uint8, same shape.

        Raises ValueError naming both numbers where the size is not divisible by the stage's factor.
        """
        return reconstruct(self.stage, images, self.model.device, batch)

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        if row.keys().isdisjoint(class_names.KEYS):
            return row
        return class_names.indices(row, self.class_names, class_names.counts_of(self.recipe))

    def _as_images(self, z: Tensor) -> Tensor:
        """Latents -> images, held to the first stage's contract."""
        part = named(self.recipe.first_stage, self.catalog)
        with inside(part, "decode"):
            images = self.stage.decode(z)
        hold_pictures(part, images, z, self.recipe.first_stage.config.latent, self.recipe.image_channels)
        return images

    def _batch(self, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
        if not keys:
            return {}
        return to_device(collate([{k: as_data(r[k], k) for k in keys} for r in rows]), self.model.device)

    def _metadata(self, prompt: str, seed: int, steps: int, recipe: Recipe) -> dict[str, str]:
        scale = getattr(recipe.guidance.config, "scale", None)
        return {
            "prompt": prompt,
            "seed": str(seed),
            "steps": str(steps),
            "sampler": recipe.sampler.use,
            "time_grid": recipe.time_grid.use,
            **conventions.described(recipe, steps, self.conventions),
            "guidance": f"{recipe.guidance.use}" + (f" {scale:g}" if scale is not None else ""),
            "recipe": json.dumps(recipe.carried(), ensure_ascii=False),
            "recipe_sha256": recipe.identity(),
            "weights_sha256": self.weights,
            "software": "ldm-core",
        }


@torch.no_grad()
def reconstruct(stage: FirstStage, images: np.ndarray, device: torch.device, batch: int = 16) -> np.ndarray:
    """uint8 images (B, c, H, W) through a first stage and back, uint8."""
    out = []
    for i in range(0, len(images), batch):
        x = to_images(images[i : i + batch]).to(device)
        shown, fine = decoded(stage, stage.latents(stage.encode_moments(x)))
        if not fine.all():
            number = i + fine.tolist().index(False)
            raise NotFiniteError(
                f"image {number}: the first stage makes NaN of it; look at its weights: ldm-run inspect"
            )
        out.append(shown.numpy())
    return np.concatenate(out)
