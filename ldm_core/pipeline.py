"""A trained model as one object: load it, sample from it, reconstruct with its first stage.

Importing this imports torch, but neither deepspeed nor timm; s3fs only for an s3 URL.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from ldm_core import artifacts, storage
from ldm_core.batch import collate, to_device, to_images
from ldm_core.build import (
    SamplingParts,
    load_weights,
    make_first_stage,
    make_model,
    make_sampling,
    sampling_site,
)
from ldm_core.catalog import Catalog
from ldm_core.check import diffusion_misfits
from ldm_core.contracts import FirstStage
from ldm_core.diffusion import Model
from ldm_core.errors import CheckpointError, ConfigError, DataError, Interrupted
from ldm_core.recipe import Part, Recipe, versions
from ldm_core.resolve import resolve
from ldm_core.sample import conditions_of, decode, omissions, sample_latents, truncations

Callback = Callable[["Progress"], "bool | None"]


class VersionWarning(UserWarning):
    """The weights were made under other versions of the plugins than those installed."""


@attrs.frozen
class Progress:
    """Where a sampling run stands: `step` of `steps` in all its batches; `images` finished of `total`."""

    step: int
    steps: int
    images: int
    total: int


@attrs.frozen(eq=False)
class Sampled:
    """One image: uint8 (c, H, W), what it was made from, and the text that travels in its PNG."""

    image: np.ndarray
    prompt: str
    seed: int
    metadata: Mapping[str, str]

    def picture(self) -> Any:
        """As a ``PIL.Image``."""
        from ldm_core.images import to_picture

        return to_picture(self.image)

    def save(self, url: str) -> None:
        """Write a PNG that carries prompt, seed, recipe and the weights' hash in its metadata."""
        from ldm_core.images import png_bytes

        storage.atomic_write(url, png_bytes(self.image, self.metadata))


def device_named(name: str | None) -> torch.device:
    """The torch device of this name; None = a GPU where there is one. :class:`ConfigError` where it cannot be used."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch's own words: a build without this backend, an index past the last device
        reason = "no such kind of device" if "device string" in str(error) else str(error).partition("\n")[0][:120]
        raise ConfigError(f"device '{name}' cannot be used here ({reason}); try cpu, or leave it out") from error
    return device


def load_stage(recipe: Recipe, catalog: Catalog, url: str, device: torch.device) -> FirstStage:
    """A trained first stage from its file, in eval mode and frozen."""
    stage: Any = make_first_stage(recipe, catalog)
    load_weights(stage, tensors_of(url), url)
    stage.to(device).eval().requires_grad_(False)
    return stage


def tensors_of(url: str) -> dict[str, Tensor]:
    """The tensors of a weights file by name; :class:`CheckpointError` where it is damaged."""
    try:
        return parse_safetensors(storage.read_bytes(url))
    except SafetensorError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{storage.shown(url)}: is damaged ({reason}); copy it again") from error


class Pipeline:
    """First stage, model and sampler of a trained recipe. Safe to call from several threads at once.

    Assemble one from parts with ``Pipeline(recipe, stage, model, catalog)``, or :meth:`load` a run.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: FirstStage,
        model: Model,
        catalog: Catalog,
        *,
        weights: str = "",
        class_names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.recipe, self.stage, self.model, self.catalog = recipe, stage, model.eval(), catalog
        self.weights = weights
        self.class_names: Mapping[str, Sequence[str]] = class_names or {}
        self._site = sampling_site(recipe, stage)

    @classmethod
    def load(cls, url: str, *, device: str | None = None, catalog: Catalog | None = None) -> Pipeline:
        """Load a run's folder or its ``model.safetensors`` (its first stage lies beside it).

        Raises :class:`CheckpointError` for damaged or foreign files; warns (:class:`VersionWarning`) where plugins
        have other versions than those that the weights were made with.
        """
        catalog = catalog or Catalog.discover()
        path = artifacts.find(str(url), artifacts.MODEL_FILE)
        header = artifacts.read_header(path, "model")
        stage_url = artifacts.find(storage.parent(path), artifacts.STAGE_FILE)
        expected = header.extra.get("first_stage_sha256")
        if expected and artifacts.sha256(stage_url) != expected:
            raise CheckpointError(
                f"{stage_url} is not the first stage that {path} was trained on; copy the one with sha256 "
                f"{expected[:12]}... beside it"
            )
        recipe = resolve(_beside(header.config, stage_url), catalog)
        now = versions(recipe, catalog)
        changed = [f"{d} {v} (installed: {now.get(d, 'none')})" for d, v in header.versions.items() if now.get(d) != v]
        if changed:
            warnings.warn(f"{path} was made with {', '.join(changed)}", VersionWarning, stacklevel=3)
        where = device_named(device)
        stage = load_stage(recipe, catalog, stage_url, where)
        model = make_model(recipe, catalog, stage)
        load_weights(model, tensors_of(path), path)
        model.to(where).eval().requires_grad_(False)
        names = header.extra.get("class_names") or {}
        return cls(recipe, stage, model, catalog, weights=header.sha256, class_names=names)

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys that the model's conditioners read: what `sample` must be given."""
        return self.recipe.reads

    def truncations(self, prompts: Sequence[str]) -> list[str]:
        """For each prompt that is longer than a conditioner's context, a line that quotes what is cut."""
        return truncations(dict(self.model.conditioners.items()), prompts)

    def _parts(self, steps: int, guidance: float | None, sampler: str | None) -> tuple[SamplingParts, Recipe]:
        from ldm_core import config

        recipe = self.recipe
        if sampler:
            entry, preset = self.catalog.get("sampler", sampler)
            conf = preset if preset is not None else config.structure({}, entry.component.config, "sampler")
            part = Part(kind="sampler", use=entry.component.name, config=conf, asked=sampler)
            recipe = attrs.evolve(recipe, sampler=part)
        if guidance is not None and not math.isfinite(guidance):
            raise ConfigError(f"guidance={guidance}: expected a finite scale, such as 3; 1 is without guidance")
        if guidance is not None:
            conf = recipe.guidance.config
            if not hasattr(conf, "scale"):
                if guidance == 1.0:
                    return make_sampling(recipe, self.catalog, self._site), recipe
                raise ConfigError(
                    f"guidance={guidance}: this model's guidance '{recipe.guidance.use}' has no scale; train with "
                    "--guidance cfg"
                )
            part = attrs.evolve(recipe.guidance, config=attrs.evolve(conf, scale=float(guidance)))
            recipe = attrs.evolve(recipe, guidance=part)
            if misfits := [line for line in diffusion_misfits(recipe) if line.startswith("guidance ")]:
                raise ConfigError(misfits)
        problem = getattr(recipe.time_grid.config, "problem", None)
        if problem and (line := problem(getattr(recipe.schedule.config, "table_steps", None), steps)):
            raise ConfigError(f"steps={steps}: {line}")
        return make_sampling(recipe, self.catalog, self._site), recipe

    def sample(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        examples: Sequence[Mapping[str, Any]] | None = None,
        images: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        batch: int | None = None,
        strict: bool = False,
        callback: Callback | None = None,
    ) -> list[Sampled]:
        """Sample images.

        `prompts`, one or several, are the inputs ``caption``; `inputs` gives any key that a conditioner reads, the
        same for all images; `examples` gives one mapping an image. `images`: how many in all (prompts are gone
        through in turn). Image i has seed ``seed + i`` or ``seeds[i]``, and is a function of its seed and inputs
        alone, whatever `batch` is. `guidance` is the scale. `callback` is told of each step; it cancels the run by
        returning False (:class:`Interrupted`) or by raising.

        Raises DataError where a conditioner lacks its input, ConfigError for numbers that cannot be; with `strict`
        also for prompts that are longer than the context, which otherwise only warn.
        """
        settings = self.recipe.sample
        for name, number in (("steps", steps), ("images", images), ("batch", batch)):
            if number is not None and number < 1:
                raise ConfigError(f"{name}={number}: expected a whole number above 0")
        steps, batch = steps or settings.steps, batch or settings.batch
        rows = self._rows(prompts, inputs, examples, images if seeds is None or images else len(seeds))
        base = settings.seed if seed is None else seed
        all_seeds = list(seeds) if seeds is not None else [base + i for i in range(len(rows))]
        if len(all_seeds) != len(rows):
            raise ConfigError(f"{len(all_seeds)} seeds were given for {len(rows)} images; give one an image")
        for line in self.truncations([str(r["caption"]) for r in rows if "caption" in r]):
            if strict:
                raise DataError(line + "; shorten it, or leave --strict out")
            warnings.warn(line, stacklevel=2)
        for line in omissions(dict(self.model.conditioners.items()), rows):
            if strict:
                raise DataError(line + "; give less, or leave --strict out")
            warnings.warn(line, stacklevel=2)
        parts, recipe = self._parts(steps, guidance, sampler)
        shape = recipe.first_stage.config.latent.shape(recipe.image_size)
        try:
            intervals = len(parts.time_grid.times(self.model.schedule, steps)) - 1
        except ValueError as error:  # a rule that cannot make that number of steps
            raise ConfigError(f"steps={steps}: {error}") from None
        chunks = [range(i, min(i + batch, len(rows))) for i in range(0, len(rows), batch)]
        out: list[Sampled] = []
        for number, chunk in enumerate(chunks):

            def on_step(i: int, t: Tensor, x: Tensor, x0: Tensor, number: int = number) -> None:
                if callback is not None:
                    progress = Progress(number * intervals + i + 1, len(chunks) * intervals, len(out), len(rows))
                    if callback(progress) is False:
                        raise Interrupted("sampling was cancelled")

            with torch.no_grad():
                conditions = conditions_of(self.model, self._batch([rows[i] for i in chunk]))
            z = sample_latents(
                self.model,
                parts,
                conditions,
                shape,
                [all_seeds[i] for i in chunk],
                steps,
                project=self.stage.project if settings.project_x0 else None,
                together=settings.branches == "together",
                on_step=on_step,
            )
            for i, image in zip(chunk, decode(self.stage, z).numpy(), strict=True):
                prompt = str(rows[i].get("caption", ""))
                out.append(Sampled(image, prompt, all_seeds[i], self._metadata(prompt, all_seeds[i], steps, recipe)))
        return out

    def reconstruct(self, images: np.ndarray, *, batch: int = 16) -> np.ndarray:
        """uint8 images (B, c, H, W) -> their reconstructions through the first stage, uint8, same shape.

        Raises ValueError naming both numbers where the size is not divisible by the stage's factor.
        """
        return reconstruct(self.stage, images, self.model.device, batch)

    def _batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        keys = self.reads
        if not keys:
            return {}
        return to_device(collate([{k: _plain(r[k]) for k in keys} for r in rows]), self.model.device)

    def _rows(
        self,
        prompts: str | Sequence[str] | None,
        inputs: Mapping[str, Any] | None,
        examples: Sequence[Mapping[str, Any]] | None,
        images: int | None,
    ) -> list[dict[str, Any]]:
        texts = [prompts] if isinstance(prompts, str) else list(prompts or [])
        given: list[dict[str, Any]]
        given = [dict(e) for e in examples] if examples else [{"caption": t} for t in texts] or [{}]
        several = bool(examples or texts)
        count = images or (len(given) if several else (1 if inputs else self.recipe.sample.images))
        rows = [{**(inputs or {}), **given[i % len(given)]} for i in range(count)]
        for part in self.recipe.conditioners:
            lacking = [k for k in part.config.reads if any(k not in row for row in rows)]
            if lacking:
                flag = {
                    "caption": "--prompt",
                    "boxes": "--boxes",
                    "box_labels": "the labels of --boxes",
                    "segmentation": "--segmentation",
                    "class_label": "--class",
                }
                hint = flag.get(lacking[0], f"--input {lacking[0]}=...")
                raise DataError(
                    f"conditioner '{part.name}' reads '{lacking[0]}', which was not given; give it with {hint} "
                    f"(in Python: inputs={{'{lacking[0]}': ...}})"
                )
        unknown = [k for k in (inputs or {}) if k not in self.reads]
        if unknown:
            raise DataError(
                f"no conditioner of this model reads '{unknown[0]}' (they read: {', '.join(self.reads) or 'nothing'})"
            )
        if texts and "caption" not in self.reads:
            raise DataError(
                f"a prompt was given, and no conditioner of this model reads captions (they read: "
                f"{', '.join(self.reads) or 'nothing'})"
            )
        return rows

    def _metadata(self, prompt: str, seed: int, steps: int, recipe: Recipe) -> dict[str, str]:
        scale = getattr(recipe.guidance.config, "scale", None)
        return {
            "prompt": prompt,
            "seed": str(seed),
            "steps": str(steps),
            "sampler": recipe.sampler.use,
            "guidance": f"{recipe.guidance.use}" + (f" {scale:g}" if scale is not None else ""),
            "recipe": json.dumps(recipe.carried(), ensure_ascii=False),
            "recipe_sha256": recipe.identity(),
            "weights_sha256": self.weights,
            "software": "ldm-core",
        }


def _beside(config: Mapping[str, Any], stage_url: str) -> Mapping[str, Any]:
    """A model's recipe whose reused first stage is the copy beside the model: where it came from may be gone."""
    stage = config.get("first_stage")
    if not isinstance(stage, Mapping) or not stage.get("weights"):
        return config
    return {**config, "first_stage": {**stage, "weights": stage_url}}


def _plain(value: Any) -> Any:
    """Lists of numbers become arrays, as a data set would give them."""
    if isinstance(value, list | tuple) and value and not isinstance(value[0], str):
        array = np.asarray(value)
        if array.dtype == np.float64:
            return array.astype(np.float32)
        return array if array.dtype != object else value
    return value


@torch.no_grad()
def reconstruct(stage: FirstStage, images: np.ndarray, device: torch.device, batch: int = 16) -> np.ndarray:
    """uint8 images (B, c, H, W) through a first stage and back, uint8."""
    out = []
    for i in range(0, len(images), batch):
        x = to_images(images[i : i + batch]).to(device)
        out.append(decode(stage, stage.latents(stage.encode_moments(x))).numpy())
    return np.concatenate(out)
