"""Settings of the plain objective of first stages. Imports no torch."""

from __future__ import annotations

from typing import Literal

import attrs

from ldm_core.config.fields import field
from ldm_core.contracts import StageObjectiveConfig


@attrs.frozen(kw_only=True)
class ReconstructionConfig(StageObjectiveConfig):
    """The error of pixels and the stage's own regularisation, without a second network."""

    loss: Literal["l1", "l2", "huber"] = field("l2", "the error of a pixel, of values in [-1, 1]")
    huber_delta: float = field(0.1, "where huber turns from a square into a line", above=0)
    regularization_weight: float | None = field(
        None, "factor of the stage's regularisation; null = the stage's own", minimum=0
    )
