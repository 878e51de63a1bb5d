"""ldm_core: the core of a plugin-architecture framework for latent diffusion models. Importing it imports no torch.

* :func:`train` trains, and returns a :class:`Run`; :func:`load` loads a trained model, a :class:`Pipeline`.
* :class:`Recipe`: the settings of a run as values. :class:`Catalog`: the installed parts, and those registered here.
* :class:`Start`: a picture or latents to begin a sampling from. :class:`PromptWarning`: an input that was cut off.
* :class:`FirstStage`, :class:`Denoiser`, :class:`Conditioner`, :class:`Sampler`: the stable contracts;
  :class:`Component` and :func:`hookimpl` make a plugin of what meets one.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from ldm_core.catalog.catalog import Catalog
from ldm_core.catalog.component import API_VERSION, Component
from ldm_core.catalog.hookspecs import hookimpl, hookspec
from ldm_core.catalog.release import VERSION
from ldm_core.errors import LDMError, PromptWarning

if TYPE_CHECKING:
    from ldm_core.api.recipe import Recipe
    from ldm_core.api.run import Run
    from ldm_core.api.train import TrainingProgress, train
    from ldm_core.contracts.components import Conditioner, Denoiser, FirstStage, Sampler
    from ldm_core.contracts.values import Precision
    from ldm_core.sampling.image_to_image import Start
    from ldm_core.sampling.pipeline import Pipeline
    from ldm_core.weights.open import Wanted

__version__ = VERSION

__all__ = [
    "API_VERSION",
    "Catalog",
    "Component",
    "Conditioner",
    "Denoiser",
    "FirstStage",
    "LDMError",
    "Pipeline",
    "PromptWarning",
    "Recipe",
    "Run",
    "Sampler",
    "Start",
    "TrainingProgress",
    "hookimpl",
    "hookspec",
    "load",
    "train",
]
_LATER = {
    "Conditioner": "contracts.components",
    "Denoiser": "contracts.components",
    "FirstStage": "contracts.components",
    "Pipeline": "sampling.pipeline",
    "Recipe": "api.recipe",
    "Run": "api.run",
    "Sampler": "contracts.components",
    "Start": "sampling.image_to_image",
    "TrainingProgress": "api.train",
    "train": "api.train",
}
"""Names whose modules are imported at their first use, as some import torch and all take time."""


def load(
    url: str | PathLike[str],
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    catalog: Catalog | None = None,
    wanted: Wanted | None = None,
) -> Pipeline:
    """Load a trained model from a run folder or a weights file (path or URL); see :meth:`Pipeline.load`.

    Imports torch, but neither deepspeed nor timm; s3fs only for an s3 URL.
    """
    from ldm_core.sampling.pipeline import Pipeline

    return Pipeline.load(url, device=device, precision=precision, catalog=catalog, wanted=wanted)


if not TYPE_CHECKING:  # to a type checker it would be a leave for any name

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'ldm_core' has no attribute '{name}'")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f"ldm_core.{_LATER[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
