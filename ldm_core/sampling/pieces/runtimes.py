"""The networks of a pipeline under its runtime: torch's own calls, compiled code, or another program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from ldm_core.catalog import Catalog
from ldm_core.contracts import EMPTY, Cond, FirstStage, Network, Runtime, Site
from ldm_core.contracts.configs import RuntimeConfig, of
from ldm_core.errors import ComponentError, ConfigError
from ldm_core.model.diffusion import Model, computed_by
from ldm_core.model.parts import make
from ldm_core.recipe.recipe import AdapterPart, Part, Recipe

TORCH = "torch"
_STAGE = ("encode_moments", "decode")


@attrs.frozen(eq=False)
class Computed:
    """A model and a first stage as a runtime computes them, and its entry in the metadata of pictures."""

    model: Model
    stage: FirstStage
    words: Mapping[str, str] = EMPTY


class RuntimeMethods:
    """The methods of a pipeline for its runtime."""

    recipe: Recipe
    stage: FirstStage
    model: Model
    catalog: Catalog
    _site: Site
    _computed: dict[tuple[object, ...], Computed]
    """By the runtime and what it computes; shared by all pipelines of these weights."""

    @property
    def computed(self) -> Computed:
        """The model and the first stage under ``sample.runtime``, made at the first call; whatever the runtime lacks is
        an error there. Its networks are prepared when they are first run."""
        name, adapters = self.recipe.sample.runtime, self.recipe.adapters
        if name == TORCH:
            return Computed(self.model, self.stage)
        key = (name, self.model, self.stage, self.model.precision, self.model.device)
        if key not in self._computed:
            self._computed[key] = self._made_by(name, adapters)
        return self._computed[key]

    def _made_by(self, name: str, adapters: tuple[AdapterPart, ...]) -> Computed:
        require_runtime(name, self.catalog)
        config = self.catalog.get("runtime", name)[0].component.config()
        part = Part(kind="runtime", use=name, config=config, asked=name)
        runtime: Runtime = make(part, self._site, self.catalog)
        if self.model.attached and not of(RuntimeConfig, config).keeps_hooks:
            names = ", ".join(part.name for part in adapters) or "an adapter"
            raise ConfigError(
                f"sample.runtime={name}: takes networks as they were loaded, and here {names} changes them on the way; "
                "take it off (adapters.NAME=null), or leave sample.runtime out"
            )
        model, stage = self.model, copy(self.stage)
        for function in _STAGE:  # an attribute of the copy stands before the method of its class
            precision = model.runs_in("first_stage") if function == "decode" else "fp32"
            network = Network(function, cast(Any, self.stage), precision, model.allowed("first_stage"))
            object.__setattr__(stage, function, _guarded(runtime, network, model.device.type))
        network = Network("denoiser", cast(Any, model.denoiser), model.runs_in("denoiser"), model.allowed("denoiser"))
        model = computed_by(model, _guarded(runtime, network, model.device.type))
        return Computed(model, stage, {"runtime": runtime.words})


def require_runtime(name: str, catalog: Catalog) -> None:
    """:class:`ComponentError` for an unknown name of a runtime."""
    try:
        catalog.get("runtime", name)
    except ComponentError as error:
        raise ComponentError(f"sample.runtime: {error}") from None


def _guarded(runtime: Runtime, network: Network, device: str) -> Callable[..., Tensor]:
    """The runtime's function, and torch's call where gradients are asked for or another arithmetic is around."""
    made = runtime.function(network)

    def call(*arguments: Any) -> Tensor:
        asked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _tensors(arguments))
        return network.call(*arguments) if asked or _arithmetic(device) != network.precision else made(*arguments)

    return call


def _tensors(arguments: tuple[Any, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    for each in arguments:
        found += each.flat().values() if isinstance(each, Cond) else [each]
    return found


def _arithmetic(device: str) -> str:
    if not torch.is_autocast_enabled(device):
        return "fp32"
    return "fp16" if torch.get_autocast_dtype(device) == torch.float16 else "bf16"
