"""A recognised file, as reading needs it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core.contracts import EMPTY
from ldm_core.contracts.codec import TensorFile
from ldm_plugin_compvis.layout.state_dict import Layout, allowed
from ldm_plugin_compvis.shapes.autoencoder import AutoencoderShapes
from ldm_plugin_compvis.shapes.conditioner import ConditionerShapes
from ldm_plugin_compvis.shapes.unet import UNetShapes


@attrs.frozen(kw_only=True)
class Found:
    """A recognised file: its parts as shapes show them, the recipe, and its unknown settings."""

    file: TensorFile
    layout: Layout
    shapes: Mapping[str, tuple[int, ...]]
    unet: UNetShapes | None
    stage: AutoencoderShapes | None
    conditioner: ConditionerShapes | None
    what: str
    recipe: Mapping[str, Any]
    unknown: Mapping[str, Sequence[Any]]
    scale_factor: float
    notes: tuple[str, ...]
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    class_names: Mapping[str, Sequence[str]] = EMPTY
    scale_by_std: bool = False

    @property
    def holds(self) -> str:
        """``model``, ``first_stage`` or ``denoiser``."""
        if self.unet is None:
            return "first_stage"
        return "denoiser" if self.stage is None else "model"

    @property
    def mask_first(self) -> bool:
        """True if the mask comes before the masked picture, and not behind it as in the conditioner here."""
        return (
            self.conditioner is not None
            and self.unet is not None
            and self.conditioner.use == "clip_text"
            and self.unet.concat == self.unet.latent_channels + 1
        )

    @property
    def _has_conditioner(self) -> bool:
        """True for one with weights of its own; one on the first stage may repeat that one's."""
        return self.conditioner is not None and self.conditioner.use != "masked_image"

    def parameters(self) -> dict[str, int]:
        """The number of values in each part."""
        parts = {
            "first_stage": self.layout.of_first_stage(self.shapes),
            "denoiser": self.layout.of_denoiser(self.shapes),
            "conditioners": self.layout.of_conditioner(self.shapes) if self._has_conditioner else {},
        }
        spare = "cond_stage_model."  # names are relative here, and those that are spare are known by their full ones
        counts = {
            part: sum(math.prod(shape) for name, shape in found.items() if allowed(spare + name) is None)
            for part, found in parts.items()
        }
        return {name: count for name, count in counts.items() if count}
