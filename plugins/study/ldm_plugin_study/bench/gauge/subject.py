"""The measured model: its parts with weights, and a batch of its data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import attrs
import torch
from torch import Tensor

from ldm_core import storage
from ldm_core.catalog import Catalog
from ldm_core.contracts import ConditionerAnswers, DataInfo, FirstStage, Precision
from ldm_core.contracts.configs import of
from ldm_core.contracts.streams import Streams
from ldm_core.data.collate import collate, to_device
from ldm_core.data.sizes import paired, select
from ldm_core.model.build import make_first_stage, make_model
from ldm_core.model.degraded import Degraded, for_conditioners
from ldm_core.model.diffusion import Model
from ldm_core.model.fill import load_weights, tensors_of
from ldm_core.model.parts import make_dataset
from ldm_core.model.precision import settle
from ldm_core.model.trained import load_stage
from ldm_core.recipe import artifacts
from ldm_core.recipe.recipe import Recipe
from ldm_core.training.feed.examples import Examples

_FITTED = 512  # examples that a conditioner without trained weights learns its words from


class Subject:
    """A recipe's parts on a device, and a batch of its data.

    `weights` is the folder of a trained run of this recipe; empty, the weights are drawn from the seed, which is as
    fast. Parts are made at their first use.
    """

    def __init__(
        self, recipe: Recipe, info: DataInfo, catalog: Catalog, device: torch.device, *, batch: int, weights: str = ""
    ) -> None:
        self.recipe, self.info, self.catalog, self.device, self.count = recipe, info, catalog, device, batch
        self._weights = weights
        self._fitted: dict[str, Mapping[str, Any]] = {}

    @cached_property
    def data(self) -> Any:
        """The training data with all keys of the conditioners."""
        dataset = make_dataset(self.recipe, self.catalog)
        return paired(dataset, self.recipe.asked(dataset.keys))

    @cached_property
    def examples(self) -> Examples:
        """Examples of the recipe's one size, each decoded anew at each use."""
        settings = attrs.evolve(self.recipe.data, keep=0, buckets=(), balance="")
        degraded = Degraded.of(self.recipe, self.catalog)
        return Examples(self.data, self.recipe.image_size, settings, ["image", *self.recipe.reads], degraded)

    @cached_property
    def batch(self) -> Mapping[str, Any]:
        """The first examples, in turn if there are fewer than the batch has."""
        rows = list(islice(cycle(self.examples.first(self.count)), self.count))
        return to_device(collate(rows, self.examples.keys), self.device)

    @property
    def read(self) -> dict[str, Any]:
        """The inputs of the conditioners in the batch."""
        given = for_conditioners(self.batch)
        return {key: given[key] for key in self.recipe.reads}

    @cached_property
    def stage(self) -> FirstStage:
        """The first stage, frozen."""
        if self._weights:
            url = storage.join(self._weights, artifacts.STAGE_FILE)
            return load_stage(self.recipe, self.catalog, url, self.device)
        stage: Any = make_first_stage(self.recipe, self.catalog)
        stage.to(self.device).eval().requires_grad_(False)
        return stage

    @cached_property
    def latents(self) -> Tensor:
        """The batch's latents (B, C, *s)."""
        with torch.no_grad():
            moments = self.stage.encode_moments(self.batch["image"])
            return self.stage.latents(moments.float(), streams=Streams(self.seeds, self.device))

    @property
    def seeds(self) -> list[int]:
        """A seed for each image of the batch."""
        return list(range(self.count))

    def model(self) -> Model:
        """A new copy of the model, as training begins with it."""
        model = make_model(self.recipe, self.catalog, self.stage)
        if self._weights:
            url = storage.join(self._weights, artifacts.MODEL_FILE)
            load_weights(model, tensors_of(url), url)
        else:
            for part in self.recipe.conditioners:
                self._fit(part, model.conditioners[part.name])
        return model.to(self.device)

    def _fit(self, part: Any, conditioner: Any) -> None:
        """Let a conditioner learn its words from a few examples; a second copy takes them over."""
        fit = of(ConditionerAnswers, conditioner).fit
        if fit is None:
            return
        if part.name not in self._fitted:
            view = select(self.data, part.config.reads)
            fit(view[i] for i in range(min(_FITTED, len(view))))
            self._fitted[part.name] = {k: v.clone() for k, v in conditioner.state_dict().items()}
        conditioner.load_state_dict(self._fitted[part.name])

    def sampled_model(self, precision: Precision) -> Model:
        """A new copy of the model, as sampling runs it: frozen, its weights rounded and laid out for `precision`."""
        model = self.model().eval().requires_grad_(False)
        settle(model, precision)
        return model
