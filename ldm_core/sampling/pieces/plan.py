"""The plan of one sampling: its images with their inputs and seeds, in batches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core.contracts import FirstStage, OnStep, grid_times
from ldm_core.contracts.configs import GuidanceConfig, of
from ldm_core.errors import ConfigError
from ldm_core.model.build import SamplingParts
from ldm_core.model.diffusion import Model
from ldm_core.recipe.recipe import Recipe
from ldm_core.sampling import conventions
from ldm_core.sampling.image_to_image import Passage
from ldm_core.sampling.inputs import in_words, omissions, truncations
from ldm_core.sampling.made_from import adapters_in_words, described
from ldm_core.sampling.run import LatentOptions


@attrs.frozen(eq=False)
class Plan:
    """The images of one call: `rows` (inputs), `avoided` (inputs to move away from, or empty) and `seeds`, one each."""

    recipe: Recipe
    steps: int
    batch: int
    rows: Sequence[Mapping[str, Any]]
    avoided: Sequence[Mapping[str, Any]]
    seeds: Sequence[int]
    begun: Passage
    _of_recipe: Mapping[str, str] = attrs.field(init=False, repr=False)
    """The recipe in the metadata of images, which is one for all of them."""

    @_of_recipe.default
    def _recipe_in_words(self) -> dict[str, str]:
        carried = json.dumps(self.recipe.carried(), ensure_ascii=False)
        return {"recipe": carried, "recipe_sha256": self.recipe.carried_identity()}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, *s) of an image's latents."""
        return tuple(self.recipe.first_stage.config.latent.shape(self.recipe.image_size))

    @property
    def chunks(self) -> list[range]:
        """The numbers of each batch's images."""
        count = len(self.rows)
        return [range(i, min(i + self.batch, count)) for i in range(0, count, self.batch)]

    def seeds_of(self, chunk: range) -> list[int]:
        """The seeds of a batch."""
        return [self.seeds[i] for i in chunk]

    def prompt(self, i: int) -> str:
        """The caption of image i, "" without one."""
        return str(self.rows[i].get("caption", ""))

    def cut_off(self, model: Model) -> list[str]:
        """A line for each input that a conditioner takes in part only."""
        parts = dict(model.conditioners.items())
        texts = [str(r["caption"]) for r in (*self.rows, *self.avoided) if "caption" in r]
        return [*truncations(parts, texts), *omissions(parts, self.rows)]

    def intervals(self, model: Model, parts: SamplingParts) -> int:
        """The number of steps that are run; ConfigError where the grid cannot make them."""
        try:
            return len(self.begun.times(grid_times(parts.time_grid, model.schedule, self.steps, self.shape))) - 1
        except ValueError as error:
            raise ConfigError(f"steps={self.steps}: {error}") from None

    def options(self, chunk: range, stage: FirstStage, on_step: OnStep | None = None) -> LatentOptions:
        """The options of a batch's run."""
        settings = self.recipe.sample
        return LatentOptions(
            project=stage.project if settings.project_x0 or settings.quantize_x0 else None,
            keep_eps=settings.quantize_x0,
            together=settings.branches == "together",
            on_step=on_step,
            passage=self.begun.of(chunk),
        )

    def described(self, i: int, class_names: Mapping[str, Sequence[str]], like: str) -> dict[str, str]:
        """The text that travels with image i, but for the weights' hash; `like`: the program whose conventions hold."""
        recipe = self.recipe
        scale = of(GuidanceConfig, recipe.guidance.config).scale
        about = described(self.rows[i], class_names, recipe.inputs)
        about |= {
            "prompt": self.prompt(i),
            "seed": str(self.seeds[i]),
            "steps": str(self.steps),
            "sampler": recipe.sampler.use,
            "time_grid": recipe.time_grid.use,
            **conventions.described(recipe, self.steps, like),
            "guidance": f"{recipe.guidance.use}" + (f" {scale:g}" if scale is not None else ""),
            **({"guides": ", ".join(part.use for part in recipe.guides)} if recipe.guides else {}),
            **adapters_in_words(recipe),
            **self._of_recipe,
            "software": "ldm-core",
        }
        if self.avoided:
            about["negative"] = in_words(self.avoided[i])
        return about | self.begun.described()
