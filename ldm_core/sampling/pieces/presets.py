"""A pipeline sampled otherwise: by settings, and by the presets of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Self, cast

import attrs
from torch import nn

from ldm_core.catalog import Catalog
from ldm_core.contracts import Site
from ldm_core.contracts.values import EMPTY, Precision
from ldm_core.errors import ConfigError, quoted
from ldm_core.model.adapters import with_adapters
from ldm_core.model.diffusion import Model
from ldm_core.model.precision import settle
from ldm_core.recipe.recipe import AdapterPart, Recipe
from ldm_core.sampling import settings as sampling
from ldm_core.sampling.arguments import SampleArguments
from ldm_core.sampling.pieces.plan import Plan
from ldm_core.weights import presets as stored
from ldm_core.weights.presets import Preset

Settings = Mapping[str, Any] | Sequence[str]


class PresetMethods:
    """The methods of a pipeline for settings and for the presets of its weights."""

    recipe: Recipe
    model: Model
    catalog: Catalog
    conventions: str
    _site: Site
    _loaded: tuple[tuple[AdapterPart, ...], Model]

    preset = ""
    """The name of its preset."""
    presets_text = ""
    """The presets in the weights' header, unread."""
    _trained: Mapping[str, Any] = EMPTY  # the recipe's settings of sampling, as loaded
    _said: tuple[Settings, ...] = ()  # the settings given since
    _by_preset: Mapping[str, tuple[Recipe, Any]] = EMPTY

    if TYPE_CHECKING:  # the pipeline's own

        def with_recipe(self, recipe: Recipe) -> Self: ...

    def with_settings(self, settings: Mapping[str, Any] | Iterable[str]) -> Self:
        """The same model, sampled otherwise: ``{"guidance": {"use": "cfg", "rescale": 0.7}, "sampler": "ddpm"}``, or
        as overrides ``["guidance.rescale=0.7"]``. Weights are shared; :class:`ConfigError` says the allowed values.

        ``{"adapters": {"style": {"weights": FILE, "scale": 0.7}}}`` adds an adapter, ``{"scale": 0.3}`` sets its
        strength, None takes it off; this pipeline stays as it is, bit for bit, and both may sample at once.
        """
        settings = settings if isinstance(settings, Mapping) else list(settings)
        return self.with_recipe(sampling.with_settings(self.recipe, settings, self.catalog))._remembering(
            self, settings
        )

    @property
    def presets(self) -> dict[str, Preset]:
        """The presets of the weights by name, with their figures; CheckpointError if they do not read."""
        if not self.presets_text:
            return {}
        return stored.parse(self.presets_text, "these weights", self.catalog)

    def with_preset(self, name: str, *, precision: Precision | None = None) -> Self:
        """The same model, sampled by a preset of its weights, measured by ``ldm-plugin-study``. Settings given to
        ``with_settings``, before or afterwards, stay on top. Weights are shared, but for those of a preset of lower
        precision, rounded once; `precision` takes the place of the preset's, and so does a pipeline's below fp32.
        ConfigError for an unknown name, with the known ones."""
        if not isinstance(name, str):
            raise ConfigError(f"preset={quoted(name)}: expected the name of a preset")
        if self.conventions:
            raise ConfigError(f"preset '{name}' and the conventions of {self.conventions} both say how to sample")
        found = stored.chosen(self.presets, name, "these weights")
        recipe = attrs.evolve(self.recipe, **self._trained)
        for settings in (found.settings, *self._said):
            recipe = sampling.with_settings(recipe, settings, self.catalog)
        runs = stored.allowed_precision(found, precision, self.model.precision)
        made = self if runs == self.model.precision else self._in(runs)
        made = made.with_recipe(recipe)
        made.preset, made._said = name, self._said
        return made

    def _in(self, precision: Precision) -> Self:
        """The same pipeline in another arithmetic, with rounded weights of its own."""
        made, (adapters, loaded) = copy(self), self._loaded
        base = attrs.evolve(self.recipe, adapters=adapters)
        lower = with_adapters(loaded, base, base, self._site, self.catalog)
        for module in cast(nn.Module, lower.denoiser).modules():  # the others' parameters stay as they are
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = nn.Parameter(value.data, requires_grad=False)
        settle(lower, precision)
        made.recipe, made.model, made._loaded = base, lower, (adapters, lower)
        return made

    def _by(self, arguments: SampleArguments) -> Self:
        """The pipeline of the argument `preset`, taken out of them; kept from call to call."""
        name = arguments.pop("preset", None)
        if name is None:
            return self
        known, made = self._by_preset.get(str(name), (None, None))
        if known is not self.recipe:
            made = self.with_preset(name)
            self._by_preset = {**self._by_preset, made.preset: (self.recipe, made)}
        return cast(Self, made)

    def _remembering(self, former: Self, *settings: Settings) -> Self:
        """Keep the preset and settings of a `former` pipeline, and the `settings` made on top."""
        self.preset, self._said = former.preset, (*former._said, *settings)
        return self

    def _preset_in_words(self, plan: Plan) -> dict[str, str]:
        """The preset for the metadata of a picture, with the arithmetic, and the settings given beside it."""
        if not self.preset:
            return {}
        beside = self.beside_preset
        beside += ["steps"] if plan.steps != self.recipe.sample.steps else []
        beside += ["guidance"] if plan.recipe.guidance != self.recipe.guidance else []
        changed = {"preset_changed": ", ".join(dict.fromkeys(beside))} if beside else {}
        return {"preset": self.preset, **changed, "precision": self.model.precision}

    @property
    def beside_preset(self) -> list[str]:
        """The keys of the settings given beside a preset."""
        return list(dict.fromkeys(key for settings in self._said for key in _keys(settings)))


def _keys(settings: Any, path: str = "") -> list[str]:
    """The keys of settings, such as ``guidance.scale``."""
    if isinstance(settings, Mapping) and settings:
        return [each for key, value in settings.items() for each in _keys(value, f"{path}.{key}".lstrip("."))]
    return [path] if path else [line.partition("=")[0].strip() for line in settings]
