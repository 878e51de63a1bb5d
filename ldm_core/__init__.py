"""ldm_core: the core of a plugin-architecture framework for latent diffusion models. Importing it imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ldm_core.catalog.component import API_VERSION, VERSION, Component
from ldm_core.catalog.hookspecs import hookimpl, hookspec
from ldm_core.contracts import Conditioner, Denoiser, FirstStage, Sampler
from ldm_core.errors import LDMError

if TYPE_CHECKING:
    from ldm_core.sampling.pipeline import Pipeline

__version__ = VERSION

__all__ = [
    "API_VERSION",
    "Component",
    "Conditioner",
    "Denoiser",
    "FirstStage",
    "LDMError",
    "Sampler",
    "hookimpl",
    "hookspec",
    "load",
]


def load(url: str, *, device: str | None = None, **options: Any) -> Pipeline:
    """Load a trained model from a run folder or a weights file (path or URL); see
    :class:`ldm_core.sampling.pipeline.Pipeline`.

    Imports torch, but neither deepspeed nor timm; s3fs only for an s3 URL.
    """
    from ldm_core.sampling.pipeline import Pipeline

    return Pipeline.load(url, device=device, **options)
