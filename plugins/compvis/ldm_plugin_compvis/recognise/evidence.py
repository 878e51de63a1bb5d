"""The sources of a model's recipe, side by side, and an answer drawn from them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ldm_core.contracts import EMPTY
from ldm_core.contracts.codec import TensorFile
from ldm_plugin_compvis.config import CompVisConfig
from ldm_plugin_compvis.layout.state_dict import Layout
from ldm_plugin_compvis.model_config.read import Hints
from ldm_plugin_compvis.shapes.autoencoder import AutoencoderShapes
from ldm_plugin_compvis.shapes.conditioner import ConditionerShapes
from ldm_plugin_compvis.shapes.released import Row, row_of, stage_row
from ldm_plugin_compvis.shapes.unet import UNetShapes


@attrs.frozen
class Answer:
    """A part of the recipe: its plain `value` (None: said elsewhere), settings said by nothing with their candidates,
    and notes for the user."""

    value: Any = None
    unknown: Mapping[str, Sequence[Any]] = EMPTY
    notes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Evidence:
    """A model's file: its parts by their shapes, the configuration (`hints`), and the settings `given` by the user."""

    given: Mapping[str, Any]
    config: CompVisConfig
    file: TensorFile
    layout: Layout
    shapes: Mapping[str, tuple[int, ...]]
    unet: UNetShapes
    stage: AutoencoderShapes | None
    conditioner: ConditionerShapes | None
    hints: Hints
    row: Row | None = attrs.field(init=False)
    """The released model of the same structure."""

    def __attrs_post_init__(self) -> None:
        stage = None if self.stage is None else stage_row(self.stage)
        use = self.conditioner.use if self.conditioner is not None and self.has_conditioner else ""
        object.__setattr__(self, "row", row_of(self.unet, stage, use))

    @property
    def has_conditioner(self) -> bool:
        """True if the file holds a conditioner's tensors."""
        return self.conditioner is not None and bool(self.layout.of_conditioner(self.shapes))
